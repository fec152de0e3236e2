//! Compares what the spool says with the ledger: which records are pending, and what it counted.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::{
    ledger::Id,
    medium::QUEUE_BYTES,
    world::{HOME, World, any_unread},
};
use crate::{
    record::{PerStream, Stream},
    spool::{
        DeadFilter, Peek, PeekFrom, QueueError,
        totals::{DropReason, Totals},
    },
};

/// What was counted at a check.
pub(super) struct Seen {
    totals: PerStream<Totals>,
    /// Sequence numbers that no record has.
    unused: PerStream<u64>,
}

impl World {
    /// Compares what the spool says with the ledger.
    pub(super) fn check(&mut self) {
        self.hear();
        // Nothing else continues while it looks.
        let meanwhile = self.machine.take_meanwhile();
        self.check_undisturbed();
        self.machine.state().meanwhile = meanwhile;
    }

    fn check_undisturbed(&mut self) {
        let quiet = self.is_quiet();
        let Some(process) = &mut self.process else { return };
        let shared = &process.shared;
        let lost = [
            shared.store.state.lock().streams.each_ref().map(|stream| damaged(&stream.totals)),
            Stream::ALL.map(|stream| shared.dead.lost(stream)),
        ];
        for (now, before) in lost.iter().zip(&mut process.damaged) {
            let reported = &mut self.machine.state().ledger.reported;
            for ((now, before), reported) in now.iter().zip(before).zip(reported) {
                *reported += now.saturating_sub(std::mem::replace(before, *now));
            }
        }
        if any_unread(shared) || !quiet {
            return;
        }
        let pending: [Result<Vec<Id>, QueueError>; 3] = Stream::ALL.map(|stream| {
            // A look costs a decompressor: none where there is nothing to see.
            if shared.store.state.lock().streams[stream as usize].records == 0 {
                return Ok(Vec::new());
            }
            let records = Peek::new(Arc::clone(shared), stream, PeekFrom::Oldest)?.collect::<Result<Vec<_>, _>>()?;
            Ok(records.iter().filter_map(|record| Id::of(&record.bytes)).map(|(id, _)| id).collect())
        });
        let pending: PerStream<Vec<Id>> = match pending {
            [Ok(events), Ok(stats), Ok(node_rooms)] => [events, stats, node_rooms],
            other => return self.machine.state().ledger.fail(format!("what is pending cannot be read: {other:?}")),
        };
        let seen = {
            let state = shared.store.state.lock();
            let counted = state.streams.each_ref().map(|stream| (stream.records, stream.next, stream.totals.clone()));
            let ledger = &mut self.machine.state().ledger;
            for (stream, (records, ..)) in Stream::ALL.into_iter().zip(&counted) {
                let there = pending[stream as usize].len() as u64;
                if *records != there && !ledger.disturbed {
                    ledger.fail(format!("{records} {stream} are said to be pending, and {there} are"));
                }
            }
            let unused = counted.each_ref().map(|(records, next, totals)| next.wrapping_sub(records + left(totals)));
            Seen { totals: counted.map(|(.., totals)| totals), unused }
        };
        let mut state = self.machine.state();
        let ledger = &mut state.ledger;
        if !std::mem::replace(&mut ledger.inspected, true) {
            ledger.check_batches(&pending);
        }
        ledger.dropped = PerStream::default();
        let missing = ledger.check_pending(&pending);
        if !missing.is_empty() {
            let listed = parking_lot::MutexGuard::unlocked(&mut state, || {
                shared.dead.list(&DeadFilter::default(), &HashSet::new(), 0, usize::MAX)
            });
            let dead_letters = listed
                .iter()
                .flatten()
                .filter_map(|dead_letter| Id::of(&dead_letter.record))
                .map(|(id, _)| id)
                .collect();
            state.ledger.check_missing(missing, &dead_letters);
        }
        let ledger = &mut state.ledger;
        ledger.may_drop = PerStream::default();
        if let Some(before) = process.seen.take().filter(|_| !ledger.disturbed) {
            for stream in Stream::ALL {
                let i = stream as usize;
                let counted = by_policy(&seen.totals[i]).saturating_sub(by_policy(&before.totals[i]));
                if counted < ledger.dropped[i] {
                    ledger.fail(format!("{} {stream} were dropped, and {counted} are counted", ledger.dropped[i]));
                }
                if seen.unused[i] != before.unused[i] && !ledger.faulted {
                    let (before, now) = (before.unused[i] as i64, seen.unused[i] as i64);
                    ledger.fail(format!(
                        "{stream}: appended = pending + done no longer holds: {before} before, {now} now"
                    ));
                }
            }
        }
        process.seen = Some(seen);
    }

    pub(super) fn check_space(&self) {
        let state = &mut *self.machine.state();
        for (journal, most) in [("journal", 64 << 10), ("dead/journal", 16 << 10)] {
            let used = state.medium.allocated(&Path::new(HOME).join(journal));
            if used > most {
                state.ledger.fail(format!("{used} bytes of {journal}/ stay when all is drained"));
            }
        }
        let files = state.medium.allocated(Path::new(HOME));
        debug_assert!(files >= QUEUE_BYTES, "the queue is on the medium again");
    }
}

/// Records lost to damage.
pub(super) fn damaged(totals: &Totals) -> u64 {
    totals.dropped.get(&DropReason::Damaged).copied().unwrap_or(0)
}

/// All that came and went; what was dropped as the newest never came.
fn left(totals: &Totals) -> u64 {
    totals.delivered + totals.dead_lettered + damaged(totals) + by_policy(totals)
}

fn by_policy(totals: &Totals) -> u64 {
    let reasons = [DropReason::Oldest, DropReason::Expired, DropReason::Purged];
    reasons.iter().filter_map(|reason| totals.dropped.get(reason)).sum()
}
