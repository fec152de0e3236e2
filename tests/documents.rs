//! Documents against those that OpenVidu's LiveKit fork makes of the same records, and the command that prints
//! them.

#[path = "documents/command.rs"]
mod command;
#[path = "documents/golden.rs"]
mod golden;
