//! The sections of a config file: one struct each. Its fields are the keys with their documentation, kind, bounds and
//! default. Most sections are the options of other modules; the rest are here.
//!
//! The schema and `config.yaml` contain the same documentation.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::reader::unknown_word;
use crate::{
    document::DocumentOptions,
    flush::FlushOptions,
    ingest::{AuthOptions, GrpcOptions, HttpOptions, LivekitKeys, MemoryOptions, TlsOptions},
    record::{SinkName, Stream},
    secret::Secret,
    setting::{Address, Age, GIB, HOUR, Is, KIB, Kind, MIB, OrNone, Size, Span, TIB, Text, kind},
    sink::{file::FileOptions, mongodb::MongoOptions, redis::RedisOptions, url::without_secrets},
    spool::{self, Compression, MIN_MAX_BYTES, SpoolOptions, WhenFull},
};

/// Durations: 500ms, 30s, 1h30m, 1.5h, "2 days". Sizes: 512KiB, 64MiB, 8GiB, 500MB.
/// ${VARIABLE} and ${VARIABLE:-default} are taken from the environment, inside values only; $$ is a dollar sign. A reload
/// (SIGHUP) changes the keys marked (reload) without a restart.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The source, for people: `config.yaml`, `LIVEKIT_CONFIG`, `defaults`.
    #[serde(skip)]
    pub source: String,
    /// The file that it was read from, if any.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// True if that file contains no key: it is empty, or has only comments or a null.
    #[serde(skip)]
    pub file_is_blank: bool,
    /// Warnings for people: what works but should be changed, where, and how.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// The directory of all spools, the lock and the admin socket. On a local disk: not NFS, not tmpfs.
    #[serde_as(as = "Is<Text>")]
    pub data_dir: PathBuf,
    /// How long a stop (SIGTERM, SIGINT) may take: open requests, then one last flush. Records that are left stay on disk.
    #[serde_as(as = "Is<Span<0, HOUR>>")]
    pub shutdown_timeout: Duration,
    /// The servers that receive records.
    pub ingest: IngestConfig,
    /// Status page, API, metrics.
    pub admin: AdminConfig,
    /// The spool: defaults for every sink; a sink can override them under its own `spool:`.
    pub spool: SpoolConfig,
    /// Delivery: defaults for every sink; a sink can override them under its own `flush:`.
    pub flush: FlushOptions,
    /// Documents: the form of records in a sink.
    pub documents: DocumentOptions,
    /// The destinations of records: each sink has its own spool. (reload)
    pub sinks: Vec<SinkConfig>,
    /// What is logged and how.
    pub log: LogConfig,
}

/// The keys of [`Config`].
pub(super) const OWN_KEYS: [&str; 9] =
    ["data_dir", "ingest", "admin", "spool", "flush", "documents", "sinks", "log", "shutdown_timeout"];

impl Default for Config {
    fn default() -> Self {
        Self {
            source: String::new(),
            file: None,
            file_is_blank: false,
            warnings: Vec::new(),
            data_dir: "./data".into(),
            shutdown_timeout: Duration::from_secs(10),
            ingest: IngestConfig::default(),
            admin: AdminConfig::default(),
            spool: SpoolConfig::default(),
            flush: FlushOptions::default(),
            documents: DocumentOptions::default(),
            sinks: Vec::new(),
            log: LogConfig::default(),
        }
    }
}

impl Config {
    /// Sets how long a stop may take. One half is for open requests, the other for the last flush.
    pub(crate) fn set_shutdown_timeout(&mut self, timeout: Duration) {
        self.shutdown_timeout = timeout;
        self.ingest.grpc.drain_timeout = timeout / 2;
        self.ingest.http.drain_timeout = timeout / 2;
        for sink in &mut self.sinks {
            sink.flush.shutdown_timeout = timeout / 2;
        }
    }
}

/// The servers that receive records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// livekit.AnalyticsRecorderService, as LiveKit calls it.
    pub grpc: GrpcOptions,
    /// POST /v1/events and /v1/stats (protobuf, JSON, NDJSON; gzip, zstd), POST /webhook (LiveKit's webhooks).
    pub http: HttpOptions,
    /// Memory for records of all senders that are not yet durable.
    pub memory: MemoryOptions,
    /// Who can send. `none` is accepted on loopback and Unix sockets only. Short form: `auth: livekit`.
    #[schemars(extend("type" = ["object", "string"], "pattern" = r"^(none|livekit|tokens|mtls)$|\$"))]
    pub auth: AuthConfig,
    /// TLS for both servers; the files are read again when they change.
    #[schemars(example = serde_json::json!({ "certificate": "/etc/livekit-spool/tls.crt", "key": "/etc/livekit-spool/tls.key" }))]
    pub tls: Option<TlsOptions>,
}

/// How senders authenticate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "`AuthOptions` says it")]
pub enum AuthMode {
    #[default]
    None,
    Livekit,
    Tokens,
    Mtls,
}

/// Who can send.
#[serde_as]
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// (reload) none, livekit, tokens or mtls
    pub mode: AuthMode,
    /// (reload) mode tokens: Authorization: Bearer …
    #[serde_as(as = "Vec<Is<Text>>")]
    #[schemars(example = ["${SPOOL_TOKEN}"])]
    pub tokens: Vec<Secret>,
    /// (reload) files that hold one each
    #[serde_as(as = "Vec<Is<Text>>")]
    #[schemars(example = ["/run/secrets/spool_token"])]
    pub token_files: Vec<PathBuf>,
    /// (reload) for mode livekit, and for the signatures of webhooks; LiveKit's own `keys:` and `key_file:` at the top
    /// level are used too; also "key: secret" lines: ${LIVEKIT_KEYS}
    #[serde_as(as = "BTreeMap<_, Is<Text>>")]
    #[schemars(example = serde_json::json!({ "APIxxxxxxx": "${LIVEKIT_API_SECRET}" }), extend("type" = ["object", "string"]))]
    pub keys: LivekitKeys,
    /// (reload) a file of such lines
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "/run/secrets/livekit_keys")]
    pub keys_file: Option<PathBuf>,
}

impl AuthConfig {
    /// The options of the servers.
    #[must_use]
    pub fn options(&self) -> AuthOptions {
        match self.mode {
            AuthMode::None => AuthOptions::None,
            AuthMode::Livekit => AuthOptions::Livekit,
            AuthMode::Tokens => AuthOptions::Tokens(self.tokens.clone()),
            AuthMode::Mtls => AuthOptions::MutualTls,
        }
    }
}

/// The status page, API and metrics.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// an address and port; none: only the Unix socket in the data directory, which the CLI uses
    #[serde_as(as = "Is<OrNone<Address>>")]
    pub listen: Option<SocketAddr>,
    /// (reload) required for actions; beyond loopback for reading too
    #[serde_as(as = "Option<Is<AdminToken>>")]
    #[schemars(example = "${SPOOL_ADMIN_TOKEN}")]
    pub token: Option<Secret>,
    /// (reload) a file that holds it
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "/run/secrets/spool_admin_token")]
    pub token_file: Option<PathBuf>,
    /// (reload) names that browsers may use, besides localhost and IP addresses (against DNS rebinding)
    #[serde_as(as = "Vec<Is<Text>>")]
    #[schemars(example = ["spool.example.com"])]
    pub hosts: Vec<String>,
    /// (reload) true: /metrics needs no token beyond loopback
    pub public_metrics: bool,
}

impl Default for AdminConfig {
    fn default() -> Self {
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 7892)));
        Self { listen, token: None, token_file: None, hosts: Vec::new(), public_metrics: false }
    }
}

/// A token that can be guessed over the network within hours opens no admin port.
const MIN_ADMIN_TOKEN_LENGTH: usize = 8;

/// The token of the admin port.
struct AdminToken;

fn long_enough(token: Secret) -> Result<Secret, String> {
    let is_short = token.expose().chars().count() < MIN_ADMIN_TOKEN_LENGTH;
    if is_short { Err("is too easily guessed".to_owned()) } else { Ok(token) }
}

fn quoted_token(text: &str) -> Result<Secret, String> {
    Text::read_quoted(text).and_then(long_enough)
}

kind!([] AdminToken => Secret, @SECRET,
    format!("{MIN_ADMIN_TOKEN_LENGTH} characters or more (`openssl rand -hex 16` makes such a token)"),
    |text| Text::read(text).and_then(long_enough),
    |token| token,
    json_schema!({ "type": ["string", "number"], "minLength": MIN_ADMIN_TOKEN_LENGTH }),
    quoted_token);

/// A destination of records, with its own spool. The type decides which other keys it has.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// its identity: a renamed sink is a new sink
    #[serde_as(as = "Is<Name>")]
    pub name: SinkName,
    /// mongodb, redis or file
    #[serde(rename = "type")]
    pub kind: SinkType,
    /// true: a call fails if this sink's spool cannot keep its records; false: only this sink misses them
    #[serde(default = "yes")]
    pub required: bool,
    /// the streams it gets
    #[serde(default = "all_streams")]
    #[schemars(example = ["events", "stats", "node_rooms"])]
    pub streams: Vec<Stream>,
    /// only these events; left out: all
    #[serde_as(as = "Vec<Is<EventType>>")]
    #[serde(default)]
    #[schemars(example = ["ROOM_CREATED", "ROOM_ENDED"])]
    pub event_types: Vec<String>,
    /// fields added to each document
    #[serde_as(as = "BTreeMap<_, Is<Text>>")]
    #[serde(default)]
    #[schemars(example = serde_json::json!({ "region": "eu" }))]
    pub labels: BTreeMap<String, String>,
    /// overrides of the common `spool:`
    #[serde(default)]
    #[schemars(example = serde_json::json!({ "max_bytes": "20GiB" }))]
    pub spool: SpoolConfig,
    /// overrides of the common `flush:`
    #[serde(default)]
    #[schemars(example = serde_json::json!({ "batch_records": 5000 }))]
    pub flush: FlushOptions,
    /// Its type, with the options of the type.
    #[serde(skip)]
    pub target: Target,
}

/// The keys of a sink of any type.
pub(super) const KEYS_OF_SINKS: [&str; 8] =
    ["name", "type", "required", "streams", "event_types", "labels", "spool", "flush"];

const fn yes() -> bool {
    true
}

fn all_streams() -> Vec<Stream> {
    Stream::ALL.to_vec()
}

/// The type of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "`Target` says it")]
pub enum SinkType {
    Mongodb,
    Redis,
    File,
}

/// The type of a sink, with its options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Target {
    /// A MongoDB-compatible server.
    Mongodb(MongoOptions),
    /// A Redis server with RedisJSON.
    Redis(RedisOptions),
    /// NDJSON files in a directory.
    File(FileOptions),
}

impl Default for Target {
    fn default() -> Self {
        Self::File(FileOptions::default())
    }
}

impl Target {
    /// The word in the config.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Mongodb(_) => "mongodb",
            Self::Redis(_) => "redis",
            Self::File(_) => "file",
        }
    }

    /// Its address, without secrets.
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

/// A sink's name.
struct Name;

kind!([] Name => SinkName, @TEXT,
    "1 to 64 lower-case letters, digits, - or _",
    |text| match text {
        // The data directory has a file with this name.
        "lock" => Err("is the name of a file in the data directory".to_owned()),
        name => SinkName::new(name).map_err(|_| "cannot name a directory".to_owned()),
    },
    |name| name,
    json_schema!({ "type": ["string", "number", "boolean"], "pattern": "^[a-z0-9_-]{1,64}$", "not": { "const": "lock" } }));

/// An event type as LiveKit's schema names it; a misspelt one would silently filter out every event.
struct EventType;

impl EventType {
    fn names() -> Vec<&'static str> {
        use livekit_protocol::AnalyticsEventType as Type;
        (0..1_000).filter_map(|number| Type::try_from(number).ok()).map(|kind| kind.as_str_name()).collect()
    }
}

kind!([] EventType => String,
    format!("one of {}", Self::names().join(", ")),
    |text| if Self::names().contains(&text) { Ok(text.to_owned()) } else { Err(unknown_word(text, &Self::names())) },
    |name| name,
    json_schema!({ "enum": Self::names() }));

/// A spool: how much it holds, and how.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// (reload) limit of journal, queue and dead letters together; never exceeded
    #[serde_as(as = "Is<Size<MIN_MAX_BYTES, { 8_000 * TIB }>>")]
    pub max_bytes: u64,
    /// (reload) space that is left free on the disk
    #[serde_as(as = "Is<Size<0, { 8 * TIB }>>")]
    pub min_free_bytes: u64,
    /// (reload) older records are dropped and counted
    #[serde_as(as = "Is<Age>")]
    pub max_age: Option<Duration>,
    /// (reload) reject: the call fails; block: it waits; drop_oldest: the oldest records are dropped and counted;
    /// drop_newest: the new records are dropped and counted. The sender then gets OK with the number dropped: the only OK
    /// that does not mean kept
    pub when_full: WhenFull,
    /// (reload) with block: how long a call waits
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub block_timeout: Duration,
    /// the size of a journal file; smaller if max_bytes is small
    #[serde_as(as = "Is<Size<{ 64 * KIB }, { 4 * GIB }>>")]
    pub segment_bytes: u64,
    /// How blocks are compressed.
    pub compression: Compression,
    /// XChaCha20-Poly1305; a key is 32 bytes, as 64 hex digits or Base64
    #[schemars(example = serde_json::json!({ "key_file": "/etc/livekit-spool/key" }))]
    pub encryption: Option<EncryptionConfig>,
    /// Records that the sink rejected for good.
    pub dead_letters: DeadLettersConfig,
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
            compression: Compression::default(),
            encryption: None,
            dead_letters: DeadLettersConfig { max_bytes: 256 * MIB },
        }
    }
}

impl SpoolConfig {
    /// The options of this sink's spool.
    #[must_use]
    pub fn options(&self, sink: &SinkName) -> SpoolOptions {
        SpoolOptions {
            name: sink.to_string(),
            max_bytes: self.max_bytes,
            segment_bytes: self.segment_bytes,
            min_free_bytes: self.min_free_bytes,
            max_age: self.max_age,
            when_full: self.when_full,
            block_timeout: self.block_timeout,
            dead_max_bytes: self.dead_letters.max_bytes,
            compression: self.compression,
            encryption: self.encryption.as_ref().map(EncryptionConfig::keys),
        }
    }
}

/// Records that a sink rejected for good.
#[serde_as]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// when they are full, the sink pauses and reports it
    #[serde_as(as = "Is<Size<{ 64 * KIB }, { 8 * TIB }>>")]
    #[serde(default = "dead_letters_max_bytes")]
    pub max_bytes: u64,
}

fn dead_letters_max_bytes() -> u64 {
    SpoolConfig::default().dead_letters.max_bytes
}

/// How journal blocks are encrypted.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptionConfig {
    /// the key for new blocks, as "${SPOOL_KEY}"
    #[serde_as(as = "Is<EncryptionKey>")]
    pub key: EncryptionKey,
    /// a file that holds the key
    #[serde_as(as = "Option<Is<Text>>")]
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// the keys of older blocks
    #[serde_as(as = "Vec<Is<EncryptionKey>>")]
    #[serde(default)]
    pub old_keys: Vec<EncryptionKey>,
    /// files that hold one key each
    #[serde_as(as = "Vec<Is<Text>>")]
    #[serde(default)]
    pub old_key_files: Vec<PathBuf>,
}

impl EncryptionConfig {
    /// The keys in the form that a spool needs.
    #[must_use]
    pub fn keys(&self) -> spool::Keys {
        let key = |key: &EncryptionKey| spool::Key::new(*key.expose());
        spool::Keys { current: key(&self.key), previous: self.old_keys.iter().map(key).collect() }
    }
}

/// The 32 bytes of a key; never shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey(zeroize::Zeroizing<[u8; 32]>);

impl EncryptionKey {
    /// Reads 64 hex digits, or Base64 of 32 bytes.
    fn parse(text: &str) -> Option<Self> {
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

kind!([] EncryptionKey => EncryptionKey, @SECRET,
    "32 bytes, as 64 hex digits or in Base64 (`openssl rand -hex 32` makes such a key)",
    |text| Self::parse(text).ok_or_else(|| "is not a key".to_owned()),
    |_key| "***",
    json_schema!({ "type": ["string", "number"] }));

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// (reload) error, warn, info, debug, trace; RUST_LOG overrides it
    pub level: LogLevel,
    /// auto: human on a terminal, JSON otherwise; or human, json
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Auto }
    }
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
    /// In the form of a filter directive.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}
