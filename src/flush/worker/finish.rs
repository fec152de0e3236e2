//! What the loop makes of a task's end: count, hold what is left, back off where nothing passed.

use std::time::Duration;

use tokio::{
    task::{Id, JoinError},
    time::Instant,
};

use super::{HELD_BESIDES, Loop, Trouble};
use crate::{
    flush::{
        FlushState, backoff,
        parcel::Parcel,
        tasks::{Done, Sent, count_retries},
    },
    record::now_millis,
    sink::SinkErrorKind,
    spool::QueueError,
};

impl Loop {
    pub(super) fn finish_task(&mut self, done: Result<(Id, Done), JoinError>) {
        match done {
            Ok((_, Done::Initialized(Ok(warnings)))) => {
                for warning in warnings {
                    tracing::warn!(sink = %self.shared.snapshot().sink, "{warning}");
                }
                self.initialized = true;
                self.trouble = None;
            }
            Ok((_, Done::Initialized(Err(error)))) => self.fail(error.kind.into(), error.message),
            Ok((id, Done::Sent(sent))) => {
                self.leased.remove(&id);
                self.finish_parcel(*sent);
            }
            Err(panic) => {
                if let Some((stream, ordinals)) = self.leased.remove(&panic.id()) {
                    self.tools.queue.give_back(stream, &ordinals);
                }
                self.fail(FlushState::Away, format!("the sink's code failed: {panic}"));
            }
        }
    }

    fn finish_parcel(&mut self, mut sent: Sent) {
        self.shared.update(|status| {
            status.batches += sent.batches;
            status.delivered_records += sent.delivered;
            status.delivered_bytes += sent.delivered_bytes;
            status.rejected_records += sent.rejected;
            count_retries(&mut status.retried_records, &sent);
            if sent.delivered > 0 {
                status.lag_millis = sent.lag_millis.or(status.lag_millis);
                status.last_delivery_at = Some(now_millis());
            }
        });
        let passed = sent.delivered + sent.rejected > 0;
        if passed && self.unsettled.is_empty() {
            self.trouble = None;
        }
        let leftover = sent.leftover.take();
        if let Some(parcel) = leftover {
            let error = sent.error.take();
            let kind = error.as_ref().map_or(SinkErrorKind::Unavailable, |error| error.kind);
            self.hold(parcel, kind, error.map(|error| error.message).unwrap_or_default(), sent.passes, passed);
        } else if passed {
            self.size.taken();
        }
        if let Some((outcomes, error)) = sent.unsettled {
            self.unsettled.push(outcomes);
            self.fail_to_settle(&error);
        }
    }

    /// Keeps what is to be tried again, and backs off where nothing passed.
    fn hold(&mut self, mut parcel: Parcel, kind: SinkErrorKind, message: String, passes: u64, passed: bool) {
        if kind == SinkErrorKind::Timeout {
            self.size.timed_out(parcel.records.len());
        }
        let others_passed = parcel.passes.replace(passes).is_some_and(|then| then < passes);
        if kind == SinkErrorKind::Unnamed {
            parcel.suspect.get_or_insert(passes);
        }
        parcel.not_before = Some(Instant::now() + self.pause(parcel.attempts));
        self.note_error(&message);
        let unnamed = kind == SinkErrorKind::Unnamed;
        let room = self.held.len() + 1 < self.options.max_in_flight + HELD_BESIDES;
        if passed || others_passed || (unnamed && room && self.deadline.is_none()) {
            self.held.push_back(parcel);
        } else {
            // The probe decides when to come back: no pause of the parcel's own on top of it.
            parcel.not_before = None;
            self.held.push_front(parcel);
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

    /// Backs off; failures of batches that were under way together count once.
    pub(super) fn fail(&mut self, state: FlushState, message: String) {
        self.note_error(&message);
        self.gave_up |= self.deadline.is_some();
        let now = Instant::now();
        let failures = match &self.trouble {
            Some(trouble) if trouble.retry_at > now => return,
            Some(trouble) => trouble.failures + 1,
            None => 1,
        };
        let retry_at = now + self.pause(failures);
        self.trouble = Some(Trouble { state, message, failures, retry_at });
    }

    pub(super) fn note_error(&self, message: &str) {
        self.shared.update(|status| {
            status.last_error = Some(message.to_owned());
            status.last_error_at = Some(now_millis());
        });
    }

    fn pause(&self, failures: u32) -> Duration {
        backoff::pause(self.options.backoff, failures, rand::random())
    }
}
