//! The destination of the Redis sink, and the checks that need no server.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use redis::{ConnectionInfo, IntoConnectionInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::{
    record::Stream,
    setting::{Expiration, Is, Text},
    sink::{
        InvalidOption,
        url::{RedisUrl, without_secrets},
    },
};

/// Where and how the Redis sink delivers.
#[serde_as]
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedisOptions {
    /// redis: the URL, or url_file, or LiveKit's `redis:` at the top level; rediss:// for TLS
    #[serde_as(as = "Is<RedisUrl>")]
    #[schemars(example = "redis://127.0.0.1:6379/")]
    pub url: String,
    /// redis: a file that holds the url
    #[serde_as(as = "Option<Is<Text>>")]
    pub url_file: Option<PathBuf>,
    /// mongodb, redis: documents expire after this (in MongoDB by a TTL index on openvidu_expire_at); never: they are kept
    #[serde_as(as = "Is<Expiration>")]
    pub expiration: Option<Duration>,
    /// Static fields added to each document.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
    /// The streams of this sink: they get search indexes.
    #[serde(skip)]
    pub streams: Vec<Stream>,
    /// The timeout of connecting or of one pipeline.
    #[serde(skip)]
    pub timeout: Duration,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            url_file: None,
            expiration: Some(Duration::from_secs(768 * 3600)),
            labels: BTreeMap::new(),
            streams: Stream::ALL.to_vec(),
            timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("url", &without_secrets(&self.url))
            .field("expiration", &self.expiration)
            .field("labels", &self.labels)
            .field("streams", &self.streams)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl RedisOptions {
    /// The parameters of the connection.
    pub(super) fn connection(&self) -> Result<ConnectionInfo, InvalidOption> {
        self.url.as_str().into_connection_info().map_err(|_| {
            let url = without_secrets(&self.url);
            let message =
                format!("url {url}: use redis://[user:password@]host[:port][/database], or rediss:// for TLS");
            InvalidOption::new("url", message)
        })
    }
}
