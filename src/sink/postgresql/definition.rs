//! What the configuration knows of this type of sink.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{PostgresqlOptions, PostgresqlSink, url::HARMLESS};
use crate::{
    document::Encoder,
    record::Stream,
    sink::{IndexStatus, InvalidOption, Sink, SinkOptions, url::redacted},
};

#[async_trait]
impl SinkOptions for PostgresqlOptions {
    const KIND: &'static str = "postgresql";
    const EXAMPLE: &'static str = "warehouse";
    const REQUIRED: Option<(&'static str, &'static str)> = Some(("url", "missing: expected postgresql://…"));
    const FILES: &'static [(&'static str, &'static str)] = &[("url_file", "url")];

    fn set_common(&mut self, labels: BTreeMap<String, String>, streams: Vec<Stream>, timeout: Duration) {
        (self.labels, self.streams, self.timeout) = (labels, streams, timeout);
    }

    fn check(&self) -> Result<(), InvalidOption> {
        self.target().map(drop)
    }

    fn address(&self) -> String {
        self.shown_address()
    }

    fn redacted(&self) -> Vec<(&'static str, String)> {
        vec![("url", redacted(&self.url, &HARMLESS))]
    }

    fn build(&self, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, InvalidOption> {
        Ok(Arc::new(PostgresqlSink::new(self.clone(), Arc::clone(encoder))?))
    }

    async fn indexes(&self, encoder: &Arc<Encoder>) -> Result<Vec<IndexStatus>, String> {
        let sink = PostgresqlSink::new(self.clone(), Arc::clone(encoder)).map_err(|error| error.to_string())?;
        sink.compare_indexes().await.map_err(|error| error.to_string())
    }
}
