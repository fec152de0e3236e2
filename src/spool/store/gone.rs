//! Segments that a start does not find: done if a `.done`, a front or the queue says so, and lost otherwise.
//!
//! Lost records are counted as damaged, and remembered by segment: if the segment returns, its records are counted
//! back.

use std::collections::BTreeMap;

use super::recovery::{InQueue, Recovery, Stop};
use crate::{
    record::PerStream,
    spool::{
        journal::{front::Front, position::UNSEEN, segment},
        queue::{QueueFailed, ranges::RangeSet},
        totals::Disposition,
    },
};

impl Recovery<'_> {
    /// Counts records of missing segments that neither the queue nor a front knows to be done. The front after them
    /// says that there was a segment, and which sequence numbers are missing.
    pub(super) fn count_gone_before(&mut self, front: &Front) {
        let Some(gone) = front.previous else { return };
        let there = self.survey.segments.binary_search_by_key(&gone.segment, |(number, ..)| *number);
        if there.is_ok() || gone.segment < self.needed_from || self.survey.done.contains(&gone.segment) {
            return;
        }
        let mut lost = PerStream::<RangeSet>::default();
        for (i, lost) in lost.iter_mut().enumerate() {
            let first = front.first[i];
            let from = self.next[i].max(self.floor[i]).max(self.recorded.next[i]);
            // Skipped sequence numbers, of segments that could not be found, were never used.
            lost.insert(first - first.saturating_sub(from) % UNSEEN..first);
        }
        let records: u64 = lost.iter().map(RangeSet::len).sum();
        if records == 0 {
            return;
        }
        let path = segment::path(&self.place.home.join("journal"), gone.segment);
        self.place.reports.error(format!(
            "{}: the segment is missing, with {records} records that are not known to be delivered; they are counted as \
             damaged",
            path.display()
        ));
        self.mark_gone(gone.segment, lost);
    }

    /// Counts records of a missing segment; they are counted back if it returns.
    fn mark_gone(&mut self, segment: u64, lost: PerStream<RangeSet>) {
        let known = self.recorded.segments.entry(segment).or_default();
        let before = known.lost;
        known.lost = std::array::from_fn(|i| before[i] + lost[i].len());
        let now = known.lost;
        self.recount_damaged(segment, before, now, lost);
    }

    /// Counts records of a segment as damaged, `before` of which were counted before.
    pub(super) fn recount_damaged(
        &mut self,
        segment: u64,
        before: PerStream<u64>,
        now: PerStream<u64>,
        lost: PerStream<RangeSet>,
    ) {
        for (i, totals) in self.recorded.totals.iter_mut().enumerate() {
            totals.recount_damaged(before[i], now[i]);
        }
        if before != now {
            let found = self.findings.lost.entry(segment).or_default();
            for (found, lost) in found.iter_mut().zip(&lost) {
                for seqs in lost.iter() {
                    found.insert(seqs);
                }
            }
        }
    }

    /// Handles entries of missing segments: done if something says so, and lost otherwise.
    pub(super) fn drop_gone(&mut self, in_queue: BTreeMap<u64, InQueue>) -> Result<(), Stop> {
        for (segment, known) in in_queue {
            self.remove_entries(&known);
            // A front that says it is done has counted its records.
            if segment < self.needed_from {
                continue;
            }
            let seqs = self.seqs_of(&known)?;
            if self.survey.done.contains(&segment) {
                for (totals, seqs) in self.recorded.totals.iter_mut().zip(&seqs) {
                    totals.count(Disposition::Delivered, seqs.len());
                }
                continue;
            }
            let path = segment::path(&self.place.home.join("journal"), segment);
            self.place.reports.error(format!(
                "{}: the segment is missing, with {} records that were still to be delivered; they are counted as damaged",
                path.display(),
                known.records
            ));
            self.mark_gone(segment, seqs);
        }
        let there = &self.state.segments;
        for (&segment, known) in self.recorded.segments.iter().filter(|(segment, _)| !there.contains_key(segment)) {
            let wanted = segment >= self.needed_from && !self.survey.done.contains(&segment);
            let is_counted = known.counts_lost();
            // That it is missing was detected before, or by the front after it, unless some of it is entered.
            self.unseen |= wanted && (known.entered_to > 0 || !is_counted);
            // Until it returns, fronts cannot say whether it was done or missing.
            let stays = is_counted && (wanted || known.entered_to == 0);
            self.change.segments.push((segment, stays.then(|| known.unwalked())));
        }
        Ok(())
    }

    fn seqs_of(&self, known: &InQueue) -> Result<PerStream<RangeSet>, QueueFailed> {
        let mut seqs = PerStream::<RangeSet>::default();
        for &(stream, key) in &known.keys {
            if let Some((key, entry)) = self.queue.entry_from(stream, key)? {
                seqs[stream as usize].insert(entry.seqs(key));
            }
        }
        Ok(seqs)
    }
}
