//! The running process: its configuration, its sinks and the state they share.

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

use super::{directory::DataDirectory, history::History, parts::Parts, rates::Rates, sinks::Running};
use crate::{
    config::Config,
    document::Encoder,
    ingest::{self, Authenticator, IngestStatus, Ingester, Listener, ReaderRefused},
    logging::Logging,
    record::UnixMillis,
    status::{Disk, SinkStatus, Snapshot},
};

/// The running process, as the admin API uses it.
pub struct App {
    pub(super) started_at: UnixMillis,
    pub(super) config: ArcSwap<Config>,
    pub(super) config_file: Option<PathBuf>,
    pub(super) data: DataDirectory,
    pub(super) logging: Logging,
    pub(super) encoder: Arc<Encoder>,
    pub(super) ingester: Arc<Ingester>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) sinks: ArcSwap<Vec<Arc<Running>>>,
    /// Orphaned spools: those that the configuration does not name.
    pub(super) orphaned: Mutex<Vec<SinkStatus>>,
    /// The disk of the data directory as measured last: measuring can block for long.
    pub(super) disk: Mutex<Disk>,
    pub(super) rates: Mutex<Rates>,
    pub(super) latest: watch::Sender<Arc<Snapshot>>,
    pub(super) addresses: Addresses,
    pub(super) stopping: CancellationToken,
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) parts: Arc<Parts>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    pub(super) grpc: Option<String>,
    pub(super) http: Option<String>,
    pub(super) admin: Option<String>,
}

impl App {
    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// How records become documents.
    #[must_use]
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// Counters of accepted and refused records.
    pub(crate) fn ingest_status(&self) -> &Arc<IngestStatus> {
        self.ingester.status()
    }

    /// Counts requests at the admin port without the right token, and logs them at intervals.
    pub fn count_refused(&self, why: &str) {
        self.authenticator.refuse_admin(why, self.ingester.status());
    }

    /// Accepts a reader of sessions by its token of a LiveKit API key.
    pub(crate) fn admit_reader(&self, headers: &http::HeaderMap) -> Result<(), ReaderRefused> {
        self.authenticator.admit_reader(headers)
    }

    /// A snapshot each second, and at once when a state changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }

    /// The last hour of each sink.
    #[must_use]
    pub fn history(&self) -> History {
        self.rates.lock().history().clone()
    }

    /// Cancelled when the process begins to stop.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    pub(super) fn sink(&self, name: &str) -> Option<Arc<Running>> {
        self.sinks.load().iter().find(|sink| sink.config.name.as_str() == name).cloned()
    }

    /// The address of the gRPC server.
    pub(crate) fn grpc_address(&self) -> Option<&str> {
        self.addresses.grpc.as_deref()
    }

    /// The address of the status page.
    pub(crate) fn admin_address(&self) -> Option<&str> {
        self.addresses.admin.as_deref()
    }

    /// Runs a part that has to run as long as the process.
    pub(crate) fn run(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.parts.run(name, self.stopping.clone(), part.map(Ok::<_, Infallible>))
    }

    /// Returns once a part has ended that should run as long as the process; says which one, and why.
    pub(crate) async fn one_part_ended(&self) -> String {
        self.parts.one_ended().await
    }

    /// Serves the bound ingest ports.
    pub(crate) fn serve(self: &Arc<Self>, grpc: Option<Listener>, http: Option<Listener>) -> Vec<JoinHandle<()>> {
        let config = self.config();
        let mut servers = Vec::new();
        if let Some(listener) = grpc {
            let stop = self.stopping.clone().cancelled_owned();
            let (ingester, authenticator, options) =
                (Arc::clone(&self.ingester), Arc::clone(&self.authenticator), config.ingest.grpc.clone());
            let serving = ingest::grpc::serve(listener, ingester, authenticator, options, stop);
            servers.push(self.parts.run("the gRPC server", self.stopping.clone(), serving));
        }
        if let Some(listener) = http {
            let stop = self.stopping.clone().cancelled_owned();
            let (ingester, authenticator, options) =
                (Arc::clone(&self.ingester), Arc::clone(&self.authenticator), config.ingest.http.clone());
            let serving = ingest::http::serve(listener, ingester, authenticator, options, stop);
            servers.push(self.parts.run("the HTTP server", self.stopping.clone(), serving));
        }
        servers
    }

    /// Logs one line: the ingest addresses, the sinks and the data directory.
    pub(crate) fn announce(&self) {
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
            "livekit-spool {} accepts records",
            env!("CARGO_PKG_VERSION"),
        );
        for sink in self.orphaned.lock().iter() {
            warn_orphaned(sink);
        }
    }

    pub(super) fn find(&self, name: &str) -> Result<Arc<Running>, NoSuchSink> {
        self.sink(name).ok_or_else(|| self.no_such_sink(name))
    }

    /// The error for a sink that does not exist.
    #[must_use]
    pub fn no_such_sink(&self, name: &str) -> NoSuchSink {
        let names = self.sinks.load().iter().map(|sink| sink.config.name.to_string()).collect();
        NoSuchSink { name: name.to_owned(), names }
    }
}

/// Logs what to do about an orphaned spool.
pub(super) fn warn_orphaned(sink: &SinkStatus) {
    let (name, records) = (&sink.name, sink.records);
    if let Some(error) = sink.last_error.as_ref().filter(|_| sink.spool_error.is_some()) {
        tracing::warn!(
            sink = %name,
            error,
            "could not read the spool of a sink that the configuration does not name; it is kept"
        );
        return;
    }
    tracing::warn!(
        sink = %name,
        records,
        dead_letters = sink.dead_letters,
        "the spool of a sink that the configuration does not name is kept: add the sink again to deliver its records, \
         `livekit-spool export {name}` to copy them, or `livekit-spool purge {name}` to remove the spool"
    );
}

/// A sink that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("there is no sink {name:?}; there are {}", names.join(", "))]
pub struct NoSuchSink {
    /// The name that was asked for.
    pub name: String,
    /// The sinks that exist.
    pub names: Vec<String>,
}
