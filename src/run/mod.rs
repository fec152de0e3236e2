//! `run`: the process from start to stop.
//!
//! Start: lock the data directory → open the spools → start the workers → bind and serve. A spool that does not open stops
//! its sink, not the process. Stop: the servers and a reload first (open requests are completed), then for each sink the
//! worker (one last flush), then its spool. The servers have half of `shutdown_timeout`; everything together takes at most
//! two seconds more than `shutdown_timeout`. What still waits for a disk then is left as a kill would leave it.
//!
//! Uses `admin`, `app`, `config`, `demo`, `ingest`, `logging`, `tasks`.

mod demo;
mod signals;

use std::{path::PathBuf, sync::Arc};

use crate::{
    admin,
    app::{self, RunError},
    config::Config,
    logging::Logging,
    tasks,
};
pub use signals::Hangup;
use signals::Signals;

/// Arguments of `run` besides the configuration.
#[derive(Debug)]
pub struct RunOptions {
    /// The handler of SIGHUP.
    pub hangup: Hangup,
    /// The config file named on the command line, for reloading.
    pub config_file: Option<PathBuf>,
    /// Records per second of the demo; `None`: no demo.
    pub demo_rate: Option<u32>,
    /// The log.
    pub logging: Logging,
}

/// Runs until a signal ends it. A signal also ends a start that waits for a disk.
///
/// # Errors
/// When it cannot start, or when a part that has to run has ended by itself.
pub async fn run(config: Config, options: RunOptions) -> Result<(), RunError> {
    let RunOptions { hangup, config_file, demo_rate, logging } = options;
    let mut signals = Signals::new(hangup).map_err(RunError::Signals)?;
    tasks::spawn(signals::keep_watchdog_quiet());
    // A task of its own: if it waits for a disk, the process exits without it.
    let starting = tasks::spawn(start(config, config_file, logging));
    let abort_start = starting.abort_handle();
    let (app::Bound { app, grpc, http }, admin) = tokio::select! {
        started = starting => started.map_err(|panic| RunError::Failed(panic.to_string()))??,
        () = signals.stop_again() => {
            abort_start.abort();
            tracing::info!("stopped before it accepted records: the files on disk stay as they are");
            return Ok(());
        }
    };
    app.announce();
    let watching = app.run("the monitoring of states", Arc::clone(&app).watch());
    let watching_disk = app.run("the monitoring of the disk", Arc::clone(&app).watch_disk());
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
            tracing::warn!("second stop signal: stopping at once; the backlog is on disk");
            false
        }
    };
    watching.abort();
    watching_disk.abort();
    admin.abort();
    if !closed {
        // Dropping an open spool waits for its threads, which may wait for the disk.
        std::mem::forget(app);
    }
    ended.map_or(Ok(()), |ended| Err(RunError::PartEnded(ended)))
}

/// Opens and binds everything, and serves nothing yet: when an ingest port is open, the status page is too.
async fn start(
    config: Config,
    config_file: Option<PathBuf>,
    logging: Logging,
) -> Result<(app::Bound, admin::Bound), RunError> {
    let opened = app::open(config).await?;
    let admin = admin::bind(opened.config()).await?;
    let bound = opened.bind(admin.address(), config_file, logging).await?;
    Ok((bound, admin))
}
