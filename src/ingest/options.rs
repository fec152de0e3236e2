//! The options of ingest: addresses, limits, timeouts, authentication. The config file's `ingest:` section becomes these.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

pub use crate::secret::Secret;
use crate::setting::{Address, Count, GIB, HOUR, Is, KIB, MIB, OrNone, Size, Span, TIB, Text, YEAR, kind};

/// Limits on connections, the same for gRPC and HTTP; each listener counts its own.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    /// Connections at once. One more closes another one: one that showed no credentials, is idle, is silent, or whose peer
    /// has more than its share. If there is none of these, the new one is closed.
    pub max_connections: usize,
    /// From the TCP accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the (TLS) connection to the first request's complete headers.
    pub header_timeout: Duration,
    /// How long open requests may continue after the shutdown began.
    pub drain_timeout: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            max_connections: 512,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl Listen {
    /// A port on loopback.
    fn local(port: u16) -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// True if only this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

kind!([] Address => Listen,
    "an address and port such as 127.0.0.1:7890, or unix:/path/to/socket",
    |text| match text.strip_prefix("unix:") {
        Some("") => Err("has no path".to_owned()),
        Some(path) => crate::setting::path(path).map(Listen::Unix),
        None => Self::read(text).map(Listen::Tcp),
    },
    |value| value,
    schemars::json_schema!({ "type": "string", "pattern": "^unix:.+|:[+0-9]+$" }));

/// The gRPC server.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcOptions {
    /// an address and port, or unix:/run/livekit-spool/grpc.sock; none: switched off
    #[serde_as(as = "Is<OrNone<Address>>")]
    pub listen: Option<Listen>,
    /// compressed and decompressed; more: OUT_OF_RANGE
    #[serde_as(as = "Is<Size<KIB, GIB>>")]
    pub max_message_bytes: usize,
    /// in one message; more: OUT_OF_RANGE
    #[serde_as(as = "Is<Count<1, 10_000_000>>")]
    pub max_message_records: u32,
    /// of a stream, received and not yet durable; at this size reading pauses
    #[serde_as(as = "Is<Size<KIB, GIB>>")]
    pub stream_window: usize,
    /// at once, on all connections; at the limit, a new one ends one that is silent, or whose peer has more than its share
    /// (UNAVAILABLE)
    #[serde_as(as = "Is<Count<1, 1_000_000>>")]
    pub max_streams: usize,
    /// at once, on one connection (HTTP/2 makes the sender wait)
    #[serde_as(as = "Is<Count<1, 1_000_000>>")]
    pub max_streams_per_connection: u32,
    /// at once; at the limit, a new one closes one that has no credentials, is idle or silent
    #[serde_as(as = "Is<Count<1, 1_000_000>>")]
    pub max_connections: usize,
    /// for TLS, from the connection on
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub handshake_timeout: Duration,
    /// until a request's headers are complete
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub header_timeout: Duration,
    /// from a message's first byte to its last; then DEADLINE_EXCEEDED
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub message_timeout: Duration,
    /// for a stream without any message; then DEADLINE_EXCEEDED, and LiveKit opens another one
    #[serde_as(as = "Is<Span<1, YEAR>>")]
    pub idle_stream_timeout: Duration,
    /// HTTP/2 PING after this much silence
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub keepalive_interval: Duration,
    /// how long to wait for the answer to the PING
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub keepalive_timeout: Duration,
    /// See [`ConnectionOptions::drain_timeout`].
    #[serde(skip)]
    pub drain_timeout: Duration,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        let ConnectionOptions { max_connections, handshake_timeout, header_timeout, drain_timeout } =
            Default::default();
        Self {
            listen: Some(Listen::local(7890)),
            max_message_bytes: 4 << 20,
            max_message_records: 20_000,
            stream_window: 1 << 20,
            max_streams: 2048,
            max_streams_per_connection: 100,
            max_connections,
            handshake_timeout,
            header_timeout,
            message_timeout: Duration::from_secs(30),
            idle_stream_timeout: Duration::from_secs(60 * 60),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            drain_timeout,
        }
    }
}

/// The HTTP server.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpOptions {
    /// an address and port, or unix:/path; none: switched off
    #[serde_as(as = "Is<OrNone<Address>>")]
    pub listen: Option<Listen>,
    /// compressed and decompressed; more: 413
    #[serde_as(as = "Is<Size<KIB, GIB>>")]
    pub max_body_bytes: usize,
    /// in one request; more: 413
    #[serde_as(as = "Is<Count<1, 100_000_000>>")]
    pub max_request_records: u32,
    /// at once; at the limit, a new one closes one that has no credentials, is idle or silent
    #[serde_as(as = "Is<Count<1, 1_000_000>>")]
    pub max_connections: usize,
    /// for TLS, from the connection on
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub handshake_timeout: Duration,
    /// until a request's headers are complete
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub header_timeout: Duration,
    /// from a request's headers to its body's last byte; then 408
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub body_timeout: Duration,
    /// between requests of a connection: longer than a load balancer in front keeps it open (usually 60 s), which would
    /// send the next request into a connection that is being closed
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub idle_timeout: Duration,
    /// auth none: host names that requests may use, besides localhost, IP addresses, names without a dot (DNS rebinding)
    #[serde_as(as = "Vec<Is<Text>>")]
    #[schemars(example = ["spool.example.com"])]
    pub hosts: Vec<String>,
    /// See [`ConnectionOptions::drain_timeout`].
    #[serde(skip)]
    pub drain_timeout: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        let ConnectionOptions { max_connections, handshake_timeout, header_timeout, drain_timeout } =
            Default::default();
        Self {
            listen: Some(Listen::local(7891)),
            max_body_bytes: 16 << 20,
            max_request_records: 100_000,
            max_connections,
            handshake_timeout,
            header_timeout,
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            hosts: Vec::new(),
            drain_timeout,
        }
    }
}

/// Implements `connections` for the two servers' options. They repeat the fields of [`ConnectionOptions`] because
/// `serde(flatten)` would take the lines out of the errors.
macro_rules! connections {
    ($($options:ty),*) => {$(
        impl $options {
            /// The options of its connections.
            pub(super) const fn connections(&self) -> ConnectionOptions {
                let Self { max_connections, handshake_timeout, header_timeout, drain_timeout, .. } = *self;
                ConnectionOptions { max_connections, handshake_timeout, header_timeout, drain_timeout }
            }
        }
    )*};
}

connections!(GrpcOptions, HttpOptions);

/// Memory for records of all senders that are not yet durable. When it is used up, senders wait for a while and are then
/// answered UNAVAILABLE or 503. A quarter is reserved for those who hold little.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryOptions {
    /// one message or body gets at most three quarters of it
    #[serde_as(as = "Is<Size<MIB, TIB>>")]
    pub max_bytes: usize,
    /// how long to wait for memory; then UNAVAILABLE, or 503
    #[serde_as(as = "Is<Span<0, HOUR>>")]
    pub wait: Duration,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, wait: Duration::from_secs(5) }
    }
}

/// Who can send records. Webhooks always need their own signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AuthOptions {
    /// Anyone: accepted on loopback and Unix sockets only.
    #[default]
    None,
    /// A JWT signed with a LiveKit API secret, `aud: livekit-spool`, valid for at most ten minutes.
    Livekit,
    /// One of the configured tokens, as `Authorization: Bearer …`.
    Tokens(Vec<Secret>),
    /// A client certificate that the CA of [`TlsOptions::client_ca`] signed.
    MutualTls,
}

/// LiveKit's API keys and their secrets: for `auth: livekit` and for webhooks.
pub type LivekitKeys = BTreeMap<String, Secret>;

/// TLS for both servers, with PEM files, which are read again when they change.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsOptions {
    /// the certificate, then its intermediates
    #[serde_as(as = "Is<Text>")]
    pub certificate: PathBuf,
    /// the private key
    #[serde_as(as = "Is<Text>")]
    pub key: PathBuf,
    /// mode mtls: the CAs of client certificates; every client must show one
    #[serde_as(as = "Option<Is<Text>>")]
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}
