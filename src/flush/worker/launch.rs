//! What the loop starts: parcels held or leased, once they are due.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};

use super::{HELD_BESIDES, Loop, Next, Wait};
use crate::{
    flush::{
        FlushState,
        parcel::{Parcel, ranges},
        tasks::{initialize, panicked, send, settle},
    },
    record::Stream,
    spool::{Lease, LeaseLimit, Queue, QueueError},
};

impl Loop {
    /// Starts what may start now; tells what to wait for.
    pub(super) async fn launch(&mut self) -> Wait {
        loop {
            if self.paused || self.gave_up || self.tools.cut.is_cancelled() {
                return Wait::Event;
            }
            let now = Instant::now();
            if let Some(trouble) = &self.trouble
                && trouble.retry_at > now
            {
                return Wait::Until(trouble.retry_at);
            }
            if !self.settle_the_unsettled().await {
                continue;
            }
            if !self.initialized {
                if self.tasks.is_empty() {
                    self.tasks.spawn(initialize(self.tools.clone()));
                }
                return Wait::Event;
            }
            let places = if self.trouble.is_some() { 1 } else { self.options.max_in_flight.max(1) };
            if self.tasks.len() >= places {
                return Wait::Event;
            }
            let pause = self.pace.wait(now - self.started);
            if !pause.is_zero() {
                return Wait::Until(now + pause);
            }
            match self.next_parcel(now).await {
                Next::Parcel(parcel) => self.send(parcel),
                Next::Wait(wait) => return wait,
            }
        }
    }

    fn send(&mut self, parcel: Parcel) {
        self.pace.spend(parcel.records.len());
        let lease = (parcel.stream, parcel.ordinals());
        let task = self.tasks.spawn(send(self.tools.clone(), parcel));
        self.leased.insert(task.id(), lease);
    }

    /// The next records to try: held ones whose time has come, else fresh ones.
    async fn next_parcel(&mut self, now: Instant) -> Next {
        let limit = self.limit();
        let strict = self.options.max_in_flight <= 1;
        let fresh_probe = !strict && self.trouble.as_ref().is_some_and(|trouble| trouble.failures % 2 == 1);
        let room = self.held.len() < self.options.max_in_flight + HELD_BESIDES;
        let blocked = strict && self.held.iter().any(|parcel| parcel.suspect.is_none());
        let held = self.held.iter().position(|parcel| parcel.is_due(now));
        let mut wait = Wait::Event;
        if room && !blocked && (fresh_probe || held.is_none()) {
            match self.lease(now, limit).await {
                Next::Wait(later) => wait = later,
                parcel @ Next::Parcel(_) => return parcel,
            }
        }
        if let Some(mut parcel) = held.and_then(|i| self.held.remove(i)) {
            if let Some(rest) = parcel.split_off(limit.records) {
                self.held.push_front(rest);
            }
            return Next::Parcel(parcel);
        }
        match (self.held.iter().filter_map(|parcel| parcel.not_before).min(), wait) {
            (Some(at), Wait::Until(other)) => Next::Wait(Wait::Until(at.min(other))),
            (Some(at), Wait::Ready) => Next::Wait(Wait::Until(at.min(now + self.due.tick()))),
            (Some(at), Wait::Event) => Next::Wait(Wait::Until(at)),
            (None, wait) => Next::Wait(wait),
        }
    }

    fn limit(&self) -> LeaseLimit {
        let limit = self.size.limit();
        LeaseLimit { records: limit.records.min(self.pace.at_most()), ..limit }
    }

    /// Leases a fresh parcel, if one is due; the streams take turns.
    async fn lease(&mut self, now: Instant, limit: LeaseLimit) -> Next {
        let flushing = self.deadline.is_some();
        let Some(stream) = self.due.next(&*self.tools.queue, now, limit, flushing) else {
            return Next::Wait(self.due.next_look(now).map_or(Wait::Ready, Wait::Until));
        };
        let room = self.room_for_unnoted(stream);
        if room == 0 {
            return Next::Wait(Wait::Until(now + self.due.tick()));
        }
        let limit = LeaseLimit { records: limit.records.min(room), ..limit };
        match lease(Arc::clone(&self.tools.queue), stream, limit).await {
            Ok(Some(lease)) if !lease.records.is_empty() => {
                self.due.taken(stream, lease.records.len());
                Next::Parcel(lease.into())
            }
            Ok(_) => Next::Wait(Wait::Until(now + self.due.tick())),
            Err(error) => {
                self.fail(FlushState::SpoolFailed, error.to_string());
                Next::Wait(self.trouble.as_ref().map_or(Wait::Event, |trouble| Wait::Until(trouble.retry_at)))
            }
        }
    }

    /// How many records of a stream may go out before the queue has noted what went before them: no more than the sink
    /// would recognise if a crash brought them again.
    fn room_for_unnoted(&self, stream: Stream) -> usize {
        let Some(recognized) = self.tools.sink.recognizes() else { return usize::MAX };
        let leased = self.leased.values().filter(|(of, _)| *of == stream).flat_map(|(_, ordinals)| ordinals);
        let leased: u64 = leased.map(|ordinals| ordinals.end - ordinals.start).sum();
        let held: usize =
            self.held.iter().filter(|parcel| parcel.stream == stream).map(|parcel| parcel.records.len()).sum();
        let out = self.tools.queue.unnoted(stream) + leased + held as u64;
        usize::try_from(recognized.saturating_sub(out)).unwrap_or(usize::MAX)
    }

    /// Tells the queue again of outcomes it would not take; false where it still does not.
    async fn settle_the_unsettled(&mut self) -> bool {
        while let Some(outcomes) = self.unsettled.pop() {
            if let Err(refused) = settle(Arc::clone(&self.tools.queue), outcomes).await {
                let (outcomes, error) = *refused;
                self.unsettled.push(outcomes);
                self.fail_to_settle(&error);
                return false;
            }
            if self.unsettled.is_empty() {
                self.trouble = None;
            }
        }
        true
    }
}

/// Leases off the async threads. What comes when nobody waits for it any more is given back.
async fn lease(queue: Arc<dyn Queue>, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError> {
    let (answer, answered) = oneshot::channel();
    let task = tokio::task::spawn_blocking(move || {
        if let Err(Ok(Some(lease))) = answer.send(queue.lease(stream, limit)) {
            queue.give_back(stream, &ranges(lease.records.iter().map(|record| record.ordinal)));
        }
    });
    match answered.await {
        Ok(leased) => leased,
        Err(_) => Err(task.await.err().map_or_else(|| panicked(&"no answer"), |panic| panicked(&panic))),
    }
}
