//! What the intake can be told: addresses' limits, timeouts, who may send. The config file's `ingest:` section becomes these.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

pub use crate::secret::Secret;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Limits on connections, alike for gRPC and HTTP; each listener counts its own.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    /// Connections at once. One more closes another one: of who showed no credentials, is idle, silent, or has more than its
    /// share; where there is none of these, it is closed itself.
    pub max_connections: usize,
    /// From the TCP accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the (TLS) connection to the first request's complete headers.
    pub header_timeout: Duration,
    /// How long open requests may go on after the shutdown began.
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

/// The gRPC port.
#[derive(Debug, Clone)]
pub struct GrpcOptions {
    /// Connections: how many, how long until they must speak.
    pub connections: ConnectionOptions,
    /// A message's size, compressed and decompressed; a larger one is answered OUT_OF_RANGE.
    pub max_message_bytes: usize,
    /// Records in one message; more are answered OUT_OF_RANGE.
    pub max_message_records: u32,
    /// Bytes a stream may have taken off and not yet durable; then it is read no further.
    pub stream_window: usize,
    /// Streams at once on one connection (HTTP/2 makes the sender wait).
    pub max_streams_per_connection: u32,
    /// Streams at once on all connections; one more ends one that is silent, or of a peer with more than its share, with
    /// UNAVAILABLE, or is answered so itself.
    pub max_streams: usize,
    /// From a message's first byte to its last; then DEADLINE_EXCEEDED.
    pub message_timeout: Duration,
    /// A stream without any message for this long is ended with DEADLINE_EXCEEDED; LiveKit opens a new one.
    pub idle_stream_timeout: Duration,
    /// HTTP/2 PING after this much silence; a peer that does not answer within `keepalive_timeout` is disconnected.
    pub keepalive_interval: Duration,
    /// See `keepalive_interval`.
    pub keepalive_timeout: Duration,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self {
            connections: ConnectionOptions::default(),
            max_message_bytes: 4 * MIB,
            max_message_records: 20_000,
            stream_window: MIB,
            max_streams_per_connection: 100,
            max_streams: 2048,
            message_timeout: Duration::from_secs(30),
            idle_stream_timeout: Duration::from_secs(60 * 60),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// The HTTP port.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Connections: how many, how long until they must speak.
    pub connections: ConnectionOptions,
    /// A request body's size, compressed and decompressed; a larger one is answered 413.
    pub max_body_bytes: usize,
    /// Records in one request; more are answered 413.
    pub max_request_records: u32,
    /// From a request's headers to its body's last byte; then 408.
    pub body_timeout: Duration,
    /// How long a connection may idle between two requests, to the end of the second one's headers. Longer than a load
    /// balancer keeps one (60 s, mostly): it would send the next request into a connection that is being closed, and answer 502.
    pub idle_timeout: Duration,
    /// Names that requests may call this server while nobody is asked for credentials, besides `localhost`, IP addresses and
    /// names without a dot (DNS rebinding).
    pub hosts: Vec<String>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connections: ConnectionOptions::default(),
            max_body_bytes: 16 * MIB,
            max_request_records: 100_000,
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            hosts: Vec::new(),
        }
    }
}

/// Bytes of records that may wait in memory, of all senders together, until they are durable. When it is used up,
/// senders wait for a while and are then answered UNAVAILABLE or 503. A quarter is kept for those who hold little.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// Bytes at most.
    pub max_bytes: usize,
    /// How long a sender may wait for its share.
    pub wait: Duration,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self { max_bytes: 64 * MIB, wait: Duration::from_secs(5) }
    }
}

/// Who may send records. Webhooks always need their own signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AuthOptions {
    /// Anyone: accepted on loopback and Unix sockets only.
    #[default]
    None,
    /// A JWT signed with a LiveKit API secret, `aud: livekit-spool`, valid for at most ten minutes.
    Livekit,
    /// One of these, as `Authorization: Bearer …`.
    Tokens(Vec<Secret>),
    /// A client certificate that the CA of [`TlsOptions::client_ca`] signed.
    MutualTls,
}

/// LiveKit's API keys and their secrets: for `auth: livekit` and for webhooks.
pub type LivekitKeys = BTreeMap<String, Secret>;

/// TLS for both ports; the files are read again when they change.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// PEM: the certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
    /// PEM: the CAs of client certificates; set, every client must show one.
    pub client_ca: Option<PathBuf>,
}
