//! Where a journal continues: in which segment, at which offset, with which sequence numbers.

use super::front::Ending;
use crate::record::PerStream;

/// Sequence numbers are skipped in multiples of this if a segment that may hold the last ones cannot be found or read:
/// it may come back.
pub(crate) const UNSEEN: u64 = 1 << 32;
/// The sequence number with which a stream continues in this segment: beyond all that any earlier segment can hold. No
/// segment holds as many as are skipped, and each has two such parts of the numbers to itself.
pub(crate) const fn beyond_unseen(next: u64, segment: u64) -> u64 {
    2 * segment * UNSEEN + next % UNSEEN
}

/// The place of the next group, and what the segments before it held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The segment that is written to; none before the first group after a start or a failure.
    pub(super) active: Option<ActivePosition>,
    /// The number of the next segment.
    pub(super) next_segment: u64,
    /// The next sequence number of each stream.
    pub(super) next: PerStream<u64>,
    /// How the last segment before the next new one ended.
    pub(super) ended: Option<Ending>,
}

/// The segment that is written to, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ActivePosition {
    pub(super) segment: u64,
    pub(super) end: u64,
    pub(super) records: u64,
}

impl Position {
    /// A position at which a journal continues: always in a new segment.
    pub(crate) const fn new(next_segment: u64, next: PerStream<u64>, ended: Option<Ending>) -> Self {
        Self { active: None, next_segment, next, ended }
    }

    /// Makes the next group begin a new segment.
    pub(super) fn leave_active(&mut self) {
        if let Some(ActivePosition { segment, end, records }) = self.active.take() {
            self.ended = Some(Ending { segment, len: end, records, next: self.next });
        }
    }
}
