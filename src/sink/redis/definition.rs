//! What the configuration knows of this type of sink.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{RedisOptions, RedisSink, indexes};
use crate::{
    document::Encoder,
    record::Stream,
    sink::{
        IndexStatus, InvalidOption, Sink, SinkOptions,
        url::{redacted, without_secrets},
    },
};

#[async_trait]
impl SinkOptions for RedisOptions {
    const KIND: &'static str = "redis";
    const EXAMPLE: &'static str = "cache";
    const REQUIRED: Option<(&'static str, &'static str)> =
        Some(("url", "missing: expected redis://… or rediss://… (or LiveKit's redis: section)"));
    const FILES: &'static [(&'static str, &'static str)] = &[("url_file", "url")];

    fn set_common(&mut self, labels: BTreeMap<String, String>, streams: Vec<Stream>, timeout: Duration) {
        (self.labels, self.streams, self.timeout) = (labels, streams, timeout);
    }

    fn check(&self) -> Result<(), InvalidOption> {
        self.connection().map(drop)
    }

    fn address(&self) -> String {
        without_secrets(&self.url)
    }

    fn redacted(&self) -> Vec<(&'static str, String)> {
        vec![("url", redacted(&self.url, &["protocol"]))]
    }

    fn build(&self, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, InvalidOption> {
        Ok(Arc::new(RedisSink::new(self.clone(), Arc::clone(encoder))?))
    }

    async fn indexes(&self, _encoder: &Arc<Encoder>) -> Result<Vec<IndexStatus>, String> {
        indexes::compare(self).await
    }
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
