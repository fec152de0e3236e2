//! The `sinks:` section: what every sink has, and the types of sinks. The options of each type are those of the sink's own
//! module.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::{
    problem::Problem,
    reader::{keys_of, read},
    tree::Node,
    words::unknown_word,
};
use crate::{
    document::Encoder,
    flush::FlushOptions,
    record::{SinkName, Stream},
    setting::{Is, Text, kind, schema_of},
    sink::{
        IndexStatus, InvalidOption, Sink, SinkOptions, file::FileOptions, http::HttpOptions, mongodb::MongoOptions,
        postgresql::PostgresqlOptions, redis::RedisOptions,
    },
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
    /// the type of its destination
    #[serde(rename = "type")]
    pub kind: SinkType,
    /// true: a call fails if this sink's spool cannot keep its records; false: only this sink misses them
    #[serde(default = "yes")]
    pub required: bool,
    /// the streams it gets
    #[serde(default = "all_streams")]
    #[schemars(example = ["events", "stats", "node_rooms"])]
    pub streams: Vec<Stream>,
    /// only events of these types; left out: all
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
pub(super) static KEYS_OF_SINKS: LazyLock<&[&str]> = LazyLock::new(keys_of::<SinkConfig>);

const fn yes() -> bool {
    true
}

fn all_streams() -> Vec<Stream> {
    Stream::ALL.to_vec()
}

/// Declares the types of sinks. Everything that the configuration says about one comes from its [`SinkOptions`].
macro_rules! sink_types {
    ($($(#[$doc:meta])* $variant:ident($options:ty);)*) => {
        /// The type of a sink.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum SinkType { $($(#[$doc])* $variant,)* }

        /// The type of a sink, with its options.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        #[expect(clippy::large_enum_variant, reason = "there are as many as sinks, for the whole run")]
        pub enum Target { $($(#[$doc])* $variant($options),)* }

        /// Every type.
        pub(super) static SINK_TYPES: &[SinkTypeInfo] = &[$(SinkTypeInfo {
            kind: <$options>::KIND,
            example: <$options>::EXAMPLE,
            files: <$options>::FILES,
            required: <$options>::REQUIRED,
            schema: schema_of::<$options>,
            defaults: || Target::$variant(<$options>::default()),
            read: |node, path, problems| read(node, path, &KEYS_OF_SINKS, problems).map(Target::$variant),
        },)*];

        impl Target {
            /// The word in the config.
            #[must_use]
            pub const fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$options>::KIND,)* }
            }

            /// Takes over what the sink has like every other.
            pub(super) fn set_common(
                &mut self,
                labels: BTreeMap<String, String>,
                streams: Vec<Stream>,
                timeout: Duration,
            ) {
                match self { $(Self::$variant(options) => options.set_common(labels, streams, timeout),)* }
            }

            /// Checks what can be checked without reaching the destination.
            pub(super) fn check(&self) -> Result<(), InvalidOption> {
                match self { $(Self::$variant(options) => options.check(),)* }
            }

            /// What is shown in place of values that may contain secrets.
            pub(super) fn redacted(&self) -> Vec<(&'static str, String)> {
                match self { $(Self::$variant(options) => options.redacted(),)* }
            }

            /// Its address, without secrets.
            #[must_use]
            pub fn address(&self) -> String {
                match self { $(Self::$variant(options) => options.address(),)* }
            }

            /// The directory that the sink writes into.
            #[must_use]
            pub fn directory(&self) -> Option<&Path> {
                match self { $(Self::$variant(options) => options.directory(),)* }
            }

            /// The sink, not connected yet.
            ///
            /// # Errors
            /// When the options cannot work with any destination.
            pub fn build(&self, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, InvalidOption> {
                match self { $(Self::$variant(options) => options.build(encoder),)* }
            }

            /// The indexes that are there, compared with those that should be.
            ///
            /// # Errors
            /// When the destination cannot be reached, or does not list its indexes.
            pub async fn indexes(&self, encoder: &Arc<Encoder>) -> Result<Vec<IndexStatus>, String> {
                match self { $(Self::$variant(options) => options.indexes(encoder).await,)* }
            }
        }
    };
}

sink_types! {
    /// A MongoDB-compatible server.
    Mongodb(MongoOptions);
    /// A Redis server with RedisJSON.
    Redis(RedisOptions);
    /// A PostgreSQL server.
    Postgresql(PostgresqlOptions);
    /// NDJSON files in a directory.
    File(FileOptions);
    /// Any HTTP endpoint.
    Http(HttpOptions);
}

/// What the configuration knows of a type of sink.
pub(super) struct SinkTypeInfo {
    /// Its word.
    pub(super) kind: &'static str,
    /// The name of the example in the documented file.
    pub(super) example: &'static str,
    /// Keys whose values may be in files of their own.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// The key that has to be written, and what is expected of it.
    pub(super) required: Option<(&'static str, &'static str)>,
    /// The JSON Schema of its keys.
    pub(super) schema: fn() -> serde_json::Value,
    /// Its options if none is written.
    pub(super) defaults: fn() -> Target,
    /// Reads its keys.
    pub(super) read: fn(&mut Node, &str, &mut Vec<Problem>) -> Option<Target>,
}

impl SinkTypeInfo {
    /// The type with this word.
    pub(super) fn of(kind: &str) -> Option<&'static Self> {
        SINK_TYPES.iter().find(|known| known.kind == kind)
    }
}

impl Default for Target {
    fn default() -> Self {
        Self::File(FileOptions::default())
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
