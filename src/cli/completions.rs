//! `completions` and `man`: generated from the definitions that parse the arguments.

use std::io;

use clap::Command;
use clap_complete::Shell;

use super::outcome::{Failure, Outcome};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// A command [default: the page of the program itself]
    #[arg(value_name = "COMMAND")]
    of: Option<String>,
}

pub(super) fn completions(args: &CompletionsArgs, program: &mut Command) -> Outcome {
    // Into memory first: clap_complete panics if a pipe is closed early.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, program, "livekit-spool", &mut script);
    write_out(&script)
}

pub(super) fn man(args: &ManArgs, program: Command) -> Outcome {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let page = match &args.of {
        None => program,
        Some(name) => {
            let names: Vec<_> = program.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
            let sub = program.get_subcommands().find(|sub| sub.get_name() == name).ok_or_else(|| {
                Failure::usage(format!("there is no command {name:?}; there are {}", names.join(", ")))
            })?;
            // Built above: its display name is livekit-spool-NAME.
            sub.clone()
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    write_out(&text)
}

fn write_out(bytes: &[u8]) -> Outcome {
    match io::Write::write_all(&mut io::stdout(), bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
