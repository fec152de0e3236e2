//! `run`: the process from its start to its end, who waits for whom.
//!
//! Start: lock the data directory → open the spools → start the workers → bind and serve. A spool that does not open stops its
//! sink, not the process. Stop: the servers and a reload first (open requests end), then of each sink the worker (one last
//! flush), then its spool. The servers have half of `shutdown_timeout`, all of it together not two seconds more than the whole:
//! what a disk holds up by then is left where it is, as a kill would leave it.
//!
//! Uses `admin`, `app`, `config`, `demo`, `ingest`, `logging`.

mod demo;
mod signals;

use std::{path::PathBuf, sync::Arc};

use crate::{
    admin,
    app::{self, RunError},
    config::Config,
    logging::Logging,
};
use signals::Signals;

/// What `run` is told besides the configuration.
#[derive(Debug)]
pub struct RunOptions {
    /// The file of the command line, for reloading.
    pub config_file: Option<PathBuf>,
    /// Sends itself LiveKit's records, so many a second.
    pub demo_rate: Option<u32>,
    /// The log.
    pub logging: Logging,
}

/// Runs until a signal ends it: also while it starts, however long a disk takes.
///
/// # Errors
/// When it cannot start. Once it runs, nothing ends it but a signal, and a part that ended by itself.
pub async fn run(config: Config, options: RunOptions) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    tokio::spawn(signals::keep_watchdog_quiet());
    let demo_rate = options.demo_rate;
    // A task of its own: whatever it waits for is let go of with the process.
    let starting = tokio::spawn(start(config, options));
    let (app::Bound { app, grpc, http }, admin) = tokio::select! {
        started = starting => started.map_err(|panic| RunError::Failed(panic.to_string()))??,
        () = signals.stop_again() => {
            tracing::info!("told to stop before it took records: what lies on disk stays as it is");
            return Ok(());
        }
    };
    app.announce();
    let watching = app.run("the watch over states", Arc::clone(&app).watch());
    let watching_disk = app.run("the watch over the disk", Arc::clone(&app).watch_disk());
    let opening = app.run("the opening of spools", Arc::clone(&app).keep_opening());
    let admin = app.run("the admin server", admin.serve(Arc::clone(&app)));
    let servers = app.serve(grpc, http);
    signals::ready();
    let demo = demo_rate.map(|rate| demo::start(&app, rate));

    let ended = tokio::select! {
        () = signals.until_stopped(&app) => None,
        ended = app.one_part_ended() => Some(ended),
    };
    opening.abort();
    signals::stopping();
    let closed = tokio::select! {
        closed = app.stop(servers, demo) => closed,
        () = signals.stop_again() => {
            tracing::warn!("told to stop again: stopping at once; what is left is safe on disk");
            false
        }
    };
    watching.abort();
    watching_disk.abort();
    admin.abort();
    if !closed {
        // Letting go of an open spool waits for its threads, and they may wait for the disk.
        std::mem::forget(app);
    }
    ended.map_or(Ok(()), |ended| Err(RunError::PartEnded(ended)))
}

/// Opens and binds all, and serves nothing yet: whoever finds a port open where records come in finds the status page too.
async fn start(config: Config, options: RunOptions) -> Result<(app::Bound, admin::Bound), RunError> {
    let opened = app::open(config).await?;
    let admin = admin::bind(opened.config()).await?;
    let bound = opened.bind(admin.address(), options.config_file, options.logging).await?;
    Ok((bound, admin))
}
