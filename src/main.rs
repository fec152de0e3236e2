//! The program: passes the arguments to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    livekit_spool::cli::main()
}
