//! What a start refuses, and its first steps.

use std::{io, sync::Arc};

use futures::future::join_all;

use super::{
    folder::FolderError,
    paths::{PathInSpool, check_paths},
    sinks::{Running, SinkStartError, Slot},
};
use crate::{
    config::{Config, Listen},
    document::Encoder,
    ingest::{Listener, ServeError, Tls, TlsError},
};

/// Why the process did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A sink.
    #[error(transparent)]
    Sink(#[from] SinkStartError),
    /// An address.
    #[error("cannot listen on {address} ({key}): {source}")]
    Bind {
        /// The config key.
        key: &'static str,
        /// The address.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Certificates.
    #[error("ingest.tls: {0}")]
    Tls(#[from] TlsError),
    /// Who may send.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The status page would be open to anyone.
    #[error(
        "{address} can be reached from other machines, and the status page shows personal data: set admin.token, \
         or listen on 127.0.0.1 (admin.listen)"
    )]
    AdminExposed {
        /// The address.
        address: String,
    },
    /// A file sink would write into a spool.
    #[error(transparent)]
    PathInSpool(#[from] PathInSpool),
    /// What has to run as long as the process does ended by itself.
    #[error("{0}; what was answered OK is safe on disk")]
    PartEnded(String),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
}

/// What a start refuses although each value is right by itself: a status page open to anyone, a file sink that writes into a
/// spool, certificates that cannot be used. No port and no spool is opened for it: `run`, a reload and `check-config` ask
/// alike. Answers the certificates.
///
/// # Errors
/// What is wrong and how to mend it.
pub fn check(config: &Config) -> Result<Option<Tls>, RunError> {
    if let Some(address) = config.admin.listen
        && !address.ip().to_canonical().is_loopback()
        && config.admin.token.is_none()
    {
        return Err(RunError::AdminExposed { address: address.to_string() });
    }
    check_paths(&config.sinks, &config.data_dir)?;
    Ok(config.ingest.tls.clone().map(Tls::load).transpose()?)
}

/// Opens every sink's spool and starts its worker. A sink whose spool does not open stands still, and says why.
pub(super) async fn sinks(config: &Config, encoder: &Arc<Encoder>) -> Result<Vec<Arc<Running>>, SinkStartError> {
    let starting = config.sinks.iter().map(|sink| async {
        let slot = Slot::open_or_tell(&sink.name, &config.data_dir, &sink.spool).await?;
        Running::start(Arc::new(sink.clone()), slot, encoder).await
    });
    join_all(starting).await.into_iter().collect()
}

/// Binds what the configuration names; `None` where it is switched off.
pub(super) async fn bind(key: &'static str, listen: Option<&Listen>) -> Result<Option<Listener>, RunError> {
    let bound = match listen {
        None => return Ok(None),
        Some(Listen::Tcp(address)) => Listener::tcp(*address).await,
        Some(Listen::Unix(path)) => Listener::unix(path).await,
    };
    let address = || listen.map(ToString::to_string).unwrap_or_default();
    bound.map(Some).map_err(|source| RunError::Bind { key, address: address(), source })
}
