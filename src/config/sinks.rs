//! The `sinks:` section: what every sink has. The options of each type are those of the sink's own module.

use std::collections::BTreeMap;

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::words::unknown_word;
use crate::{
    flush::FlushOptions,
    record::{SinkName, Stream},
    setting::{Is, Text, kind},
    sink::{file::FileOptions, mongodb::MongoOptions, redis::RedisOptions, url::without_secrets},
    spool::SpoolOptions,
};

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
    pub spool: SpoolOptions,
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
