//! Dispositions of records, and totals of each: counted in the journal's fronts, in the queue and in the status alike.
//!
//! Totals count records since the spool was created, and outlast the process. [`ByteTotals`] count since the process
//! started.

use std::{collections::BTreeMap, fmt};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Why records left a queue without being delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The spool was full and `when_full: drop_oldest` made space.
    Oldest,
    /// The spool was full and `when_full: drop_newest` did not accept them.
    Newest,
    /// They were older than `max_age`.
    Expired,
    /// Someone purged the queue.
    Purged,
    /// The medium damaged or lost them.
    Damaged,
}

impl DropReason {
    /// All reasons, in the order in which they are counted.
    pub const ALL: [Self; 5] = [Self::Oldest, Self::Newest, Self::Expired, Self::Purged, Self::Damaged];

    /// The reason's name, as JSON and metrics show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
            Self::Expired => "expired",
            Self::Purged => "purged",
            Self::Damaged => "damaged",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why records are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The sink stored them.
    Delivered,
    /// They are dead letters now.
    DeadLettered,
    /// They were dropped.
    Dropped(DropReason),
}

impl Disposition {
    /// Adds records, or their bytes, to the sum of this disposition. A reason is not listed before something was
    /// dropped for it.
    fn add(self, amount: u64, delivered: &mut u64, dead_lettered: &mut u64, dropped: &mut BTreeMap<DropReason, u64>) {
        match self {
            _ if amount == 0 => {}
            Self::Delivered => *delivered += amount,
            Self::DeadLettered => *dead_lettered += amount,
            Self::Dropped(reason) => *dropped.entry(reason).or_default() += amount,
        }
    }
}

/// Records counted since the spool was created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Totals {
    /// Acknowledged by the sink.
    pub delivered: u64,
    /// Dead-lettered.
    pub dead_lettered: u64,
    /// Dropped, by reason; absent means none.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Totals {
    /// Counts records by disposition.
    pub(crate) fn count(&mut self, disposition: Disposition, records: u64) {
        disposition.add(records, &mut self.delivered, &mut self.dead_lettered, &mut self.dropped);
    }

    /// Corrects the number of damaged records from `before` to `now`.
    pub(crate) fn recount_damaged(&mut self, before: u64, now: u64) {
        let damaged = self.dropped.entry(DropReason::Damaged).or_default();
        *damaged = (*damaged + now).saturating_sub(before);
        self.dropped.retain(|_, records| *records > 0);
    }

    /// Raises each count to at least the other's.
    pub(crate) fn rise_to(&mut self, other: &Self) {
        self.delivered = self.delivered.max(other.delivered);
        self.dead_lettered = self.dead_lettered.max(other.dead_lettered);
        for (reason, records) in &other.dropped {
            let dropped = self.dropped.entry(*reason).or_default();
            *dropped = (*dropped).max(*records);
        }
    }
}

/// Bytes of records as they were received, since the process started. Records that leave a queue count with their share
/// of their blocks; with the last record of a block all of its bytes are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteTotals {
    /// Received for the sink: appended, or dropped as the newest.
    pub appended: u64,
    /// Acknowledged by the sink.
    pub delivered: u64,
    /// Dead-lettered.
    pub dead_lettered: u64,
    /// Dropped, by reason; absent means none.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl ByteTotals {
    /// Counts bytes that left the queue.
    pub(crate) fn leave(&mut self, disposition: Disposition, bytes: u64) {
        disposition.add(bytes, &mut self.delivered, &mut self.dead_lettered, &mut self.dropped);
    }
}
