//! Appending: group commit.
//!
//! What comes while a group is synced becomes the next one, of all callers; those who were just answered are waited for, a
//! little. Where much waits, a second thread packs it meanwhile. A group that does not fit is tried in halves; a batch that does
//! not fit is refused, or the oldest records make space for it. A panic refuses what it held.
//!
//! A caller that is alone need not wake a thread, and be woken by it: that takes as long as a fast medium's sync. It appends on
//! its own thread, where it may.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;
use tokio::sync::oneshot;

use super::{
    error::{AppendError, FullLimit},
    journal::writer::Refusal,
    options::WhenFull,
    shared::Shared,
    store::PackedGroup,
};
use crate::{
    caught::caught,
    record::{RecordBatch, Stream},
};

/// A group's records, unpacked, are at most this long (a longer batch is a group of its own).
const GROUP_RAW_BYTES: usize = 4 << 20;
/// While a group is synced, the next one is packed when this much waits; less is better packed when the sync is over, with
/// all that has come until then.
const PACK_AHEAD_BYTES: usize = 512 << 10;
/// A group that is smaller than the last one waits so long for those who were answered with that: a sync takes longer.
const GATHER_TIME: Duration = Duration::from_micros(100);

/// A batch and who waits for it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) batch: RecordBatch,
    pub(crate) answer: oneshot::Sender<Result<(), AppendError>>,
}

/// What waits to be appended.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    appends: VecDeque<Waiting>,
    /// Bytes of the records that wait, unpacked.
    bytes: usize,
    /// Begin a new segment, so that the present one can go.
    pub(crate) roll: bool,
    pub(crate) closing: bool,
    /// A thread packs a group: the next one comes after it.
    packing: bool,
    /// Groups that are packed and not yet durable.
    committing: usize,
    /// Batches in the last group: who sent one sends the next as soon as it is answered.
    last: usize,
}

/// What is appended together, and whether in a new segment.
pub(super) type Group = (Vec<Waiting>, bool);

impl Inbox {
    pub(crate) fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.batch.bytes().len();
        self.appends.push_back(waiting);
    }

    /// Refuses what waits: nobody is left to append it.
    pub(crate) fn clear(&mut self) {
        self.appends.clear();
    }

    fn is_empty(&self) -> bool {
        self.appends.is_empty() && !self.roll
    }

    fn is_idle(&self) -> bool {
        !self.packing && self.committing == 0
    }

    /// Whether the next group is to be packed now.
    pub(crate) fn is_due(&self) -> bool {
        !self.is_empty() && !self.packing && (self.committing == 0 || self.bytes >= PACK_AHEAD_BYTES)
    }

    /// The group that its only caller can append itself.
    pub(super) fn take_alone(&mut self) -> Option<Group> {
        (self.last == 1 && self.is_idle() && self.appends.len() == 1).then(|| self.take_group())
    }

    /// What comes first, up to a group's size. It has to be appended.
    fn take_group(&mut self) -> Group {
        self.packing = true;
        let (mut group, mut raw) = (Vec::new(), 0);
        while let Some(waiting) = self.appends.front() {
            let len = waiting.batch.bytes().len();
            if raw > 0 && raw + len > GROUP_RAW_BYTES {
                break;
            }
            raw += len;
            group.extend(self.appends.pop_front());
        }
        self.bytes -= raw;
        (group, std::mem::take(&mut self.roll))
    }
}

/// Runs until the spool is closed and nothing waits any more; on each of two threads.
pub(super) fn run(shared: &Arc<Shared>) {
    while let Some(group) = shared.next_group() {
        shared.append_group(group);
    }
}

impl Shared {
    /// Waits for a group that is due; `None` at the end.
    fn next_group(&self) -> Option<Group> {
        let mut inbox = self.inbox.lock();
        while !inbox.is_due() {
            if inbox.closing && inbox.is_empty() && inbox.is_idle() {
                return None;
            }
            self.mail.wait(&mut inbox);
        }
        if inbox.committing == 0 && !inbox.closing {
            // This thread's already, while others may look at the inbox.
            inbox.packing = true;
            let gathered = Instant::now() + GATHER_TIME;
            while inbox.appends.len() < inbox.last && Instant::now() < gathered {
                MutexGuard::unlocked(&mut inbox, std::thread::yield_now);
            }
        }
        Some(inbox.take_group())
    }

    /// Makes a group durable and answers it.
    pub(super) fn append_group(&self, group: Group) {
        let batches = group.0.len();
        if let Err(panic) = caught(|| self.append_packing(group)) {
            // Who waited is told by the answer's end.
            self.reports.error(format!("appending {batches} batches panicked, and goes on: {panic}"));
        }
    }

    fn append_packing(&self, (group, roll): Group) {
        let mut under_way = UnderWay { shared: self, batches: group.len(), stage: Stage::Packing };
        let packed = self.pack(&group, roll);
        under_way.commit();
        self.commit_packed(packed, group, roll, &mut under_way);
    }

    /// Packs what waits now, on this thread; what it answers makes that durable.
    #[cfg(test)]
    pub(crate) fn pack_waiting(&self) -> Option<impl FnOnce(&Self) + Send + use<>> {
        let mut inbox = self.inbox.lock();
        if !inbox.is_due() {
            return None;
        }
        let (group, roll) = inbox.take_group();
        drop(inbox);
        let batches = group.len();
        let packed = self.pack(&group, roll);
        let mut under_way = UnderWay { shared: self, batches, stage: Stage::Packing };
        under_way.commit();
        std::mem::forget(under_way);
        Some(move |shared: &Self| {
            let mut under_way = UnderWay { shared, batches, stage: Stage::Committing };
            shared.commit_packed(packed, group, roll, &mut under_way);
        })
    }

    fn pack(&self, group: &[Waiting], roll: bool) -> Result<PackedGroup, Refusal> {
        self.store.pack(group.iter().map(|waiting| &waiting.batch), roll).map_err(Refusal::Io)
    }

    /// Makes a group durable and answers it.
    fn commit_packed(
        &self,
        mut packed: Result<PackedGroup, Refusal>,
        group: Vec<Waiting>,
        mut roll: bool,
        under_way: &mut UnderWay<'_>,
    ) {
        loop {
            let bytes = packed.as_ref().map_or(0, PackedGroup::bytes);
            let committed = packed.and_then(|packed| {
                if group.is_empty() {
                    // A front alone lets other segments go: it is written wherever the medium takes it.
                    self.store.commit(packed, |_| Ok(0))
                } else {
                    self.store.commit(packed, |bytes| self.admit(bytes))
                }
            });
            let refusal = match committed {
                Ok(time) => {
                    self.meters.sync_latency.record_time(time);
                    let free = &self.usage.free;
                    free.store(free.load(Ordering::Relaxed).saturating_sub(bytes), Ordering::Relaxed);
                    under_way.end();
                    return self.answer_kept(group);
                }
                Err(refusal) => refusal,
            };
            match refusal {
                Refusal::Stale => {}
                // Perhaps a part of it fits.
                Refusal::Full(_) if group.len() > 1 => {
                    let mut first = group;
                    let second = first.split_off(first.len() / 2);
                    for half in [first, second] {
                        self.commit_packed(self.pack(&half, false), half, false, under_way);
                    }
                    return;
                }
                Refusal::Full(_) if self.never_fits(bytes).is_some() => {
                    let max = self.never_fits(bytes).unwrap_or_default();
                    let sink = self.options.name.clone();
                    under_way.end();
                    return answer(group, &AppendError::NeverFits { sink, bytes, max });
                }
                Refusal::Full(_) if self.options.when_full == WhenFull::DropOldest => match self.drop_oldest(bytes) {
                    // What was dropped does not come again: a front tells of it before the call is answered.
                    Some(dropped) => roll |= dropped > 0,
                    None => {
                        under_way.end();
                        return answer(group, &self.name_refusal(refusal));
                    }
                },
                refusal => {
                    under_way.end();
                    return answer(group, &self.name_refusal(refusal));
                }
            }
            packed = self.pack(&group, roll);
        }
    }

    fn answer_kept(&self, group: Vec<Waiting>) {
        self.failing.store(false, Ordering::Relaxed);
        let mut records = 0;
        let mut came = [false; Stream::ALL.len()];
        for Waiting { batch, answer } in group {
            records += batch.count();
            came[batch.stream as usize] = true;
            // Who no longer waits has its records kept all the same.
            let _ = answer.send(Ok(()));
        }
        if records > 0 {
            self.meters.sync_records.record(f64::from(records));
        }
        for stream in Stream::ALL.into_iter().filter(|stream| came[*stream as usize]) {
            self.ready[stream as usize].notify_waiters();
        }
    }

    /// What the callers are told, and what is remembered.
    fn name_refusal(&self, refusal: Refusal) -> AppendError {
        let sink = self.options.name.clone();
        let path = self.store.journal();
        let error = match refusal {
            Refusal::Full(limit) => return AppendError::Full { sink, limit },
            refusal if refusal.is_no_space() => {
                self.reports.error(format!("spool {}: no space left on the disk", path.display()));
                self.refresh_free();
                return AppendError::Full { sink, limit: FullLimit::NoSpace };
            }
            Refusal::Io(error) => error,
            Refusal::Moved | Refusal::Stale => std::io::Error::other(
                "the directory was moved, replaced or removed under the running process: put it back, or restart",
            ),
        };
        self.failing.store(true, Ordering::Relaxed);
        self.reports.error(format!("spool {}: {error}", path.display()));
        AppendError::Io { path, source: Arc::new(error) }
    }
}

/// A group that is being appended. This ends before the callers are answered: what they send next finds it over.
struct UnderWay<'a> {
    shared: &'a Shared,
    batches: usize,
    stage: Stage,
}

enum Stage {
    Packing,
    Committing,
    Ended,
}

impl UnderWay<'_> {
    fn commit(&mut self) {
        let mut inbox = self.shared.inbox.lock();
        self.stage = Stage::Committing;
        inbox.packing = false;
        inbox.committing += 1;
        if inbox.is_due() {
            self.shared.mail.notify_one();
        }
    }

    fn end(&mut self) {
        let mut inbox = self.shared.inbox.lock();
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Packing => inbox.packing = false,
            Stage::Committing => inbox.committing -= 1,
            Stage::Ended => return,
        }
        inbox.last = self.batches;
        if inbox.closing {
            self.shared.mail.notify_all();
        } else if inbox.is_due() {
            self.shared.mail.notify_one();
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn answer(group: Vec<Waiting>, error: &AppendError) {
    for waiting in group {
        let _ = waiting.answer.send(Err(error.clone()));
    }
}
