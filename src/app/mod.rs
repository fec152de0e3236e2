//! The process: what it opens and in which order, who waits for whom when it stops.
//!
//! Start: lock the data folder → open the spools → start the workers → bind and serve. A spool that does not open stops its
//! sink, not the process. Stop: the servers and a reload first (open requests end), then of each sink the worker (one last
//! flush), then its spool. The servers have half of `shutdown_timeout`, all of it together not two seconds more than the whole:
//! what a disk holds up by then is left where it is, as a kill would leave it.

mod demo;
mod folder;
mod import;
mod letters;
mod looking;
mod open_files;
mod operate;
mod parts;
mod paths;
mod purge;
mod rates;
mod refusing;
mod reload;
mod remove;
mod signals;
mod sinks;
mod snapshot;
mod spools;
mod start;
mod stop;

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use folder::{DataFolder, FolderError, socket, spools_in, with_short_path};
pub use letters::Retried;
pub use operate::{OperateError, Stopped, look_at};
pub use paths::{PathInSpool, SamePath};
pub use purge::Removed;
pub use rates::{History, Series};
pub use reload::{ReloadError, Reloaded};
pub use remove::RemoveError;
pub use sinks::SinkStartError;
pub use snapshot::of_stopped;
pub use spools::{keys, spool_options};
pub(crate) use start::bind_tcp;
pub use start::{RunError, check};

use crate::{
    admin,
    config::Config,
    document::Encoder,
    ingest::{self, Gate, IngestStatus, Intake, Listener},
    logging::Logging,
    record::{UnixMillis, now_millis},
    status::{Disk, SinkStatus, Snapshot},
};
use parts::Parts;
use rates::Rates;
use sinks::Running;

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

/// The running process, for whoever looks at it or tells it something.
pub struct App {
    started_at: UnixMillis,
    config: ArcSwap<Config>,
    config_file: Option<PathBuf>,
    data: DataFolder,
    logging: Logging,
    encoder: Arc<Encoder>,
    intake: Arc<Intake>,
    gate: Arc<Gate>,
    sinks: ArcSwap<Vec<Arc<Running>>>,
    /// Spools that the configuration does not name.
    unclaimed: Mutex<Vec<SinkStatus>>,
    /// The data folder's disk, as it was seen last: asking it may take as long as it likes.
    disk: Mutex<Disk>,
    rates: Mutex<Rates>,
    latest: watch::Sender<Arc<Snapshot>>,
    addresses: Addresses,
    stopping: CancellationToken,
    reloading: tokio::sync::Mutex<()>,
    parts: Arc<Parts>,
}

#[derive(Debug, Clone, Default)]
struct Addresses {
    grpc: Option<String>,
    http: Option<String>,
    admin: Option<String>,
}

/// Runs until a signal ends it: also while it starts, however long a disk takes.
///
/// # Errors
/// When it cannot start. Once it runs, nothing ends it but a signal, and a part that ended by itself.
pub async fn run(config: Config, options: RunOptions) -> Result<(), RunError> {
    let mut signals = signals::Signals::new().map_err(RunError::Signals)?;
    tokio::spawn(signals::keep_watchdog_quiet());
    let demo_rate = options.demo_rate;
    // A task of its own: whatever it waits for is let go of with the process.
    let starting = tokio::spawn(start(config, options));
    let Started { app, admin, grpc, http } = tokio::select! {
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
    let demo = demo_rate.map(|rate| app.start_demo(rate));

    let ended = tokio::select! {
        () = signals.until_stopped(&app) => None,
        ended = app.parts.one_ended() => Some(ended),
    };
    opening.abort();
    let stopped = app.stop(servers, demo);
    let closed = tokio::select! {
        closed = stopped => closed,
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

/// What a start has opened and bound, and not yet served.
struct Started {
    app: Arc<App>,
    admin: admin::Bound,
    grpc: Option<Listener>,
    http: Option<Listener>,
}

async fn start(config: Config, options: RunOptions) -> Result<Started, RunError> {
    // Disks may take their time, and must not hold up those who wait for a signal.
    let preparing = tokio::task::spawn_blocking(move || {
        let tls = check(&config)?.map(Arc::new);
        let data = DataFolder::open(&config.data_dir)?;
        let volatile = folder::volatile(&config.data_dir);
        Ok::<_, RunError>((config, tls, data, volatile))
    });
    let (config, tls, data, volatile) = preparing.await.map_err(|panic| RunError::Failed(panic.to_string()))??;
    open_files::raise_limit();
    warn_of(&config);
    if let Some(warning) = volatile {
        tracing::warn!("{warning}");
    }
    let encoder = Arc::new(Encoder::new(config.documents.clone()));
    let sinks = start::sinks(&config, &encoder).await?;
    let intake = Arc::new(Intake::new(sinks.iter().map(|sink| sink.target()).collect(), &config.ingest.memory));
    let gate = Arc::new(Gate::new(config.ingest.auth.options(), config.ingest.auth.keys.clone(), tls));

    // gRPC last: whoever finds it open finds the others too.
    let admin = admin::bind(&config).await?;
    let http = start::bind("ingest.http.listen", config.ingest.http.listen.as_ref()).await?;
    let grpc = start::bind("ingest.grpc.listen", config.ingest.grpc.listen.as_ref()).await?;
    for listener in [&grpc, &http].into_iter().flatten() {
        gate.check_listener(listener)?;
    }
    let addresses = Addresses {
        grpc: grpc.as_ref().map(ToString::to_string),
        http: http.as_ref().map(ToString::to_string),
        admin: admin.address().map(|address| address.to_string()),
    };

    let looking = tokio::task::spawn_blocking(move || {
        let (unclaimed, disk) = (snapshot::unclaimed_spools(&config), snapshot::disk(&config.data_dir));
        (config, unclaimed, disk)
    });
    let (config, unclaimed, disk) = looking.await.map_err(|panic| RunError::Failed(panic.to_string()))?;
    let (latest, _) = watch::channel(Arc::new(looking::empty_snapshot(&config, disk)));
    let app = Arc::new(App {
        started_at: now_millis(),
        config: ArcSwap::from_pointee(config),
        config_file: options.config_file,
        data,
        logging: options.logging,
        encoder,
        intake,
        gate,
        sinks: ArcSwap::from_pointee(sinks),
        unclaimed: Mutex::new(unclaimed),
        disk: Mutex::new(disk),
        rates: Mutex::default(),
        latest,
        addresses,
        stopping: CancellationToken::new(),
        reloading: tokio::sync::Mutex::default(),
        parts: Parts::new(),
    });
    Ok(Started { app, admin, grpc, http })
}

impl App {
    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// How records become documents.
    #[must_use]
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// What came in and what was refused.
    pub(crate) fn ingest_status(&self) -> &Arc<IngestStatus> {
        self.intake.status()
    }

    /// Counts, and logs once in a while, that somebody at the admin port did not have the token.
    pub fn count_refused(&self, why: &str) {
        self.gate.refuse_admin(why, self.intake.status());
    }

    /// The snapshot of each second, and of each change at once.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }

    /// The backlog over the last minutes.
    #[must_use]
    pub fn history(&self) -> History {
        self.rates.lock().history()
    }

    /// Cancelled when the process begins to stop.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    fn sink(&self, name: &str) -> Option<Arc<Running>> {
        self.sinks.load().iter().find(|sink| sink.config.name.as_str() == name).cloned()
    }

    /// Runs a part that never ends by itself.
    fn run(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.parts.run(name, self.stopping.clone(), part.map(Ok::<_, Infallible>))
    }

    fn serve(self: &Arc<Self>, grpc: Option<Listener>, http: Option<Listener>) -> Vec<JoinHandle<()>> {
        let config = self.config();
        let mut servers = Vec::new();
        if let Some(listener) = grpc {
            let stop = self.stopping.clone().cancelled_owned();
            let (intake, gate, options) =
                (Arc::clone(&self.intake), Arc::clone(&self.gate), config.ingest.grpc.clone());
            let serving = ingest::grpc::serve(listener, intake, gate, options, stop);
            servers.push(self.parts.run("the gRPC server", self.stopping.clone(), serving));
        }
        if let Some(listener) = http {
            let stop = self.stopping.clone().cancelled_owned();
            let (intake, gate, options) =
                (Arc::clone(&self.intake), Arc::clone(&self.gate), config.ingest.http.clone());
            let serving = ingest::http::serve(listener, intake, gate, options, stop);
            servers.push(self.parts.run("the HTTP server", self.stopping.clone(), serving));
        }
        servers
    }

    /// One line: where records come in, where they go, where they lie.
    fn announce(&self) {
        let config = self.config();
        let off = || "off".to_owned();
        let sinks: Vec<String> = config
            .sinks
            .iter()
            .map(|sink| format!("{} → {} {}", sink.name, sink.target.kind(), sink.target.address()))
            .collect();
        let page = self.addresses.admin.as_ref().map_or_else(off, |address| format!("http://{address}/"));
        tracing::info!(
            grpc = self.addresses.grpc.clone().unwrap_or_else(off),
            http = self.addresses.http.clone().unwrap_or_else(off),
            status_page = page,
            data = %config.data_dir.display(),
            documents = sinks.join(", "),
            config = config.source,
            "livekit-spool {} takes records",
            env!("CARGO_PKG_VERSION"),
        );
        for sink in self.unclaimed.lock().iter() {
            warn_unclaimed(sink);
        }
    }
}

/// Says what to do about a spool that the configuration does not name.
/// What a configuration warns of.
fn warn_of(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

fn warn_unclaimed(sink: &SinkStatus) {
    let (name, records) = (&sink.name, sink.records);
    if let Some(error) = sink.last_error.as_ref().filter(|_| sink.spool_error.is_some()) {
        tracing::warn!(sink = %name, error, "a spool that the configuration does not name cannot be read; it is kept");
        return;
    }
    tracing::warn!(
        sink = %name,
        records,
        dead_letters = sink.dead_letters,
        "a spool that the configuration does not name is kept: name the sink again to deliver it, \
         `livekit-spool export {name}` to take it out, or `livekit-spool purge {name}` to remove it"
    );
}

/// A sink that is not there.
#[derive(Debug, thiserror::Error)]
#[error("there is no sink {name:?}; there are {}", names.join(", "))]
pub struct NoSuchSink {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub names: Vec<String>,
}

impl App {
    fn find(&self, name: &str) -> Result<Arc<Running>, NoSuchSink> {
        self.sink(name).ok_or_else(|| self.no_such_sink(name))
    }

    /// What to answer to someone who asks for a sink that is not there.
    #[must_use]
    pub fn no_such_sink(&self, name: &str) -> NoSuchSink {
        let names = self.sinks.load().iter().map(|sink| sink.config.name.to_string()).collect();
        NoSuchSink { name: name.to_owned(), names }
    }
}
