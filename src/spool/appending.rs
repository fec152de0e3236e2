//! Appending: group commit. A group is packed, written and synced, published, and then answered, in this order.
//!
//! Batches that arrive while a group is synced become the next group, whoever sent them. A group that is smaller than
//! the last one waits a moment for the callers who were just answered. When the inbox is long, a second thread packs
//! the next group during the sync. A group that does not fit is tried in halves. A batch that does not fit is refused,
//! or the oldest records are dropped to make space. A panic refuses the batches of its group.
//!
//! A single caller appends on its own thread where it can: waking another thread and being woken by it takes as long as
//! a fast medium's sync.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;
use tokio::sync::oneshot;

use super::{
    error::{AppendError, Appended, FullLimit},
    inbox::{Group, Waiting},
    journal::{builder, writer::Refusal},
    options::WhenFull,
    shared::Shared,
    store::PackedGroup,
};
use crate::{
    catch_panic::catch_panic,
    record::{RecordBatch, Stream},
    tasks,
};

/// How long a group that is smaller than the last one waits for the callers who were just answered. A sync takes
/// longer.
const GATHER_TIME: Duration = Duration::from_micros(100);

/// Runs on each of two threads until the spool is closed and the inbox is empty.
pub(super) fn run(shared: &Arc<Shared>) {
    while let Some(group) = shared.next_group() {
        shared.append_group(group);
    }
}

impl Shared {
    /// Appends a batch as a whole or not at all, and applies `when_full` where it does not fit. With `in_place`, this
    /// thread appends if no other one does.
    pub(super) async fn append(self: &Arc<Self>, batch: RecordBatch, in_place: bool) -> Result<Appended, AppendError> {
        if batch.is_empty() {
            return Ok(Appended::Kept);
        }
        let until = match self.options.when_full {
            WhenFull::Block => Some(Instant::now() + self.options.block_timeout),
            _ => None,
        };
        loop {
            // Listen before the attempt, so that space which is freed meanwhile is not missed.
            let space = self.space.notified();
            let (sink, limit) = match self.append_once(batch.clone(), in_place).await {
                Err(AppendError::Full { sink, limit }) => (sink, limit),
                result => return result.map(|()| Appended::Kept),
            };
            match (self.options.when_full, until) {
                (WhenFull::DropNewest, _) => {
                    self.count_newest_dropped(&batch).await;
                    return Ok(Appended::Dropped { limit });
                }
                (_, Some(until)) if tokio::time::timeout_at(until.into(), space).await.is_ok() => {}
                _ => return Err(AppendError::Full { sink, limit }),
            }
        }
    }

    /// Passes a batch to the threads that append, or appends it here.
    async fn append_once(&self, batch: RecordBatch, in_place: bool) -> Result<(), AppendError> {
        let closed = || AppendError::Closed { sink: self.options.name.clone() };
        if let Some(bytes) = builder::too_long(&batch) {
            return Err(AppendError::TooLong { bytes, most: builder::MAX_RECORD_BYTES });
        }
        let (answer, answered) = oneshot::channel();
        let alone = {
            let mut inbox = self.inbox.lock();
            if inbox.closing {
                return Err(closed());
            }
            inbox.push(Waiting { batch, answer });
            let alone = if in_place { inbox.take_alone() } else { None };
            if alone.is_none() && inbox.is_due() {
                self.mail.notify_one();
            }
            alone
        };
        if let Some(group) = alone {
            tokio::task::block_in_place(|| self.append_group(group));
        }
        answered.await.unwrap_or_else(|_| {
            if self.inbox.lock().closing {
                return Err(closed());
            }
            let source = Arc::new(std::io::Error::other("appending panicked: the batches may or may not be kept"));
            Err(AppendError::Io { path: self.store.journal(), source })
        })
    }

    /// Runs off the async threads, because the disk may hang.
    async fn count_newest_dropped(self: &Arc<Self>, batch: &RecordBatch) {
        let (shared, stream) = (Arc::clone(self), batch.stream);
        let (records, bytes) = (u64::from(batch.count()), batch.bytes().len() as u64);
        let counted = tasks::run_blocking(move || {
            shared.count_newest(stream, records, bytes);
        });
        if counted.await.is_err() {
            self.reports.error(format!("{records} dropped records of {stream} could not be counted"));
        }
    }

    /// Waits for a group that is due; `None` when the spool is closed.
    fn next_group(&self) -> Option<Group> {
        let mut inbox = self.inbox.lock();
        while !inbox.is_due() {
            if inbox.closing && inbox.is_empty() && inbox.is_idle() {
                return None;
            }
            self.mail.wait(&mut inbox);
        }
        if inbox.committing == 0 && !inbox.closing {
            // This thread has the group already: others may use the inbox.
            inbox.packing = true;
            let gathered = Instant::now() + GATHER_TIME;
            while inbox.awaits_more() && Instant::now() < gathered {
                MutexGuard::unlocked(&mut inbox, std::thread::yield_now);
            }
        }
        Some(inbox.take_group())
    }

    /// Makes a group durable and answers it.
    pub(super) fn append_group(&self, group: Group) {
        let batches = group.0.len();
        if let Err(panic) = catch_panic(|| self.append_packing(group)) {
            // The caller learns of it because its answer is dropped.
            self.reports.error(format!("appending {batches} batches panicked, and continues: {panic}"));
        }
    }

    fn append_packing(&self, (group, roll): Group) {
        let mut under_way = UnderWay { shared: self, batches: group.len(), stage: Stage::Packing };
        let packed = self.pack(&group, roll);
        under_way.commit();
        self.commit_packed(packed, group, roll, &mut under_way);
    }

    /// Packs the inbox on this thread; the returned closure makes the group durable.
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
                    // A front alone allows segments to be deleted: it is written wherever the medium has space.
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
                // A part of it may fit.
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
                    // Dropped records must not be redelivered: a front records them before the call is answered.
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
            // If the caller no longer waits, its records are kept nevertheless.
            let _ = answer.send(Ok(()));
        }
        if records > 0 {
            self.meters.sync_records.record(f64::from(records));
        }
        for stream in Stream::ALL.into_iter().filter(|stream| came[*stream as usize]) {
            self.ready[stream as usize].notify_waiters();
        }
    }

    /// The error for the callers; it is also kept for the status.
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

/// A group that is being appended. It ends before the callers are answered, so that their next batch finds it over.
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
