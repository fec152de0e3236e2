//! `run`: the process itself.

use super::{Common, Exit, Failure, Outcome, block_on, threads};
use crate::{
    app::{self, FolderError, RunError, RunOptions, SinkStartError},
    demo::DEFAULT_RATE,
    ingest::ServeError,
    logging, record,
    spool::OpenError,
};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also send itself LiveKit's recorded events and stats, with new ids and current times
    #[arg(long)]
    demo: bool,
    /// Records a second of the demo
    #[arg(long, value_name = "N", default_value_t = DEFAULT_RATE, requires = "demo")]
    rate: u32,
    /// Believe this machine's clock, whatever earlier runs have noted of the time: after a run with a clock that was wrong
    #[arg(long)]
    trust_clock: bool,
}

pub(super) fn run(common: &Common, args: &Args) -> Outcome {
    let config = common.load_config()?;
    if args.trust_clock {
        record::trust_wall_clock();
    }
    threads::ensure(threads::of_run(&config))?;
    let logging = logging::start(&config.log, common.log_format)?;
    let options = RunOptions { config_file: common.config.clone(), demo_rate: args.demo.then_some(args.rate), logging };
    block_on(async { app::run(config, options).await.map_err(refusal) })
}

/// What kept the process from starting.
pub(super) fn refusal(error: RunError) -> Failure {
    let exit = match &error {
        RunError::Folder(FolderError::InUse { .. })
        | RunError::Sink(SinkStartError::Spool { source: OpenError::InUse { .. }, .. }) => Exit::NotRunning,
        RunError::AdminExposed { .. }
        | RunError::PathInSpool(_)
        | RunError::SamePath(_)
        | RunError::SameAddress { .. }
        | RunError::Tls(_) => Exit::Usage,
        RunError::Serve(error) if !matches!(error, ServeError::Io(_)) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}
