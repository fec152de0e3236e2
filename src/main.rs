//! The `livekit-spool` command.

fn main() {}
