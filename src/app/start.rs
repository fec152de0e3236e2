//! Starting: the checks that can refuse a start, then each step that opens or binds something.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::future::join_all;
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    directory::{self, DataDirectory, DirectoryError},
    open_files,
    parts::Parts,
    paths::{PathInSpool, SamePath, check_paths, check_same_paths},
    process::{Addresses, App},
    sinks::Running,
    slot::{SinkStartError, Slot},
    snapshot,
};
use crate::{
    config::{Config, Listen},
    document::Encoder,
    ingest::{Authenticator, Ingester, Listener, ServeError, Tls, TlsError, listen},
    logging::Logging,
    record::now_millis,
    tasks,
};

/// Why the process did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A sink cannot be started.
    #[error(transparent)]
    Sink(#[from] SinkStartError),
    /// An address cannot be bound.
    #[error("could not listen on {address} ({key}): {source}")]
    Bind {
        /// The config key.
        key: &'static str,
        /// The address.
        address: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("ingest.tls: {0}")]
    Tls(#[from] TlsError),
    /// The authenticator cannot be built.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The status page would be readable from other machines without a token.
    #[error(
        "{address} can be reached from other machines, and the status page shows personal data: set admin.token, \
         or listen on 127.0.0.1 (admin.listen)"
    )]
    AdminExposed {
        /// The address.
        address: String,
    },
    /// A file sink would write into a spool's directory.
    #[error(transparent)]
    PathInSpool(#[from] PathInSpool),
    /// A task that has to run as long as the process ended by itself.
    #[error("{0}; all records that were answered OK are on disk")]
    PartEnded(String),
    /// Two file sinks would write into one directory.
    #[error(transparent)]
    SamePath(#[from] SamePath),
    /// Two servers would listen on the same address.
    #[error("{second} ({second_key}) and {first} ({first_key}) are the same address: give each its own port")]
    SameAddress {
        /// The config key of the first.
        first_key: &'static str,
        /// Its address.
        first: String,
        /// The config key of the second.
        second_key: &'static str,
        /// Its address.
        second: String,
    },
    /// A part of the start panicked.
    #[error("the start failed: {0}")]
    Failed(String),
    /// The signal handlers cannot be installed.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
}

/// Checks what spans several values: a status page readable without a token, a file sink that writes into a spool,
/// certificates that cannot be used. It opens no port and no spool; `run`, a reload and `check-config` all call it. Returns
/// the certificates.
///
/// # Errors
/// The first problem, with how to fix it.
pub fn check(config: &Config) -> Result<Option<Tls>, RunError> {
    if let Some(address) = config.admin.listen
        && !address.ip().to_canonical().is_loopback()
        && config.admin.token.is_none()
    {
        return Err(RunError::AdminExposed { address: address.to_string() });
    }
    check_addresses(config)?;
    check_paths(&config.sinks, &config.data_dir)?;
    check_same_paths(&config.sinks)?;
    Ok(config.ingest.tls.clone().map(Tls::load).transpose()?)
}

/// Refuses two servers on the same address.
fn check_addresses(config: &Config) -> Result<(), RunError> {
    let admin = config.admin.listen.map(Listen::Tcp);
    let servers = [
        ("ingest.grpc.listen", config.ingest.grpc.listen.as_ref()),
        ("ingest.http.listen", config.ingest.http.listen.as_ref()),
        ("admin.listen", admin.as_ref()),
    ];
    let mut before: Vec<(&'static str, &Listen)> = Vec::new();
    for (key, listen) in servers {
        let Some(listen) = listen else { continue };
        if let Some((first_key, first)) = before.iter().find(|(_, other)| clash(listen, other)) {
            let (first, second) = (first.to_string(), listen.to_string());
            return Err(RunError::SameAddress { first_key, first, second_key: key, second });
        }
        before.push((key, listen));
    }
    Ok(())
}

/// Whether only one of the two addresses can be bound: "every interface" includes each single interface.
fn clash(a: &Listen, b: &Listen) -> bool {
    match (a, b) {
        (Listen::Tcp(a), Listen::Tcp(b)) => {
            let covers = |all: &SocketAddr, one: &SocketAddr| {
                all.ip() == one.ip() || (all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4()))
            };
            a.port() == b.port() && a.port() != 0 && (covers(a, b) || covers(b, a))
        }
        (Listen::Unix(a), Listen::Unix(b)) => a == b,
        _ => false,
    }
}

/// Logs the configuration's warnings.
pub(super) fn warn_of(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// The opened spools and running workers, before any port is bound.
pub(crate) struct Opened {
    config: Config,
    data: DataDirectory,
    encoder: Arc<Encoder>,
    sinks: Vec<Arc<Running>>,
    ingester: Arc<Ingester>,
    authenticator: Arc<Authenticator>,
}

/// Locks the data directory, opens the spools, starts the workers.
///
/// # Errors
/// When [`check`] refuses the configuration, or the directory or a sink's options cannot be used.
pub(crate) async fn open(config: Config) -> Result<Opened, RunError> {
    // A slow disk must not block the task that waits for signals.
    let preparing = tasks::run_blocking(move || {
        let tls = check(&config)?.map(Arc::new);
        let data = DataDirectory::open(&config.data_dir)?;
        let volatile = directory::volatile(&config.data_dir);
        Ok::<_, RunError>((config, tls, data, volatile))
    });
    let (config, tls, data, volatile) = preparing.await.map_err(|panic| RunError::Failed(panic.to_string()))??;
    open_files::raise_limit();
    warn_of(&config);
    if let Some(warning) = volatile {
        tracing::warn!("{warning}");
    }
    let encoder = Arc::new(Encoder::new(config.documents.clone()));
    let sinks = sinks(&config, &encoder).await?;
    let ingester = Arc::new(Ingester::new(sinks.iter().map(|sink| sink.target()).collect(), &config.ingest.memory));
    let authenticator =
        Arc::new(Authenticator::new(config.ingest.auth.options(), config.ingest.auth.keys.clone(), tls));
    Ok(Opened { config, data, encoder, sinks, ingester, authenticator })
}

/// The process with its ports bound, not served yet.
pub(crate) struct Bound {
    pub(crate) app: Arc<App>,
    pub(crate) grpc: Option<Listener>,
    pub(crate) http: Option<Listener>,
}

impl Opened {
    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// Binds the ingest ports. gRPC comes last: a client that finds it open finds the others open too. `admin` is the
    /// address of the status page, `config_file` the file named on the command line.
    pub(crate) async fn bind(
        self,
        admin: Option<SocketAddr>,
        config_file: Option<PathBuf>,
        logging: Logging,
    ) -> Result<Bound, RunError> {
        let Self { config, data, encoder, sinks, ingester, authenticator } = self;
        let http = bind("ingest.http.listen", config.ingest.http.listen.as_ref()).await?;
        let grpc = bind("ingest.grpc.listen", config.ingest.grpc.listen.as_ref()).await?;
        for listener in [&grpc, &http].into_iter().flatten() {
            authenticator.check_listener(listener)?;
        }
        let addresses = Addresses {
            grpc: grpc.as_ref().map(ToString::to_string),
            http: http.as_ref().map(ToString::to_string),
            admin: admin.map(|address| address.to_string()),
        };
        let inspecting = tasks::run_blocking(move || {
            let (orphaned, disk) = (snapshot::orphaned_spools(&config), snapshot::disk(&config.data_dir));
            (config, orphaned, disk)
        });
        let (config, orphaned, disk) = inspecting.await.map_err(|panic| RunError::Failed(panic.to_string()))?;
        let (latest, _) = watch::channel(Arc::new(snapshot::empty(&config, disk)));
        let app = Arc::new(App {
            started_at: now_millis(),
            config: ArcSwap::from_pointee(config),
            config_file,
            data,
            logging,
            encoder,
            ingester,
            authenticator,
            sinks: ArcSwap::from_pointee(sinks),
            orphaned: Mutex::new(orphaned),
            disk: Mutex::new(disk),
            rates: Mutex::default(),
            latest,
            addresses,
            stopping: CancellationToken::new(),
            reloading: tokio::sync::Mutex::default(),
            parts: Parts::new(),
        });
        Ok(Bound { app, grpc, http })
    }
}

/// Opens every sink's spool and starts its worker. A sink whose spool does not open does not deliver and reports why.
async fn sinks(config: &Config, encoder: &Arc<Encoder>) -> Result<Vec<Arc<Running>>, SinkStartError> {
    let starting = config.sinks.iter().map(|sink| async {
        let slot = Slot::open_or_tell(&sink.name, &config.data_dir, &sink.spool).await?;
        Running::start(Arc::new(sink.clone()), slot, encoder).await
    });
    join_all(starting).await.into_iter().collect()
}

/// Binds a TCP port. "Every interface" (`:7890`, `[::]:7890`) means IPv4's only where the machine has no IPv6.
///
/// # Errors
/// The operating system's error.
pub(crate) async fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    bind_with(address, async |address| listen(address)).await
}

async fn bind_with<T>(address: SocketAddr, bind: impl AsyncFn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let no_ipv6 = |error: &io::Error| {
        matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT))
    };
    match bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && no_ipv6(&error) => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into()).await
        }
        bound => bound,
    }
}

/// Binds the configured address; `None` if it is switched off.
async fn bind(key: &'static str, listen: Option<&Listen>) -> Result<Option<Listener>, RunError> {
    let bound = match listen {
        None => return Ok(None),
        Some(Listen::Tcp(address)) => bind_tcp(*address).await.map(Listener::Tcp),
        Some(Listen::Unix(path)) => Listener::unix(path).await,
    };
    let address = || listen.map(ToString::to_string).unwrap_or_default();
    bound.map(Some).map_err(|source| RunError::Bind { key, address: address(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_interface_is_those_of_ipv4_where_there_is_no_ipv6() {
        let without_ipv6 = async |address: SocketAddr| match address.is_ipv6() {
            true => Err(io::Error::from(Errno::AFNOSUPPORT)),
            false => Ok(address.to_string()),
        };
        assert_eq!(bind_with("[::]:7".parse().unwrap(), without_ipv6).await.unwrap(), "0.0.0.0:7");
        assert_eq!(bind_with("127.0.0.1:7".parse().unwrap(), without_ipv6).await.unwrap(), "127.0.0.1:7");
        bind_with("[::1]:7".parse().unwrap(), without_ipv6).await.unwrap_err();
        let in_use = async |_: SocketAddr| Err::<(), _>(io::Error::from(Errno::ADDRINUSE));
        bind_with("[::]:7".parse().unwrap(), in_use).await.unwrap_err();
    }
}
