//! Limits: what may be appended, and what is dropped to make space for it.
//!
//! A policy that drops records drops whole segments, oldest first, only until the append fits, and none if it cannot be
//! made to fit.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    error::FullLimit,
    expiry::Expiry,
    options::SpoolOptions,
    shared::Shared,
    totals::{Disposition, DropReason},
};
use crate::record::{Stream, instant};

/// How long making space may wait for the queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most entries that one round drops because of their age.
const MAX_EXPIRED: usize = 10_000;

const MIN_SEGMENT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 256 << 10 };

/// The part of `max_bytes` that is left for the queue to grow, so that a full spool can drain.
fn queue_bytes(options: &SpoolOptions) -> u64 {
    (options.max_bytes / 16).min(1 << 20)
}

/// The limit of the dead letters: their own, and at most an eighth of the whole.
pub(crate) fn dead_max_bytes(options: &SpoolOptions) -> u64 {
    options.dead_letters.max_bytes.min(options.max_bytes / 8)
}

/// The length of segments: at least four (and space for the queue) fit into `max_bytes`.
pub(crate) fn segment_bytes(options: &SpoolOptions) -> u64 {
    options.segment_bytes.min(options.max_bytes / 6).max(MIN_SEGMENT_BYTES)
}

impl Shared {
    /// What `max_bytes` leaves for appends: a part is reserved for the queue, and one for the dead letters, so that
    /// records can be dead-lettered.
    fn append_limit(&self) -> u64 {
        let dead = dead_max_bytes(&self.options).saturating_sub(self.dead.bytes());
        (self.options.max_bytes - queue_bytes(&self.options)).saturating_sub(dead)
    }

    /// The most that an append may take, even in an empty spool; `None` if `bytes` fit.
    pub(crate) fn never_fits(&self, bytes: u64) -> Option<u64> {
        let max = self.options.max_bytes - queue_bytes(&self.options) - dead_max_bytes(&self.options);
        (bytes > max).then_some(max)
    }

    /// Checks that `bytes` fit on top of what is used; returns how much is left after them.
    pub(crate) fn admit(&self, bytes: u64) -> Result<u64, FullLimit> {
        let (used, limit) = (self.used(), self.append_limit());
        if used + bytes > limit {
            return Err(FullLimit::Quota { used, max: self.options.max_bytes });
        }
        let (free, min) = (self.usage.free.load(Ordering::Relaxed), self.options.min_free_bytes);
        if free < min.saturating_add(bytes) {
            return Err(FullLimit::Disk { free, min });
        }
        Ok((limit - used - bytes).min(free - min - bytes))
    }

    /// Makes space for `bytes` by dropping the oldest segments; returns how many records were dropped. Returns `None`,
    /// and drops nothing, if that cannot make it fit.
    pub(crate) fn drop_oldest(&self, bytes: u64) -> Option<u64> {
        self.measure();
        // Delivered segments are deleted first; that may suffice.
        self.store.enter();
        self.store.retain();
        self.refresh_free();
        if self.admit(bytes).is_ok() {
            return Some(0);
        }
        self.store.try_with_queue(QUEUE_TIMEOUT, |_| Ok(()))?;
        if !self.store.can_flush(QUEUE_TIMEOUT) {
            return None;
        }
        let mut dropped = 0;
        while let Some(segment) = self.next_to_drop(bytes) {
            dropped += self.store.drop_segment(segment);
            // Once it is deleted, nothing else records after a kill that its records were dropped.
            self.store.flush();
            self.store.retain();
            self.refresh_free();
            if self.admit(bytes).is_ok() {
                self.reports.warn(&format!("the spool is full: its oldest {dropped} records are dropped"));
                return Some(dropped);
            }
            if self.store.state.lock().segments.contains_key(&segment) {
                // It holds records that cannot be recorded as dropped yet, or cannot be deleted: dropping more would
                // not help either.
                break;
            }
        }
        if dropped > 0 {
            self.reports
                .warn(&format!("the spool is full, and {dropped} records were dropped without making enough space"));
        }
        None
    }

    /// The oldest segment that can be dropped; `None` if dropping all of them does not make `bytes` fit. Called again
    /// after each: another append may take the space that was freed.
    fn next_to_drop(&self, bytes: u64) -> Option<u64> {
        let (used, limit) = (self.used(), self.append_limit());
        let (free, min) = (self.usage.free.load(Ordering::Relaxed), self.options.min_free_bytes);
        let needed = (used + bytes).saturating_sub(limit).max(min.saturating_add(bytes).saturating_sub(free));
        let state = self.store.state.lock();
        let mut droppable = state.segments.iter().filter(|(_, known)| known.sealed && known.unread.is_none());
        let (&oldest, first) = droppable.next()?;
        let freed: u64 = first.allocated + droppable.map(|(_, known)| known.allocated).sum::<u64>();
        (freed >= needed).then_some(oldest)
    }

    /// Counts records that `when_full: drop_newest` drops.
    pub(crate) fn count_newest(&self, stream: Stream, records: u64, bytes: u64) {
        // First in the file that a kill does not lose.
        self.losses.add_newest(stream, records);
        self.store.count(stream, Disposition::Dropped(DropReason::Newest), records, bytes);
    }

    /// Drops records older than `max_age`.
    pub(crate) fn expire(&self, expiry: &mut Expiry) {
        let now = instant();
        expiry.mark(now, self.store.state.lock().streams.each_ref().map(|stream| stream.next));
        for stream in Stream::ALL {
            let (mut at, mut over) = (0, Vec::new());
            while over.len() < MAX_EXPIRED
                && let Some((key, entry)) = self.store.entry_from(stream, at)
            {
                let seqs = entry.seqs(key);
                if !expiry.is_over(now, stream, seqs.end - 1, entry.newest()) {
                    break;
                }
                at = seqs.end;
                over.push(seqs);
            }
            let dropped = self.store.finish(stream, &over, Disposition::Dropped(DropReason::Expired));
            if dropped > 0 {
                self.reports.warn(&format!("{dropped} {stream} were older than max_age and are dropped"));
            }
        }
    }
}
