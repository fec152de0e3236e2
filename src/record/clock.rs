//! The time that is written down: the wall clock's, but it never jumps.
//!
//! Times of receipt, ages and expiry are all told by it. It begins with the wall clock and goes on by the monotonic one;
//! small differences (NTP, drift) are followed, a jump is not: whether the time before it or after it was wrong cannot be
//! known, and with either some records would look a year old that came a second ago. It is said once, and over with the
//! next start. A start never goes back behind what a spool noted last: a machine that comes up in 1970 is known to be
//! wrong.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::UnixMillis;

/// Larger differences are jumps.
const MOST_DRIFT: UnixMillis = 60_000;
/// Smaller ones are let be.
const LEAST_DRIFT: UnixMillis = 10;

/// The wall clock now, in milliseconds since the Unix epoch, without the jumps it made since the start.
#[must_use]
pub fn now_millis() -> UnixMillis {
    CLOCK.read(CLOCK.start.elapsed(), wall_millis())
}

/// The wall clock now, wherever it stands: for what others check against their own.
#[must_use]
pub fn wall_millis() -> UnixMillis {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// Tells the clock that it was this late once: it is not earlier now.
pub(crate) fn not_before(at: UnixMillis) {
    CLOCK.not_before(CLOCK.start.elapsed(), at);
}

static CLOCK: LazyLock<Clock> = LazyLock::new(|| Clock::new(wall_millis()));

struct Clock {
    start: Instant,
    /// What the time was at `start`.
    base: AtomicI64,
    /// The last jump that was told of.
    told: AtomicI64,
}

impl Clock {
    fn new(wall: UnixMillis) -> Self {
        Self { start: Instant::now(), base: AtomicI64::new(wall), told: AtomicI64::new(0) }
    }

    fn read(&self, elapsed: Duration, wall: UnixMillis) -> UnixMillis {
        let base = self.base.load(Ordering::Relaxed);
        let now = base.saturating_add(millis(elapsed));
        let ahead = wall.saturating_sub(now);
        match ahead.saturating_abs() {
            0..=LEAST_DRIFT => now,
            ..=MOST_DRIFT => {
                // Who else follows at the same moment does it once.
                let _ =
                    self.base.compare_exchange(base, base.saturating_add(ahead), Ordering::Relaxed, Ordering::Relaxed);
                wall
            }
            _ => {
                self.tell(ahead);
                now
            }
        }
    }

    fn tell(&self, ahead: UnixMillis) {
        let told = self.told.load(Ordering::Relaxed);
        if ahead.saturating_sub(told).saturating_abs() > MOST_DRIFT
            && self.told.compare_exchange(told, ahead, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            tracing::warn!(
                ahead_seconds = ahead / 1000,
                "the wall clock jumped, or is behind what the spool noted last: times go on without the jump until the \
                 next start; nothing is dropped for it"
            );
        }
    }

    fn not_before(&self, elapsed: Duration, at: UnixMillis) {
        self.base.fetch_max(at.saturating_sub(millis(elapsed)), Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> UnixMillis {
    UnixMillis::try_from(duration.as_millis()).unwrap_or(UnixMillis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_800_000_000_000;
    const YEAR: UnixMillis = 365 * 24 * 3_600_000;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_follows_small_differences_and_no_jumps() {
        let clock = Clock::new(NOW);
        assert_eq!(clock.read(seconds(10), NOW + 10_000), NOW + 10_000);
        assert_eq!(clock.read(seconds(20), NOW + 23_000), NOW + 23_000, "three seconds ahead");
        assert_eq!(clock.read(seconds(30), NOW + 28_000), NOW + 28_000, "and back");
        assert_eq!(clock.read(seconds(40), 0), NOW + 38_000, "not to 1970");
        assert_eq!(clock.read(seconds(50), NOW + YEAR), NOW + 48_000, "nor a year ahead");
        assert_eq!(clock.read(seconds(60), NOW + 60_000), NOW + 60_000, "back where it was, it is followed again");
    }

    #[test]
    fn a_start_does_not_go_back_behind_what_was_noted() {
        let clock = Clock::new(5_000);
        clock.not_before(seconds(1), NOW);
        assert_eq!(clock.read(seconds(2), 7_000), NOW + 1000);
        clock.not_before(seconds(3), NOW - YEAR);
        assert_eq!(clock.read(seconds(4), 9_000), NOW + 3000);
    }
}
