//! What the flusher needs of a spool: the [`Queue`] trait and what passes through it.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::record::{Stream, UnixMillis};

/// A record in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedRecord {
    /// Its place in the stream's order; never used twice.
    pub ordinal: u64,
    /// When it was received, by the wall clock.
    pub received_at: UnixMillis,
    /// The record as it came.
    pub bytes: Bytes,
}

/// Records handed out for delivery: not handed out again until given back (or the process restarts).
#[derive(Debug)]
pub struct Lease {
    /// The queue they come from.
    pub stream: Stream,
    /// In queue order; ordinals may skip where records were dropped or lost.
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

/// What the flusher needs of a spool: take records in order, give them back, remove what was acknowledged.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Hands out the next records of a stream, in order. Blocking (reads and decompresses): call it off the async threads.
    ///
    /// # Errors
    /// When the journal cannot be read.
    fn lease(&self, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError>;

    /// Puts records back at their place in the order; the next lease hands them out again. Ordinals that are not handed out
    /// are passed over.
    fn give_back(&self, stream: Stream, ordinals: &[Range<u64>]);

    /// Removes delivered records. The note becomes durable with the journal's next sync; a crash before it redelivers.
    ///
    /// # Errors
    /// When the note could not be taken.
    fn acknowledge(&self, stream: Stream, ordinals: &[Range<u64>]) -> Result<(), QueueError>;

    /// Sets rejected records aside, durably, then removes them from the queue.
    ///
    /// # Errors
    /// When the dead letters are full or cannot be written; the records then stay leased.
    async fn set_aside(&self, stream: Stream, rejections: Vec<Rejection>) -> Result<(), QueueError>;

    /// Returns when `stream` has records that are not handed out (at once if it has some).
    async fn ready(&self, stream: Stream);

    /// Records and bytes of `stream` that are not handed out.
    fn waiting(&self, stream: Stream) -> (u64, u64);

    /// Records of `stream` that a crash now would hand out again although they are done: the note is not durable yet.
    fn unnoted(&self, stream: Stream) -> u64;
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
