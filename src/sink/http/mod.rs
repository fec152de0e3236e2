//! The HTTP sink: batch → requests of limited size → an outcome per record.
//!
//! ```text
//! POST <url>    Content-Type: application/x-ndjson    Livekit-Spool-Stream: events    Idempotency-Key: "<hash of the ids>"
//! ```
//!
//! - Delivered means: the receiver answered 2xx. The status line is the acknowledgement; whether it is durable is the
//!   receiver's promise. A resend is recognised by the `_id` in each document.
//! - A status says what it means for all records of its request (see `answer`). A request that is refused for its content
//!   is bisected (see `delivery`): a record that is refused alone, twice, while its neighbours are accepted, is rejected. If
//!   none is accepted, the URL or the format may be wrong: nothing is rejected.
//! - `Retry-After` is obeyed, with all batches.
//! - Connections are made at the first contact, and reused (see `connection`). Redirections are followed on the same host
//!   only: no other host is to see records and credentials.
//! - `sign: livekit` sends LiveKit's webhooks instead of documents (see `webhook`).

mod answer;
mod body;
mod connection;
mod definition;
mod delivery;
mod endpoint;
mod headers;
mod options;
mod request;
mod sender;
mod tls;
mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use tokio::time::Instant;

pub use self::options::{HttpCompression, HttpFormat, HttpMethod, HttpOptions, HttpSignature, HttpTlsOptions};
use self::{delivery::Delivery, request::entries, sender::Sender};
use super::{
    Batch, BatchOutcome, InvalidOption, Sink, SinkError, SinkOptions,
    encoding::{panicked, run_blocking},
    options::labels,
};
use crate::document::{Encoder, Labels};

/// Delivers over HTTP.
#[derive(Debug)]
pub struct HttpSink {
    encoder: Arc<Encoder>,
    labels: Arc<Labels>,
    sender: Sender,
}

impl HttpSink {
    /// A sink that has not connected yet.
    ///
    /// # Errors
    /// When [`SinkOptions::check`](super::SinkOptions::check) finds a problem.
    pub fn new(options: &HttpOptions, encoder: Arc<Encoder>) -> Result<Self, InvalidOption> {
        Ok(Self { encoder, labels: Arc::new(labels(&options.labels)?), sender: Sender::new(options)? })
    }
}

#[async_trait]
impl Sink for HttpSink {
    fn kind(&self) -> &'static str {
        HttpOptions::KIND
    }

    fn address(&self) -> String {
        self.sender.endpoint.address.clone()
    }

    /// Connects, and shakes hands if it is TLS. No request is made: none is without consequences everywhere.
    async fn initialize(&self) -> Result<Vec<String>, SinkError> {
        if let Err((kind, text)) = self.sender.connect().await {
            return Err(SinkError { kind, message: format!("{}: {text}", self.address()) });
        }
        let mut warnings = Vec::new();
        if self.sender.endpoint.is_exposed() {
            let what = if self.sender.endpoint.headers.contains_key(AUTHORIZATION) { "credentials and " } else { "" };
            warnings.push(format!("{}: {what}records go over the network unencrypted: use https://", self.address()));
        }
        Ok(warnings)
    }

    fn not_before(&self) -> Option<Instant> {
        self.sender.not_before()
    }

    async fn send_batch(&self, batch: Batch) -> BatchOutcome {
        let mut delivery = Delivery::new(&self.sender, &batch);
        let mut next = 0;
        while next < batch.records.len() && delivery.goes_on() {
            let encoding = {
                let (batch, encoder, labels) = (batch.clone(), Arc::clone(&self.encoder), Arc::clone(&self.labels));
                let content = self.sender.content();
                let mut outcomes = std::mem::take(&mut delivery.outcomes);
                run_blocking(move |cancelled| {
                    let entries = entries(&batch, &mut next, (&encoder, content), &labels, &mut outcomes, cancelled);
                    (entries, next, outcomes)
                })
            };
            let entries;
            (entries, next, delivery.outcomes) = match encoding.await {
                Ok(encoded) => encoded,
                Err(panic) => return panicked(&batch, &self.sender.endpoint.address, &panic),
            };
            delivery.send(entries).await;
        }
        delivery.finish()
    }
}
