//! The PEM files of TLS, of servers and of clients: certificates, private keys, authorities. They are read again when they
//! change: certificates are renewed while the process runs.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use zeroize::Zeroizing;

/// The files are checked this often at most, when a connection is made.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A file that cannot be read, or holds no such PEM block.
#[derive(Debug, thiserror::Error)]
#[error("{}: no usable {what}: {problem}", path.display())]
pub struct TlsFileError {
    /// The file.
    pub path: PathBuf,
    /// What it should hold.
    pub what: &'static str,
    /// What is wrong.
    pub problem: String,
}

fn unusable<E: ToString>(path: &Path, what: &'static str) -> impl Fn(E) -> TlsFileError {
    let path = path.to_owned();
    move |problem| TlsFileError { path: path.clone(), what, problem: problem.to_string() }
}

/// The certificates of a file, in its order; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    read_certificates(path, "certificate")
}

fn read_certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let pem = fs::read(path).map_err(unusable(path, what))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(unusable(path, what))?;
    if certificates.is_empty() {
        return Err(unusable(path, what)("there is no CERTIFICATE block"));
    }
    Ok(certificates)
}

/// The first private key of a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    const WHAT: &str = "private key";
    let pem = fs::read(path).map(Zeroizing::new).map_err(unusable(path, WHAT))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(unusable(path, WHAT))
}

/// The authorities of a file; at least one.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, TlsFileError> {
    const WHAT: &str = "CA certificate";
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path, WHAT)? {
        roots.add(certificate).map_err(unusable(path, WHAT))?;
    }
    Ok(roots)
}

/// The authorities that this machine trusts; at least one.
///
/// # Errors
/// Says why there is none. `instead` is what else can be done: `give tls.ca`.
pub(crate) fn system_authorities(instead: &str) -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("this machine has no CA certificates{why}; install ca-certificates, or {instead}"));
    }
    Ok(roots)
}

/// Inode, size and time of each file: different after a file was replaced or written.
type Stamp = Vec<Option<(u64, u64, SystemTime)>>;

/// What was read from files that may change. If the changed files cannot be used, or do not fit together (one is replaced,
/// the other not yet), what was read before stays in use until they do.
pub(crate) struct Renewed<T> {
    files: Vec<PathBuf>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    read: Stamp,
    /// The state of the files that could not be used, so that it is reported once.
    reported: Option<Stamp>,
    checked: Instant,
}

impl<T> fmt::Debug for Renewed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T> Renewed<T> {
    /// Reads the files.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn new<E>(files: Vec<PathBuf>, read: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        let stamp = stamp(&files);
        let value = Arc::new(read()?);
        let state = State { value, read: stamp, reported: None, checked: Instant::now() };
        Ok(Self { files, state: Mutex::new(state) })
    }

    /// What the files hold, read again if they have changed.
    pub(crate) fn current<E: fmt::Display>(&self, read: impl FnOnce() -> Result<T, E>) -> Arc<T> {
        let mut state = self.state.lock();
        if state.checked.elapsed() >= CHECK_INTERVAL {
            state.checked = Instant::now();
            let now = stamp(&self.files);
            if now != state.read {
                match read() {
                    Ok(value) => {
                        (state.value, state.read, state.reported) = (Arc::new(value), now, None);
                        tracing::info!(files = ?self.files, "TLS files changed and were read again");
                    }
                    Err(error) if state.reported.as_ref() != Some(&now) => {
                        state.reported = Some(now);
                        tracing::warn!(%error, "the changed TLS files cannot be used; the old ones stay in use");
                    }
                    Err(_) => {}
                }
            }
        }
        Arc::clone(&state.value)
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let stamp = files.iter().map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
    });
    stamp.collect()
}
