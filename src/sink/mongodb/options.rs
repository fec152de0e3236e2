//! The destination of the MongoDB sink, and the checks that need no server.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::{
    record::Stream,
    setting::{Expiration, Is, Text},
    sink::url::{MongodbUri, without_secrets},
};

/// The database of OpenVidu's fork.
const DEFAULT_DATABASE: &str = "openvidu";

/// Where and how the MongoDB sink delivers.
#[serde_as]
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MongoOptions {
    /// mongodb: the connection string, or uri_file; write concern majority + journal unless it says otherwise; w=0 is
    /// refused
    #[serde_as(as = "Is<MongodbUri>")]
    #[schemars(example = "mongodb://127.0.0.1:27017/")]
    pub uri: String,
    /// mongodb: a file that holds the uri
    #[serde_as(as = "Option<Is<Text>>")]
    pub uri_file: Option<PathBuf>,
    /// mongodb: the database; its collections are named after the streams
    #[serde_as(as = "Is<Text>")]
    pub database: String,
    /// mongodb, redis: documents expire after this (in MongoDB by a TTL index on openvidu_expire_at); never: they are kept
    #[serde_as(as = "Is<Expiration>")]
    pub expiration: Option<Duration>,
    /// Static fields added to each document.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
    /// The streams of this sink: their collections get indexes.
    #[serde(skip)]
    pub streams: Vec<Stream>,
    /// The timeout of a command, a connection or the choice of a server, unless the URI says otherwise.
    #[serde(skip)]
    pub timeout: Duration,
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self {
            uri: "mongodb://127.0.0.1:27017".to_owned(),
            uri_file: None,
            database: DEFAULT_DATABASE.to_owned(),
            expiration: Some(Duration::from_secs(768 * 3600)),
            labels: BTreeMap::new(),
            streams: Stream::ALL.to_vec(),
            timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for MongoOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoOptions")
            .field("uri", &without_secrets(&self.uri))
            .field("database", &self.database)
            .field("expiration", &self.expiration)
            .field("labels", &self.labels)
            .field("streams", &self.streams)
            .field("timeout", &self.timeout)
            .finish()
    }
}
