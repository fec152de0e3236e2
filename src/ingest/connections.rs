//! How many connections there are, and which one goes when there are too many: the one that has been without a request
//! for longest. So a crowd of idle connections keeps nobody out, and one with a request under way is never cut off.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
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
    idle_since: Instant,
    close: CancellationToken,
}

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), open: Mutex::default() })
    }

    /// Room for one more, if need be by closing an idle one; `None` where all are busy.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Slot> {
        let mut open = self.open.lock();
        if open.slots.len() >= self.max {
            let idle = open.slots.iter().filter(|(_, state)| state.requests == 0);
            let (&longest, _) = idle.min_by_key(|(_, state)| state.idle_since)?;
            if let Some(state) = open.slots.remove(&longest) {
                state.close.cancel();
            }
        }
        let id = open.next;
        open.next += 1;
        let close = CancellationToken::new();
        open.slots.insert(id, State { requests: 0, idle_since: Instant::now(), close: close.clone() });
        Some(Slot { id, close, spoke: AtomicBool::new(false), connections: Arc::clone(self) })
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
pub(super) struct Slot {
    id: u64,
    close: CancellationToken,
    spoke: AtomicBool,
    connections: Arc<Connections>,
}

impl Slot {
    /// Returns when the connection has to go.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }

    /// True once a request's headers came.
    pub(super) fn spoke(&self) -> bool {
        self.spoke.load(Relaxed)
    }

    /// Marks the connection as busy until the answer is there.
    pub(super) fn begin_request(self: &Arc<Self>) -> Busy {
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
pub(super) struct Busy(Arc<Slot>);

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

    #[test]
    fn the_one_idle_for_longest_makes_room() {
        let connections = Connections::new(3);
        let [a, b, c] = [(); 3].map(|()| Arc::new(connections.admit().unwrap()));
        drop(a.begin_request());
        let _busy = b.begin_request();
        let d = connections.admit().unwrap();
        assert_eq!([&a, &b, &c].map(|slot| slot.close.is_cancelled()), [false, false, true]);
        let _e = connections.admit().unwrap();
        assert_eq!([&a, &b].map(|slot| slot.close.is_cancelled()), [true, false]);
        assert!(!d.close.is_cancelled());
    }

    #[test]
    fn where_all_are_busy_nobody_is_cut_off_and_the_next_is_refused_until_one_ends() {
        let connections = Connections::new(2);
        let [a, b] = [(); 2].map(|()| Arc::new(connections.admit().unwrap()));
        let (busy, _busy) = (a.begin_request(), b.begin_request());
        assert!(connections.admit().is_none());
        drop(busy);
        assert!(connections.admit().is_some());
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
