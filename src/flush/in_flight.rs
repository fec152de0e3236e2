//! Batches in flight: records that are tried together, their number of attempts, and when they are due.

use std::{ops::Range, sync::Arc};

use tokio::time::Instant;

use super::suspicion::Suspicion;
use crate::{
    record::{QueuedRecord, Stream, UnixMillis},
    sink::Batch,
    spool::Lease,
};

/// Leased records that are tried together.
#[derive(Debug, Clone)]
pub(super) struct InFlightBatch {
    pub(super) stream: Stream,
    pub(super) records: Arc<[QueuedRecord]>,
    /// Attempts that failed so far.
    pub(super) attempts: u32,
    pub(super) first_attempt_at: UnixMillis,
    /// The sink failed on these records without being unavailable: they may be at fault, and others may overtake them.
    pub(super) suspect: bool,
    /// They failed by name: the evidence against them.
    pub(super) suspicion: Option<Suspicion>,
    /// When they were last tried alone.
    pub(super) tried_alone: Option<Instant>,
    /// Others were delivered while these were not.
    pub(super) others_delivered: bool,
    /// How often in a row all of them failed as unavailable while others were delivered.
    pub(super) left_behind: u32,
    /// Records that the sink had accepted when this batch last failed, or was first sent.
    pub(super) delivered_then: Option<u64>,
    /// Not to be tried before then.
    pub(super) not_before: Option<Instant>,
}

impl InFlightBatch {
    /// Leased records that were not tried yet.
    pub(super) fn new(lease: Lease, now: UnixMillis) -> Self {
        Self {
            stream: lease.stream,
            records: lease.records.into(),
            attempts: 0,
            first_attempt_at: now,
            suspect: false,
            suspicion: None,
            tried_alone: None,
            others_delivered: false,
            left_behind: 0,
            delivered_then: None,
            not_before: None,
        }
    }

    pub(super) fn batch(&self) -> Batch {
        Batch { stream: self.stream, records: Arc::clone(&self.records) }
    }

    /// Some of its records, by index, as a separate batch.
    pub(super) fn part(&self, indices: &[usize]) -> Batch {
        if indices.len() == self.records.len() {
            return self.batch();
        }
        Batch { stream: self.stream, records: indices.iter().map(|&i| self.records[i].clone()).collect() }
    }

    /// Splits off all but the first `records`, if there are more.
    pub(super) fn split_off(&mut self, records: usize) -> Option<Self> {
        if self.records.len() <= records {
            return None;
        }
        let rest = self.records[records..].into();
        self.records = self.records[..records].into();
        Some(Self { records: rest, ..self.clone() })
    }

    /// The bytes of its records.
    pub(super) fn bytes(&self) -> u64 {
        self.records.iter().map(|record| record.bytes.len() as u64).sum()
    }

    pub(super) fn seqs(&self) -> Vec<Range<u64>> {
        ranges(self.records.iter().map(|record| record.seq))
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }
}

/// Ascending sequence numbers as ranges.
pub(super) fn ranges(seqs: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for seq in seqs {
        match ranges.last_mut() {
            Some(last) if last.end == seq => last.end += 1,
            _ => ranges.push(seq..seq + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_sequence_numbers_make_one_range() {
        assert_eq!(ranges([1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
        assert!(ranges([]).is_empty());
    }
}
