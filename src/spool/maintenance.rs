//! Maintenance: runs about once a second, outside the path of appends and deliveries.
//!
//! It enters synced groups, drops expired records, flushes the queue, deletes segments that are proven to be done, and
//! measures.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    expiry::{Expiry, Times},
    shared::Shared,
};
use crate::{
    catch_panic::catch_panic,
    record::{instant, now_millis},
};

/// The period, unless something wakes it earlier.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the time is recorded, if records have a `max_age`.
const CLOCK_PERIOD: Duration = Duration::from_secs(600);
/// A drained spool begins a new segment when the journal is longer than this, so that the old one can be deleted.
const IDLE_BYTES: u64 = 64 << 10;
/// One that is not drained does so when the segment that it writes is longer than this, and spent.
const SPENT_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 8 << 20 };
/// How long that has to last.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// The maintenance's own state.
#[derive(Debug)]
pub(super) struct Maintenance {
    expiry: Option<Expiry>,
    clock_recorded: Option<Instant>,
    /// Since when a new segment would allow the old one to be deleted, now or soon.
    spent_since: Option<Instant>,
}

impl Maintenance {
    /// `times` is the time as an earlier run recorded it.
    pub(super) fn new(shared: &Shared, times: Option<Times>) -> Self {
        let next = shared.store.state.lock().streams.each_ref().map(|stream| stream.next);
        let expiry = shared.options.max_age.map(|max_age| Expiry::new(max_age, now_millis(), times, instant(), next));
        Self { expiry, clock_recorded: None, spent_since: None }
    }

    /// Runs until the spool is closed.
    pub(super) fn run(mut self, shared: &Arc<Shared>) {
        loop {
            let mut state = shared.maintenance.state.lock();
            if !state.woken && !state.closing {
                shared.maintenance.condition.wait_for(&mut state, PERIOD);
            }
            let closing = state.closing;
            state.woken = false;
            drop(state);
            if let Err(panic) = catch_panic(|| self.tick(shared, closing)) {
                shared.reports.error(format!("maintenance panicked, and is retried: {panic}"));
            }
            if closing {
                return;
            }
        }
    }

    /// One round of maintenance.
    pub(super) fn tick(&mut self, shared: &Shared, closing: bool) {
        shared.refresh_free();
        let free = shared.usage.free.load(Ordering::Relaxed);
        shared.store.enter();
        if let Some(expiry) = &mut self.expiry {
            shared.expire(expiry);
        }
        self.record_clock(shared, closing);
        if shared.store.maintain(free) {
            shared.ready.iter().for_each(tokio::sync::Notify::notify_waiters);
        }
        shared.losses.sync();
        if let Some(gone) = shared.dead_letters_gone() {
            shared.reports.error(gone);
        }
        shared.dead.maintain(free);
        if closing {
            if is_drained_and_long(shared) {
                // If it fails, the next start deletes them.
                let _ = shared.store.roll();
                shared.store.enter();
                shared.store.retain();
            }
            shared.store.close();
            shared.dead.close();
        } else {
            self.roll_if_spent(shared);
        }
        shared.measure();
        shared.space.notify_waiters();
    }

    /// Records the time: the next start and expiry continue from it.
    fn record_clock(&mut self, shared: &Shared, closing: bool) {
        let due = closing || self.clock_recorded.is_none_or(|at| instant().duration_since(at) >= CLOCK_PERIOD);
        if !due && !shared.store.is_changed() {
            return;
        }
        self.clock_recorded = Some(instant());
        let floor = shared.store.state.lock().streams.each_ref().map(|stream| stream.ack_floor);
        shared.store.record_clock(match &mut self.expiry {
            Some(expiry) => expiry.times(instant(), floor),
            None => Times::at(now_millis()),
        });
    }

    /// Begins a new segment when everything is delivered and the journal is long, or all but a little of a long segment
    /// is: its front allows the old segments to be deleted. Otherwise a trickle after a backlog would keep the space of
    /// the backlog's last segment.
    fn roll_if_spent(&mut self, shared: &Shared) {
        if !is_drained_and_long(shared) && !shared.store.state.lock().is_newest_spent(SPENT_BYTES) {
            self.spent_since = None;
            return;
        }
        if instant().duration_since(*self.spent_since.get_or_insert_with(instant)) >= IDLE_TIME {
            self.spent_since = None;
            shared.inbox.lock().roll = true;
            shared.mail.notify_one();
        }
    }
}

/// True if all records are done, and their segments take space.
fn is_drained_and_long(shared: &Shared) -> bool {
    let state = shared.store.state.lock();
    state.streams.iter().all(|stream| stream.records == 0) && state.journal_bytes() > IDLE_BYTES
}
