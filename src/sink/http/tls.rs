//! TLS as a client: whom to trust, what to show, which HTTP versions to offer.

use std::sync::Arc;

use rustls::{ClientConfig, crypto::ring, pki_types::ServerName};

use super::options::HttpTlsOptions;
use crate::{
    sink::InvalidOption,
    tls_files::{Renewed, TlsFileError, authorities, certificates, private_key, system_authorities},
};

/// The files, and what they hold.
#[derive(Debug)]
pub(super) struct Tls {
    options: HttpTlsOptions,
    state: Renewed<Client>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub(super) fn load(options: &HttpTlsOptions) -> Result<Self, InvalidOption> {
        let files = [&options.ca, &options.certificate, &options.key].into_iter().flatten().cloned().collect();
        Ok(Self { options: options.clone(), state: Renewed::new(files, || client(options))? })
    }

    /// For the next connection.
    pub(super) fn current(&self) -> Client {
        Client::clone(&self.state.current(|| client(&self.options)))
    }
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
    let file = |error: TlsFileError| wrong(error.to_string());
    let roots = match &options.ca {
        Some(path) => authorities(path).map_err(file)?,
        None => system_authorities("give tls.ca").map_err(wrong)?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match (&options.certificate, &options.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let (chain, private) = (certificates(certificate).map_err(file)?, private_key(key).map_err(file)?);
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
