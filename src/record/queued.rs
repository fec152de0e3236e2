//! A record to be delivered, as a queue leases it and a sink receives it.

use bytes::Bytes;

use super::UnixMillis;

/// A record in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedRecord {
    /// Its sequence number: its place in the stream's order, never used twice.
    pub seq: u64,
    /// When it was received, by the wall clock.
    pub received_at: UnixMillis,
    /// The record as it was received.
    pub bytes: Bytes,
}
