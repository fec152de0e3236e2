//! Expiry: which records are older than `max_age`, even when the wall clock jumps.
//!
//! A jump of the wall clock drops nothing, because time passes here by the monotonic clock. A record received since the
//! start expires only when `max_age` has passed since then. A record that existed at the start expires by its time of
//! receipt. The time between two runs counts for at most an eighth of `max_age` and at most an hour, because longer may
//! be a jump. So a jump drops nothing that is younger than seven eighths of `max_age`, and after a long stop records
//! are kept longer. The time that does not count for existing records is stored with the queue, per extent of sequence
//! numbers, so that further jumps in both directions do not add up.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bincode::{Decode, Encode};

use crate::record::{Stream, UnixMillis};

const MAX_CLOSED: Duration = Duration::from_secs(3600);
/// The same, as a part of `max_age`.
const MAX_CLOSED_PART: u32 = 8;
/// Marks per `max_age`: records expire at most 1/64 of it late.
const MARKS: u32 = 64;
/// The most extents that are kept apart: beyond that the oldest become one.
const MAX_EXTENTS: usize = 64;

type Seqs = [u64; Stream::ALL.len()];

/// The time that the next run needs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Times {
    /// When it was recorded.
    pub(crate) written_at: UnixMillis,
    extents: Vec<Extent>,
}

impl Times {
    /// Only the time, without extents.
    pub(crate) const fn at(written_at: UnixMillis) -> Self {
        Self { written_at, extents: Vec::new() }
    }
}

/// Records, up to the next extent, for which some of the time since does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct Extent {
    first: Seqs,
    uncounted: UnixMillis,
}

/// Decides which records expire.
#[derive(Debug)]
pub(crate) struct Expiry {
    max_age: Duration,
    /// The time at the start, by both clocks.
    start: (UnixMillis, Instant),
    /// Oldest first; the first one begins with the first record ever.
    extents: Vec<Extent>,
    /// Records before these were there at the start, or are older than `max_age` by the monotonic clock.
    judged: Seqs,
    /// The first records received since the start.
    first: Seqs,
    /// When the streams' next records had these sequence numbers.
    marks: VecDeque<(Instant, Seqs)>,
}

impl Expiry {
    /// `times` is what was recorded last, if anything.
    pub(crate) fn new(max_age: Duration, wall: UnixMillis, times: Option<Times>, now: Instant, next: Seqs) -> Self {
        let times = times.unwrap_or(Times::at(wall));
        let mut extents = times.extents;
        if extents.is_empty() {
            extents.push(Extent { first: Seqs::default(), uncounted: 0 });
        }
        let counted = MAX_CLOSED.min(max_age / MAX_CLOSED_PART);
        let uncounted = wall.saturating_sub(times.written_at).saturating_sub(millis(counted));
        if uncounted > 0 {
            for extent in &mut extents {
                extent.uncounted = extent.uncounted.saturating_add(uncounted);
            }
            extents.push(Extent { first: next, uncounted: 0 });
        }
        Self { max_age, start: (wall, now), extents, judged: next, first: next, marks: VecDeque::new() }
    }

    /// The times to record; records before `heads` are gone.
    pub(crate) fn times(&mut self, now: Instant, heads: Seqs) -> Times {
        let gone = |extent: &Extent| extent.first.iter().zip(heads).all(|(first, head)| *first <= head);
        while let [_, second, ..] = self.extents[..]
            && (gone(&second) || self.extents.len() > MAX_EXTENTS)
        {
            let oldest = self.extents.remove(0);
            if !gone(&second) {
                self.extents[0].uncounted = oldest.uncounted;
            }
        }
        Times { written_at: self.time(now), extents: self.extents.clone() }
    }

    fn time(&self, now: Instant) -> UnixMillis {
        let (start, at) = self.start;
        start.saturating_add(millis(now.duration_since(at)))
    }

    /// Records the streams' next sequence numbers; call it regularly.
    pub(crate) fn mark(&mut self, now: Instant, next: Seqs) {
        while let Some((at, seqs)) = self.marks.front()
            && now.duration_since(*at) >= self.max_age
        {
            self.judged = *seqs;
            self.marks.pop_front();
        }
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= self.max_age / MARKS) {
            self.marks.push_back((now, next));
        }
    }

    /// True if a record is too old.
    pub(crate) fn is_over(&self, now: Instant, stream: Stream, seq: u64, received_at: UnixMillis) -> bool {
        let i = stream as usize;
        let extent = self.extents.iter().rfind(|extent| extent.first[i] <= seq);
        let uncounted = extent.map_or(0, |extent| extent.uncounted);
        // A record that existed at the start was received before it, whatever the clock showed then.
        let received_at = if seq < self.first[i] { received_at.min(self.start.0) } else { received_at };
        let age = self.time(now).saturating_sub(received_at).saturating_sub(uncounted);
        seq < self.judged[i] && age >= millis(self.max_age)
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

    fn expiry(wall: UnixMillis, written_at: Option<UnixMillis>, start: Instant) -> Expiry {
        let times = written_at.map(Times::at);
        Expiry::new(HOUR, wall, times, start, [100; 3])
    }

    #[test]
    fn what_was_there_at_the_start_goes_by_its_time_of_receipt() {
        let start = Instant::now();
        let expiry = expiry(NOW, Some(NOW - 60_000), start);
        assert!(expiry.is_over(start, Stream::Events, 99, NOW - 3_600_000));
        assert!(!expiry.is_over(start, Stream::Events, 99, NOW - 3_599_000));
        assert!(expiry.is_over(start + HOUR, Stream::Events, 99, NOW - 1));
    }

    #[test]
    fn a_clock_that_jumped_ahead_between_runs_drops_nothing_at_once() {
        let start = Instant::now();
        let expiry = expiry(NOW + 365 * DAY, Some(NOW), start);
        assert!(!expiry.is_over(start, Stream::Events, 99, NOW + 1000), "received just before the stop");
        assert!(expiry.is_over(start + HOUR, Stream::Events, 99, NOW), "and yet nothing stays forever");
    }

    #[test]
    fn a_clock_that_jumped_ahead_by_less_than_an_hour_between_runs_drops_nothing_young_however_short_max_age_is() {
        let start = Instant::now();
        for minutes in [1, 10, 60] {
            let max_age = Duration::from_secs(60 * minutes);
            let jumped = NOW + HOUR.as_millis() as i64;
            let expiry = Expiry::new(max_age, jumped, Some(Times::at(NOW)), start, [100; 3]);
            assert!(!expiry.is_over(start, Stream::Events, 99, NOW - millis(max_age) * 7 / 8 + 1), "{minutes} minutes");
            assert!(expiry.is_over(start + max_age, Stream::Events, 99, NOW), "and yet nothing stays forever");
        }
    }

    #[test]
    fn a_clock_that_jumped_ahead_and_back_between_runs_drops_nothing_and_nothing_stays_for_ever() {
        let start = Instant::now();
        let expiry = |wall, times, next| Expiry::new(6 * HOUR, wall, times, start, next);
        let recorded = expiry(NOW, Some(Times::at(NOW)), [100; 3]).times(start, [0; 3]);
        // A run with a clock a year ahead; it receives more. Then the clock is right again, as far as it may go back.
        let ahead = NOW + 365 * DAY;
        let recorded = expiry(ahead, Some(recorded), [100; 3]).times(start + HOUR / 4, [0; 3]);
        let third = expiry(ahead + 900_000, Some(recorded), [200; 3]);
        for (seq, received_at) in [(99, NOW - 1000), (150, ahead + 1000)] {
            assert!(!third.is_over(start, Stream::Events, seq, received_at), "{seq}");
            assert!(third.is_over(start + 6 * HOUR, Stream::Events, seq, received_at), "{seq}");
        }
    }

    #[test]
    fn extents_are_removed_with_their_records() {
        let start = Instant::now();
        let mut times = None;
        for run in 0..10 {
            let next = [run * 10; 3];
            let mut expiry = Expiry::new(HOUR, NOW + run as i64 * DAY, times, start, next);
            times = Some(expiry.times(start, [(run * 10).saturating_sub(25); 3]));
            assert!(times.as_ref().is_some_and(|times| times.extents.len() <= 4), "{times:?}");
        }
    }

    #[test]
    fn a_clock_that_jumped_back_between_runs_drops_nothing_at_once_and_nothing_stays_for_ever() {
        let start = Instant::now();
        let expiry = expiry(0, Some(NOW), start);
        assert!(!expiry.is_over(start + HOUR * 63 / 64, Stream::Events, 99, NOW));
        assert!(expiry.is_over(start + HOUR, Stream::Events, 99, NOW), "it came before the start, whenever that was");
    }

    #[test]
    fn what_came_since_the_start_goes_by_the_monotonic_clock() {
        let start = Instant::now();
        let mut expiry = expiry(NOW, None, start);
        expiry.mark(start, [100; 3]);
        expiry.mark(start + HOUR / 2, [200; 3]);
        // The clock showed 1970 when these were received.
        assert!(!expiry.is_over(start + HOUR / 2, Stream::Events, 150, 0));
        expiry.mark(start + HOUR * 3 / 2, [300; 3]);
        assert!(expiry.is_over(start + HOUR * 3 / 2, Stream::Events, 150, 0));
        assert!(!expiry.is_over(start + HOUR * 3 / 2, Stream::Events, 250, 0));
    }
}
