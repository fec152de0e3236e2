//! The queue: which records are still to be delivered, and where they are in the journal.
//!
//! ```text
//! tree events, stats, node_rooms   first sequence number (u64, big-endian) → Entry
//! tree segments                    segment (u64, big-endian)               → Progress
//! tree state                       "totals" → Totals of each stream, "next" → sequence numbers, "clock" → Times
//! ```
//!
//! **Format.** An entry represents records with consecutive sequence numbers in one extent of a segment; it is present
//! while they are still to be delivered. Values are bincode, in its standard configuration.
//!
//! **Invariants.**
//! - Changes that belong together are one [`Change`], which is there as a whole or not at all after a crash.
//! - For each segment `entries + done == entered`. A segment for which that is false is walked.
//! - The queue is trusted where the journal agrees, and can always be rebuilt: [`memory`] is used instead, filled from
//!   the journal.
//!
//! [`sled`] is the only file that names sled. Used by [`store`](super::store) and the tools; nothing here accesses the
//! journal.

use std::{collections::BTreeMap, fmt, ops::Range, path::Path, sync::Arc};

use bincode::{Decode, Encode};

use super::{
    expiry::Times,
    totals::{Disposition, DropReason, Totals},
};
use crate::record::{PerStream, Stream, UnixMillis};

pub(crate) mod buffered;
pub(crate) mod memory;
pub(crate) mod ranges;
pub(crate) mod sled;

/// Blocks and bytes of records that are still to be delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Size {
    pub(crate) blocks: u64,
    /// On disk, headers included.
    pub(crate) bytes: u64,
    /// Unpacked payloads.
    pub(crate) raw: u64,
}

impl Size {
    pub(crate) const fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.raw += other.raw;
    }

    pub(crate) const fn subtract(&mut self, other: Self) {
        self.blocks = self.blocks.saturating_sub(other.blocks);
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.raw = self.raw.saturating_sub(other.raw);
    }

    /// The share of some of `all` records; the whole for all of them.
    pub(crate) fn share(self, some: u64, all: u64) -> Self {
        let part = |amount: u64| (u128::from(amount) * u128::from(some) / u128::from(all.max(1))) as u64;
        Self { blocks: part(self.blocks), bytes: part(self.bytes), raw: part(self.raw) }
    }
}

/// Records with consecutive sequence numbers, and their place. The first number is the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Entry {
    pub(crate) segment: u64,
    /// Where the extent's first block begins; it may contain records that no longer belong to the entry.
    pub(crate) offset: u64,
    /// Bytes from there to the last block's end; blocks of other streams may be in between.
    pub(crate) len: u64,
    /// How many records.
    pub(crate) records: u64,
    /// When the first block was received.
    pub(crate) received_at: UnixMillis,
    /// How much later the last block was received, in milliseconds.
    pub(crate) span: u32,
    /// The size of the records' blocks.
    pub(crate) size: Size,
}

impl Entry {
    /// Where the extent ends.
    pub(crate) const fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// When the last block was received.
    pub(crate) const fn newest(&self) -> UnixMillis {
        self.received_at.saturating_add(self.span as i64)
    }

    /// The sequence numbers of an entry with this key.
    pub(crate) const fn seqs(&self, key: u64) -> Range<u64> {
        key..key.saturating_add(self.records)
    }
}

/// How much of a segment is entered and done. It counts only what a change removed or entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Progress {
    /// The checksum of the segment's front, if it was ever read: a segment with a different one has another history.
    pub(crate) front: Option<u32>,
    /// Blocks before this offset are entered.
    pub(crate) entered_to: u64,
    /// Records that were entered, or detected as lost.
    pub(crate) entered: u64,
    /// Records of these that are done.
    pub(crate) done: u64,
    /// Records that are counted as damaged, by stream. If nothing else is known of a segment, it was missing at a
    /// start.
    pub(crate) lost: PerStream<u64>,
}

impl Progress {
    /// For a segment that is walked from its beginning: what is known of it whatever the walk finds.
    pub(crate) fn unwalked(self) -> Self {
        Self { front: self.front, lost: self.lost, ..Self::default() }
    }

    /// True if records are counted as damaged.
    pub(crate) fn counts_lost(&self) -> bool {
        self.lost.iter().any(|&records| records > 0)
    }

    /// Counts records of a stream as done.
    pub(crate) fn finish(&mut self, stream: Stream, disposition: Disposition, records: u64) {
        self.done += records;
        if disposition == Disposition::Dropped(DropReason::Damaged) {
            self.lost[stream as usize] += records;
        }
    }
}

/// The contents of a queue besides its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) segments: BTreeMap<u64, Progress>,
    pub(crate) totals: PerStream<Totals>,
    /// Sequence numbers before these were used.
    pub(crate) next: PerStream<u64>,
    /// The time that was last recorded.
    pub(crate) clock: Option<Times>,
}

impl Recorded {
    /// Applies a change, except its entries.
    pub(crate) fn change(&mut self, change: &Change) {
        for (segment, progress) in &change.segments {
            match progress {
                Some(progress) => _ = self.segments.insert(*segment, *progress),
                None => _ = self.segments.remove(segment),
            }
        }
        if let Some(totals) = &change.totals {
            self.totals.clone_from(totals);
        }
        if let Some(next) = change.next {
            self.next = next;
        }
        if change.clock.is_some() {
            self.clock.clone_from(&change.clock);
        }
    }
}

/// A change of a queue, applied as a whole or not at all. `None` removes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) entries: Vec<(Stream, u64, Option<Entry>)>,
    pub(crate) segments: Vec<(u64, Option<Progress>)>,
    pub(crate) totals: Option<PerStream<Totals>>,
    pub(crate) next: Option<PerStream<u64>>,
    pub(crate) clock: Option<Times>,
}

/// A queue failed: it cannot be trusted any more.
#[derive(Debug, thiserror::Error)]
#[error("queue: {0}")]
pub(crate) struct QueueFailed(pub(crate) String);

/// A place for a queue. One caller at a time, except for [`flush`](Self::flush).
pub(crate) trait QueueStore: Send + Sync + fmt::Debug + 'static {
    /// Its contents besides its entries.
    fn recorded(&self) -> Result<Recorded, QueueFailed>;
    /// The first entry that holds `seq` or a later one.
    fn entry_from(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed>;
    /// The last entry that holds one before `seq`.
    fn entry_before(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed>;
    /// Applies a change.
    fn apply(&self, change: &Change) -> Result<(), QueueFailed>;
    /// Makes all changes so far outlast the process, and a power cut as far as the medium does. Fails if that takes too
    /// long.
    fn flush(&self) -> Result<(), QueueFailed>;
    /// True if changes outlast the process.
    fn is_durable(&self) -> bool;
    /// Releases a queue that failed without dropping it, which may hang.
    fn leak(self: Arc<Self>) {
        std::mem::forget(self);
    }
}

/// Opens queues.
pub(crate) trait Queues: Send + Sync + fmt::Debug + 'static {
    /// Why no more queues are opened in this process, if it has leaked too many that failed.
    fn spent(&self) -> Option<QueueFailed> {
        None
    }
    /// Opens the queue in a directory, or creates one there.
    fn open(&self, directory: &Path) -> Result<Arc<dyn QueueStore>, QueueFailed>;
}
