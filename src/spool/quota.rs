//! Limits: what may be appended, and what is dropped to make space for it.
//!
//! A policy that drops does so as far as that makes the append fit, by whole segments, oldest first, and not at all where it cannot.

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
/// Entries that one look drops for their age.
const MAX_EXPIRED: usize = 10_000;

const MIN_SEGMENT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 256 << 10 };
/// The smallest `max_bytes` that four segments and the queue fit into.
pub(crate) const MIN_MAX_BYTES: u64 = 4 << 20;

/// What of `max_bytes` is left for the queue to grow into, so that a full spool can drain.
fn queue_bytes(options: &SpoolOptions) -> u64 {
    (options.max_bytes / 16).min(1 << 20)
}

/// What dead letters may take: their own limit, and at most an eighth of the whole.
pub(crate) fn dead_max_bytes(options: &SpoolOptions) -> u64 {
    options.dead_max_bytes.min(options.max_bytes / 8)
}

/// How long segments get: at least four (and space for the queue) fit into `max_bytes`.
pub(crate) fn segment_bytes(options: &SpoolOptions) -> u64 {
    options.segment_bytes.min(options.max_bytes / 6).max(MIN_SEGMENT_BYTES)
}

impl Shared {
    /// What `max_bytes` leaves for appends: some is kept for the queue, and for the dead letters, so that they can be set aside.
    fn append_limit(&self) -> u64 {
        let dead = dead_max_bytes(&self.options).saturating_sub(self.dead.bytes());
        (self.options.max_bytes - queue_bytes(&self.options)).saturating_sub(dead)
    }

    /// What an append may take at the most, whatever is drained or dropped; `None` where so much fits.
    pub(crate) fn never_fits(&self, bytes: u64) -> Option<u64> {
        let max = self.options.max_bytes - queue_bytes(&self.options) - dead_max_bytes(&self.options);
        (bytes > max).then_some(max)
    }

    /// Whether `bytes` more fit on top of what is used; answers how much is left behind them.
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

    /// Makes space for `bytes` by dropping the oldest segments; answers how many records that took. `None`, and nothing is dropped,
    /// where that cannot make it fit.
    pub(crate) fn drop_oldest(&self, bytes: u64) -> Option<u64> {
        self.measure();
        // What is delivered goes first; it may do.
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
            // Nothing else tells after a kill that its records were dropped, once it is gone.
            self.store.flush();
            self.store.retain();
            self.refresh_free();
            if self.admit(bytes).is_ok() {
                self.reports.warn(&format!("the spool is full: its oldest {dropped} records are dropped"));
                return Some(dropped);
            }
            if self.store.state.lock().segments.contains_key(&segment) {
                // It holds what cannot be told yet, or does not go: dropping more would not help either.
                break;
            }
        }
        if dropped > 0 {
            self.reports
                .warn(&format!("the spool is full, and {dropped} records were dropped without making enough space"));
        }
        None
    }

    /// The oldest segment that can go; none where even all of them do not make `bytes` fit. Asked again after each: another append
    /// may take the space that one gave back.
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
        // First where a kill does not take it.
        self.losses.add_newest(stream, records);
        self.store.count(stream, Disposition::Dropped(DropReason::Newest), records, bytes);
    }

    /// Drops what is older than `max_age`.
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
