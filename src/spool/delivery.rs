//! What the flusher needs of a spool: the [`Queue`] trait and its types.

use std::ops::Range;

use async_trait::async_trait;

use crate::record::{QueuedRecord, Stream, UnixMillis};

/// Records leased for delivery: not leased again until released (or the process restarts).
#[derive(Debug)]
pub struct Lease {
    /// The queue they come from.
    pub stream: Stream,
    /// In queue order; sequence numbers may have gaps where records were dropped or lost.
    pub records: Vec<QueuedRecord>,
}

/// The limits of one lease; at least one record is leased if there is any.
#[derive(Debug, Clone, Copy)]
pub struct LeaseLimit {
    /// Records at most.
    pub records: usize,
    /// Bytes of records at most.
    pub bytes: usize,
}

/// What a sink rejected for good.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The record.
    pub record: QueuedRecord,
    /// The sink's reason.
    pub reason: String,
    /// How often delivery was tried.
    pub attempts: u32,
    /// The first attempt, by the wall clock.
    pub first_attempt_at: UnixMillis,
}

/// What the flusher needs of a spool: lease records in order, release them, remove what was acknowledged.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Leases the next records of a stream, in order. Blocking (reads and decompresses): call it off the async threads.
    ///
    /// # Errors
    /// When the journal cannot be read.
    fn lease(&self, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError>;

    /// Releases records at their place in the order; the next lease takes them again. Ignores records that are not
    /// leased.
    fn release(&self, stream: Stream, seqs: &[Range<u64>]);

    /// Removes delivered records. After a crash before the next flush of the queue, about once a second, they are
    /// redelivered.
    ///
    /// # Errors
    /// When they could not be removed.
    fn acknowledge(&self, stream: Stream, seqs: &[Range<u64>]) -> Result<(), QueueError>;

    /// Makes rejected records dead letters, durably, then removes them from the queue.
    /// Blocking (syncs): call it off the async threads.
    ///
    /// # Errors
    /// When the dead letters are full or cannot be written; the records then stay leased.
    fn dead_letter(&self, stream: Stream, rejections: Vec<Rejection>) -> Result<(), QueueError>;

    /// Returns when `stream` has records that are not leased (at once if it has some).
    async fn ready(&self, stream: Stream);

    /// Records and bytes of `stream` that are not leased.
    fn waiting(&self, stream: Stream) -> (u64, u64);

    /// Records of `stream` that are done and that a crash now would bring again: the queue was not flushed since.
    fn unflushed(&self, stream: Stream) -> u64;

    /// The wall-clock time of receipt from which records may be redelivered although they were delivered, if the queue
    /// was rebuilt from the journal. `None`: only those of [`Queue::unflushed`] may. The value may change while the
    /// queue is open, always before the first such record is leased. It is `None` again once everything is done that
    /// the journal held when the queue was rebuilt.
    fn redelivers_since(&self) -> Option<UnixMillis>;
}

/// Why a queue operation failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The journal could not be read or written; the operation can be retried.
    #[error("spool {path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The backlog is encrypted with a key that is not among the configured ones. Nothing is lost.
    #[error("{path} is encrypted with key {key}, which is not among the configured keys: add it to spool.encryption")]
    NoKey {
        /// The segment.
        path: String,
        /// The key's id.
        key: String,
    },
    /// The dead letters reached their quota.
    #[error(
        "dead letters of sink {sink} are full ({dead_letters} in {bytes} bytes): list them with `livekit-spool dead list \
         {sink}`, then retry or drop some, or raise spool.dead_letters.max_bytes"
    )]
    DeadLettersFull {
        /// The sink.
        sink: String,
        /// How many there are.
        dead_letters: u64,
        /// Their size.
        bytes: u64,
    },
}
