//! What the flusher needs of a spool: the [`Queue`] trait and its types.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::record::{Stream, UnixMillis};

/// A record in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedRecord {
    /// Its sequence number, the place in its stream's order; never used twice.
    pub seq: u64,
    /// When it was received, by the wall clock.
    pub received_at: UnixMillis,
    /// The record as it came.
    pub bytes: Bytes,
}

/// Records handed out for delivery: not handed out again until released (or the process restarts).
#[derive(Debug)]
pub struct Lease {
    /// The queue they come from.
    pub stream: Stream,
    /// In queue order; sequence numbers may skip where records were dropped or lost.
    pub records: Vec<QueuedRecord>,
}

/// At most this much in one lease; at least one record is handed out if there is any.
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
    /// Hands out the next records of a stream, in order. Blocking (reads and decompresses): call it off the async threads.
    ///
    /// # Errors
    /// When the journal cannot be read.
    fn lease(&self, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError>;

    /// Puts leased records back at their place in the order; the next lease hands them out again. Sequence numbers that
    /// are not leased are ignored.
    fn release(&self, stream: Stream, seqs: &[Range<u64>]);

    /// Removes delivered records. This becomes durable when the queue is flushed; a crash before it redelivers them.
    /// Blocking: call it off the async threads.
    ///
    /// # Errors
    /// When it could not be recorded.
    fn acknowledge(&self, stream: Stream, seqs: &[Range<u64>]) -> Result<(), QueueError>;

    /// Writes rejected records to the dead letters, durably, then removes them from the queue.
    /// Blocking (syncs): call it off the async threads.
    ///
    /// # Errors
    /// When the dead letters are full or cannot be written; the records then stay leased.
    fn dead_letter(&self, stream: Stream, rejections: Vec<Rejection>) -> Result<(), QueueError>;

    /// Returns when `stream` has records that are not leased (at once if it has some).
    async fn ready(&self, stream: Stream);

    /// Records and bytes of `stream` that are not leased.
    fn waiting(&self, stream: Stream) -> (u64, u64);

    /// Records of `stream` acknowledged that a crash now would hand out again: the queue was not flushed since.
    fn unflushed(&self, stream: Stream) -> u64;
}

/// Why a queue operation failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The journal could not be read or written; the operation may be tried again.
    #[error("spool {path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the operating system said.
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
        "dead letters of sink {sink} are full ({letters} in {bytes} bytes): look with `livekit-spool dead list {sink}`, \
         then retry or drop some, or raise spool.dead_letters.max_bytes"
    )]
    DeadLettersFull {
        /// The sink.
        sink: String,
        /// How many there are.
        letters: u64,
        /// Their size.
        bytes: u64,
    },
}
