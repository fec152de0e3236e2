//! TLS as a client: whom to trust, what to show, which HTTP versions to offer.
//!
//! CA, certificate and key are read again when the files change: certificates are renewed while records flow. If the files
//! do not fit together (one is replaced, the other not yet), the old ones stay in use until they do.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use zeroize::Zeroizing;

use super::options::HttpTlsOptions;
use crate::sink::InvalidOption;

/// The files are checked this often at most, when a connection is made.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The files, and what they held when they were last read.
#[derive(Debug)]
pub(super) struct Tls {
    options: HttpTlsOptions,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    client: Client,
    loaded: Stamp,
    checked: Instant,
}

/// Inode, size and time of each file.
type Stamp = Vec<Option<(u64, u64, SystemTime)>>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub(super) fn load(options: &HttpTlsOptions) -> Result<Self, InvalidOption> {
        let loaded = stamp(options);
        let state = Mutex::new(State { client: client(options)?, loaded, checked: Instant::now() });
        Ok(Self { options: options.clone(), state })
    }

    /// For the next connection.
    pub(super) fn current(&self) -> Client {
        let mut state = self.state.lock();
        if state.checked.elapsed() >= CHECK_INTERVAL {
            state.checked = Instant::now();
            let now = stamp(&self.options);
            if now != state.loaded {
                match client(&self.options) {
                    Ok(client) => {
                        state.client = client;
                        tracing::info!("TLS files of an HTTP sink changed and were read again");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the changed TLS files cannot be used; the old ones stay in use");
                    }
                }
                state.loaded = now;
            }
        }
        state.client.clone()
    }
}

fn stamp(options: &HttpTlsOptions) -> Stamp {
    let files = [&options.ca, &options.certificate, &options.key].into_iter().flatten();
    let stamp = files.map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
    });
    stamp.collect()
}

/// What a connection needs.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) config: Arc<ClientConfig>,
    /// The name expected in the server's certificate, if it is not the URL's host.
    pub(super) server_name: Option<ServerName<'static>>,
}

/// Reads the files.
///
/// # Errors
/// Names the file that cannot be used.
pub(super) fn client(options: &HttpTlsOptions) -> Result<Client, InvalidOption> {
    let wrong = |message: String| InvalidOption::new("tls", message);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots(options.ca.as_deref()).map_err(wrong)?);
    let mut config = match (&options.certificate, &options.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate).map_err(wrong)?;
            let content = read(key).map_err(wrong)?;
            let private = PrivateKeyDer::from_pem_slice(&content)
                .map_err(|problem| wrong(format!("{}: no usable private key: {problem}", key.display())))?;
            builder.with_client_auth_cert(chain, private).map_err(|problem| {
                let (certificate, key) = (certificate.display(), key.display());
                wrong(format!("{certificate} and {key} cannot be used together: {problem}"))
            })?
        }
        (Some(_), None) => return Err(wrong("certificate is given without key".to_owned())),
        (None, Some(_)) => return Err(wrong("key is given without certificate".to_owned())),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server_name = match &options.server_name {
        None => None,
        Some(name) => Some(
            ServerName::try_from(name.clone())
                .map_err(|_| wrong(format!("server_name {name:?} is neither a host name nor an IP address")))?,
        ),
    };
    Ok(Client { config: Arc::new(config), server_name })
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|problem| format!("{}: no usable CA: {problem}", path.display()))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
                return Err(format!(
                    "this machine has no CA certificates{why}; install ca-certificates, or give tls.ca"
                ));
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = read(path)?;
    let found = CertificateDer::pem_slice_iter(&content).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{}: there is no CERTIFICATE block", path.display())),
        Err(problem) => Err(format!("{}: no usable certificate: {problem}", path.display())),
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    fs::read(path).map(Zeroizing::new).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
