//! The command line: one file a command, one style.
//!
//! Every command takes `--config` and `--json`; what it prints for people fits 80 columns. Commands that look at sinks ask
//! the running process over the socket in its data directory, and where none runs they look at the directory itself.
//!
//! Uses `app`, `config`, `demo`, `document`, `files`, `flush`, `ingest`, `inspect`, `logging`, `printable`, `record`, `run`,
//! `secret`, `sink`, `spool`, `status`, `units`.

mod actions;
mod backlog;
mod check_config;
mod client;
mod completions;
mod config;
mod dead;
pub mod doc;
mod drain;
mod export;
mod in_force;
mod indexes;
mod options;
mod outcome;
pub mod output;
mod records;
mod run;
pub mod send;
mod sparklines;
mod threads;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use options::Common;
pub use outcome::{Exit, Failure, Outcome};

use crate::logging;
use threads::block_on;

/// Durable on-disk buffered forwarder for LiveKit analytics.
#[derive(Debug, Parser)]
#[command(name = "livekit-spool", version, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed
  2  the arguments or the configuration are wrong; there is no such sink
  3  it needs a running livekit-spool and none runs, or one runs and must not
  4  done in part: `drain` ran out of time, `verify` found damage, `indexes` found some missing or
     different, `peek`, `export`, `import`, `recover` and `doc` left records out, `dead retry` was
     cut short, `send` or `import` was told that a sink dropped some, `check-config` found a spool
     that does not open, `reload` was told of one";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take records, keep them on disk, deliver them
    Run(run::Args),
    /// Show what waits for each sink, since when, and what went wrong
    #[command(visible_alias = "status")]
    Backlog(backlog::Args),
    /// Show records of a sink as documents, without taking anything out
    Peek(records::PeekArgs),
    /// Copy a sink's backlog into a file; an interrupted export goes on where it was
    Export(export::ExportArgs),
    /// Put records of a file into the spools
    Import(export::ImportArgs),
    /// Deliver all that waits, and exit
    Drain(drain::DrainArgs),
    /// Remove what waits for a sink, for good
    Purge(drain::PurgeArgs),
    /// List, show, retry or drop what a sink rejected for good
    Dead(dead::Args),
    /// Check every checksum of the spools, live or stopped, and say what is wrong where
    Verify(verify::VerifyArgs),
    /// Take records out of any directory that holds parts of a spool, damaged ones too
    Recover(verify::RecoverArgs),
    /// Show the indexes each sink has against those it should have
    Indexes(indexes::Args),
    /// Stop delivering to a sink; its records wait in the spool
    Pause(actions::SinkArgs),
    /// Deliver to a paused sink again
    Resume(actions::SinkArgs),
    /// Deliver what waits for a sink now
    Flush(actions::SinkArgs),
    /// Exit with 0 while a running process takes records; say why not
    Ready,
    /// Read the configuration again, as SIGHUP does, and say what came of it
    Reload,
    /// Send records to a livekit-spool: LiveKit's recorded ones, or files
    Send(send::SendArgs),
    /// Check the configuration, show what will run, and hold the existing spool against it
    CheckConfig(check_config::Args),
    /// Print the configuration in force, its documented defaults, its JSON Schema
    Config(config::Args),
    /// Print records from a file as the documents that a sink would store
    Doc(doc::DocArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page (roff), of this program or of one command
    Man(completions::ManArgs),
}

/// Runs the program; the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    // Whatever is written is private: records, and what libraries (sled) write of them.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let cli = Cli::parse();
    let outcome = dispatch(cli);
    logging::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::complain(format!("livekit-spool: {}", failure.message));
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let common = cli.common;
    match cli.command {
        Command::Run(args) => run::run(&common, &args),
        Command::Backlog(args) if args.is_screen(&common) => watch::run(&common),
        Command::Backlog(args) => backlog::run(&common, &args),
        Command::Peek(args) => records::peek(&common, &args),
        Command::Export(args) => export::export(&common, &args),
        Command::Import(args) => export::import(&common, &args),
        Command::Drain(args) => drain::drain(&common, &args),
        Command::Purge(args) => drain::purge(&common, &args),
        Command::Dead(args) => dead::run(&common, &args),
        Command::Verify(args) => verify::verify(&common, &args),
        Command::Recover(args) => verify::recover(&common, &args),
        Command::Indexes(args) => indexes::run(&common, &args),
        Command::Pause(args) => actions::tell(&common, &args, "pause"),
        Command::Resume(args) => actions::tell(&common, &args, "resume"),
        Command::Flush(args) => actions::tell(&common, &args, "flush"),
        Command::Ready => actions::ready(&common),
        Command::Reload => actions::reload(&common),
        Command::Send(args) => block_on(send::run(&common, &args)),
        Command::CheckConfig(args) => check_config::run(&common, &args),
        Command::Config(args) => config::run(&common, &args),
        Command::Doc(args) => doc::run(&args),
        Command::Completions(args) => completions::completions(&args, &mut Cli::command()),
        Command::Man(args) => completions::man(&args, Cli::command()),
    }
}
