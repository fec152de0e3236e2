//! The clock for stored times: it follows the wall clock, but never jumps.
//!
//! Times of receipt, ages and expiry all use it. It begins with the wall clock and continues by the monotonic one.
//! Small differences (NTP, drift) are followed, a jump is not: whether the time before or after it was wrong is
//! unknown, and either way some records could look a year old that were received a second ago. A jump is logged once,
//! and ends with the next start.
//!
//! A start uses the wall clock if that is possible: not before this build was made. A machine that boots with a clock
//! in 1970 is known to be wrong, and continues from the time that a spool last recorded. Otherwise a recorded time that
//! is ahead of the wall clock by up to a day is trusted. One that is further ahead was recorded with a wrong clock, and
//! affects only what was received then. `run --trust-clock` trusts the wall clock, whatever was recorded.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, UTC.
pub type UnixMillis = i64;

/// Larger differences are jumps.
const MAX_DRIFT: UnixMillis = 60_000;
/// A recorded time that is further ahead of a possible wall clock is not trusted.
const MAX_TRUSTED: UnixMillis = 24 * 3_600_000;
/// No correct wall clock is earlier: 2026-11-25, when this was written.
const EARLIEST: UnixMillis = 1_795_564_800_000;
/// Smaller differences are ignored.
const MIN_DRIFT: UnixMillis = 10;

/// The wall clock now, in milliseconds since the Unix epoch, without the jumps it made since the start.
#[must_use]
pub fn now_millis() -> UnixMillis {
    with_clock(|clock, now, wall| clock.read(now.duration_since(clock.start), wall))
}

/// The monotonic clock now.
pub(crate) fn instant() -> Instant {
    with_clock(|_, now, _| now)
}

/// Sleeps.
pub(crate) fn pause(time: Duration) {
    #[cfg(test)]
    if simulated::advance(time) {
        return;
    }
    std::thread::sleep(time);
}

/// The wall clock itself: for times that others compare with their own clocks.
#[must_use]
pub fn wall_millis() -> UnixMillis {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// Passes a recorded time to the clock; returns true if the clock trusts it.
pub(crate) fn trusts_recorded(at: UnixMillis) -> bool {
    with_clock(|clock, now, wall| {
        let trusts_wall = clock.trust.load(Ordering::Relaxed);
        let trusted = if trusts_wall { at <= wall } else { is_trusted(at, wall) };
        if trusted {
            clock.not_before(now.duration_since(clock.start), at);
        }
        trusted
    })
}

/// Makes the clock trust the wall clock, whatever was recorded.
pub fn trust_wall_clock() {
    CLOCK.trust.store(true, Ordering::Relaxed);
}

/// True if a recorded time can have been right, according to a wall clock.
fn is_trusted(at: UnixMillis, wall: UnixMillis) -> bool {
    wall < EARLIEST || at <= wall.saturating_add(MAX_TRUSTED)
}

/// Calls with the clock, the monotonic time, and the wall clock's time.
fn with_clock<T>(call: impl FnOnce(&Clock, Instant, UnixMillis) -> T) -> T {
    #[cfg(test)]
    if simulated::is_on() {
        return simulated::with_clock(call);
    }
    call(&CLOCK, Instant::now(), wall_millis())
}

/// A clock that a test moves, for the calling thread.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::RefCell;

    use super::{Clock, Duration, Instant, UnixMillis};

    struct Simulated {
        clock: Clock,
        now: Instant,
        wall: UnixMillis,
    }

    thread_local! {
        static CLOCK: RefCell<Option<Simulated>> = const { RefCell::new(None) };
    }

    /// Simulates the start of a process at this time.
    pub(crate) fn start(wall: UnixMillis) {
        CLOCK.with_borrow_mut(|simulated| {
            let clock = Clock::new(wall);
            *simulated = Some(Simulated { now: clock.start, clock, wall });
        });
    }

    /// Advances both clocks; false if the thread has no simulated clock.
    pub(crate) fn advance(time: Duration) -> bool {
        CLOCK.with_borrow_mut(|simulated| {
            let Some(simulated) = simulated else { return false };
            simulated.now += time;
            simulated.wall += super::millis(time);
            true
        })
    }

    /// Makes the wall clock jump.
    pub(crate) fn jump(millis: UnixMillis) {
        CLOCK.with_borrow_mut(|simulated| simulated.iter_mut().for_each(|simulated| simulated.wall += millis));
    }

    pub(super) fn is_on() -> bool {
        CLOCK.with_borrow(Option::is_some)
    }

    pub(super) fn with_clock<T>(call: impl FnOnce(&Clock, Instant, UnixMillis) -> T) -> T {
        CLOCK.with_borrow(|simulated| match simulated {
            Some(Simulated { clock, now, wall }) => call(clock, *now, *wall),
            None => unreachable!("it was asked whether it is on"),
        })
    }

    /// The wall clock's time.
    pub(crate) fn wall() -> UnixMillis {
        with_clock(|_, _, wall| wall)
    }
}

static CLOCK: LazyLock<Clock> = LazyLock::new(|| Clock::new(wall_millis()));

struct Clock {
    start: Instant,
    /// The time at `start`.
    base: AtomicI64,
    /// The last jump that was logged.
    logged: AtomicI64,
    /// Recorded times are ignored.
    trust: AtomicBool,
}

impl Clock {
    fn new(wall: UnixMillis) -> Self {
        Self {
            start: Instant::now(),
            base: AtomicI64::new(wall),
            logged: AtomicI64::new(0),
            trust: AtomicBool::new(false),
        }
    }

    fn read(&self, elapsed: Duration, wall: UnixMillis) -> UnixMillis {
        let base = self.base.load(Ordering::Relaxed);
        let now = base.saturating_add(millis(elapsed));
        let ahead = wall.saturating_sub(now);
        match ahead.saturating_abs() {
            0..=MIN_DRIFT => now,
            ..=MAX_DRIFT => {
                // Only one of several concurrent callers applies it.
                let _ =
                    self.base.compare_exchange(base, base.saturating_add(ahead), Ordering::Relaxed, Ordering::Relaxed);
                wall
            }
            _ => {
                self.log_jump(ahead);
                now
            }
        }
    }

    fn log_jump(&self, ahead: UnixMillis) {
        let logged = self.logged.load(Ordering::Relaxed);
        if ahead.saturating_sub(logged).saturating_abs() > MAX_DRIFT
            && self.logged.compare_exchange(logged, ahead, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            tracing::warn!(
                ahead_seconds = ahead / 1000,
                "the wall clock jumped, or is behind the time that the spool recorded last: times continue without the jump \
                 until the next start; no record is dropped because of it"
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
    fn recorded_times_are_trusted_where_they_can_be_right() {
        let day = 24 * 3_600_000;
        let now = EARLIEST + 100 * day;
        assert!(is_trusted(now - 400 * day, now), "the past");
        assert!(is_trusted(now + day, now), "a clock that went back by some hours");
        assert!(!is_trusted(now + 73 * YEAR, now), "a run in 2099");
        assert!(!is_trusted(now + 2 * day, now));
        assert!(is_trusted(now, 0), "a machine that boots in 1970");
        assert!(is_trusted(now + YEAR, EARLIEST - 1), "no wall clock to compare with");
    }

    #[test]
    fn a_start_does_not_go_back_before_the_recorded_time() {
        let clock = Clock::new(5_000);
        clock.not_before(seconds(1), NOW);
        assert_eq!(clock.read(seconds(2), 7_000), NOW + 1000);
        clock.not_before(seconds(3), NOW - YEAR);
        assert_eq!(clock.read(seconds(4), 9_000), NOW + 3000);
    }
}
