//! Which stream's records are sent next, and when: as soon as a batch is full, when the first record has waited for the
//! interval, or at once if a flush was requested.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    record::Stream,
    spool::{LeaseLimit, Queue},
};

/// How often a filling batch is checked, at most and at least.
const TICK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Tracks since when each stream has a backlog.
pub(super) struct Due {
    interval: Duration,
    since: [Option<Instant>; Stream::ALL.len()],
    /// Records to send without waiting for more.
    forced: [u64; Stream::ALL.len()],
    /// Streams that could not be read are skipped until then: the others continue.
    not_before: [Option<Instant>; Stream::ALL.len()],
    /// The stream that is checked first: they take turns.
    turn: usize,
}

impl Due {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            since: Default::default(),
            forced: Default::default(),
            not_before: Default::default(),
            turn: 0,
        }
    }

    /// A stream whose records are to be sent now.
    pub(super) fn next(
        &mut self,
        queue: &dyn Queue,
        now: Instant,
        limit: LeaseLimit,
        flushing: bool,
    ) -> Option<Stream> {
        for i in 0..Stream::ALL.len() {
            let at = (self.turn + i) % Stream::ALL.len();
            let (records, bytes) = queue.waiting(Stream::ALL[at]);
            if records == 0 {
                self.since[at] = None;
                self.forced[at] = 0;
                continue;
            }
            if self.not_before[at].is_some_and(|until| until > now) {
                continue;
            }
            let since = *self.since[at].get_or_insert(now);
            let full = records >= limit.records as u64 || bytes >= limit.bytes as u64;
            if full || flushing || self.forced[at] > 0 || now.duration_since(since) >= self.interval {
                self.turn = (at + 1) % Stream::ALL.len();
                return Some(Stream::ALL[at]);
            }
        }
        None
    }

    /// Postpones a stream that cannot be read; true if another one has records that can be tried meanwhile.
    pub(super) fn postpone(&mut self, stream: Stream, now: Instant, until: Instant, queue: &dyn Queue) -> bool {
        self.not_before[stream as usize] = Some(until);
        let may_go = |&other: &Stream| {
            queue.waiting(other).0 > 0 && self.not_before[other as usize].is_none_or(|until| until <= now)
        };
        Stream::ALL.iter().any(may_go)
    }

    /// Counts records of a stream that were leased.
    pub(super) fn count_leased(&mut self, stream: Stream, records: usize) {
        let at = stream as usize;
        self.since[at] = None;
        self.forced[at] = self.forced[at].saturating_sub(records as u64);
    }

    /// When to check filling batches again; `None` if the backlog is empty.
    pub(super) fn next_check(&self, now: Instant) -> Option<Instant> {
        let first = self.since.iter().flatten().min()?;
        Some((now + self.tick()).min(*first + self.interval))
    }

    /// How often to check a filling batch.
    pub(super) fn tick(&self) -> Duration {
        (self.interval / 20).clamp(TICK.0, TICK.1)
    }

    /// Sends the current backlog without waiting for more.
    pub(super) fn force(&mut self, queue: &dyn Queue) {
        self.forced = Stream::ALL.map(|stream| queue.waiting(stream).0);
    }

    /// True if no stream has records to lease.
    pub(super) fn is_empty(&self, queue: &dyn Queue) -> bool {
        Stream::ALL.iter().all(|&stream| queue.waiting(stream).0 == 0)
    }
}
