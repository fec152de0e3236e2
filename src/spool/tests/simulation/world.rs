//! A spool, its machine and its sink: steps are carried out by direct calls, in one thread, and all is checked after each.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{
    disk::{Crash, Machine},
    ledger::{Answer, Id, Ledger},
    medium::{End, Medium, QUEUE_BYTES},
    queue::Remembers,
    story::{Limits, WIDE},
};
use crate::{
    record::{PerStream, RecordBatch, Stream, simulated},
    spool::{
        AppendError, DeadFilter, Lease, LeaseLimit, Peek, PeekFrom, QueueError,
        disk::Disk,
        maintenance::Maintenance,
        open,
        options::{Compression, SpoolOptions, WhenFull},
        quarantine::Quarantine,
        queue::{Queues, buffered::BufferedQueues},
        reports::Reports,
        shared::Shared,
        store::{Place, Store},
        totals::{Disposition, DropReason, Totals},
    },
};

const HOME: &str = "/spool";
const CAPACITY: u64 = 64 << 20;
/// It is this late at the beginning.
const BEGINNING: i64 = 1_800_000_000_000;

pub(super) type Ended = (End, Remembers);

/// What is there after the end of a process.
#[derive(Debug, Clone)]
pub(super) struct Ruins {
    medium: Medium,
    ledger: Ledger,
    limits: Limits,
    wall: i64,
}

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) process: Option<Process>,
    pub(super) limits: Limits,
    wall: i64,
    /// What the next crash leaves, and the crash after it.
    #[expect(clippy::type_complexity, reason = "said once, here")]
    pub(super) end: Option<(Ended, Option<(u64, End, Remembers)>)>,
    /// Batches that are not answered.
    #[expect(clippy::type_complexity, reason = "said once, here")]
    pub(super) asked: Vec<(Vec<Id>, RecordBatch, oneshot::Receiver<Result<(), AppendError>>)>,
}

pub(super) struct Process {
    pub(super) shared: Arc<Shared>,
    pub(super) maintenance: Maintenance,
    pub(super) leases: Vec<Lease>,
    /// What was counted at the last check.
    seen: Option<Seen>,
    /// Records and letters lost to damage, as far as they are added up.
    damaged: [PerStream<u64>; 2],
}

struct Seen {
    totals: PerStream<Totals>,
    /// Sequence numbers that no record has.
    unused: PerStream<u64>,
}

impl World {
    pub(super) fn new() -> Self {
        let directories = ["/spool", "/spool/journal", "/spool/dead", "/spool/dead/journal"];
        let medium = Medium::new(&directories, CAPACITY);
        Self::among(Ruins { medium, ledger: Ledger::default(), limits: WIDE, wall: BEGINNING })
    }

    pub(super) fn among(Ruins { medium, ledger, limits, wall }: Ruins) -> Self {
        Self { machine: Machine::new(medium, ledger), process: None, limits, wall, end: None, asked: Vec::new() }
    }

    /// What there is to begin with, after a crash.
    pub(super) fn ruins(&self) -> Ruins {
        let state = self.machine.state();
        Ruins { medium: state.medium.clone(), ledger: state.ledger.clone(), limits: self.limits, wall: self.wall }
    }

    /// Does something, up to a crash: true where there was one.
    pub(super) fn until_crash(&mut self, work: impl FnOnce(&mut Self)) -> Result<bool, String> {
        let crashed = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(()) => false,
            Err(panic) if panic.is::<Crash>() => true,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                return Err(format!("panicked: {}", text.unwrap_or("?")));
            }
        };
        if crashed {
            drop(self.machine.take_meanwhile());
            self.hear();
            self.process = None;
            self.wall = simulated::wall();
        }
        let mut violations = std::mem::take(&mut self.machine.state().ledger.violations);
        violations.dedup();
        if violations.is_empty() { Ok(crashed) } else { Err(violations.join("\n")) }
    }

    /// Does something; where it ends in a crash, what comes after that too.
    pub(super) fn guarded(&mut self, work: impl FnOnce(&mut Self)) -> Result<(), String> {
        let mut crashed = self.until_crash(work)?;
        while crashed {
            let Some(((end, remembers), again)) = self.end.take() else {
                return Err("an end that nobody ordered".to_owned());
            };
            self.lie_in_ruins(end, remembers);
            if let Some((after, end, remembers)) = again {
                self.arm(after, (end, remembers), None);
            }
            crashed = self.until_crash(Self::open)?;
            if !crashed && again.is_some() {
                self.disarm();
            }
        }
        Ok(())
    }

    pub(super) fn arm(&mut self, after: u64, ended: Ended, again: Option<(u64, End, Remembers)>) {
        let torn = matches!(ended.0, End::Kill { torn: true });
        self.machine.state().crash = Some((after, torn));
        self.end = Some((ended, again));
    }

    pub(super) fn disarm(&mut self) {
        self.machine.state().crash = None;
        self.end = None;
    }

    /// The process is over, and the medium as that leaves it.
    pub(super) fn lie_in_ruins(&mut self, end: End, remembers: Remembers) {
        let mut state = self.machine.state();
        state.end(end);
        state.medium.queues.values_mut().for_each(|queue| *queue = queue.after(remembers));
    }

    fn options(&self) -> SpoolOptions {
        SpoolOptions {
            name: "simulated".to_owned(),
            max_bytes: self.limits.max_bytes,
            segment_bytes: 16 << 10,
            min_free_bytes: 0,
            max_age: self.limits.max_age_seconds.map(Duration::from_secs),
            when_full: self.limits.when_full,
            block_timeout: Duration::ZERO,
            dead_max_bytes: u64::MAX,
            // So that records can be seen in what is written.
            compression: Compression::NONE,
            encryption: None,
        }
    }

    /// Opens the spool; where something fails just now, that may fail.
    pub(super) fn open(&mut self) {
        self.wall += 1000;
        simulated::start(self.wall);
        let quiet = self.is_quiet();
        let before = {
            let state = &mut *self.machine.state();
            state.max_bytes = self.limits.max_bytes;
            state.ledger.life += 1;
            state.ledger.inspected = false;
            state.ledger.faulted = !state.faults.is_empty();
            let hidden: Vec<Id> = state
                .medium
                .hidden
                .values()
                .filter_map(|inode| state.medium.files.get(inode))
                .flat_map(|file| file.records.iter().map(|(_, id)| *id))
                .collect();
            hidden.into_iter().for_each(|id| state.ledger.damage(id));
            let counted = |queue: &str| {
                let queue = state.medium.queues.get(&Path::new(HOME).join(queue));
                queue.map_or_else(PerStream::default, |queue| queue.recorded().totals.map(|totals| damaged(&totals)))
            };
            [counted("queue"), counted("dead/queue")]
        };
        let disk: Arc<dyn Disk> = Arc::new(self.machine.clone());
        let queues: Arc<dyn Queues> = Arc::new(BufferedQueues(self.machine.clone()));
        let reports = Arc::new(Reports::new("simulated".to_owned()));
        let home = Path::new(HOME).to_owned();
        let quarantine = Arc::new(Quarantine::new(Arc::clone(&disk), home.clone(), Arc::clone(&reports), false));
        let place = Place { home, disk, queues, reports, quarantine, read_only: false };
        match open::open_at(place, self.options()) {
            Ok((shared, maintenance)) => {
                let shared = Arc::new(shared);
                self.machine.state().ledger.unordered |= is_unread(&shared.store);
                self.process = Some(Process { shared, maintenance, leases: Vec::new(), seen: None, damaged: before });
                self.check();
            }
            Err(error) if quiet => self.machine.state().ledger.fail(format!("it does not open: {error}")),
            Err(_) => {}
        }
    }

    /// How many records of a stream are still to be delivered.
    pub(super) fn pending(&self, stream: Stream) -> u64 {
        let of_stream = |process: &Process| process.shared.store.state.lock().streams[stream as usize].records;
        self.process.as_ref().map_or(0, of_stream)
    }

    /// Nothing fails just now, and all files are there.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.machine.state();
        let fails = state.medium.files.values().any(|file| !file.failing.is_empty());
        state.faults.iter().all(|fault| fault.times == 0) && state.medium.hidden.is_empty() && !fails
    }

    /// Pages cannot be read: that is waited for before it counts as damage.
    pub(super) fn has_bad_pages(&self) -> bool {
        self.machine.state().medium.files.values().any(|file| !file.bad.is_empty())
    }

    /// Waits until all that could not be read at the start is entered, or lost.
    fn wait_for_unread(&mut self) {
        for _ in 0..15 {
            if !self.process.as_ref().is_some_and(|process| any_unread(&process.shared)) {
                return;
            }
            self.time(1);
        }
    }

    /// Closes the spool as a stop does.
    pub(super) fn close(&mut self) {
        self.may_drop_if(|world| world.limits.max_age_seconds.is_some());
        self.append_waiting();
        self.hear();
        if let Some(process) = &mut self.process {
            process.maintenance.tick(&process.shared, true);
        }
        self.check();
        self.process = None;
        self.wall = simulated::wall();
    }

    /// Takes in the answers to what was appended.
    pub(super) fn hear(&mut self) {
        for (ids, batch, mut answer) in std::mem::take(&mut self.asked) {
            let answer = match answer.try_recv() {
                Err(TryRecvError::Empty) if self.machine.state().meanwhile.is_some() => {
                    self.asked.push((ids, batch, answer));
                    continue;
                }
                Ok(Ok(())) => Answer::Kept,
                Ok(Err(AppendError::Full { .. })) if self.limits.when_full == WhenFull::DropNewest => {
                    let (records, bytes) = (u64::from(batch.count()), batch.bytes().len() as u64);
                    self.process.iter().for_each(|process| process.shared.count_newest(batch.stream, records, bytes));
                    Answer::Dropped
                }
                Ok(Err(_)) => Answer::Refused,
                Err(_) => Answer::None,
            };
            self.machine.state().ledger.answer(&ids, answer);
        }
    }

    /// Holds what the spool says against the books.
    pub(super) fn check(&mut self) {
        self.hear();
        // Nothing else goes on while it looks.
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

    /// Whatever was, all is well in the end: the sink away, more appended, time passes, a restart, the sink is back, all is drained.
    pub(super) fn go_on_to_the_end(&mut self) -> Result<(), String> {
        self.disarm();
        self.guarded(|world| {
            world.heal();
            world.show();
            if world.process.is_none() {
                world.open();
            }
            if let Some(process) = &mut world.process {
                for Lease { stream, records } in std::mem::take(&mut process.leases) {
                    process.shared.store.release(stream, &ranges(&records));
                }
            }
            world.check();
        })?;
        self.guarded(|world| {
            for stream in Stream::ALL {
                world.append(&[super::story::Offer { stream, records: 1, bytes: 100 }]);
                world.check();
            }
            world.time(3);
            world.check();
        })?;
        self.guarded(|world| {
            world.close();
            world.limits = WIDE;
            world.open();
            world.wait_for_unread();
        })?;
        self.guarded(Self::drain)?;
        self.guarded(|world| {
            world.time(7);
            world.close();
            world.open();
            world.check_space();
            world.machine.state().ledger.check_end();
            world.process = None;
        })
    }

    fn drain(&mut self) {
        let Some(process) = &mut self.process else { return };
        let shared = Arc::clone(&process.shared);
        let mut timeout = if self.has_bad_pages() { 100 } else { 0 };
        for stream in Stream::ALL {
            loop {
                match shared.lease(stream, LeaseLimit { records: 100, bytes: usize::MAX }) {
                    Ok(Some(lease)) => {
                        let mut state = self.machine.state();
                        for (id, _) in lease.records.iter().filter_map(|record| Id::of(&record.bytes)) {
                            state.ledger.lease(id);
                            state.ledger.deliver(id);
                        }
                        drop(state);
                        shared.store.finish(stream, &ranges(&lease.records), Disposition::Delivered);
                    }
                    Ok(None) => break,
                    Err(_) if timeout > 0 => {
                        timeout -= 1;
                        simulated::advance(Duration::from_secs(1));
                    }
                    Err(error) => return self.machine.state().ledger.fail(format!("in the end: {error}")),
                }
            }
        }
        self.dead_letters(super::story::State::Retry(usize::MAX));
        self.check();
    }

    fn check_space(&self) {
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

/// Whether some of the records, or of the dead letters, is yet to be read.
fn any_unread(shared: &Shared) -> bool {
    is_unread(&shared.store) || is_unread(shared.dead.store())
}

fn is_unread(store: &Store) -> bool {
    store.state.lock().segments.values().any(|segment| segment.unread.is_some())
}

pub(super) fn ranges(records: &[crate::record::QueuedRecord]) -> Vec<std::ops::Range<u64>> {
    records.iter().map(|record| record.seq..record.seq + 1).collect()
}

fn damaged(totals: &Totals) -> u64 {
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
