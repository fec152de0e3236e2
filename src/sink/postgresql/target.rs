//! Where to connect to, and how: what a URL says, once it was read.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use tokio_postgres::{Config, config::SslMode};

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// Never.
    Disable,
    /// Only if the server refuses a connection without.
    Allow,
    /// If the server has it.
    Prefer,
    /// Always; the server's certificate is checked only if there is an `sslrootcert`.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// Always, with a certificate of a known authority for this host.
    VerifyFull,
}

/// The authorities whose certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those of the operating system.
    System,
    /// Those in this file.
    File(PathBuf),
}

/// Which servers may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attributes {
    /// The first one that accepts writes; one that does not is tried again later.
    ReadWrite,
    /// The first one that is no standby.
    Primary,
    /// The first one that can be reached.
    Any,
}

/// A host of the URL: a name, an address, or the directory of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    /// Where to connect to, in place of the name's addresses.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl Host {
    pub(super) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

/// A URL that was read.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) hosts: Vec<Host>,
    /// Everything but the hosts.
    pub(super) driver: Config,
    pub(super) tls: Tls,
    pub(super) roots: Option<Roots>,
    /// The client's certificate and key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) attributes: Attributes,
    pub(super) shuffled: bool,
    pub(super) connect_timeout: Option<Duration>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("hosts", &self.hosts).field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Target {
    /// The driver's configuration for a host.
    pub(super) fn config(&self, host: &Host, mode: SslMode, timeout: Duration) -> Config {
        let mut config = self.driver.clone();
        config.host(&host.name).port(host.port).ssl_mode(mode).connect_timeout(timeout);
        if let Some(address) = host.address {
            config.hostaddr(address);
        }
        config
    }

    /// The user, for messages.
    pub(super) fn user(&self) -> Option<&str> {
        self.driver.get_user()
    }

    /// The password, if it is a secret: one that is shown elsewhere, or that hides half of a message, is none.
    pub(super) fn password(&self) -> Option<String> {
        const MIN_CHARS: usize = 4;
        let password = String::from_utf8_lossy(self.driver.get_password()?).into_owned();
        let shown = [self.user(), self.database()];
        (password.len() >= MIN_CHARS && !shown.contains(&Some(&password))).then_some(password)
    }

    /// The database, for messages.
    pub(super) fn database(&self) -> Option<&str> {
        self.driver.get_dbname().or(self.driver.get_user())
    }
}
