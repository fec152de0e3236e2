//! The last flush, at the shutdown: what is left is sent, for as long as the sink accepts it.
//!
//! It ends early if nothing can be delivered: the sink is *unavailable* (an outage, or it was not reached), or *silent* (it has
//! not answered a batch for longer than an answer takes). A slow sink looks like a silent one at first: it has a multiple
//! of what its last answer took, and at least the time of a first contact.

use std::time::Duration;

use tokio::time::Instant;

use super::{Loop, SETTLE_TIMEOUT};
use crate::flush::{SinkState, in_flight::ranges, tasks::Unsettled};

/// How long closing a sink may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last flush waits for a sink that is unavailable: enough for one attempt at a server that answers. Its records
/// stay on disk in any case, and more time would only delay the stop.
const LAST_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(150);
/// The last flush starts no batch in this time before its end, or in the last quarter: those in flight are answered, and
/// not sent again after the next start.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_millis(500);
/// A sink that was not reached yet counts as unavailable this long after the worker's start, and one that has a batch as silent
/// this long after the batch was sent or another one answered.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(2);
/// A sink that answers slowly counts as silent after this many times what its last answer took.
const SILENT_AFTER_LATENCIES: u32 = 4;

impl Loop {
    pub(super) fn begin_last_flush(&mut self) {
        let now = Instant::now();
        let timeout = self.options.shutdown_timeout;
        self.deadline = Some(now + timeout);
        self.last_batch_at = Some(now + timeout - LAST_ANSWERS_TIMEOUT.min(timeout / 4));
        let attempt = now + LAST_ATTEMPT_TIMEOUT;
        let is_known = self.connected || self.outage.is_some();
        self.deadline_while_unavailable =
            Some(if is_known { attempt } else { attempt.max(self.started + FIRST_CONTACT_TIMEOUT) });
        self.sends_no_more = self.paused;
        self.skip_backoff();
    }

    /// The sink is unavailable from now on: batches in flight may still be answered.
    pub(super) fn allow_last_answers(&mut self, now: Instant) {
        self.deadline_while_unavailable = self.deadline_while_unavailable.map(|at| at.max(now + LAST_ATTEMPT_TIMEOUT));
    }

    /// When the last flush has to end, once it has begun.
    pub(super) fn flush_until(&self) -> Option<Instant> {
        let is_unavailable = self.outage.is_some() || !self.connected;
        let while_unavailable = self.deadline_while_unavailable.and_then(|until| {
            if is_unavailable { Some(until) } else { self.silent_at().map(|silent_at| silent_at.max(until)) }
        });
        [self.deadline, while_unavailable].into_iter().flatten().min()
    }

    /// From when on the sink counts as silent; `None` if it has no batch to answer.
    fn silent_at(&self) -> Option<Instant> {
        let sent_at = self.leased.first()?.sent_at;
        Some(match self.context.answered() {
            Some(last) => {
                sent_at.max(last.at) + FIRST_CONTACT_TIMEOUT.max(last.latency.saturating_mul(SILENT_AFTER_LATENCIES))
            }
            None => sent_at + FIRST_CONTACT_TIMEOUT,
        })
    }

    /// True when the last flush is over. Past its deadline it cancels the batches in flight, and waits for them.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(until) = self.flush_until() else { return false };
        let now = Instant::now();
        self.sends_no_more |= self.last_batch_at.is_some_and(|at| at <= now);
        // Nothing is sent any more if the sink wants no records before the end.
        self.sends_no_more |= self.leased.is_empty() && self.wanted_at().is_some_and(|at| at >= until);
        if now >= until {
            self.sends_no_more = true;
            self.context.cancel.cancel();
            self.deadline = Some(now + SETTLE_TIMEOUT);
            self.deadline_while_unavailable = None;
        }
        let queue = &*self.context.queue;
        let nothing_left = self.held.is_empty()
            && self.parked.is_empty()
            && self.leased.is_empty()
            && self.unsettled.is_empty()
            && self.due.is_empty(queue);
        if nothing_left {
            // A connection attempt may still be running; it is no longer needed.
            self.context.cancel.cancel();
        }
        self.tasks.is_empty() && (self.sends_no_more || nothing_left)
    }

    /// Stops waiting for the queue: records in flight are redelivered, unless the queue still records their outcomes.
    pub(super) fn abandon_hung_calls(&mut self) {
        self.record_error("the spool's disk does not answer: records in flight are redelivered after the next start");
        self.context.cancel.cancel();
        self.tasks.abort_all();
        for leased in self.leased.drain(..) {
            self.context.queue.release(leased.stream, &leased.seqs);
        }
    }

    /// Releases what is left, and closes the sink.
    pub(super) async fn end(mut self) {
        self.check.running.abort_all();
        for batch in self.held.drain(..) {
            self.context.queue.release(batch.stream, &batch.seqs());
        }
        for parked in self.parked.drain(..) {
            self.context.queue.release(parked.stream, &parked.seqs);
        }
        for Unsettled { stream, acknowledged, rejections } in self.unsettled.drain(..) {
            let rejected = ranges(rejections.iter().map(|rejection| rejection.record.seq));
            self.context.queue.release(stream, &acknowledged);
            self.context.queue.release(stream, &rejected);
        }
        if tokio::time::timeout(CLOSE_TIMEOUT, self.context.sink.close()).await.is_err() {
            self.record_error("closing the sink took too long");
        }
        self.shared.update(|status| status.figures.in_flight = 0);
        self.shared.enter(SinkState::Stopped, None);
    }
}
