//! The destination of the Redis sink, and the checks that need no server.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use redis::{ConnectionInfo, IntoConnectionInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::{
    document::Labels,
    record::Stream,
    setting::{Expiration, Is, Text},
    sink::url::{RedisUrl, without_secrets},
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
    /// Checks what can be checked without a server.
    ///
    /// # Errors
    /// When the client cannot read the URL, or a label cannot be a key.
    pub fn check(&self) -> Result<(), RedisOptionsError> {
        self.connection()?;
        self.labels().map(drop)
    }

    /// The parameters of the connection.
    pub(super) fn connection(&self) -> Result<ConnectionInfo, RedisOptionsError> {
        let url = || RedisOptionsError::Url { url: without_secrets(&self.url) };
        self.url.as_str().into_connection_info().map_err(|_| url())
    }

    /// The labels for each document.
    pub(super) fn labels(&self) -> Result<Labels, RedisOptionsError> {
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Labels::new(labels).map_err(|error| RedisOptionsError::Label(error.to_string()))
    }
}

/// Options that cannot work with any server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedisOptionsError {
    /// The client cannot read the URL.
    #[error("url {url}: use redis://[user:password@]host[:port][/database], or rediss:// for TLS")]
    Url {
        /// The URL, without its secrets.
        url: String,
    },
    /// A label cannot be a key in a document.
    #[error("labels: {0}")]
    Label(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_named_without_its_password() {
        let with_url = |url: &str| RedisOptions { url: url.to_owned(), ..RedisOptions::default() };
        assert!(with_url("rediss://user:secret@host:6380/1").check().is_ok());
        let error = with_url("http://user:secret@host").check().expect_err("not Redis").to_string();
        assert!(error.contains("http://host") && !error.contains("secret"), "{error}");
        assert!(!format!("{:?}", with_url("redis://:secret@host")).contains("secret"));
    }
}
