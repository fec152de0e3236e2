//! LiveKit's own config file, as OpenVidu's fork extends it: `openvidu.analytics` names the MongoDB server, `redis` the
//! Redis server, `keys` the API keys. Its other keys are LiveKit's business and ignored.

use std::{collections::BTreeMap, time::Duration};

use super::{
    kinds::{boolean, duration, integer, or_never, secret, text, uri},
    reader::Section,
};
use crate::secret::Secret;

/// Top-level keys of LiveKit's config, besides those read here.
pub(super) const OTHER_KEYS: [&str; 30] = [
    "agents",
    "api",
    "audio",
    "bind_addresses",
    "debug_handler_port",
    "development",
    "enable_data_tracks",
    "environment",
    "ingress",
    "key_file",
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
pub(super) const READ_KEYS: [&str; 3] = ["openvidu", "redis", "keys"];

/// What a LiveKit config says that concerns this program.
#[derive(Default)]
pub(super) struct Livekit {
    pub(super) analytics: Option<Analytics>,
    /// The Redis server, as a URL.
    pub(super) redis: Option<Secret>,
    pub(super) keys: BTreeMap<String, Secret>,
}

/// `openvidu.analytics`
pub(super) struct Analytics {
    pub(super) enabled: bool,
    pub(super) mongo_url: Option<Secret>,
    pub(super) interval: Option<Duration>,
    /// `Some(None)`: never.
    pub(super) expiration: Option<Option<Duration>>,
}

impl Livekit {
    /// Reads what concerns this program out of the root section.
    pub(super) fn read(root: &mut Section<'_>) -> Self {
        let analytics = root.has("openvidu").then(|| root.section("openvidu")).and_then(read_analytics);
        let redis = root.has("redis").then(|| read_redis(root.section("redis"))).flatten();
        Self { analytics, redis, keys: root.map("keys", &secret()) }
    }
}

fn read_analytics(mut openvidu: Section<'_>) -> Option<Analytics> {
    if !openvidu.has("analytics") {
        return None;
    }
    let mut section = openvidu.section("analytics");
    let enabled = section.get_or("enabled", false, &boolean());
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
        interval: section.get("interval", &duration(Duration::from_millis(1), Duration::from_secs(86_400))),
        expiration: section.get("expiration", &or_never()),
    };
    section.finish();
    Some(analytics)
}

fn read_redis(mut section: Section<'_>) -> Option<Secret> {
    let address = section.get("address", &text())?;
    let tls = section.get_or("use_tls", false, &boolean());
    let user = section.get("username", &text()).unwrap_or_default();
    let password = section.get("password", &secret());
    let database = section.get_or("db", 0, &integer(0, 1_000_000));
    let credentials = match password {
        Some(password) => format!("{}:{}@", percent_encoded(&user), percent_encoded(password.expose())),
        None if user.is_empty() => String::new(),
        None => format!("{}@", percent_encoded(&user)),
    };
    let scheme = if tls { "rediss" } else { "redis" };
    Some(Secret::new(format!("{scheme}://{credentials}{address}/{database}")))
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
