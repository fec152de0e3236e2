//! TLS for both ports. Certificate, key and CAs are read again when the files change. If the files do not fit together (one
//! is replaced, the other not yet), the old ones stay in use until they do.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;

use super::TlsOptions;
use crate::tls_files::{Renewed, TlsFileError, authorities, certificates, private_key};

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
    state: Renewed<Read>,
}

/// The configuration for clients, and the verifier of their certificates.
type Read = (ServerConfig, Option<Arc<dyn ClientCertVerifier>>);

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no such PEM block.
    #[error(transparent)]
    File(#[from] TlsFileError),
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
        let files = [Some(&options.certificate), Some(&options.key), options.client_ca.as_ref()];
        let files = files.into_iter().flatten().cloned().collect();
        Ok(Self { state: Renewed::new(files, || read(&options))?, options })
    }

    /// True if every client must show a certificate.
    #[must_use]
    pub const fn verifies_clients(&self) -> bool {
        self.options.client_ca.is_some()
    }

    /// Tells whether a client with these certificates would be accepted now; else why not.
    pub(super) fn accepts(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        let Some(clients) = self.current().1.clone() else { return Ok(()) };
        let (client, intermediates) = chain.split_first().ok_or("no certificate")?;
        clients.verify_client_cert(client, intermediates, UnixTime::now()).map(drop).map_err(|error| error.to_string())
    }

    fn current(&self) -> Arc<Read> {
        self.state.current(|| read(&self.options))
    }

    /// The configuration for the next connection.
    pub(super) fn acceptor(&self, alpn: Alpn) -> TlsAcceptor {
        let mut config = self.current().0.clone();
        config.alpn_protocols = match alpn {
            Alpn::H2 => vec![b"h2".to_vec()],
            Alpn::Http1 => vec![b"http/1.1".to_vec()],
        };
        TlsAcceptor::from(Arc::new(config))
    }
}

fn read(options: &TlsOptions) -> Result<Read, TlsError> {
    let (chain, key) = (certificates(&options.certificate)?, private_key(&options.key)?);
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
            let roots = Arc::new(authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().map_err(|error| {
                TlsFileError { path: path.clone(), what: "CA certificate", problem: error.to_string() }
            })?;
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
