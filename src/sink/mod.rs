//! The destinations of records: MongoDB, Redis, PostgreSQL, files, any HTTP endpoint. A sink reports the result for every
//! record.
//!
//! Uses `document`, `durable_fs`, `files`, `hs256`, `printable`, `record`, `secret`, `setting`, `tasks`, `tls_files`.

mod encoding;
pub mod file;
pub mod http;
pub mod mongodb;
mod options;
pub mod postgresql;
pub mod redis;
pub mod url;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

pub use self::options::{IndexState, IndexStatus, InvalidOption, SinkOptions};
use crate::record::{QueuedRecord, Stream, UnixMillis};

/// Records of one stream on their way to a sink; cloning shares them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The stream they belong to.
    pub stream: Stream,
    /// The records, in queue order.
    pub records: Arc<[QueuedRecord]>,
}

/// The result for one record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The sink has stored it durably; it can leave the queue.
    Delivered,
    /// The sink could not store it now; it stays in the queue and is retried without limit.
    Retry,
    /// The sink refused this record, for this reason, which may pass: it is retried, and becomes a dead letter only if it
    /// keeps failing while others are delivered.
    Failed(String),
    /// The sink will never store it, for this reason; it becomes a dead letter.
    Rejected(String),
}

/// Why a sink, or a whole batch, failed. The text names the address and the remedy, and holds no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// What happened.
    pub kind: SinkErrorKind,
    /// For people: what, where, and the remedy.
    pub message: String,
}

/// The causes that need different reactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SinkErrorKind {
    /// Not reachable, timed out, stepping down, restarting: back off and retry.
    Unavailable,
    /// It received the batch and did not answer in time: back off, and retry with a smaller one.
    Timeout,
    /// Credentials or rights are missing: retry and log a warning; no record is dropped because a password is wrong.
    Unauthorized,
    /// The sink answered that it is full (disk, memory): back off and retry.
    Full,
    /// The destination cannot keep records correctly (a view, a collection that would duplicate them): nothing is sent
    /// until someone has changed it.
    Unsuitable,
    /// An error that is not about availability and names no record: the batch is bisected.
    Unnamed,
}

impl SinkErrorKind {
    /// The name of the cause in JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Full => "full",
            Self::Unsuitable => "unsuitable",
            Self::Unnamed => "unnamed",
        }
    }
}

/// The result of one batch: an outcome per record, in the batch's order, and why some were not delivered.
#[derive(Debug)]
pub struct BatchOutcome {
    /// One outcome per record of the batch.
    pub records: Vec<Outcome>,
    /// The reason of the `Retry`s, if there are any.
    pub error: Option<SinkError>,
}

/// A place that records are delivered to.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// The type of the sink, as its options call it: [`SinkOptions::KIND`].
    fn kind(&self) -> &'static str;

    /// The address for people; without secrets.
    fn address(&self) -> String;

    /// Called before the first batch, and repeated until it succeeds: reaches the server, creates indexes. The warnings are
    /// logged once (for example a refused TTL index); delivery continues.
    ///
    /// # Errors
    /// When the sink cannot be reached or used yet.
    async fn initialize(&self) -> Result<Vec<String>, SinkError>;

    /// Checks what [`initialize`](Self::initialize) set up, and creates again what is missing: every few minutes, after an
    /// outage, and when the sink [doubts it](Self::doubts_setup). Runs in parallel with deliveries and never delays them.
    /// Only warnings that the call before did not return are logged.
    ///
    /// # Errors
    /// When it cannot check now; with [`SinkErrorKind::Unsuitable`] deliveries stop until `initialize` succeeds again.
    async fn check_setup(&self) -> Result<Vec<String>, SinkError> {
        Ok(Vec::new())
    }

    /// True if the answers or the identity of the server suggest that what was set up may be missing; called often, cheap.
    fn doubts_setup(&self) -> bool {
        false
    }

    /// Delivers a batch. Returns only when each record's outcome is known and, where Delivered, durable.
    ///
    /// It may be dropped before it returns (a timeout, the end of the last flush); the batch is then redelivered.
    async fn send_batch(&self, batch: Batch) -> BatchOutcome;

    /// Until when the sink wants no records, because the server said so. The worker sends none before, whatever its own
    /// pauses are.
    fn not_before(&self) -> Option<Instant> {
        None
    }

    /// The minimum number of a stream's records that it recognises when they are redelivered, counted back from the last
    /// one. `None`: all, since the `_id` is a key there. No more than these are in flight, or acknowledged and not yet
    /// flushed, so that a crash causes no second document.
    fn recognizes(&self) -> Option<u64> {
        None
    }

    /// All records received since then may be redelivered, not only as many as it recognises. A sink without a key on the
    /// `_id` reads what it delivered since then, in place of what an earlier call read; `UnixMillis::MAX` if none may be
    /// redelivered any more. Called between batches.
    ///
    /// # Errors
    /// When it cannot read now; the call is repeated then.
    async fn load_delivered(&self, since: UnixMillis) -> Result<(), SinkError> {
        let _ = since;
        Ok(())
    }

    /// Flushes and closes; called once, after the last batch.
    async fn close(&self) {}
}
