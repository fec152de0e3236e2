//! The command line: one file a command, one style.
//!
//! Every command takes `--config` and `--json`; what it prints for people fits 80 columns. Commands that look at sinks ask
//! the running process over the socket in its data folder, and where none runs they look at the folder itself.

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
pub mod output;
mod records;
mod run;
pub mod send;
mod threads;
mod verify;
mod watch;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::SignalKind;

use crate::{
    app::{FolderError, OperateError},
    config::{Config, ConfigError, LogFormat, load},
    logging,
};

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

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// The config file [default: ./config.yaml if there is one, else built-in defaults]
    #[arg(long, short, global = true, value_name = "FILE", env = "LIVEKIT_SPOOL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// How log lines look [default: the config's, which is auto]
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
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
    /// Take records out of any folder that holds parts of a spool, damaged ones too
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

/// How a command ends, besides well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It failed.
    Failed = 1,
    /// The arguments or the configuration are wrong.
    Usage = 2,
    /// It needs a running process and none runs, or the other way round.
    NotRunning = 3,
    /// Done in part.
    Partial = 4,
}

/// Why a command ends early: what to print, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// For people: what happened and what to do about it. Empty where all is said already.
    pub message: String,
}

impl Failure {
    /// A failure with this exit code.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Wrong arguments.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An operation on a stopped process's folder that failed; the exit code is the one that a running process's answer
    /// would give.
    fn operation(error: OperateError) -> Self {
        let exit = match &error {
            OperateError::NoSuchSink(_)
            | OperateError::PathInSpool(_)
            | OperateError::Folder(FolderError::Missing { .. }) => Exit::Usage,
            OperateError::Folder(FolderError::InUse { .. }) => Exit::NotRunning,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

/// What a command answers.
pub type Outcome = Result<(), Failure>;

impl Common {
    /// The configuration that the command works with.
    ///
    /// # Errors
    /// When it is missing or wrong.
    pub fn load_config(&self) -> Result<Config, Failure> {
        load_config(self.config.as_deref())
    }

    /// The configuration that a command works with which talks to the running process, or to what it left: with the data
    /// folder of the process that runs with this file, where data_dir is another one by now, or from here.
    ///
    /// # Errors
    /// When it is missing or wrong.
    fn config_in_force(&self) -> Result<Config, Failure> {
        let mut config = self.load_config()?;
        if client::is_running(&config.data_dir) {
            return Ok(config);
        }
        if let Some(folder) = config.file.as_deref().and_then(in_force::data_dir) {
            let (named, used) = (config.data_dir.display(), folder.display());
            output::complain(format!(
                "livekit-spool: the process that runs with this configuration works on {used}, and data_dir is {named} \
                 here: this is about {used}"
            ));
            config.data_dir = folder;
        }
        Ok(config)
    }

    /// The same, for a command that looks at spools or changes them: the data folder has to be there.
    ///
    /// # Errors
    /// When it is missing or wrong, or there is no data folder.
    fn config_of_spools(&self) -> Result<Config, Failure> {
        let config = self.config_in_force()?;
        if std::fs::metadata(&config.data_dir).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Err(Failure::usage(FolderError::Missing { path: config.data_dir }.to_string()));
        }
        Ok(config)
    }
}

/// The configuration of `file`, or of the place where it is looked for.
///
/// # Errors
/// When it is missing or wrong.
pub fn load_config(file: Option<&Path>) -> Result<Config, Failure> {
    threads::ensure(threads::TO_READ)?;
    load(file, &|name| std::env::var(name).ok()).map_err(|error: ConfigError| Failure::usage(error.to_string()))
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
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
    }
}

/// Runs a command that waits for sockets and disks.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    threads::ensure(threads::of_command())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // Caught, it ends nothing: a file that would be larger than `ulimit -f` allows is an error of that write (EFBIG).
        let _caught = tokio::signal::unix::signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
        command.await
    });
    // A thread that waits for a disk must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// The whole command line, for completions and the manual.
fn command() -> clap::Command {
    Cli::command()
}
