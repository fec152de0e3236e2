//! How each step is carried out.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    disk::Meanwhile,
    ledger::Id,
    medium::PAGE,
    story::{Offer, Outcome, Part, State, Step},
    world::{World, ranges},
};
use crate::{
    record::{QueuedRecord, RecordBatchBuilder, Stream, now_millis, simulated},
    spool::{
        DeadFilter, DeadLetter, Lease, LeaseLimit, Rejection,
        disk::{Disk, DiskFile},
        inbox::Waiting,
        journal::segment::{Found, Walker},
        options::WhenFull,
        purge, rejecting,
        totals::Disposition,
    },
};

const PLENTY: u64 = 64 << 20;

impl World {
    pub(super) fn step(&mut self, step: &Step) -> Result<(), String> {
        self.guarded(|world| {
            if world.process.is_none() {
                world.open();
            }
            world.carry_out(step);
            world.check();
        })
    }

    pub(super) fn carry_out(&mut self, step: &Step) {
        match *step {
            Step::Append(ref offers) => self.append(offers),
            Step::Pack(ref offers, after) => self.pack(offers, after),
            Step::Time(seconds) => self.time(seconds),
            Step::Lease(stream, records) => self.lease(stream, records),
            Step::Answer(lease, outcome, part) => self.answer(lease, outcome, part),
            Step::State(action) => self.dead_letters(action),
            Step::Purge(stream) => self.purge(stream),
            Step::Restart(limits) => {
                self.close();
                self.limits = limits;
                self.open();
            }
            Step::Crash { after, end, remembers, again } => self.arm(after, (end, remembers), again),
            Step::Fault(fault) => self.machine.state().faults.push(fault),
            Step::Heal => self.heal(),
            Step::Fill(left) => {
                let state = &mut *self.machine.state();
                state.ledger.forgetful = true;
                let medium = &mut state.medium;
                medium.capacity = medium.capacity - medium.free() + left;
            }
            Step::Flip(segment, at) => self.harm(segment, at, false),
            Step::BadPage(segment, at) => self.harm(segment, at, true),
            Step::Unreadable(segment) => self.let_fail(segment, None),
            Step::Hide(segment) => self.hide(segment),
            Step::Show => self.show(),
            Step::Jump(seconds) => simulated::jump(seconds * 1000),
        }
    }

    pub(super) fn may_drop_if(&mut self, may: impl FnOnce(&Self) -> bool) {
        if may(self) {
            self.machine.state().ledger.may_drop = [true; 3];
        }
    }

    pub(super) fn append(&mut self, offers: &[Offer]) {
        self.offer(offers);
        self.append_waiting();
        self.hear();
    }

    /// Makes durable what is packed, and what waits.
    pub(super) fn append_waiting(&mut self) {
        let Some(process) = &self.process else { return };
        // Whichever step it is that they become durable with.
        let may_drop = || {
            if self.limits.when_full == WhenFull::DropOldest {
                self.machine.state().ledger.may_drop = [true; 3];
            }
        };
        if let Some(packed) = self.machine.take_meanwhile() {
            may_drop();
            (packed.work)();
        }
        while let Some(commit) = process.shared.pack_waiting() {
            may_drop();
            commit(&process.shared);
        }
    }

    fn pack(&mut self, offers: &[Offer], after: u64) {
        self.append_waiting();
        self.hear();
        self.offer(offers);
        let Some(process) = &self.process else { return };
        let shared = Arc::clone(&process.shared);
        if let Some(commit) = shared.pack_waiting() {
            // To drop the oldest it would have to wait for whom it interrupts.
            let after = if self.limits.when_full == WhenFull::DropOldest { u64::MAX } else { after };
            let work = Box::new(move || commit(&shared));
            self.machine.state().meanwhile = Some(Meanwhile { after, work });
        }
    }

    fn offer(&mut self, offers: &[Offer]) {
        let Some(process) = &self.process else { return };
        let shared = Arc::clone(&process.shared);
        for Offer { stream, records, bytes } in offers {
            let ids = self.machine.state().ledger.offer(*stream, *records);
            let mut builder = RecordBatchBuilder::new(*stream);
            ids.iter().for_each(|id| builder.push(&id.record(*bytes)));
            let batch = builder.build(now_millis());
            let (answer, answered) = oneshot::channel();
            shared.inbox.lock().push(Waiting { batch: batch.clone(), answer });
            self.asked.push((ids, batch, answered));
        }
    }

    pub(super) fn time(&mut self, seconds: u64) {
        self.may_drop_if(|world| world.limits.max_age_seconds.is_some());
        for _ in 0..seconds {
            simulated::advance(Duration::from_secs(1));
            let Some(process) = &mut self.process else { return };
            process.maintenance.tick(&process.shared, false);
            if process.shared.inbox.lock().roll {
                self.append_waiting();
            }
        }
    }

    fn lease(&mut self, stream: Stream, records: usize) {
        let quiet = self.is_quiet() && !self.has_bad_pages();
        let Some(process) = &mut self.process else { return };
        match process.shared.lease(stream, LeaseLimit { records, bytes: usize::MAX }) {
            Ok(Some(lease)) => {
                let ledger = &mut self.machine.state().ledger;
                lease.records.iter().filter_map(|record| Id::of(&record.bytes)).for_each(|(id, _)| ledger.lease(id));
                process.leases.push(lease);
            }
            Ok(None) => {}
            Err(error) if quiet => self.machine.state().ledger.fail(format!("a lease of {stream}: {error}")),
            Err(_) => {}
        }
    }

    fn answer(&mut self, lease: usize, outcome: Outcome, part: Part) {
        let quiet = self.is_quiet() && self.machine.state().medium.free() > 1 << 20;
        let Some(process) = &mut self.process else { return };
        if process.leases.is_empty() {
            return;
        }
        let place = lease % process.leases.len();
        let Lease { stream, records } = process.leases.remove(place);
        let half = records.len() / 2;
        let is_meant = |i: usize| match part {
            Part::All => true,
            Part::FirstHalf => i < half,
            Part::SecondHalf => i >= half,
            Part::EveryOther => i.is_multiple_of(2),
        };
        let (meant, rest): (Vec<_>, Vec<_>) = records.into_iter().enumerate().partition(|(i, _)| is_meant(*i));
        let records: Vec<QueuedRecord> = meant.into_iter().map(|(_, record)| record).collect();
        let rest: Vec<QueuedRecord> = rest.into_iter().map(|(_, record)| record).collect();
        if !rest.is_empty() {
            process.leases.push(Lease { stream, records: rest });
        }
        let ids: Vec<Id> = records.iter().filter_map(|record| Id::of(&record.bytes)).map(|(id, _)| id).collect();
        let store = &process.shared.store;
        if matches!(outcome, Outcome::Delivered | Outcome::Unheard) {
            ids.iter().for_each(|id| self.machine.state().ledger.deliver(*id));
        }
        match outcome {
            Outcome::Delivered => {
                store.finish(stream, &ranges(&records), Disposition::Delivered);
                ids.iter().for_each(|id| self.machine.state().ledger.acknowledge(*id));
            }
            Outcome::Failed | Outcome::Unheard => store.release(stream, &ranges(&records)),
            Outcome::Rejected => {
                let rejection = |record: &QueuedRecord| Rejection {
                    record: record.clone(),
                    reason: "rejected".to_owned(),
                    attempts: 1,
                    first_attempt_at: now_millis(),
                };
                match rejecting::dead_letter(&process.shared, stream, records.iter().map(rejection).collect()) {
                    // What was purged or dropped meanwhile is not.
                    Ok(()) => {
                        let ledger = &mut self.machine.state().ledger;
                        ids.iter()
                            .filter(|id| !ledger.may_drop[id.stream as usize])
                            .copied()
                            .collect::<Vec<_>>()
                            .into_iter()
                            .for_each(|id| ledger.dead_lettered(id));
                    }
                    Err(error) => {
                        if quiet && !matches!(error, crate::spool::QueueError::DeadLettersFull { .. }) {
                            self.machine.state().ledger.fail(format!("keeping dead letters: {error}"));
                        }
                        // Some may be dead letters already; those are not pending any more.
                        store.release(stream, &ranges(&records));
                    }
                }
            }
        }
    }

    pub(super) fn dead_letters(&mut self, action: State) {
        let Some(process) = &self.process else { return };
        let dead = &process.shared.dead;
        let (filter, most) = match action {
            State::Retry(most) | State::RetryInVain(most) => (DeadFilter::default(), most),
            State::Drop(stream) => (DeadFilter { stream: Some(stream), ..DeadFilter::default() }, usize::MAX),
        };
        let Ok(dead_letters) = dead.list(&filter, &HashSet::new(), 0, most) else { return };
        let ids: Vec<Id> =
            dead_letters.iter().filter_map(|dead_letter| Id::of(&dead_letter.record)).map(|(id, _)| id).collect();
        // What fails, is tried again by who asked for it.
        match action {
            State::Retry(_) => {
                ids.iter().for_each(|id| self.machine.state().ledger.remove_dead_letter(*id));
                let keys: Vec<_> = dead_letters.iter().map(DeadLetter::key).collect();
                let _ = dead.remove(&keys);
            }
            State::Drop(_) => {
                ids.iter().for_each(|id| self.machine.state().ledger.remove_dead_letter(*id));
                let _ = dead.drop_matching(&filter);
            }
            State::RetryInVain(_) => _ = rejecting::keep_again(&process.shared, &dead_letters),
        }
    }

    fn purge(&mut self, stream: Stream) {
        // It appends itself, behind what is on its way.
        self.append_waiting();
        self.hear();
        self.machine.state().ledger.may_drop[stream as usize] = true;
        let quiet = self.is_quiet() && self.machine.state().medium.free() > 1 << 20;
        let Some(process) = &self.process else { return };
        // What cannot be read is not purged, and the caller told so.
        let can_be_read = process.shared.store.unread_segments().is_empty();
        if let Err(error) = purge::purge(&process.shared, &[stream])
            && quiet
            && can_be_read
        {
            self.machine.state().ledger.fail(format!("a purge: {error}"));
        }
    }

    pub(super) fn heal(&mut self) {
        let mut state = self.machine.state();
        state.faults.clear();
        state.medium.capacity = PLENTY;
        state.medium.files.values_mut().for_each(|file| file.failing = 0..0);
    }

    /// Nothing of a segment can be read, or one page of it, until it heals.
    pub(super) fn let_fail(&mut self, segment: u64, page: Option<usize>) {
        let mut state = self.machine.state();
        let segments = state.medium.segments();
        let Some((_, inode)) = segments.get(segments.len() * segment as usize / 1000) else { return };
        // Others may be delivered first.
        state.ledger.disturbed = true;
        state.ledger.faulted = true;
        if let Some(file) = state.medium.files.get_mut(inode) {
            file.failing = page.map_or(0..usize::MAX, |page| page..page + 1);
        }
    }

    /// Flips a bit, or makes a page unreadable: the blocks over it are damaged.
    fn harm(&mut self, segment: u64, at: u64, page: bool) {
        if !self.is_quiet() {
            return;
        }
        let segments = self.machine.state().medium.segments();
        let Some((path, inode)) = segments.get(segments.len() * segment as usize / 1000) else { return };
        let len = self.machine.state().medium.files.get(inode).map_or(0, |file| file.now.len());
        let byte = len * at as usize / 1000;
        let bytes = if page { byte / PAGE * PAGE..(byte / PAGE + 1) * PAGE } else { byte..byte + 1 };
        // A file of which nothing can be read is not known to be damaged.
        if bytes.end + usize::from(page) > len {
            return;
        }
        let Ok(file) = self.machine.open(path) else { return };
        let harmed: Vec<Id> = {
            let blocks = blocks(file, len as u64);
            let state = self.machine.state();
            let Some(file) = state.medium.files.get(inode) else { return };
            let hit =
                blocks.iter().filter(|block| (block.start as usize) < bytes.end && bytes.start < block.end as usize);
            hit.flat_map(|block| file.records.iter().filter(|(at, _)| block.contains(&(*at as u64))))
                .map(|(_, id)| *id)
                .collect()
        };
        let mut state = self.machine.state();
        state.ledger.disturbed = true;
        harmed.into_iter().for_each(|id| state.ledger.damage(id));
        if let Some(file) = state.medium.files.get_mut(inode) {
            if page { _ = file.bad.insert(bytes.start / PAGE) } else { file.flip(bytes.start * 8 + at as usize % 8) }
        }
    }

    fn hide(&mut self, segment: u64) {
        let mut state = self.machine.state();
        let segments = state.medium.segments();
        if let Some((path, inode)) = segments.get(segments.len() * segment as usize / 1000) {
            state.ledger.disturbed = true;
            state.medium.names.remove(path);
            state.medium.hidden.insert(path.clone(), *inode);
        }
    }

    pub(super) fn show(&mut self) {
        let medium = &mut self.machine.state().medium;
        for (path, inode) in std::mem::take(&mut medium.hidden) {
            medium.names.entry(path).or_insert(inode);
        }
    }
}

fn blocks(file: Arc<dyn DiskFile>, len: u64) -> Vec<std::ops::Range<u64>> {
    let mut walker = Walker::new(file, 0, len);
    let mut blocks = Vec::new();
    while let Ok(Some(found)) = walker.next() {
        if let Found::Block { header, offset, .. } = found {
            blocks.push(offset..offset + header.block_len());
        }
    }
    blocks
}
