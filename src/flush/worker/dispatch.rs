//! Starts batches, held or leased, once they are due.

use std::sync::Arc;

use futures::FutureExt;
use tokio::time::Instant;

use super::{Leased, Loop, MAX_HELD_EXTRA, Next, Wait};
use crate::{
    flush::{
        SinkState,
        context::Context,
        in_flight::{InFlightBatch, ranges},
        tasks::{initialize, load_delivered, panicked, send, settle},
        trial::{MAX_SUSPECTS, try_alone},
    },
    record::Stream,
    spool::{Lease, LeaseLimit, Queue, QueueError},
};

/// The memory of a held record besides its bytes.
const RECORD_OVERHEAD: u64 = 128;

impl Loop {
    /// Starts whatever may start now; returns what to wait for.
    pub(super) async fn dispatch(&mut self) -> Wait {
        self.release_parked();
        loop {
            if self.paused || self.sends_no_more || self.context.cancel.is_cancelled() {
                return Wait::Event;
            }
            let now = Instant::now();
            if let Some(outage) = &self.outage
                && outage.retry_at > now
            {
                return Wait::Until(outage.retry_at);
            }
            if let Some(at) = self.wanted_at().filter(|at| *at > now) {
                return Wait::Until(at);
            }
            if !self.settle_pending().await {
                continue;
            }
            if !self.initialized {
                if self.tasks.is_empty() {
                    self.tasks.spawn(initialize(self.context.clone()).boxed());
                }
                return Wait::Event;
            }
            if self.has_to_load_delivered() {
                if self.tasks.is_empty() {
                    let since = self.context.queue.redelivers_since();
                    self.tasks.spawn(load_delivered(self.context.clone(), since).boxed());
                }
                return Wait::Event;
            }
            self.connected = true;
            self.start_check_when_due(now);
            let places = if self.outage.is_some() { 1 } else { self.window.max_batches() };
            if self.tasks.len() >= places {
                return Wait::Event;
            }
            let pause = self.rate_limiter.wait(now - self.started);
            if !pause.is_zero() {
                return Wait::Until(now + pause);
            }
            match self.next_batch(now).await {
                // Leased while the queue was being rebuilt.
                Next::Batch(batch) if self.has_to_load_delivered() => self.held.push_front(batch),
                Next::Trial(suspects, witness) if self.has_to_load_delivered() => {
                    self.held.push_front(witness);
                    self.held.push_back(suspects);
                }
                Next::Batch(batch) => self.send(batch),
                Next::Trial(suspects, witness) => self.try_alone(suspects, witness),
                Next::Wait(wait) => return wait,
            }
        }
    }

    /// From when on the sink wants records, if it said so, and nobody asked to send them nevertheless.
    pub(super) fn wanted_at(&self) -> Option<Instant> {
        self.context.sink.not_before().filter(|_| self.initialized).filter(|at| Some(*at) != self.overridden)
    }

    /// True if the queue may redeliver records that the sink does not recognize.
    pub(super) fn has_to_load_delivered(&self) -> bool {
        self.context.queue.redelivers_since() != self.delivered_loaded_since
    }

    fn send(&mut self, mut batch: InFlightBatch) {
        batch.delivered_then.get_or_insert(self.context.delivered());
        self.rate_limiter.spend(batch.records.len());
        let (stream, seqs) = (batch.stream, batch.seqs());
        let task = self.tasks.spawn(send(self.context.clone(), batch).boxed());
        self.leased.push(Leased { task: task.id(), stream, seqs, sent_at: Instant::now() });
    }

    fn try_alone(&mut self, mut suspects: InFlightBatch, mut witness: InFlightBatch) {
        suspects.tried_alone = Some(Instant::now());
        let mut leased = Vec::new();
        for batch in [&mut suspects, &mut witness] {
            batch.delivered_then.get_or_insert(self.context.delivered());
            self.rate_limiter.spend(batch.records.len());
            leased.push((batch.stream, batch.seqs()));
        }
        self.trial_was_last = true;
        let task = self.tasks.spawn(try_alone(self.context.clone(), suspects, witness).boxed()).id();
        self.trial = Some(task);
        let sent_at = Instant::now();
        self.leased.extend(leased.into_iter().map(|(stream, seqs)| Leased { task, stream, seqs, sent_at }));
    }

    /// The next records to try: held ones that are due, or else fresh ones.
    async fn next_batch(&mut self, now: Instant) -> Next {
        let limit = self.limit();
        let strict = self.options.max_in_flight <= 1;
        let fresh_probe =
            self.outage.as_ref().is_some_and(|outage| outage.records_are_suspect || outage.failures % 2 == 1);
        let space = self.has_space();
        let blocked = strict && self.held.iter().any(|batch| !batch.suspect);
        let held = self.held.iter().position(|batch| batch.is_due(now));
        let mut wait = Wait::Event;
        if space
            && !blocked
            && let Some(i) = self.suspects_to_try(now)
            && let Next::Batch(witness) = self.lease(now, LeaseLimit { records: 1, ..limit }).await
            && let Some(mut suspects) = self.held.remove(i)
        {
            self.held.extend(suspects.split_off(MAX_SUSPECTS));
            return Next::Trial(suspects, witness);
        }
        if space && !blocked && (fresh_probe || held.is_none()) {
            match self.lease(now, limit).await {
                Next::Wait(later) => wait = later,
                batch => {
                    self.trial_was_last = false;
                    return batch;
                }
            }
        }
        if let Some(mut batch) = held.and_then(|i| self.held.remove(i)) {
            if let Some(rest) = batch.split_off(limit.records) {
                self.held.push_front(rest);
            }
            return Next::Batch(batch);
        }
        match (self.held.iter().filter_map(|batch| batch.not_before).min(), wait) {
            (Some(at), Wait::Until(other)) => Next::Wait(Wait::Until(at.min(other))),
            (Some(at), Wait::Ready) => Next::Wait(Wait::Until(at.min(now + self.due.tick()))),
            (Some(at), Wait::Event) => Next::Wait(Wait::Until(at)),
            (None, wait) => Next::Wait(wait),
        }
    }

    /// Held records that are to be tried alone now. They were retried together before: most temporary failures end
    /// then.
    fn suspects_to_try(&self, now: Instant) -> Option<usize> {
        if self.trial.is_some() || self.trial_was_last || self.outage.is_some() || self.deadline.is_some() {
            return None;
        }
        let evidence = self.context.evidence.lock();
        self.held.iter().position(|batch| match &batch.suspicion {
            Some(suspicion) if batch.attempts > 1 => {
                evidence.next_trial(suspicion, batch.tried_alone).is_none_or(|at| at <= now)
            }
            _ => false,
        })
    }

    /// True if fresh records may be leased besides the held ones; those that others may overtake do not count.
    fn has_space(&self) -> bool {
        let blocking = self.held.iter().filter(|batch| !batch.suspect && !batch.others_delivered).count();
        blocking < self.options.max_in_flight + MAX_HELD_EXTRA
    }

    /// Releases parked records, if nothing is held any more or they are due. Releasing them whenever there is a little
    /// space would send all of them again, and most of them would fail again.
    fn release_parked(&mut self) {
        let now = Instant::now();
        let holds_none = self.held.is_empty();
        while self.parked_until().is_some_and(|until| holds_none || until <= now) {
            if let Some(parked) = self.parked.pop_front() {
                self.context.queue.release(parked.stream, &parked.seqs);
            }
        }
    }

    /// When the first parked records are released. Not before the others were tried, if the records may be the reason
    /// that nothing is delivered: the released ones would come first.
    pub(super) fn parked_until(&self) -> Option<Instant> {
        let first = self.parked.front()?;
        let suspect = self.outage.as_ref().is_some_and(|outage| outage.records_are_suspect);
        (!suspect || self.due.is_empty(&*self.context.queue)).then_some(first.until)
    }

    /// True while held records use no more memory than allowed.
    pub(super) fn holds_little(&self) -> bool {
        let batches = (self.options.max_in_flight + MAX_HELD_EXTRA) as u64;
        let held = self.held.iter().map(|batch| batch.bytes() + RECORD_OVERHEAD * batch.records.len() as u64);
        held.sum::<u64>() < batches * self.options.batch_bytes.max(1) as u64
    }

    fn limit(&self) -> LeaseLimit {
        let limit = self.window.limit();
        LeaseLimit { records: limit.records.min(self.rate_limiter.max_records()), ..limit }
    }

    /// Leases a fresh batch, if one is due; the streams take turns.
    async fn lease(&mut self, now: Instant, limit: LeaseLimit) -> Next {
        let flushing = self.deadline.is_some();
        let Some(stream) = self.due.next(&*self.context.queue, now, limit, flushing) else {
            return Next::Wait(self.due.next_check(now).map_or(Wait::Ready, Wait::Until));
        };
        let space = self.space_for_unflushed(stream);
        if space == 0 {
            return Next::Wait(Wait::Until(now + self.due.tick()));
        }
        let limit = LeaseLimit { records: limit.records.min(space), ..limit };
        match lease(&self.context, stream, limit).await {
            Ok(Some(lease)) if !lease.records.is_empty() => {
                self.due.count_leased(stream, lease.records.len());
                Next::Batch(InFlightBatch::new(lease, self.context.environment.now_millis()))
            }
            Ok(_) => Next::Wait(Wait::Until(now + self.due.tick())),
            Err(error) => {
                let until = now + self.pause(1);
                if self.due.postpone(stream, now, until, &*self.context.queue) {
                    self.record_error(&error.to_string());
                    return Next::Wait(Wait::Until(now + self.due.tick()));
                }
                self.fail(SinkState::SpoolFailed, error.to_string());
                Next::Wait(self.outage.as_ref().map_or(Wait::Event, |outage| Wait::Until(outage.retry_at)))
            }
        }
    }

    /// How many records of a stream may be sent before the queue is flushed: no more than the sink would recognize if
    /// they were redelivered after a crash.
    fn space_for_unflushed(&self, stream: Stream) -> usize {
        let Some(recognized) = self.context.sink.recognizes() else { return usize::MAX };
        let leased = self.leased.iter().filter(|leased| leased.stream == stream).flat_map(|leased| &leased.seqs);
        let leased: u64 = leased.map(|seqs| seqs.end - seqs.start).sum();
        let held: usize =
            self.held.iter().filter(|batch| batch.stream == stream).map(|batch| batch.records.len()).sum();
        let out = self.context.queue.unflushed(stream) + leased + held as u64;
        usize::try_from(recognized.saturating_sub(out)).unwrap_or(usize::MAX)
    }

    /// Retries recording the outcomes that the queue could not record; false if it still cannot.
    async fn settle_pending(&mut self) -> bool {
        while let Some(outcomes) = self.unsettled.last().cloned() {
            // They stay in the list until then: if this is cancelled, the end releases their records.
            let settled = settle(&self.context, outcomes).await;
            self.unsettled.pop();
            if let Err(refused) = settled {
                let (outcomes, error) = *refused;
                self.unsettled.push(outcomes);
                self.fail_to_settle(&error);
                return false;
            }
            if self.unsettled.is_empty() {
                self.outage = None;
            }
        }
        true
    }
}

/// Leases off the async threads. A lease that arrives after its caller is gone is released.
async fn lease(context: &Context, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError> {
    let queue = Arc::clone(&context.queue);
    let leased = context.environment.run_blocking(move || {
        let lease = queue.lease(stream, limit)?;
        Ok(lease.map(|lease| Orphaned { queue, lease: Some(lease) }))
    });
    let leased = leased.await.unwrap_or_else(|panic| Err(panicked(panic)))?;
    Ok(leased.and_then(Orphaned::claim))
}

/// A lease without an owner: when dropped, it releases its records.
struct Orphaned {
    queue: Arc<dyn Queue>,
    lease: Option<Lease>,
}

impl Orphaned {
    fn claim(mut self) -> Option<Lease> {
        self.lease.take()
    }
}

impl Drop for Orphaned {
    fn drop(&mut self) {
        if let Some(Lease { stream, records }) = self.lease.take() {
            self.queue.release(stream, &ranges(records.iter().map(|record| record.seq)));
        }
    }
}
