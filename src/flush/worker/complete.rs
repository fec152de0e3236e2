//! What the loop makes of a task's end: count, hold what is left, back off where nothing was accepted.

use std::{ops::Range, time::Duration};

use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::{Loop, MAX_HELD_EXTRA, Outage};
use crate::{
    flush::{
        FlushState, backoff,
        in_flight::InFlightBatch,
        tasks::{Sent, TaskResult, count_retries},
    },
    record::Stream,
    sink::SinkErrorKind,
    spool::QueueError,
};

impl Loop {
    pub(super) fn complete_task(&mut self, done: Result<(Id, TaskResult), JoinError>) {
        match done {
            Ok((_, TaskResult::Initialized(Ok(warnings)))) => {
                for warning in warnings {
                    tracing::warn!(sink = %self.shared.snapshot().sink, "{warning}");
                }
                self.initialized = true;
                self.outage = None;
            }
            Ok((_, TaskResult::Initialized(Err(error)))) => self.fail(error.kind.into(), error.message),
            Ok((_, TaskResult::LookedBack(since, Ok(())))) => {
                self.looked_back = since;
                self.outage = None;
            }
            Ok((_, TaskResult::LookedBack(_, Err(error)))) => self.fail(error.kind.into(), error.message),
            Ok((id, TaskResult::Sent(sent))) => {
                self.take_lease(id);
                self.complete_batch(*sent);
            }
            Err(panic) => {
                if let Some((stream, seqs)) = self.take_lease(panic.id()) {
                    self.context.queue.release(stream, &seqs);
                }
                self.fail(FlushState::Unavailable, format!("the sink's code failed: {panic}"));
            }
        }
    }

    /// Forgets what a task has leased.
    fn take_lease(&mut self, task: Id) -> Option<(Stream, Vec<Range<u64>>)> {
        let at = self.leased.iter().position(|(id, ..)| *id == task)?;
        let (_, stream, seqs) = self.leased.swap_remove(at);
        Some((stream, seqs))
    }

    fn complete_batch(&mut self, mut sent: Sent) {
        self.shared.update(|status| {
            status.batches += sent.batches;
            status.delivered_records += sent.delivered;
            status.delivered_bytes += sent.delivered_bytes;
            status.rejected_records += sent.rejected;
            count_retries(&mut status.retried_records, &sent);
            if sent.delivered > 0 {
                status.lag_millis = sent.lag_millis.or(status.lag_millis);
                status.last_delivery_at = Some(self.context.environment.now_millis());
            }
        });
        let accepted = sent.delivered + sent.rejected > 0;
        if accepted {
            self.window.answered(sent.records, sent.bytes, sent.latency);
        }
        if accepted && self.unsettled.is_empty() {
            self.outage = None;
        }
        let leftover = sent.leftover.take();
        if let Some(batch) = leftover {
            let error = sent.error.take();
            let kind = error.as_ref().map_or(SinkErrorKind::Unavailable, |error| error.kind);
            self.hold(batch, kind, error.map(|error| error.message).unwrap_or_default(), sent.accepted_total, accepted);
        }
        if let Some((outcomes, error)) = sent.unsettled {
            self.unsettled.push(outcomes);
            self.fail_to_settle(&error);
        }
    }

    /// Keeps what is to be tried again, and backs off where nothing was accepted.
    fn hold(
        &mut self,
        mut batch: InFlightBatch,
        kind: SinkErrorKind,
        message: String,
        accepted_total: u64,
        accepted: bool,
    ) {
        if kind == SinkErrorKind::Timeout {
            self.window.timed_out(batch.records.len());
        }
        let others_accepted = batch.accepted_total.replace(accepted_total).is_some_and(|then| then < accepted_total);
        if kind == SinkErrorKind::Unnamed {
            batch.suspect.get_or_insert(accepted_total);
        }
        batch.not_before = Some(Instant::now() + self.pause(batch.attempts));
        self.record_error(&message);
        let unnamed = kind == SinkErrorKind::Unnamed;
        let room = self.held.len() + 1 < self.options.max_in_flight + MAX_HELD_EXTRA;
        if accepted || others_accepted || (unnamed && room && self.deadline.is_none()) {
            self.held.push_back(batch);
        } else {
            // The probe decides when to come back: no pause of the batch's own on top of it.
            batch.not_before = None;
            self.held.push_front(batch);
            self.fail(kind.into(), message);
        }
    }

    pub(super) fn fail_to_settle(&mut self, error: &QueueError) {
        let state = match error {
            QueueError::DeadLettersFull { .. } => FlushState::DeadLettersFull,
            QueueError::Io { .. } | QueueError::NoKey { .. } => FlushState::SpoolFailed,
        };
        self.fail(state, error.to_string());
    }

    /// Backs off; failures of batches that were in flight together count once.
    pub(super) fn fail(&mut self, state: FlushState, message: String) {
        self.record_error(&message);
        self.gave_up |= self.deadline.is_some();
        let now = Instant::now();
        let failures = match &self.outage {
            Some(outage) if outage.retry_at > now => return,
            Some(outage) => outage.failures + 1,
            None => 1,
        };
        if matches!(state, FlushState::Unavailable | FlushState::Unauthorized) {
            self.window.restart();
        }
        let retry_at = now + self.pause(failures);
        self.outage = Some(Outage { state, message, failures, retry_at });
    }

    pub(super) fn record_error(&self, message: &str) {
        self.shared.update(|status| {
            status.last_error = Some(message.to_owned());
            status.last_error_at = Some(self.context.environment.now_millis());
        });
    }

    pub(super) fn pause(&self, failures: u32) -> Duration {
        backoff::pause(self.options.backoff, failures, self.context.environment.random_fraction())
    }
}
