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
    /// A command, and one of its own commands: dead list [default: the page of the program itself]
    #[arg(value_name = "COMMAND")]
    of: Vec<String>,
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
    let mut page = &program;
    for name in &args.of {
        page = page.get_subcommands().find(|command| command.get_name() == name).ok_or_else(|| none_of(page, name))?;
    }
    let mut text = Vec::new();
    // Built above: the display name of a command is livekit-spool-NAME.
    let source = concat!("livekit-spool ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(page.clone()).source(source).render(&mut text)?;
    write_out(&text)
}

fn none_of(program: &Command, name: &str) -> Failure {
    let names: Vec<_> = program.get_subcommands().map(Command::get_name).collect();
    let name_of = program.get_display_name().unwrap_or("livekit-spool");
    Failure::usage(match &names[..] {
        [] => format!("{name_of} has no command {name:?}, nor any other"),
        names => format!("{name_of} has no command {name:?}; it has {}", names.join(", ")),
    })
}

fn write_out(bytes: &[u8]) -> Outcome {
    match io::Write::write_all(&mut io::stdout(), bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
