//! `run`: the process itself.

use super::{Common, Failure, Outcome, block_on, threads};
use crate::{
    app::RunError,
    demo::DEFAULT_RATE,
    logging, record,
    run::{self, Hangup, RunOptions},
};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also send recorded LiveKit events and stats to itself, with new ids and times of the last minutes
    #[arg(long)]
    demo: bool,
    /// Records per second of the demo
    #[arg(long, value_name = "N", default_value_t = DEFAULT_RATE, requires = "demo")]
    rate: u32,
    /// Trust this machine's clock and ignore the times that earlier runs recorded: use it after a run with a wrong clock
    #[arg(long)]
    trust_clock: bool,
}

pub(super) fn run(common: &Common, args: &Args) -> Outcome {
    let hangup = Hangup::catch().map_err(|error| Failure::start(RunError::Signals(error)))?;
    let config = common.load_config()?;
    if args.trust_clock {
        record::trust_wall_clock();
    }
    threads::ensure(threads::of_run(&config))?;
    let logging = logging::start(&config.log, common.log_format)?;
    let options =
        RunOptions { hangup, config_file: common.config.clone(), demo_rate: args.demo.then_some(args.rate), logging };
    block_on(async { run::run(config, options).await.map_err(Failure::start) })
}
