//! Checks what the sink set up (indexes, for example): every few minutes, after an outage, and when the sink doubts it.
//!
//! A check is a separate task, one at a time, concurrent with the deliveries, and uses no place of a batch. Deliveries
//! stop, as in an outage, only if the check finds that the sink cannot store records.

use std::time::Duration;

use tokio::{task::JoinError, time::Instant};

use super::Loop;
use crate::{
    flush::tasks::check_setup,
    sink::{SinkError, SinkErrorKind},
};

/// The longest time between two checks; the pauses are random from half of it, so that a fleet does not check at the
/// same time.
const INTERVAL: Duration = Duration::from_secs(120);
/// The shortest time between two checks, however much the sink doubts.
const MIN_PAUSE: Duration = Duration::from_secs(10);

impl Loop {
    /// The sink was initialized, with these warnings.
    pub(super) fn set_up(&mut self, warnings: Vec<String>) {
        self.log_warnings(warnings);
        self.initialized = true;
        self.check.last = Some(Instant::now());
        self.plan_check();
    }

    /// The server may be a different one now, or have lost its data.
    pub(super) fn check_soon(&mut self) {
        self.check.next = Some(Instant::now());
    }

    /// When the next check begins; `None` if none is planned.
    pub(super) fn check_at(&self) -> Option<Instant> {
        let waits = self.initialized
            && self.outage.is_none()
            && !self.paused
            && self.deadline.is_none()
            && !self.has_to_load_delivered()
            && self.check.running.is_empty();
        let next = self.check.next.filter(|_| waits)?;
        let earliest = self.check.last.map_or(next, |last| last + MIN_PAUSE);
        Some(if self.context.sink.doubts_setup() { earliest } else { next.max(earliest) })
    }

    pub(super) fn start_check_when_due(&mut self, now: Instant) {
        if self.check_at().is_some_and(|at| at <= now) {
            self.check.running.spawn(check_setup(self.context.clone()));
        }
    }

    pub(super) fn complete_check(&mut self, done: Result<Result<Vec<String>, SinkError>, JoinError>) {
        self.check.last = Some(Instant::now());
        self.plan_check();
        match done {
            Ok(Ok(warnings)) => self.log_warnings(warnings),
            // Had this been known before, the first batch would not have been sent.
            Ok(Err(error)) if error.kind == SinkErrorKind::Unsuitable => {
                self.initialized = false;
                self.fail(error.kind.into(), error.message);
            }
            // Deliveries detect and report an unavailable server.
            Ok(Err(error)) => {
                tracing::debug!(sink = %self.shared.snapshot().sink, %error, "could not check what the sink set up");
            }
            Err(panic) => self.record_error(&format!("could not check what the sink set up: {panic}")),
        }
    }

    fn plan_check(&mut self) {
        let pause = INTERVAL.mul_f64(0.5 + 0.5 * self.context.environment.random_fraction());
        self.check.next = Some(Instant::now() + pause);
    }

    /// Logs the warnings that the last check did not have.
    fn log_warnings(&mut self, warnings: Vec<String>) {
        for warning in warnings.iter().filter(|warning| !self.check.warnings.contains(warning)) {
            tracing::warn!(sink = %self.shared.snapshot().sink, "{warning}");
        }
        self.check.warnings = warnings;
    }
}
