//! LiveKit's own config file, as OpenVidu's fork extends it: `openvidu.analytics` names the MongoDB server, `redis` the
//! Redis server, `keys` and `key_file` the API keys. Its other keys are for LiveKit and ignored here.
//!
//! LiveKit reads the same text, so it must mean the same here: no variables are expanded, and `yes` is a boolean.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::{JsonSchema, json_schema};
use serde::Deserialize;
use serde_with::serde_as;

use super::{check::Check, files::take_files, problem::Problem, reader::read, tree::Node};
use crate::{
    ingest::LivekitKeys,
    secret::Secret,
    setting::{DAY, Expiration, Integer, Is, Span, Text, YEAR, kind},
    sink::url::MongodbUri,
};

/// Top-level keys of LiveKit's config that are not read here.
#[rustfmt::skip]
pub(super) const OTHER_KEYS: [&str; 29] = [
    "agents", "api", "audio", "bind_addresses", "debug_handler_port", "development", "enable_data_tracks", "environment",
    "ingress", "limit", "log_level", "logging", "metric", "node_ip", "node_selector", "node_stats", "port", "prometheus",
    "prometheus_port", "psrpc", "region", "room", "rtc", "signal_relay", "sip", "trace", "turn", "video", "webhook",
];

/// Top-level keys of LiveKit's config that are read here.
pub(super) const READ_KEYS: [&str; 4] = ["openvidu", "redis", "keys", "key_file"];

/// The sections that identify a file as LiveKit's even if it also has keys of ours: LiveKit does not start without the
/// first, and only the fork has the second.
const MARKS: [&str; 2] = ["rtc", "openvidu"];

/// Tells whether the file is (also) LiveKit's: it has a section that only LiveKit's has, or no key of ours.
pub(super) fn is_livekits(root: &Node, has_own: bool) -> bool {
    let mut keys = root.entries().iter().map(|(key, _)| key.text.as_str());
    if has_own {
        keys.any(|key| MARKS.contains(&key))
    } else {
        keys.any(|key| READ_KEYS.contains(&key) || OTHER_KEYS.contains(&key))
    }
}

/// For a LiveKit key in a file of ours: our key with probably the intended meaning.
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

/// The part of LiveKit's config that this program uses.
#[serde_as]
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct File {
    /// LiveKit's own config is read too: a file with only this runs, everything else at its default. It can also come in
    /// the LIVEKIT_CONFIG environment variable. LiveKit's other top-level keys are ignored.
    openvidu: Openvidu,
    /// LiveKit's own: the server of a redis sink without a url.
    redis: Option<Redis>,
    /// LiveKit's own: API keys and their secrets, if ingest.auth.keys has none.
    #[serde_as(as = "std::collections::BTreeMap<_, Is<Text>>")]
    keys: LivekitKeys,
    /// LiveKit's own: a file of API keys and their secrets; it replaces `keys`.
    #[serde_as(as = "Option<Is<Text>>")]
    #[expect(dead_code, reason = "it is in `keys` already")]
    key_file: Option<String>,
}

/// OpenVidu's section of LiveKit's config.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Openvidu {
    /// A MongoDB sink named mongo.
    analytics: Option<Analytics>,
}

/// OpenVidu's own export of analytics.
#[serde_as]
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(dead_code, reason = "the keys of the sink are only checked here")]
struct Analytics {
    /// true: this sink exists
    #[serde_as(as = "Is<GoBool>")]
    enabled: bool,
    /// the URL of the MongoDB server
    #[serde_as(as = "Option<Is<MongodbUri>>")]
    mongo_url: Option<String>,
    /// another spelling of mongo_url
    #[serde_as(as = "Option<Is<MongodbUri>>")]
    #[serde(rename = "mongoUrl")]
    mongo_url_2: Option<String>,
    /// the database
    #[serde_as(as = "Option<Is<Text>>")]
    database: Option<String>,
    /// a batch that is not full is sent after this time
    #[serde_as(as = "Option<Is<Span<1, DAY>>>")]
    interval: Option<Duration>,
    /// documents expire after this time; never: they are kept
    #[serde_as(as = "Is<Expiration>")]
    expiration: Option<Duration>,
    /// for the fork's part that creates events for rooms of a failed node; not used here
    #[serde_as(as = "Option<Is<Span<0, { 10 * YEAR }>>>")]
    fixer_interval: Option<Duration>,
}

/// LiveKit's Redis server.
#[serde_as]
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Redis {
    /// host:port
    #[serde_as(as = "Option<Is<Text>>")]
    address: Option<String>,
    /// the user
    #[serde_as(as = "Option<Is<Text>>")]
    username: Option<String>,
    /// the user's password
    #[serde_as(as = "Option<Is<Text>>")]
    password: Option<Secret>,
    /// the database's number
    #[serde_as(as = "Is<Integer<0, 1_000_000>>")]
    db: i64,
    /// true: TLS, checked with the system's authorities
    #[serde_as(as = "Is<GoBool>")]
    use_tls: bool,
    /// TLS as newer versions of LiveKit configure it
    tls: RedisTls,
    /// cannot be used: give the sink its own url
    #[serde_as(as = "Vec<Is<Text>>")]
    sentinel_addresses: Vec<String>,
    /// the first one is used: any node names the others
    #[serde_as(as = "Vec<Is<Text>>")]
    cluster_addresses: Vec<String>,
}

/// TLS of LiveKit's Redis server.
#[serde_as]
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct RedisTls {
    /// true: TLS
    #[serde_as(as = "Is<GoBool>")]
    enabled: bool,
    /// true: the certificate is not checked, which a sink does not support
    #[serde_as(as = "Is<GoBool>")]
    insecure: bool,
}

/// A boolean as LiveKit's own reader accepts it: also the words of YAML 1.1, and in quotes.
struct GoBool;

fn go_words(text: &str) -> Result<bool, String> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Ok(false),
        _ => Err("is not a boolean".to_owned()),
    }
}

kind!([] GoBool => bool, "true or false",
    |text| match text {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        text => go_words(text),
    },
    |value| value,
    json_schema!({ "type": ["boolean", "string"] }),
    go_words);

/// What a LiveKit config means for this program.
#[derive(Default)]
pub(super) struct Livekit {
    /// What `openvidu.analytics` says, as a sink without its name; `None` inside: it is disabled.
    pub(super) sink: Option<Option<Node>>,
    /// The URL of the Redis server, or why it cannot be reached as LiveKit does.
    pub(super) redis: Option<Result<Node, &'static str>>,
    /// API keys and their secrets.
    pub(super) keys: Option<Node>,
}

impl Livekit {
    /// Reads the part that this program uses from a document.
    pub(super) fn read(root: &mut Node, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) -> Self {
        take_files(root, "", &[("key_file", "keys")], problems);
        let file: File = read(root, "", &[], problems).unwrap_or_default();
        let mut check = Check { root, problems, warnings, openvidu: None };
        check.warn_of_short_secrets("keys", &file.keys);
        let sink = file.openvidu.analytics.map(|analytics| sink(&analytics, &mut check));
        let redis = file.redis.and_then(|redis| url(&redis, root));
        Self { sink, redis, keys: root.get("keys").filter(|_| !file.keys.is_empty()).cloned() }
    }

    /// The environment variable takes precedence over the file.
    pub(super) fn over(self, file: Self) -> Self {
        Self { sink: self.sink.or(file.sink), redis: self.redis.or(file.redis), keys: self.keys.or(file.keys) }
    }
}

/// The sink that the section asks for, in our form; each value keeps its place in LiveKit's config.
fn sink(analytics: &Analytics, check: &mut Check<'_>) -> Option<Node> {
    let section = check.root.find("openvidu.analytics")?;
    if section.has("mongo_url") && section.has("mongoUrl") {
        check.problem("openvidu.analytics.mongoUrl", "is given together with mongo_url: keep one of them");
    } else if analytics.enabled && !section.has("mongo_url") && !section.has("mongoUrl") {
        let message = "missing: analytics are enabled; expected mongodb://… or mongodb+srv://…";
        check.problem("openvidu.analytics.mongo_url", message);
    }
    if !analytics.enabled || (analytics.mongo_url.is_none() && analytics.mongo_url_2.is_none()) {
        return None;
    }
    let mut sink = Node::map(&section.place);
    sink.set("type", Node::text(&section.place, "mongodb"));
    for (key, own) in
        [("mongo_url", "uri"), ("mongoUrl", "uri"), ("database", "database"), ("expiration", "expiration")]
    {
        if let Some(node) = section.get(key).filter(|node| !node.is_silent()) {
            sink.set(own, node.clone());
        }
    }
    if let Some(interval) = section.get("interval") {
        sink.set("flush", Node::section(&section.place, "interval", interval.clone()));
    }
    Some(sink)
}

fn url(redis: &Redis, root: &Node) -> Option<Result<Node, &'static str>> {
    // LiveKit's order: sentinels, then a cluster, then the address.
    if !redis.sentinel_addresses.is_empty() {
        return Some(Err("it names sentinels (sentinel_addresses); give the master's own address in url"));
    }
    let address = redis.cluster_addresses.first().or(redis.address.as_ref())?;
    let has = |key: &str| root.find("redis.tls").is_some_and(|tls| tls.has(key));
    let own_checks = redis.tls.insecure || ["server_name", "ca_cert_file", "client_cert_file"].into_iter().any(has);
    if redis.tls.enabled && own_checks {
        return Some(Err("its tls: has its own certificates or checks; give a rediss:// url, whose certificate \
                         is signed by one of the system's authorities"));
    }
    let user = redis.username.as_deref().unwrap_or_default();
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let credentials = match &redis.password {
        Some(password) => format!("{}:{}@", encoded(user), encoded(password.expose())),
        None if user.is_empty() => String::new(),
        None => format!("{}@", encoded(user)),
    };
    let scheme = if redis.tls.enabled || redis.use_tls { "rediss" } else { "redis" };
    let url = format!("{scheme}://{credentials}{address}/{}", redis.db);
    Some(Ok(Node::text(&root.place_of("redis"), url)))
}
