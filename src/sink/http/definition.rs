//! What the configuration knows of this type of sink.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{HttpOptions, HttpSink, endpoint::Endpoint, tls};
use crate::{
    document::Encoder,
    record::Stream,
    sink::{
        InvalidOption, Sink, SinkOptions,
        url::{redacted, without_secrets},
    },
};

#[async_trait]
impl SinkOptions for HttpOptions {
    const KIND: &'static str = "http";
    const EXAMPLE: &'static str = "collector";
    const REQUIRED: Option<(&'static str, &'static str)> = Some(("url", "missing: expected http://… or https://…"));
    const FILES: &'static [(&'static str, &'static str)] = &[
        ("url_file", "url"),
        ("token_file", "token"),
        ("password_file", "password"),
        ("api_secret_file", "api_secret"),
    ];

    fn set_common(&mut self, labels: BTreeMap<String, String>, streams: Vec<Stream>, timeout: Duration) {
        (self.labels, self.streams, self.timeout) = (labels, streams, timeout);
    }

    /// The URL, the headers, the TLS files, and what belongs together.
    fn check(&self) -> Result<(), InvalidOption> {
        let endpoint = Endpoint::of(self)?;
        if endpoint.is_tls() {
            tls::client(&self.tls.clone().unwrap_or_default())?;
        }
        Ok(())
    }

    fn address(&self) -> String {
        Endpoint::of(self).map_or_else(|_| without_secrets(&self.url), |endpoint| endpoint.address)
    }

    /// Headers, token, password and secret are never shown.
    fn redacted(&self) -> Vec<(&'static str, String)> {
        vec![("url", redacted(&self.url, &[]))]
    }

    fn build(&self, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, InvalidOption> {
        Ok(Arc::new(HttpSink::new(self, Arc::clone(encoder))?))
    }
}
