//! LiveKit's own config file, as OpenVidu's fork extends it: `openvidu.analytics` names the MongoDB server, `redis` the
//! Redis server, `keys` and `key_file` the API keys. Its other keys are LiveKit's business and ignored.
//!
//! LiveKit reads the same text, so it means the same here: nothing in it is expanded, and `yes` is a boolean.

use std::{collections::BTreeMap, time::Duration};

use super::{
    kinds::{api_keys, duration, go_boolean, integer, or_never, secret, secret_file, text, uri},
    read::{read_file, warn_of_short_secrets},
    reader::Section,
};
use crate::secret::Secret;

/// Top-level keys of LiveKit's config, besides those read here.
pub(super) const OTHER_KEYS: [&str; 29] = [
    "agents",
    "api",
    "audio",
    "bind_addresses",
    "debug_handler_port",
    "development",
    "enable_data_tracks",
    "environment",
    "ingress",
    "limit",
    "log_level",
    "logging",
    "metric",
    "node_ip",
    "node_selector",
    "node_stats",
    "port",
    "prometheus",
    "prometheus_port",
    "psrpc",
    "region",
    "room",
    "rtc",
    "signal_relay",
    "sip",
    "trace",
    "turn",
    "video",
    "webhook",
];

/// Top-level keys of LiveKit's config that are read here.
pub(super) const READ_KEYS: [&str; 4] = ["openvidu", "redis", "keys", "key_file"];

/// The sections by which a file that has keys of ours too is known for LiveKit's: its own program reads no file without
/// the first, and only the fork's the second.
const MARKS: [&str; 2] = ["rtc", "openvidu"];

/// Whether the file is (also) LiveKit's: it has a section that only LiveKit's has, or no key of ours.
pub(super) fn is_livekits(root: &Section<'_>, has_own: bool) -> bool {
    let mut keys = root.keys();
    if has_own {
        keys.any(|key| MARKS.contains(&key))
    } else {
        keys.any(|key| READ_KEYS.contains(&key) || OTHER_KEYS.contains(&key))
    }
}

/// Of a LiveKit key in a file of ours: the key of ours that does what it was probably meant to do.
pub(super) fn counterpart(key: &str) -> Option<&'static str> {
    Some(match key {
        "log_level" | "logging" | "development" => "log.level",
        "port" | "bind_addresses" | "node_ip" => "ingest.grpc.listen",
        "prometheus" | "prometheus_port" | "debug_handler_port" | "metric" => "admin.listen",
        "webhook" | "api" => "ingest.http.listen",
        "limit" => "ingest.memory.max_bytes",
        _ => return None,
    })
}

/// What a LiveKit config says that concerns this program.
#[derive(Default)]
pub(super) struct Livekit {
    pub(super) analytics: Option<Analytics>,
    /// The Redis server, as a URL, or why it cannot be reached as LiveKit does.
    pub(super) redis: Option<Result<Secret, &'static str>>,
    pub(super) keys: BTreeMap<String, Secret>,
}

/// `openvidu.analytics`
pub(super) struct Analytics {
    pub(super) enabled: bool,
    pub(super) mongo_url: Option<Secret>,
    pub(super) database: Option<String>,
    pub(super) interval: Option<Duration>,
    /// `Some(None)`: never.
    pub(super) expiration: Option<Option<Duration>>,
}

impl Livekit {
    /// Reads what concerns this program out of the root section.
    ///
    /// `is_livekits`: LiveKit reads the same text and expands nothing in it.
    pub(super) fn read(root: &mut Section<'_>, is_livekits: bool) -> Self {
        root.literally(is_livekits, |root| {
            let analytics = root.has("openvidu").then(|| root.section("openvidu")).and_then(read_analytics);
            let redis = root.has("redis").then(|| read_redis(root.section("redis"))).flatten();
            Self { analytics, redis, keys: read_keys(root) }
        })
    }
}

/// `keys`, and those of the `key_file` over them, as LiveKit does.
fn read_keys(root: &mut Section<'_>) -> BTreeMap<String, Secret> {
    let mut keys = root.map("keys", &secret());
    if let Some(file) = root.get("key_file", &secret_file()) {
        keys.extend(read_file(root, "key_file", &file, &api_keys()).unwrap_or_default());
    }
    warn_of_short_secrets(root, "keys", &keys);
    keys
}

fn read_analytics(mut openvidu: Section<'_>) -> Option<Analytics> {
    if !openvidu.has("analytics") {
        return None;
    }
    let mut section = openvidu.section("analytics");
    let enabled = section.get_or("enabled", false, &go_boolean());
    let mongo = uri(&["mongodb", "mongodb+srv"]);
    let (snake, camel) = (section.get("mongo_url", &mongo), section.get("mongoUrl", &mongo));
    if section.has("mongo_url") && section.has("mongoUrl") {
        section.problem("mongoUrl", "stands beside mongo_url: keep one of them");
    } else if enabled && !section.has("mongo_url") && !section.has("mongoUrl") {
        section.problem("mongo_url", "missing: analytics are enabled; expected mongodb://… or mongodb+srv://…");
    }
    let analytics = Analytics {
        enabled,
        mongo_url: snake.or(camel),
        database: section.get("database", &text()),
        interval: section.get("interval", &duration(Duration::from_millis(1), Duration::from_secs(86_400))),
        expiration: section.get("expiration", &or_never()),
    };
    // Of the part of the fork that makes up events of rooms whose node died: nothing here does that.
    section.get("fixer_interval", &duration(Duration::ZERO, Duration::from_secs(10 * 365 * 86_400)));
    section.finish();
    Some(analytics)
}

fn read_redis(mut section: Section<'_>) -> Option<Result<Secret, &'static str>> {
    // LiveKit's order: sentinels, else a cluster, else the address.
    if section.list("sentinel_addresses", &text()).is_some_and(|addresses| !addresses.is_empty()) {
        return Some(Err("it names sentinels (sentinel_addresses); give the master's own address in url"));
    }
    let cluster = section.list("cluster_addresses", &text()).unwrap_or_default();
    let address = section.get("address", &text());
    // Any node names the others.
    let address = cluster.into_iter().next().or(address)?;
    let mut tls = section.section("tls");
    let own_tls = tls.get_or("enabled", false, &go_boolean());
    let unverified = tls.get_or("insecure", false, &go_boolean());
    if own_tls && (unverified || ["server_name", "ca_cert_file", "client_cert_file"].iter().any(|key| tls.has(key))) {
        return Some(Err("its tls: names certificates or checks of its own; give a rediss:// url, whose certificate \
                         the system's authorities have to vouch for"));
    }
    let tls = own_tls || section.get_or("use_tls", false, &go_boolean());
    let user = section.get("username", &text()).unwrap_or_default();
    let password = section.get("password", &secret());
    let database = section.get_or("db", 0, &integer(0, 1_000_000));
    let credentials = match password {
        Some(password) => format!("{}:{}@", percent_encoded(&user), percent_encoded(password.expose())),
        None if user.is_empty() => String::new(),
        None => format!("{}@", percent_encoded(&user)),
    };
    let scheme = if tls { "rediss" } else { "redis" };
    Some(Ok(Secret::new(format!("{scheme}://{credentials}{address}/{database}"))))
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
