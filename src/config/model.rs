//! The configuration as plain values: what each key means, its unit and its default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Serialize;

pub use super::kinds::Listen;
use crate::{
    document::DocumentOptions,
    flush::FlushOptions,
    ingest::{AuthOptions, GrpcOptions, HttpOptions, LivekitKeys, MemoryOptions, TlsOptions},
    record::{SinkName, Stream},
    secret::Secret,
    sink::{file::FileOptions, mongodb::MongoOptions, redis::RedisOptions, url::without_secrets},
    spool::{self, SpoolOptions},
};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// Everything livekit-spool can be told. Secrets in it show as `***`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from, for people: `config.yaml`, `LIVEKIT_CONFIG`, `defaults`.
    pub source: String,
    /// The file that it was read from, if any.
    pub file: Option<PathBuf>,
    /// What works and should not stay so, for people: where, and what to do about it.
    pub warnings: Vec<String>,
    /// The folder of all spools, the lock and the admin socket. Default `./data`.
    pub data_dir: PathBuf,
    /// The servers that take records.
    pub ingest: IngestConfig,
    /// The status page, API and metrics.
    pub admin: AdminConfig,
    /// How records become documents.
    pub documents: DocumentOptions,
    /// At least one; names are unique.
    pub sinks: Vec<SinkConfig>,
    /// What `spool.encryption` says for all sinks, each of which may say otherwise: the spool of a sink that is no longer
    /// named may have been written with it.
    pub default_encryption: Option<EncryptionConfig>,
    /// What is logged and how.
    pub log: LogConfig,
    /// How long a stop may take: requests in flight, then one last flush. Default 10 s.
    pub shutdown_timeout: Duration,
}

impl Config {
    /// Sets how long a stop may take, and what its parts may take of it: one half is for requests under way, the other for
    /// the last flush.
    pub(crate) fn set_shutdown_timeout(&mut self, timeout: Duration) {
        self.shutdown_timeout = timeout;
        self.ingest.grpc.connections.drain_timeout = timeout / 2;
        self.ingest.http.connections.drain_timeout = timeout / 2;
        for sink in &mut self.sinks {
            sink.flush.shutdown_timeout = timeout / 2;
        }
    }
}

/// The servers that take records.
#[derive(Debug, Clone)]
pub struct IngestConfig {
    /// gRPC: `livekit.AnalyticsRecorderService`. Default `127.0.0.1:7890`; `none` switches it off.
    pub grpc_listen: Option<Listen>,
    /// Limits of the gRPC server.
    pub grpc: GrpcOptions,
    /// HTTP: `/v1/events`, `/v1/stats`, `/webhook`. Default `127.0.0.1:7891`; `none` switches it off.
    pub http_listen: Option<Listen>,
    /// Limits of the HTTP server.
    pub http: HttpOptions,
    /// Memory for records that are not yet durable.
    pub memory: MemoryOptions,
    /// Who may send.
    pub auth: AuthOptions,
    /// LiveKit API keys: for `auth: livekit` and the webhooks' signatures.
    pub keys: LivekitKeys,
    /// TLS for both servers.
    pub tls: Option<TlsOptions>,
}

/// The status page, API and metrics.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Default `127.0.0.1:7892`; `none` leaves the Unix socket in the data folder only.
    pub listen: Option<SocketAddr>,
    /// For actions, and beyond loopback for reading too. Unset: no actions over TCP.
    pub token: Option<Secret>,
    /// Names under which browsers may reach it, besides `localhost` and IP addresses (DNS rebinding).
    pub hosts: Vec<String>,
    /// Lets Prometheus read `/metrics` beyond loopback without the token. Default false.
    pub public_metrics: bool,
}

/// One place that records are delivered to, with a spool of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkConfig {
    /// Its identity: names its folder under the data folder.
    pub name: SinkName,
    /// Whether a call fails when this sink's spool cannot take the records. Default true.
    pub required: bool,
    /// The streams it gets. Default all.
    pub streams: Vec<Stream>,
    /// The event types it gets (`ROOM_CREATED`, …). Empty: all.
    pub event_types: Vec<String>,
    /// Its spool's limits.
    pub spool: SpoolConfig,
    /// How it is delivered to.
    pub flush: FlushOptions,
    /// What and where it is.
    pub target: Target,
}

/// What a sink is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A MongoDB-compatible server.
    Mongodb(MongoOptions),
    /// A Redis server with RedisJSON.
    Redis(RedisOptions),
    /// NDJSON files in a folder.
    File(FileOptions),
}

impl Target {
    /// As the config writes it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Mongodb(_) => "mongodb",
            Self::Redis(_) => "redis",
            Self::File(_) => "file",
        }
    }

    /// Where it is, without secrets.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Mongodb(options) => {
                format!("{} (database {})", without_secrets(&options.uri), options.database)
            }
            Self::Redis(options) => without_secrets(&options.url),
            Self::File(options) => options.path.display().to_string(),
        }
    }
}

/// A spool's limits and how it stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Journal, queue and dead letters together, on disk. Default 8 GiB.
    pub max_bytes: u64,
    /// Left free on the disk. Default 256 MiB.
    pub min_free_bytes: u64,
    /// Older records are dropped, counted. Default never.
    pub max_age: Option<Duration>,
    /// What happens to new records at the limit. Default reject.
    pub when_full: WhenFull,
    /// With `when_full: block`: how long a call waits for space. Default 10 s.
    pub block_timeout: Duration,
    /// A journal file's size. Default 64 MiB; smaller under a small `max_bytes`.
    pub segment_bytes: u64,
    /// How blocks are compressed.
    pub compression: CompressionConfig,
    /// Whether blocks are encrypted, and where the key comes from.
    pub encryption: Option<EncryptionConfig>,
    /// Dead letters, on disk. Default 256 MiB.
    pub dead_letters_max_bytes: u64,
}

impl SpoolConfig {
    /// What the spool of this sink is told.
    #[must_use]
    pub fn options(&self, sink: &SinkName) -> SpoolOptions {
        SpoolOptions {
            name: sink.to_string(),
            max_bytes: self.max_bytes,
            segment_bytes: self.segment_bytes,
            min_free_bytes: self.min_free_bytes,
            max_age: self.max_age,
            when_full: match self.when_full {
                WhenFull::Reject => spool::WhenFull::Reject,
                WhenFull::Block => spool::WhenFull::Block { timeout: self.block_timeout },
                WhenFull::DropOldest => spool::WhenFull::DropOldest,
                WhenFull::DropNewest => spool::WhenFull::DropNewest,
            },
            dead_max_bytes: self.dead_letters_max_bytes,
            compression: match self.compression {
                CompressionConfig::Zstd { level, dictionary } => spool::Compression::Zstd { level, dictionary },
                CompressionConfig::None => spool::Compression::None,
            },
            encryption: self.encryption.as_ref().map(EncryptionConfig::keys),
        }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            max_bytes: 8 * GIB,
            min_free_bytes: 256 * MIB,
            max_age: None,
            when_full: WhenFull::Reject,
            block_timeout: Duration::from_secs(10),
            segment_bytes: 64 * MIB,
            compression: CompressionConfig::default(),
            encryption: None,
            dead_letters_max_bytes: 256 * MIB,
        }
    }
}

/// What a full spool does with new records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The call fails; the sender keeps them.
    Reject,
    /// The call waits for space, at most `block_timeout`.
    Block,
    /// The oldest records go, counted.
    DropOldest,
    /// The new records go, counted.
    DropNewest,
}

/// How journal blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "codec")]
pub enum CompressionConfig {
    /// zstd.
    Zstd {
        /// -7 (quickest) to 19 (smallest). Default -1.
        level: i32,
        /// The built-in dictionary, for small blocks. Default true.
        dictionary: bool,
    },
    /// As they came.
    None,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self::Zstd { level: -1, dictionary: true }
    }
}

/// The key that blocks are encrypted with: 32 bytes as 64 hex digits or Base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionConfig {
    /// The key new blocks are written with.
    pub key: EncryptionKey,
    /// Keys that older blocks may need, after a rotation.
    pub old_keys: Vec<EncryptionKey>,
}

impl EncryptionConfig {
    /// The keys as a spool takes them.
    #[must_use]
    pub fn keys(&self) -> spool::Keys {
        let key = |key: &EncryptionKey| spool::Key::new(*key.expose());
        spool::Keys { current: key(&self.key), previous: self.old_keys.iter().map(key).collect() }
    }
}

/// A key's 32 bytes; shown by nothing, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey(zeroize::Zeroizing<[u8; 32]>);

impl EncryptionKey {
    /// Reads 64 hex digits, or Base64 of 32 bytes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let text = text.trim();
        let bytes = if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            (0..64).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect::<Option<Vec<u8>>>()?
        } else {
            STANDARD.decode(text).ok()?
        };
        Some(Self(zeroize::Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// The bytes, for the spool.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogConfig {
    /// The least important level that is shown; `RUST_LOG` overrides it. Default info.
    pub level: LogLevel,
    /// Default `auto`: for people on a terminal, JSON otherwise.
    pub format: LogFormat,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As a filter directive.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}
