//! Appending: group commit.
//!
//! Two threads take turns. One packs what waits, from all callers, while the other syncs the group before. A group that does
//! not fit is tried in halves; a batch that does not fit is refused, or the oldest records make space for it. A panic refuses
//! what it held.

use std::sync::{Arc, atomic::Ordering};

use super::{
    error::{AppendError, FullLimit},
    journal::writer::Refusal,
    options::WhenFull,
    shared::{Shared, Waiting},
    store::PackedGroup,
};
use crate::{caught::caught, record::Stream};

/// A group's records, unpacked, are at most this long (a longer batch is a group of its own).
const GROUP_RAW_BYTES: usize = 4 << 20;

/// Runs until the spool is closed and nothing waits any more.
pub(super) fn run(shared: &Arc<Shared>) {
    loop {
        let packing = shared.packing.lock();
        let Some((group, roll)) = shared.next_group() else { return };
        let answers_left = group.len();
        let outcome = caught(|| {
            let packed = shared.pack(&group, roll);
            drop(packing);
            (packed, group)
        });
        let outcome = outcome.and_then(|(packed, group)| caught(|| shared.commit_packed(packed, group, roll)));
        if let Err(panic) = outcome {
            // Who waited is told by the answer's end.
            shared.reports.error(format!("appending {answers_left} batches panicked, and goes on: {panic}"));
        }
    }
}

impl Shared {
    /// Waits for what is to be appended; `None` at the end.
    fn next_group(&self) -> Option<(Vec<Waiting>, bool)> {
        let mut inbox = self.inbox.lock();
        while inbox.appends.is_empty() && !inbox.roll {
            if inbox.closing {
                return None;
            }
            self.mail.wait(&mut inbox);
        }
        Some(inbox.take_group())
    }

    /// Appends what waits now, on this thread; false where nothing did.
    #[cfg(test)]
    pub(crate) fn append_waiting(&self) -> bool {
        let (group, roll) = self.inbox.lock().take_group();
        if group.is_empty() && !roll {
            return false;
        }
        let packed = self.pack(&group, roll);
        self.commit_packed(packed, group, roll);
        true
    }

    fn pack(&self, group: &[Waiting], roll: bool) -> Result<PackedGroup, Refusal> {
        self.store.pack(group.iter().map(|waiting| &waiting.batch), roll).map_err(Refusal::Io)
    }

    /// Makes a group durable and answers it.
    fn commit_packed(&self, mut packed: Result<PackedGroup, Refusal>, group: Vec<Waiting>, roll: bool) {
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
                        self.commit_packed(self.pack(&half, false), half, false);
                    }
                    return;
                }
                Refusal::Full(_) if self.never_fits(bytes).is_some() => {
                    let max = self.never_fits(bytes).unwrap_or_default();
                    let sink = self.options.name.clone();
                    return answer(group, &AppendError::NeverFits { sink, bytes, max });
                }
                Refusal::Full(_) if self.options.when_full == WhenFull::DropOldest && self.drop_oldest(bytes) => {}
                refusal => return answer(group, &self.name_refusal(refusal)),
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

impl super::shared::Inbox {
    fn take_group(&mut self) -> (Vec<Waiting>, bool) {
        let (mut group, mut raw) = (Vec::new(), 0);
        while let Some(waiting) = self.appends.front() {
            let len = waiting.batch.bytes().len();
            if raw > 0 && raw + len > GROUP_RAW_BYTES {
                break;
            }
            raw += len;
            group.extend(self.appends.pop_front());
        }
        (group, std::mem::take(&mut self.roll))
    }
}

fn answer(group: Vec<Waiting>, error: &AppendError) {
    for waiting in group {
        let _ = waiting.answer.send(Err(error.clone()));
    }
}
