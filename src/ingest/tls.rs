//! TLS for both ports. Certificate, key and CAs are read again when the files change. If the files do not fit together (one
//! is replaced, the other not yet), the old ones stay in use until they do.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::TlsOptions;

/// The files are checked this often at most, when a client connects.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The protocol that is negotiated inside TLS.
#[derive(Debug, Clone, Copy)]
pub(super) enum Alpn {
    H2,
    Http1,
}

/// Certificates in use, and the files they came from.
#[derive(Debug)]
pub struct Tls {
    options: TlsOptions,
    state: Mutex<State>,
}

struct State {
    config: ServerConfig,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    loaded: Stamp,
    /// The state of the files that could not be used, so that it is reported once.
    complained: Option<Stamp>,
    checked: Instant,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

/// Inode, size and time of each file.
type Stamp = Vec<Option<(u64, u64, SystemTime)>>;

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no such PEM block.
    #[error("{path}: no usable {what}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// They are readable but do not fit together.
    #[error("{certificate} and {key} cannot be used together: {problem}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or used.
    pub fn load(options: TlsOptions) -> Result<Self, TlsError> {
        let loaded = stamp(&options);
        let (config, clients) = read(&options)?;
        Ok(Self {
            options,
            state: Mutex::new(State { config, clients, loaded, complained: None, checked: Instant::now() }),
        })
    }

    /// True if every client must show a certificate.
    #[must_use]
    pub const fn verifies_clients(&self) -> bool {
        self.options.client_ca.is_some()
    }

    /// Tells whether a client with these certificates would be accepted now; else why not.
    pub(super) fn accepts(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        let Some(clients) = self.current().clients.clone() else { return Ok(()) };
        let (client, intermediates) = chain.split_first().ok_or("no certificate")?;
        clients.verify_client_cert(client, intermediates, UnixTime::now()).map(drop).map_err(|error| error.to_string())
    }

    fn current(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if state.checked.elapsed() >= CHECK_INTERVAL {
            self.refresh(&mut state);
        }
        state
    }

    /// The configuration for the next connection.
    pub(super) fn acceptor(&self, alpn: Alpn) -> TlsAcceptor {
        let mut config = self.current().config.clone();
        config.alpn_protocols = match alpn {
            Alpn::H2 => vec![b"h2".to_vec()],
            Alpn::Http1 => vec![b"http/1.1".to_vec()],
        };
        TlsAcceptor::from(Arc::new(config))
    }

    fn refresh(&self, state: &mut State) {
        state.checked = Instant::now();
        let now = stamp(&self.options);
        if now == state.loaded {
            return;
        }
        match read(&self.options) {
            Ok((config, clients)) => {
                (state.config, state.clients) = (config, clients);
                state.loaded = now;
                state.complained = None;
                tracing::info!(certificate = %self.options.certificate.display(), "TLS certificate reloaded");
            }
            Err(error) if state.complained.as_ref() != Some(&now) => {
                state.complained = Some(now);
                tracing::warn!(%error, "the changed TLS files cannot be used; the old ones stay in use");
            }
            Err(_) => {}
        }
    }
}

fn stamp(options: &TlsOptions) -> Stamp {
    [Some(&options.certificate), Some(&options.key), options.client_ca.as_ref()]
        .into_iter()
        .map(|path| {
            let metadata = fs::metadata(path?).ok()?;
            Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
        })
        .collect()
}

/// The configuration for clients, and the verifier of their certificates.
type Read = (ServerConfig, Option<Arc<dyn ClientCertVerifier>>);

fn read(options: &TlsOptions) -> Result<Read, TlsError> {
    let chain = certificates(&options.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&content(&options.key, "private key")?).map_err(|problem| {
        TlsError::File { path: options.key.clone(), what: "private key", problem: problem.to_string() }
    })?;
    let provider = Arc::new(ring::default_provider());
    let mismatch = |problem: String| TlsError::Mismatch {
        certificate: options.certificate.clone(),
        key: options.key.clone(),
        problem,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| mismatch(error.to_string()))?;
    let clients = match &options.client_ca {
        None => None,
        Some(path) => {
            let unusable = |problem: String| TlsError::File { path: path.clone(), what: "CA certificate", problem };
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| unusable(error.to_string()))?;
            Some(verifier)
        }
    };
    let builder = match &clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| mismatch(error.to_string()))?;
    Ok((config, clients))
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |problem: String| TlsError::File { path: path.clone(), what: "certificate", problem };
    let pem = content(path, "certificate")?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() { Err(unusable("there is no CERTIFICATE block".to_owned())) } else { Ok(certificates) }
}

fn content(path: &PathBuf, what: &'static str) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    fs::read(path).map(Zeroizing::new).map_err(|error: io::Error| TlsError::File {
        path: path.clone(),
        what,
        problem: error.to_string(),
    })
}
