//! Reads our own sections of a config file, key by key.

use std::{fs, net::SocketAddr, time::Duration};

use super::{
    kinds::{
        Found, Kind, SecretFile, admin_token, boolean, choice, duration, encryption_key, integer, number, or_never,
        path, secret, secret_file, sink_name, size, socket_address, stream, text, uri,
    },
    livekit::Livekit,
    model::{
        AdminConfig, CompressionConfig, EncryptionConfig, GIB, LogConfig, LogFormat, LogLevel, SinkConfig, SpoolConfig,
        Target, WhenFull,
    },
    reader::Section,
};
use crate::{
    document::{DocumentOptions, Enums, Labels, MONGODB_MAX_DOCUMENT, PiiKey, Redact},
    flush::{BackoffOptions, FlushOptions},
    ingest::{LivekitKeys, MIN_TOKEN_LENGTH},
    record::{SinkName, Stream},
    secret::Secret,
    sink::{
        file::{FileCompression, FileOptions},
        mongodb::MongoOptions,
        redis::RedisOptions,
    },
    spool::MIN_MAX_BYTES,
};

pub(super) const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);
pub(super) const KIB: u64 = 1 << 10;
pub(super) const TIB: u64 = 1 << 40;

/// LiveKit warns below this ("secret is too short, should be at least 32 characters for security").
const ENOUGH_API_SECRET_LENGTH: usize = 32;

/// The top-level keys of our own.
pub(super) const OWN_KEYS: [&str; 9] =
    ["data_dir", "ingest", "admin", "spool", "flush", "documents", "sinks", "log", "shutdown_timeout"];

pub(super) fn shutdown_timeout() -> Kind<Duration> {
    duration(Duration::ZERO, HOUR)
}

pub(super) fn admin(mut section: Section<'_>) -> AdminConfig {
    let default = SocketAddr::from(([127, 0, 0, 1], 7892));
    let listen = section.get_or("listen", Some(default), &socket_address().or_word(&["none"]));
    let token = value_or_file(&mut section, "token", "token_file", &admin_token());
    warn_if_short(&section, "token", token.as_ref(), MIN_TOKEN_LENGTH, "whoever guesses it may read and purge records");
    let hosts = section.list("hosts", &text()).unwrap_or_default();
    let public_metrics = section.get_or("public_metrics", false, &boolean());
    section.finish();
    AdminConfig { listen, token, hosts, public_metrics }
}

pub(super) fn documents(mut section: Section<'_>) -> DocumentOptions {
    let redact = [("secrets", Redact::Secrets), ("pii", Redact::Pii), ("none", Redact::None)];
    let enums = [("compatible", Enums::Compatible), ("names", Enums::Names)];
    let pii_key = value_or_file(&mut section, "pii_key", "pii_key_file", &secret());
    warn_if_short(&section, "pii_key", pii_key.as_ref(), MIN_TOKEN_LENGTH, "whoever guesses it can undo the hashes");
    let documents = DocumentOptions {
        redact: section.get_or("redact", Redact::Secrets, &choice(&redact)),
        enums: section.get_or("enums", Enums::Compatible, &choice(&enums)),
        time: section.get_or("time", true, &boolean()),
        pii_key: pii_key.map(|key| PiiKey::from_secret(key.expose())),
        max_bytes: MONGODB_MAX_DOCUMENT,
    };
    section.finish();
    documents
}

pub(super) fn log(mut section: Section<'_>) -> LogConfig {
    let levels =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace].map(|l| (l.as_str(), l));
    let formats = [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
    let log = LogConfig {
        level: section.get_or("level", LogLevel::Info, &choice(&levels)),
        format: section.get_or("format", LogFormat::Auto, &choice(&formats)),
    };
    section.finish();
    log
}

/// The defaults of every sink, or one sink's own over them.
pub(super) fn spool(mut section: Section<'_>, defaults: SpoolConfig) -> SpoolConfig {
    let policies = [
        ("reject", WhenFull::Reject),
        ("block", WhenFull::Block),
        ("drop_oldest", WhenFull::DropOldest),
        ("drop_newest", WhenFull::DropNewest),
    ];
    let mut dead = section.section("dead_letters");
    let dead_letters_max_bytes = dead.get_or("max_bytes", defaults.dead_letters_max_bytes, &size(64 * KIB, 8 * TIB));
    dead.finish();
    let config = SpoolConfig {
        max_bytes: section.get_or("max_bytes", defaults.max_bytes, &size(MIN_MAX_BYTES, 8_000 * TIB)),
        min_free_bytes: section.get_or("min_free_bytes", defaults.min_free_bytes, &size(0, 8 * TIB)),
        max_age: section.get_or("max_age", defaults.max_age, &duration(SECOND, 100 * YEAR).or_word(&["never"])),
        when_full: section.get_or("when_full", defaults.when_full, &choice(&policies)),
        block_timeout: section.get_or("block_timeout", defaults.block_timeout, &duration(MS, HOUR)),
        segment_bytes: section.get_or("segment_bytes", defaults.segment_bytes, &size(64 * KIB, 4 * GIB)),
        compression: compression(section.section("compression"), defaults.compression),
        encryption: if section.has("encryption") {
            encryption(section.section("encryption"))
        } else {
            section.section("encryption").finish();
            defaults.encryption
        },
        dead_letters_max_bytes,
    };
    section.finish();
    config
}

fn compression(mut section: Section<'_>, defaults: CompressionConfig) -> CompressionConfig {
    let zstd =
        section.get_or("codec", defaults != CompressionConfig::None, &choice(&[("zstd", true), ("none", false)]));
    let (level, dictionary) = match defaults {
        CompressionConfig::Zstd { level, dictionary } => (level, dictionary),
        CompressionConfig::None => (-1, true),
    };
    let level = section.get_or("level", i64::from(level), &integer(-7, 19));
    let dictionary = section.get_or("dictionary", dictionary, &boolean());
    section.finish();
    if zstd { CompressionConfig::Zstd { level: level as i32, dictionary } } else { CompressionConfig::None }
}

fn encryption(mut section: Section<'_>) -> Option<EncryptionConfig> {
    let kind = encryption_key();
    let key = value_or_file(&mut section, "key", "key_file", &kind);
    let mut old_keys = section.list("old_keys", &kind).unwrap_or_default();
    old_keys.extend(
        section
            .list("old_key_files", &secret_file())
            .unwrap_or_default()
            .iter()
            .filter_map(|file| read_file(&section, "old_key_files", file, &kind)),
    );
    if !section.has("key") && !section.has("key_file") {
        section.problem("key_file", "missing: encryption needs a key, in key_file or as key: ${VARIABLE}");
    }
    section.finish();
    Some(EncryptionConfig { key: key?, old_keys })
}

/// The defaults of every sink, or one sink's own over them.
pub(super) fn flush(mut section: Section<'_>, defaults: &FlushOptions) -> FlushOptions {
    let mut backoff = section.section("backoff");
    let backoff_options = BackoffOptions {
        initial: backoff.get_or("initial", defaults.backoff.initial, &duration(MS, HOUR)),
        max: backoff.get_or("max", defaults.backoff.max, &duration(MS, 24 * HOUR)),
    };
    if backoff_options.initial > backoff_options.max {
        backoff.problem("max", "is shorter than initial");
    }
    backoff.finish();
    let options = FlushOptions {
        interval: section.get_or("interval", defaults.interval, &duration(MS, 24 * HOUR)),
        batch_records: count(&mut section, "batch_records", defaults.batch_records, 1, 100_000),
        batch_bytes: bytes(&mut section, "batch_bytes", defaults.batch_bytes, KIB, GIB),
        max_in_flight: count(&mut section, "max_in_flight", defaults.max_in_flight, 1, 64),
        max_rate: section.get_or("max_rate", defaults.max_rate, &number(0, 1_000_000_000)),
        backoff: backoff_options,
        timeout: section.get_or("timeout", defaults.timeout, &duration(100 * MS, HOUR)),
        reject_after: defaults.reject_after,
        shutdown_timeout: defaults.shutdown_timeout,
    };
    section.finish();
    options
}

/// What a sink falls back on.
pub(super) struct SinkDefaults<'a> {
    pub(super) spool: &'a SpoolConfig,
    pub(super) flush: &'a FlushOptions,
    pub(super) livekit: &'a Livekit,
}

#[derive(Clone, Copy)]
enum SinkType {
    Mongodb,
    Redis,
    File,
}

pub(super) fn sink(mut section: Section<'_>, defaults: &SinkDefaults<'_>) -> Option<SinkConfig> {
    let name = required(&mut section, "name", &sink_name());
    let types = [("mongodb", SinkType::Mongodb), ("redis", SinkType::Redis), ("file", SinkType::File)];
    let kind = required(&mut section, "type", &choice(&types));
    let streams = section.list("streams", &stream()).unwrap_or_else(|| Stream::ALL.to_vec());
    let event_types = section.list("event_types", &event_type()).unwrap_or_default();
    let is_required = section.get_or("required", true, &boolean());
    let labels = section.map("labels", &text());
    let spool = spool(section.section("spool"), defaults.spool.clone());
    let flush = flush(section.section("flush"), defaults.flush);
    let target = match kind {
        // Without a type no other key can be judged.
        None => return None,
        Some(SinkType::Mongodb) => mongodb(&mut section, &flush),
        Some(SinkType::Redis) => redis(&mut section, &flush, defaults.livekit),
        Some(SinkType::File) => Some(file(&mut section)),
    };
    if section.has("streams") && streams.is_empty() {
        section.problem("streams", "is empty: this sink would get nothing; leave it out for all");
    }
    if let Err(reason) = Labels::new(labels.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
        section.problem("labels", reason.to_string());
    }
    section.finish();
    let mut target = target?;
    match &mut target {
        Target::Mongodb(options) => (options.labels, options.streams) = (labels, streams.clone()),
        Target::Redis(options) => (options.labels, options.streams) = (labels, streams.clone()),
        Target::File(options) => options.labels = labels,
    }
    Some(SinkConfig { name: name?, required: is_required, streams, event_types, spool, flush, target })
}

fn mongodb(section: &mut Section<'_>, flush: &FlushOptions) -> Option<Target> {
    let defaults = MongoOptions::default();
    let uri = value_or_file(section, "uri", "uri_file", &uri(&["mongodb", "mongodb+srv"]));
    if !section.has("uri") && !section.has("uri_file") {
        section.problem("uri", "missing: expected mongodb://… or mongodb+srv://…");
    }
    let options = MongoOptions {
        database: section.get_or("database", defaults.database, &text()),
        expiration: section.get_or("expiration", defaults.expiration, &or_never()),
        uri: uri?.expose().to_owned(),
        timeout: flush.timeout,
        ..defaults
    };
    if let Err(error) = options.check() {
        section.problem("uri", error.to_string());
    }
    Some(Target::Mongodb(options))
}

fn redis(section: &mut Section<'_>, flush: &FlushOptions, livekit: &Livekit) -> Option<Target> {
    let defaults = RedisOptions::default();
    let own = value_or_file(section, "url", "url_file", &uri(&["redis", "rediss"]));
    let named = section.has("url") || section.has("url_file");
    let url = match &livekit.redis {
        _ if named => own,
        Some(Ok(url)) => Some(url.clone()),
        Some(Err(why)) => {
            section.problem("url", format!("missing, and LiveKit's redis: section does not do: {why}"));
            None
        }
        None => {
            section.problem("url", "missing: expected redis://… or rediss://… (or LiveKit's redis: section)");
            None
        }
    };
    let options = RedisOptions {
        expiration: section.get_or("expiration", defaults.expiration, &or_never()),
        url: url?.expose().to_owned(),
        timeout: flush.timeout,
        ..defaults
    };
    if let Err(error) = options.check() {
        section.problem("url", error.to_string());
    }
    Some(Target::Redis(options))
}

fn file(section: &mut Section<'_>) -> Target {
    let defaults = FileOptions::default();
    let compressions =
        [("none", FileCompression::None), ("gzip", FileCompression::Gzip), ("zstd", FileCompression::Zstd)];
    Target::File(FileOptions {
        path: section.get_or("path", defaults.path, &path()),
        rotate_bytes: section.get_or("rotate_bytes", defaults.rotate_bytes, &size(4 * KIB, TIB)),
        rotate_age: section.get_or("rotate_age", defaults.rotate_age, &duration(SECOND, YEAR)),
        compression: section.get_or("compress", defaults.compression, &choice(&compressions)),
        labels: defaults.labels,
    })
}

/// An event type as LiveKit's schema names it; a misspelt one would silently filter everything away.
fn event_type() -> Kind<String> {
    use livekit_protocol::AnalyticsEventType as Type;
    let names: Vec<_> = (0..1_000)
        .filter_map(|number| Type::try_from(number).ok())
        .map(|kind| (kind.as_str_name(), kind.as_str_name().to_owned()))
        .collect();
    choice(&names)
}

/// The sink that runs where nothing else is said: files in `./data/out`.
pub(super) fn default_sink(name: SinkName, spool: &SpoolConfig, flush: &FlushOptions) -> SinkConfig {
    SinkConfig {
        name,
        required: true,
        streams: Stream::ALL.to_vec(),
        event_types: Vec::new(),
        spool: spool.clone(),
        flush: flush.clone(),
        target: Target::File(FileOptions::default()),
    }
}

fn required<T>(section: &mut Section<'_>, key: &'static str, kind: &Kind<T>) -> Option<T> {
    let value = section.get(key, kind);
    if !section.has(key) {
        section.problem(key, format!("missing; expected {}", kind.expected()));
    }
    value
}

/// Warns of a secret that is in use and can be guessed.
pub(super) fn warn_if_short(section: &Section<'_>, key: &str, secret: Option<&Secret>, enough: usize, because: &str) {
    if secret.is_some_and(|secret| secret.expose().chars().count() < enough) {
        section.warn(key, format!("shorter than {enough} characters: {because}"));
    }
}

/// Warns of API secrets as LiveKit does: each signs tokens that let anyone send, there and here.
pub(super) fn warn_of_short_secrets(section: &Section<'_>, key: &str, keys: &LivekitKeys) {
    for (name, secret) in keys {
        let because = format!("whoever guesses the secret of {name:?} can sign tokens");
        warn_if_short(section, key, Some(secret), ENOUGH_API_SECRET_LENGTH, &because);
    }
}

/// A secret given here, or in a file of its own (as Docker and Kubernetes hand them out).
fn value_or_file<T>(section: &mut Section<'_>, key: &'static str, file_key: &'static str, kind: &Kind<T>) -> Option<T> {
    let value = section.get(key, kind);
    let file = section.get(file_key, &secret_file());
    if section.has(key) && section.has(file_key) {
        section.problem(file_key, format!("stands beside {key}: keep one of them"));
    }
    value.or_else(|| read_file(section, file_key, &file?, kind))
}

pub(super) fn read_file<T>(section: &Section<'_>, key: &str, file: &SecretFile, kind: &Kind<T>) -> Option<T> {
    let SecretFile { path, written } = file;
    let content = match fs::read_to_string(path) {
        Ok(content) => content,
        Err(error) => {
            let hint = if written.contains("${") { "; it has to be a path, not the secret itself" } else { "" };
            section.problem(key, format!("cannot read {written}: {error}{hint}"));
            return None;
        }
    };
    match kind.read(&Found { text: content.trim(), quoted: false, written }) {
        Ok(value) => Some(value),
        Err(reason) => {
            section.problem(key, format!("what {written} holds {reason}; expected {}", kind.expected()));
            None
        }
    }
}

pub(super) fn bytes(section: &mut Section<'_>, key: &'static str, default: usize, min: u64, max: u64) -> usize {
    section.get(key, &size(min, max)).and_then(|value| usize::try_from(value).ok()).unwrap_or(default)
}

pub(super) fn count<T: TryFrom<u64>>(
    section: &mut Section<'_>,
    key: &'static str,
    default: T,
    min: u64,
    max: u64,
) -> T {
    section.get(key, &number(min, max)).and_then(|value| T::try_from(value).ok()).unwrap_or(default)
}
