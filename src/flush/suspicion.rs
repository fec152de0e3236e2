//! When a record that its sink refuses by name, for a reason that may pass, becomes a dead letter: the one rule for all sinks.
//!
//! Only on this evidence: it failed alone [`ROUNDS`] times, others were delivered before each of these failures and after the
//! one before, and `reject_after` has passed between the first and the last. A throttled or broken server fails what comes
//! just then; a record that is at fault fails while all around it passes. Where nothing passes nothing is counted.
//!
//! Pure: the caller brings the time, and what was delivered.

use std::time::Duration;

use tokio::time::Instant;

/// Failures that count, at least.
const ROUNDS: u32 = 5;

/// How often records failed while others were delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// When the first failure that counts was.
    since: Instant,
    rounds: u32,
}

impl Suspicion {
    /// They failed alone (again); `others_passed`: records were delivered since they did before.
    pub(super) fn after_failure(before: Option<Self>, others_passed: bool, now: Instant) -> Self {
        let before = before.filter(|before| before.rounds > 0).unwrap_or(Self { since: now, rounds: 0 });
        Self { rounds: before.rounds + u32::from(others_passed), ..before }
    }

    /// True where the records are at fault.
    pub(super) fn is_certain(&self, reject_after: Duration, now: Instant) -> bool {
        self.rounds >= ROUNDS && now.duration_since(self.since) >= reject_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Fails so many times, a second apart.
    fn failing(times: u32, others_passed: bool, start: Instant) -> Suspicion {
        let failures = (0..times).map(|second| start + Duration::from_secs(u64::from(second)));
        failures.fold(None, |before, now| Some(Suspicion::after_failure(before, others_passed, now))).expect("failed")
    }

    #[test]
    fn many_failures_at_once_are_no_evidence_and_neither_are_few_over_a_long_time() {
        let start = Instant::now();
        let often = failing(50, true, start);
        assert!(!often.is_certain(LONG, start + Duration::from_secs(50)));
        assert!(often.is_certain(LONG, start + LONG));
        assert!(!failing(ROUNDS - 1, true, start).is_certain(LONG, start + 100 * LONG));
    }

    #[test]
    fn what_fails_while_nothing_passes_counts_neither_as_a_failure_nor_as_time() {
        let start = Instant::now();
        let outage = failing(3600, false, start);
        let back = start + Duration::from_secs(3600);
        assert!(!outage.is_certain(LONG, back));
        let once = Suspicion::after_failure(Some(outage), true, back);
        assert!(!once.is_certain(LONG, back + LONG), "one failure");
        let again = (1..ROUNDS).fold(once, |before, _| Suspicion::after_failure(Some(before), true, back));
        assert!(!again.is_certain(LONG, back) && again.is_certain(LONG, back + LONG));
    }
}
