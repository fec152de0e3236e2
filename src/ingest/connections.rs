//! How many connections there are, and which one goes when there are too many: of those without a request under way, one
//! that never had a request succeed, else the one idle for longest. So a crowd of idle connections keeps nobody out, and
//! whoever sends is not cut off. Each gets a moment to speak first: a flood is accepted no faster than that allows.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// A connection is not closed for another one before it was idle for this long.
const GRACE: Duration = Duration::from_millis(250);

/// The connections of one listener.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    slots: HashMap<u64, State>,
}

#[derive(Debug)]
struct State {
    requests: u32,
    /// A request of it succeeded.
    proven: bool,
    idle_since: Instant,
    close: CancellationToken,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoRoom {
    /// All have requests under way.
    AllBusy,
    /// One may be closed for another after this time.
    For(Duration),
}

impl Connections {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), open: Mutex::default() })
    }

    /// Room for one that was accepted, if need be by closing an idle one; the next ones wait in the operating system's queue
    /// meanwhile. `None` where all are busy.
    pub(crate) async fn room(self: &Arc<Self>) -> Option<Slot> {
        loop {
            match self.admit() {
                Ok(slot) => return Some(slot),
                Err(NoRoom::AllBusy) => return None,
                Err(NoRoom::For(wait)) => tokio::time::sleep(wait).await,
            }
        }
    }

    fn admit(self: &Arc<Self>) -> Result<Slot, NoRoom> {
        let (mut open, now) = (self.open.lock(), Instant::now());
        if open.slots.len() >= self.max {
            let idle = open.slots.iter().filter(|(_, state)| state.requests == 0);
            let next = idle.min_by_key(|(_, state)| (state.proven, state.idle_since));
            let (&next, state) = next.ok_or(NoRoom::AllBusy)?;
            let idle_for = now.saturating_duration_since(state.idle_since);
            if idle_for < GRACE {
                return Err(NoRoom::For(GRACE - idle_for));
            }
            state.close.cancel();
            open.slots.remove(&next);
        }
        let id = open.next;
        open.next += 1;
        let close = CancellationToken::new();
        open.slots.insert(id, State { requests: 0, proven: false, idle_since: now, close: close.clone() });
        Ok(Slot { id, close, spoke: AtomicBool::new(false), connections: Arc::clone(self) })
    }

    /// Closes all of them at once.
    pub(super) fn close_all(&self) {
        self.open.lock().slots.values().for_each(|state| state.close.cancel());
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.open.lock().slots.get_mut(&id) {
            change(state);
        }
    }
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    id: u64,
    close: CancellationToken,
    spoke: AtomicBool,
    connections: Arc<Connections>,
}

impl Slot {
    /// Returns when the connection has to go.
    pub(crate) async fn closed(&self) {
        self.close.cancelled().await;
    }

    /// True once a request's headers came.
    pub(super) fn spoke(&self) -> bool {
        self.spoke.load(Relaxed)
    }

    /// Marks the connection as busy until the answer is there.
    pub(crate) fn begin_request(self: &Arc<Self>) -> Busy {
        self.spoke.store(true, Relaxed);
        self.connections.change(self.id, |state| state.requests += 1);
        Busy(Arc::clone(self))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.open.lock().slots.remove(&self.id);
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Slot>);

impl Busy {
    /// Notes that the request succeeded.
    pub(crate) fn succeeded(&self) {
        self.0.connections.change(self.0.id, |state| state.proven = true);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.connections.change(self.0.id, |state| {
            state.requests -= 1;
            state.idle_since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets every connection look as if it had been idle for longer.
    fn age(connections: &Connections, by: Duration) {
        for state in connections.open.lock().slots.values_mut() {
            state.idle_since -= by;
        }
    }

    #[test]
    fn the_one_idle_for_longest_makes_room() {
        let connections = Connections::new(3);
        let [a, b, c] = [(); 3].map(|()| Arc::new(connections.admit().unwrap()));
        drop(a.begin_request());
        let _busy = b.begin_request();
        age(&connections, GRACE);
        let d = connections.admit().unwrap();
        assert_eq!([&a, &b, &c].map(|slot| slot.close.is_cancelled()), [false, false, true]);
        let _e = connections.admit().unwrap();
        assert_eq!([&a, &b].map(|slot| slot.close.is_cancelled()), [true, false]);
        assert!(!d.close.is_cancelled());
    }

    #[test]
    fn one_whose_request_succeeded_stays_before_those_that_only_came() {
        let connections = Connections::new(2);
        let [a, b] = [(); 2].map(|()| Arc::new(connections.admit().unwrap()));
        a.begin_request().succeeded();
        age(&connections, 2 * GRACE);
        drop(b.begin_request());
        age(&connections, GRACE);
        let _c = connections.admit().unwrap();
        assert!(!a.close.is_cancelled() && b.close.is_cancelled());
    }

    #[test]
    fn each_has_a_moment_to_speak_before_it_is_closed_for_another() {
        let connections = Connections::new(1);
        let first = connections.admit().unwrap();
        assert!(matches!(connections.admit(), Err(NoRoom::For(wait)) if wait <= GRACE));
        assert!(!first.close.is_cancelled());
        age(&connections, GRACE);
        assert!(connections.admit().is_ok() && first.close.is_cancelled());
    }

    #[test]
    fn where_all_are_busy_nobody_is_cut_off_and_the_next_is_refused_until_one_ends() {
        let connections = Connections::new(2);
        let [a, b] = [(); 2].map(|()| Arc::new(connections.admit().unwrap()));
        let (busy, _busy) = (a.begin_request(), b.begin_request());
        assert_eq!(connections.admit().err(), Some(NoRoom::AllBusy));
        drop(busy);
        age(&connections, GRACE);
        assert!(connections.admit().is_ok());
        assert!(a.close.is_cancelled() && !b.close.is_cancelled());
    }

    #[test]
    fn a_slot_that_is_dropped_makes_room_without_closing_anything() {
        let connections = Connections::new(1);
        drop(connections.admit().unwrap());
        let slot = connections.admit().unwrap();
        assert!(!slot.close.is_cancelled() && !slot.spoke());
    }
}
