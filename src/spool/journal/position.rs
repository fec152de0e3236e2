//! Where a journal goes on: in which segment, at which offset, with which sequence numbers.

use super::front::Ending;
use crate::record::PerStream;

/// Sequence numbers are passed over in multiples of this where a segment that may hold the last ones cannot be seen, or was not: it
/// may come back.
pub(crate) const UNSEEN: u64 = 1 << 32;
/// The sequence number that a stream goes on with in this segment: beyond all that any earlier one can hold. None holds as many as
/// are passed over, and each has two such parts of the numbers for itself.
pub(crate) const fn beyond_unseen(next: u64, segment: u64) -> u64 {
    2 * segment * UNSEEN + next % UNSEEN
}

/// Where the next group goes, and what the segments before it held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The segment that is written to; none before the first group after a start or a failure.
    pub(super) active: Option<ActivePosition>,
    /// The number that the next segment gets.
    pub(super) next_segment: u64,
    /// The sequence numbers that the streams' next records get.
    pub(super) next: PerStream<u64>,
    /// How the segment before the next new one ended.
    pub(super) ended: Option<Ending>,
}

/// The segment that is written to, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ActivePosition {
    pub(super) segment: u64,
    pub(super) end: u64,
    pub(super) records: u64,
}

impl Position {
    /// Where a journal goes on: always in a new segment.
    pub(crate) const fn new(next_segment: u64, next: PerStream<u64>, ended: Option<Ending>) -> Self {
        Self { active: None, next_segment, next, ended }
    }

    /// The next group begins a new segment.
    pub(super) fn leave_active(&mut self) {
        if let Some(ActivePosition { segment, end, records }) = self.active.take() {
            self.ended = Some(Ending { segment, len: end, records, next: self.next });
        }
    }
}
