//! Where records end up: MongoDB, Redis, files. A sink says of every record what became of it.
//!
//! Uses `document`, `durable_fs`, `files`, `record`, `setting`.

mod encoding;
pub mod file;
pub mod mongodb;
pub mod redis;
pub mod url;

use std::sync::Arc;

use async_trait::async_trait;

use crate::record::{QueuedRecord, Stream, UnixMillis};

/// Records of one stream on their way to a sink; cloning shares them.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The stream they belong to.
    pub stream: Stream,
    /// The records, in queue order.
    pub records: Arc<[QueuedRecord]>,
}

/// What became of one record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The sink has it durably; it may leave the queue.
    Delivered,
    /// It could not be taken now; it stays and is tried again, without end.
    Retry,
    /// The sink refused this one by name, for this reason, which may pass: it is tried again, and becomes a dead letter only
    /// where it goes on failing while others are delivered.
    Failed(String),
    /// The sink will never take it, for this reason; it becomes a dead letter.
    Rejected(String),
}

/// Why a sink, or a whole batch, failed. The text names the address and the remedy, and holds no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// What happened.
    pub kind: SinkErrorKind,
    /// For people: what, where, and what to do about it.
    pub message: String,
}

/// The causes that call for different answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SinkErrorKind {
    /// Not reachable, timed out, stepping down, restarting: back off and retry.
    Unavailable,
    /// It took the batch and did not answer in time: back off, and come again with a smaller one.
    Timeout,
    /// Credentials or rights are missing: retry, loudly; nothing is thrown away because a password is wrong.
    Unauthorized,
    /// The sink answered that it is full (disk, memory): back off and retry.
    Full,
    /// What is there cannot keep records as it should (a view, a collection that would double them): nothing is sent
    /// until somebody has changed it.
    Unsuitable,
    /// An error that is not about availability and names no record: the batch is bisected.
    Unnamed,
}

impl SinkErrorKind {
    /// The cause's name, as JSON and metrics have it.
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

/// The answer to one batch: an outcome per record, in the batch's order, and why some were not delivered.
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
    /// The sink's type, as the config writes it: `mongodb`, `redis`, `file`.
    fn kind(&self) -> &'static str;

    /// Where it delivers to, for people; without secrets.
    fn address(&self) -> String;

    /// Called once before the first batch, again until it succeeds: reaches the server, makes indexes.
    /// The warnings are logged once (a TTL index refused, say); they stop nothing.
    ///
    /// # Errors
    /// When the sink cannot be reached or used yet.
    async fn initialize(&self) -> Result<Vec<String>, SinkError>;

    /// Checks what [`initialize`](Self::initialize) set up, and makes again what is gone: every few minutes, after an outage,
    /// and where the sink [doubts it](Self::doubts_setup). Runs beside the deliveries, and holds none of them up. Of the
    /// warnings those are logged that the call before did not give.
    ///
    /// # Errors
    /// When it cannot look now; with [`SinkErrorKind::Unsuitable`] deliveries stop until `initialize` succeeds again.
    async fn check_setup(&self) -> Result<Vec<String>, SinkError> {
        Ok(Vec::new())
    }

    /// True where the server's answers or identity say that what was set up may be gone; asked often, cheap.
    fn doubts_setup(&self) -> bool {
        false
    }

    /// Delivers a batch. Returns only when each record's outcome is known and, where Delivered, durable.
    ///
    /// It may be dropped half-way (a timeout, the end of the last flush); the batch then comes again.
    async fn send_batch(&self, batch: Batch) -> BatchOutcome;

    /// How many records of a stream it recognises at least when they come again, counted from the last one back; `None`: all,
    /// since the `_id` is a key there. No more than these are in flight or acknowledged and not yet flushed, so that a crash
    /// makes no second document.
    fn recognizes(&self) -> Option<u64> {
        None
    }

    /// Records received since then may come again, all of them, not only as many as it recognises. A sink that has no key
    /// on the `_id` takes up what it delivered since, and forgets what an earlier call took up; `UnixMillis::MAX` where none
    /// may come again any more. Called between batches.
    ///
    /// # Errors
    /// When it cannot look now; it is called again then.
    async fn look_back(&self, since: UnixMillis) -> Result<(), SinkError> {
        let _ = since;
        Ok(())
    }

    /// Flushes and closes; called once, after the last batch.
    async fn close(&self) {}
}
