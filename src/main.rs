//! Arguments → command.

use std::process::ExitCode;

fn main() -> ExitCode {
    livekit_spool::cli::main()
}
