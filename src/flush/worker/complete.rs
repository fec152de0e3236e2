//! Handles a task's end: counts, holds what is left, backs off if nothing is delivered.

use std::{ops::Range, time::Duration};

use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::{Loop, Outage, Parked};
use crate::{
    flush::{
        SinkState, backoff,
        in_flight::InFlightBatch,
        tasks::{Sent, TaskResult, count_retries},
    },
    record::Stream,
    sink::{SinkError, SinkErrorKind},
    spool::QueueError,
};

/// If nothing was delivered for this long, failures by name count as an outage.
const RECENTLY: Duration = Duration::from_secs(3);
/// The longest pause before others are tried, if the records may be the reason that nothing is delivered.
const MAX_SUSPECT_PAUSE: Duration = Duration::from_secs(1);

/// A batch is halved after this many attempts that delivered none of it, as unavailable, while others were delivered.
const MAX_LEFT_BEHIND: u32 = 2;
/// The average pause between parts of such batches.
const PART_PAUSE: Duration = Duration::from_millis(50);

impl Loop {
    pub(super) fn complete_task(&mut self, done: Result<(Id, TaskResult), JoinError>) {
        match done {
            Ok((_, TaskResult::Initialized(Ok(warnings)))) => {
                self.set_up(warnings);
                self.outage = None;
            }
            Ok((_, TaskResult::Initialized(Err(error)))) => self.fail(error.kind.into(), error.message),
            Ok((_, TaskResult::DeliveredLoaded(since, Ok(())))) => {
                self.delivered_loaded_since = since;
                self.end_outage();
            }
            Ok((_, TaskResult::DeliveredLoaded(_, Err(error)))) => self.fail(error.kind.into(), error.message),
            Ok((id, TaskResult::Sent(sent))) => {
                self.take_leases(id);
                self.complete_batch(*sent);
            }
            Ok((id, TaskResult::Tried(witness, suspects))) => {
                self.take_leases(id);
                self.trial = None;
                self.complete_batch(*witness);
                self.complete_batch(*suspects);
            }
            Err(panic) => {
                self.trial.take_if(|trial| *trial == panic.id());
                for (stream, seqs) in self.take_leases(panic.id()) {
                    self.context.queue.release(stream, &seqs);
                }
                self.fail(SinkState::Unavailable, format!("the sink's code failed: {panic}"));
            }
        }
    }

    /// Removes and returns a task's leases.
    fn take_leases(&mut self, task: Id) -> Vec<(Stream, Vec<Range<u64>>)> {
        self.leased.extract_if(.., |leased| leased.task == task).map(|leased| (leased.stream, leased.seqs)).collect()
    }

    fn complete_batch(&mut self, mut sent: Sent) {
        self.shared.update(|status| {
            let figures = &mut status.figures;
            figures.batches += sent.batches;
            figures.delivered_records += sent.delivered;
            figures.delivered_bytes += sent.delivered_bytes;
            figures.rejected_records += sent.rejected;
            count_retries(&mut figures.retried_records, &sent);
            if sent.delivered > 0 {
                figures.lag_millis = sent.lag_millis.or(figures.lag_millis);
                figures.last_delivery_at = Some(self.context.environment.now_millis());
            }
        });
        // A failure that the sink itself reports is an answer, too: its next batch may be as large, which gets past
        // such records soon.
        let names_records = || sent.leftovers.iter().all(|(_, error)| error.kind == SinkErrorKind::Unnamed);
        if (sent.delivered + sent.rejected > 0 || names_records())
            && let Some(latency) = sent.latency
        {
            self.window.answered(sent.records, sent.bytes, latency);
        }
        if sent.delivered > 0 {
            self.delivered_at = Some(Instant::now());
            self.rejecting = None;
        } else if let Some(reason) = sent.rejected_for.take().filter(|_| !sent.others_delivered) {
            let before = self.rejecting.as_ref().map_or(0, |(records, _)| *records);
            self.rejecting = Some((before + sent.rejected, reason));
        }
        // The sink may never have seen the records that were rejected, if others in the batch failed.
        let is_answered = sent.delivered > 0 || (sent.rejected > 0 && sent.leftovers.is_empty());
        if is_answered && self.unsettled.is_empty() {
            self.end_outage();
        }
        for (batch, error) in std::mem::take(&mut sent.leftovers) {
            self.hold(batch, error, sent.delivered_total, sent.delivered > 0);
        }
        if let Some((outcomes, error)) = sent.unsettled {
            self.unsettled.push(outcomes);
            self.fail_to_settle(&error);
        }
    }

    /// The sink is available again; what it set up may be gone.
    pub(super) fn end_outage(&mut self) {
        if self.outage.take().is_some() {
            self.check_soon();
        }
    }

    /// Keeps what is to be tried again, and backs off if nothing is delivered.
    fn hold(&mut self, mut batch: InFlightBatch, error: SinkError, delivered_total: u64, delivered: bool) {
        let SinkError { kind, message } = error;
        if kind == SinkErrorKind::Timeout {
            self.window.timed_out(batch.records.len());
        }
        let unnamed = kind == SinkErrorKind::Unnamed;
        let delivered_since = batch.delivered_then.replace(delivered_total).is_some_and(|then| then < delivered_total);
        // Deliveries during the first failure say little: they may have been just before it.
        let others_delivered = delivered || (delivered_since && (unnamed || batch.attempts > 1));
        batch.suspect |= unnamed;
        batch.others_delivered = others_delivered;
        batch.not_before = Some(Instant::now() + self.pause(batch.attempts));
        if delivered {
            batch.left_behind = 0;
        } else if others_delivered && !unnamed {
            batch.left_behind += 1;
            self.hold_left_behind(batch, &message);
            return;
        }
        self.record_error(&message);
        let just_now = self.delivered_at.is_some_and(|at| at.elapsed() < RECENTLY);
        if others_delivered || (unnamed && just_now && self.deadline.is_none()) {
            self.keep(batch);
            return;
        }
        // The probe's backoff decides when to try again: the batch needs no pause of its own.
        batch.not_before = None;
        if self.options.max_in_flight <= 1 && !unnamed {
            self.held.push_front(batch);
        } else {
            // The next probe is a different batch: this one may be at fault.
            self.keep(batch);
        }
        self.fail_for(kind.into(), message, unnamed);
    }

    /// Holds a batch that failed as unavailable while others were delivered. One of its records may be the cause: after
    /// some attempts it is halved, and soon tried again, down to that record.
    fn hold_left_behind(&mut self, mut batch: InFlightBatch, message: &str) {
        if let [record] = &batch.records[..] {
            let seq = record.seq;
            self.record_error(&format!("record {seq} fails alone, while others are delivered: {message}"));
            self.keep(batch);
            return;
        }
        self.record_error(message);
        let mut other_half = None;
        if batch.left_behind >= MAX_LEFT_BEHIND {
            // The half without the cause is delivered; the other one needs fewer attempts before it is halved.
            batch.left_behind = MAX_LEFT_BEHIND - 1;
            other_half = batch.split_off(batch.records.len() / 2);
        }
        // If most batches are left behind, for example by throttling, their many parts must not become a load of their
        // own.
        let parts = self.held.iter().filter(|held| held.left_behind > 0).count();
        let spread = PART_PAUSE.saturating_mul(parts as u32).min(self.options.backoff.max);
        for mut part in [Some(batch), other_half].into_iter().flatten() {
            part.not_before = Some(Instant::now() + self.pause(part.left_behind.max(1)).max(spread));
            self.keep(part);
        }
    }

    /// Holds a batch that others may overtake. If enough is held already, and nothing is known of it yet, it is parked.
    fn keep(&mut self, batch: InFlightBatch) {
        if batch.attempts > 1 || self.holds_little() {
            self.held.push_back(batch);
        } else {
            let until = Instant::now() + self.options.backoff.max;
            self.parked.push_back(Parked { stream: batch.stream, seqs: batch.seqs(), until });
        }
    }

    pub(super) fn fail_to_settle(&mut self, error: &QueueError) {
        let state = match error {
            QueueError::DeadLettersFull { .. } => SinkState::DeadLettersFull,
            QueueError::Io { .. } | QueueError::NoKey { .. } => SinkState::SpoolFailed,
        };
        self.fail(state, error.to_string());
    }

    /// Backs off; failures of batches that were in flight together count once.
    pub(super) fn fail(&mut self, state: SinkState, message: String) {
        self.fail_for(state, message, false);
    }

    /// The same; if the records may be the reason that nothing is delivered, the pauses stay short, so that others are
    /// soon tried.
    fn fail_for(&mut self, state: SinkState, message: String, records_are_suspect: bool) {
        self.record_error(&message);
        self.sends_no_more |= self.deadline.is_some();
        let now = Instant::now();
        let failures = match &self.outage {
            Some(outage) if outage.retry_at > now => return,
            Some(outage) => outage.failures + 1,
            None => 1,
        };
        if failures == 1 {
            self.allow_last_answers(now);
        }
        if matches!(state, SinkState::Unavailable | SinkState::Unauthorized) && !records_are_suspect {
            self.window.restart();
        }
        let pause = self.pause(failures);
        let retry_at = now + if records_are_suspect { pause.min(MAX_SUSPECT_PAUSE) } else { pause };
        self.outage = Some(Outage { state, message, failures, retry_at, records_are_suspect });
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
