//! The command line: one file per command, in one style.
//!
//! Every command has `--config` and `--json`; its output for people fits 80 columns. Commands that inspect sinks ask the
//! running process over the socket in its data directory; if none runs, they read the directory itself.
//!
//! Uses `app`, `archive`, `config`, `csv`, `demo`, `document`, `files`, `flush`, `ingest`, `inspect`, `logging`,
//! `printable`, `record`, `run`, `secret`, `session`, `sink`, `spool`, `status`, `tasks`, `units`.

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
mod sessions;
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
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed
  2  the arguments or the configuration are not valid; there is no such sink
  3  the command needs a running livekit-spool and none runs, or the other way round
  4  done in part: `drain` ran out of time, `verify` found damage, `indexes` found some missing or
     different, `peek`, `export`, `import`, `recover`, `doc` and `sessions` left records out, `dead
     retry` was cut short, a sink dropped records of `send` or `import`, `check-config` or
     `reload` found a spool that does not open";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Accept records, keep them on disk, deliver them
    Run(run::Args),
    /// Show the backlog of each sink, its state and its last error
    #[command(visible_alias = "status")]
    Backlog(backlog::Args),
    /// Show records of a sink as documents, without removing any
    Peek(records::PeekArgs),
    /// Copy a sink's backlog into a file; an interrupted export continues where it stopped
    Export(export::ExportArgs),
    /// Put the records of a file into the spools
    Import(export::ImportArgs),
    /// Deliver the whole backlog, then exit
    Drain(drain::DrainArgs),
    /// Remove a sink's backlog for good
    Purge(drain::PurgeArgs),
    /// List, show, retry or drop dead letters: records that a sink rejected for good
    Dead(dead::Args),
    /// Check every checksum of the spools, running or stopped, and report damage
    Verify(verify::VerifyArgs),
    /// Copy records out of any directory with parts of a spool, also damaged ones
    Recover(verify::RecoverArgs),
    /// List sessions, show what a call was like, add up usage: from what a sink has stored
    Sessions(sessions::Args),
    /// Compare the indexes of each sink with those it should have
    Indexes(indexes::Args),
    /// Stop delivering to a sink; its records stay in the spool
    Pause(actions::SinkArgs),
    /// Deliver to a paused sink again
    Resume(actions::SinkArgs),
    /// Deliver a sink's backlog now
    Flush(actions::SinkArgs),
    /// Exit with 0 if the running process accepts records; otherwise say why not
    Ready,
    /// Read the configuration again, as SIGHUP does, and print the result
    Reload,
    /// Send records to a livekit-spool: recorded LiveKit records, or files
    Send(send::SendArgs),
    /// Check the configuration, show what it runs, and compare it with the existing spools
    CheckConfig(check_config::Args),
    /// Print the configuration in force, the documented defaults, or the JSON Schema
    Config(config::Args),
    /// Print the records of a file as the documents that a sink would store
    Doc(doc::DocArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page (roff) of this program or of a command
    Man(completions::ManArgs),
}

/// Runs the program; the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    // All files that are written are private: records, and what libraries (sled) write of them.
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
        Command::Sessions(args) => sessions::run(&common, &args),
        Command::Indexes(args) => indexes::run(&common, &args),
        Command::Pause(args) => actions::perform(&common, &args, "pause"),
        Command::Resume(args) => actions::perform(&common, &args, "resume"),
        Command::Flush(args) => actions::perform(&common, &args, "flush"),
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
