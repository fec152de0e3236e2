//! The queue: which records are still to be delivered, and where they lie in the journal.
//!
//! ```text
//! tree events, stats, node_rooms   first sequence number (u64, big-endian) → Entry
//! tree segments                    segment (u64, big-endian)               → Progress
//! tree state                       "totals" → Totals of each stream, "next" → sequence numbers, "clock" → Times
//! ```
//!
//! **Format.** An entry stands for records with consecutive sequence numbers that lie in one stretch of a segment; present means
//! still to be delivered. Values are bincode, in its standard configuration.
//!
//! **Invariants.**
//! - What changes together is one [`Change`], and is there as a whole or not at all after a crash.
//! - For each segment `entries + done == entered`. Where that does not hold, the segment is walked.
//! - The queue is believed where the journal agrees, and is never needed: [`memory`] serves in its place, filled from the journal.
//!
//! [`sled`] is the only file that names sled. Used by [`store`](super::store) and the tools; nothing here touches the journal.

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

    /// Its share for some of `all` records; the whole for all of them.
    pub(crate) fn share(self, some: u64, all: u64) -> Self {
        let part = |amount: u64| (u128::from(amount) * u128::from(some) / u128::from(all.max(1))) as u64;
        Self { blocks: part(self.blocks), bytes: part(self.bytes), raw: part(self.raw) }
    }
}

/// Records with consecutive sequence numbers, and where they lie. The first number is its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Entry {
    pub(crate) segment: u64,
    /// Where the first block of the stretch begins; it may hold records that are no longer the entry's.
    pub(crate) offset: u64,
    /// Bytes from there to the last block's end; blocks of other streams may lie between.
    pub(crate) len: u64,
    /// How many records.
    pub(crate) records: u64,
    /// When the first block was received.
    pub(crate) received_at: UnixMillis,
    /// How much later the last one was, in milliseconds.
    pub(crate) span: u32,
    /// What the records' blocks take.
    pub(crate) size: Size,
}

impl Entry {
    /// Where the stretch ends.
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

/// What was done of a segment. All of it counts only what a change has removed or entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Progress {
    /// The checksum of the segment's front, if that was ever read: a segment with another one is of another history.
    pub(crate) front: Option<u32>,
    /// Blocks before this offset are entered.
    pub(crate) entered_to: u64,
    /// Records that were entered, or found lost.
    pub(crate) entered: u64,
    /// Records of these that are done.
    pub(crate) done: u64,
    /// Records that are counted as damaged, by stream. A segment of which this alone is known was gone at a start.
    pub(crate) lost: PerStream<u64>,
}

impl Progress {
    /// Of a segment that is walked from its beginning: what is known of it whatever that finds.
    pub(crate) fn unwalked(self) -> Self {
        Self { front: self.front, lost: self.lost, ..Self::default() }
    }

    /// Whether records are counted as damaged.
    pub(crate) fn counts_lost(&self) -> bool {
        self.lost.iter().any(|&records| records > 0)
    }

    /// Records of a stream are done.
    pub(crate) fn finish(&mut self, stream: Stream, disposition: Disposition, records: u64) {
        self.done += records;
        if disposition == Disposition::Dropped(DropReason::Damaged) {
            self.lost[stream as usize] += records;
        }
    }
}

/// What a queue holds besides its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) segments: BTreeMap<u64, Progress>,
    pub(crate) totals: PerStream<Totals>,
    /// Sequence numbers before these were used.
    pub(crate) next: PerStream<u64>,
    /// The time, as it was noted last.
    pub(crate) clock: Option<Times>,
}

impl Recorded {
    /// Makes a change, but for entries.
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

/// What changes in a queue, as a whole or not at all. `None` removes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) entries: Vec<(Stream, u64, Option<Entry>)>,
    pub(crate) segments: Vec<(u64, Option<Progress>)>,
    pub(crate) totals: Option<PerStream<Totals>>,
    pub(crate) next: Option<PerStream<u64>>,
    pub(crate) clock: Option<Times>,
}

/// A queue failed: it cannot be relied on any more.
#[derive(Debug, thiserror::Error)]
#[error("queue: {0}")]
pub(crate) struct QueueFailed(pub(crate) String);

/// Where a queue is kept. One caller at a time, but for [`flush`](Self::flush).
pub(crate) trait QueueStore: Send + Sync + fmt::Debug + 'static {
    /// All that it holds besides its entries.
    fn recorded(&self) -> Result<Recorded, QueueFailed>;
    /// The first entry that holds `seq` or one behind it.
    fn entry_from(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed>;
    /// The last entry that holds one before `seq`.
    fn entry_before(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed>;
    /// Makes a change.
    fn apply(&self, change: &Change) -> Result<(), QueueFailed>;
    /// Makes all changes so far outlast the process, and a power cut as far as the medium does. Fails where that takes too long.
    fn flush(&self) -> Result<(), QueueFailed>;
    /// Whether changes outlast the process at all.
    fn is_durable(&self) -> bool;
    /// Lets go of a queue that failed without dropping it, which may hang.
    fn leak(self: Arc<Self>) {
        std::mem::forget(self);
    }
}

/// Where queues are opened.
pub(crate) trait Queues: Send + Sync + fmt::Debug + 'static {
    /// Why no more are opened in this process, if it has leaked so many that failed.
    fn spent(&self) -> Option<QueueFailed> {
        None
    }
    /// Opens the queue in a directory, or makes one there.
    fn open(&self, directory: &Path) -> Result<Arc<dyn QueueStore>, QueueFailed>;
}
