//! A spool, its machine and its sink: steps are carried out by direct calls, in one thread. After each,
//! [`check`](super::check) compares all of it with the ledger.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{
    check::{Seen, damaged},
    disk::{Crash, Machine},
    ledger::{Answer, Id, Ledger},
    medium::{End, Medium},
    queue::Remembers,
    story::{Limits, WIDE},
};
use crate::{
    record::{PerStream, RecordBatch, Stream, simulated},
    spool::{
        AppendError, Lease, LeaseLimit,
        disk::Disk,
        maintenance::Maintenance,
        open,
        options::{Compression, DeadLettersOptions, SpoolOptions, WhenFull},
        quarantine::Quarantine,
        queue::{Queues, buffered::BufferedQueues},
        reports::Reports,
        shared::Shared,
        store::{Place, Store},
        totals::Disposition,
    },
};

pub(super) const HOME: &str = "/spool";
const CAPACITY: u64 = 64 << 20;
/// It is this late at the beginning.
const BEGINNING: i64 = 1_800_000_000_000;

pub(super) type Ended = (End, Remembers);

/// What is there after the end of a process.
#[derive(Debug, Clone)]
pub(super) struct CrashImage {
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
    pub(super) seen: Option<Seen>,
    /// Records and letters lost to damage, as far as they are added up.
    pub(super) damaged: [PerStream<u64>; 2],
}

impl World {
    pub(super) fn new() -> Self {
        let directories = ["/spool", "/spool/journal", "/spool/dead", "/spool/dead/journal"];
        let medium = Medium::new(&directories, CAPACITY);
        Self::from_image(CrashImage { medium, ledger: Ledger::default(), limits: WIDE, wall: BEGINNING })
    }

    pub(super) fn from_image(CrashImage { medium, ledger, limits, wall }: CrashImage) -> Self {
        Self { machine: Machine::new(medium, ledger), process: None, limits, wall, end: None, asked: Vec::new() }
    }

    /// What there is to begin with, after a crash.
    pub(super) fn crash_image(&self) -> CrashImage {
        let state = self.machine.state();
        CrashImage { medium: state.medium.clone(), ledger: state.ledger.clone(), limits: self.limits, wall: self.wall }
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
                return Err("an unexpected end".to_owned());
            };
            self.apply_end(end, remembers);
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
    pub(super) fn apply_end(&mut self, end: End, remembers: Remembers) {
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
            dead_letters: DeadLettersOptions { max_bytes: u64::MAX },
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

    /// Whatever was, all is well in the end: the sink unavailable, more appended, time passes, a restart, the sink is back, all is drained.
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
}

/// Whether some of the records, or of the dead letters, is yet to be read.
pub(super) fn any_unread(shared: &Shared) -> bool {
    is_unread(&shared.store) || is_unread(shared.dead.store())
}

fn is_unread(store: &Store) -> bool {
    store.state.lock().segments.values().any(|segment| segment.unread.is_some())
}

pub(super) fn ranges(records: &[crate::record::QueuedRecord]) -> Vec<std::ops::Range<u64>> {
    records.iter().map(|record| record.seq..record.seq + 1).collect()
}
