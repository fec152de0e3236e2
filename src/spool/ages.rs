//! Which records are older than `max_age`, whatever the wall clock does.
//!
//! A jump of the wall clock drops nothing: time passes here by the monotonic clock. What came in since the start is old
//! only when that much time has passed since; what was there at the start is judged by its time of receipt against the
//! time of the start, and time during which the spool was closed counts for an hour at most (longer may be a jump).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::record::{Stream, UnixMillis};

const MOST_CLOSED: Duration = Duration::from_secs(3600);
/// Marks per `max_age`: records go at most 1/64 of it late.
const MARKS: u32 = 64;

type Ordinals = [u64; Stream::ALL.len()];

/// The judge of ages.
#[derive(Debug)]
pub(crate) struct Ages {
    max_age: Duration,
    /// What the time was at the start, and when that was.
    start: (UnixMillis, Instant),
    /// Records before these were there at the start, or are older than `max_age` by the monotonic clock.
    judged: Ordinals,
    /// When the streams' next records had these ordinals.
    marks: VecDeque<(Instant, Ordinals)>,
}

impl Ages {
    /// `written_at` is the wall clock's last trace in the journal.
    pub(crate) fn new(
        max_age: Duration,
        wall: UnixMillis,
        written_at: Option<UnixMillis>,
        now: Instant,
        next: Ordinals,
    ) -> Self {
        let most = millis(MOST_CLOSED);
        let start = written_at.map_or(wall, |written_at| wall.min(written_at.saturating_add(most)));
        Self { max_age, start: (start, now), judged: next, marks: VecDeque::new() }
    }

    /// Notes how far the streams are; call it now and then.
    pub(crate) fn mark(&mut self, now: Instant, next: Ordinals) {
        while let Some((at, ordinals)) = self.marks.front()
            && now.duration_since(*at) >= self.max_age
        {
            self.judged = *ordinals;
            self.marks.pop_front();
        }
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= self.max_age / MARKS) {
            self.marks.push_back((now, next));
        }
    }

    /// Whether a record is too old.
    pub(crate) fn is_over(&self, now: Instant, stream: Stream, ordinal: u64, received_at: UnixMillis) -> bool {
        let (start, at) = self.start;
        let time = start.saturating_add(millis(now.duration_since(at)));
        ordinal < self.judged[stream as usize] && time.saturating_sub(received_at) >= millis(self.max_age)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: i64 = 24 * 3_600_000;
    const NOW: UnixMillis = 1_800_000_000_000;

    fn ages(wall: UnixMillis, written_at: Option<UnixMillis>, start: Instant) -> Ages {
        Ages::new(HOUR, wall, written_at, start, [100; 3])
    }

    #[test]
    fn what_was_there_at_the_start_goes_by_its_time_of_receipt() {
        let start = Instant::now();
        let ages = ages(NOW, Some(NOW - 60_000), start);
        assert!(ages.is_over(start, Stream::Events, 99, NOW - 3_600_000));
        assert!(!ages.is_over(start, Stream::Events, 99, NOW - 3_599_000));
        assert!(ages.is_over(start + HOUR, Stream::Events, 99, NOW - 1));
    }

    #[test]
    fn a_clock_that_jumped_ahead_between_runs_drops_nothing_at_once() {
        let start = Instant::now();
        let ages = ages(NOW + 365 * DAY, Some(NOW), start);
        assert!(!ages.is_over(start, Stream::Events, 99, NOW + 1000), "received just before the stop");
        assert!(ages.is_over(start + HOUR, Stream::Events, 99, NOW), "and yet nothing stays for ever");
    }

    #[test]
    fn a_clock_that_jumped_back_between_runs_drops_nothing() {
        let start = Instant::now();
        let ages = ages(0, Some(NOW), start);
        assert!(!ages.is_over(start + HOUR, Stream::Events, 99, NOW));
    }

    #[test]
    fn what_came_since_the_start_goes_by_the_monotonic_clock() {
        let start = Instant::now();
        let mut ages = ages(NOW, None, start);
        ages.mark(start, [100; 3]);
        ages.mark(start + HOUR / 2, [200; 3]);
        // The clock stood in 1970 when these came.
        assert!(!ages.is_over(start + HOUR / 2, Stream::Events, 150, 0));
        ages.mark(start + HOUR * 3 / 2, [300; 3]);
        assert!(ages.is_over(start + HOUR * 3 / 2, Stream::Events, 150, 0));
        assert!(!ages.is_over(start + HOUR * 3 / 2, Stream::Events, 250, 0));
    }
}
