//! A limited number of slots (connections, streams), and which holder is evicted when one more arrives.
//!
//! The order of eviction is: holders that showed no credentials; holders without an open request; active holders of a peer
//! that has more than its share; holders that have been silent for long. Within each group it is the one silent for
//! longest (without credentials the oldest), of a peer with more than its share before others. So many silent holders keep
//! nobody out, a single peer keeps no other peer out, and an active sender is not cut off. Each holder gets a moment to
//! speak first: a flood is accepted no faster than that allows. Who shows no credentials, or has more than its share, gets
//! that moment once, however much it says. An evicted holder gets the reason.
//!
//! One more waits a second at most. When many connect at once with one request each, all of these can be open for an
//! instant: nobody is refused for that. Once one has waited in vain, others are refused at once for as long.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Refusal, Refused};

/// No holder is evicted for another one before it was silent for this long, or held its slot for this long: see above.
const GRACE: Duration = Duration::from_millis(250);
/// An authorized holder with an open request is not evicted before this, if its peer has no more than its share.
const SILENT: Duration = Duration::from_secs(10);
/// How long one more waits, and how long others are refused at once after it waited in vain.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// This part of the slots is for newcomers: while there are fewer, one more takes the slot of an idle holder and does not
/// wait for another newcomer to speak.
const NEW_PART: usize = 4;
/// The part of an IPv6 address that identifies a peer: one network has all the addresses after it.
const IPV6_NETWORK: u128 = !0 << 64;

/// The peer that shares are counted by: an address, or this machine over a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Holder(Option<IpAddr>);

impl Holder {
    pub(crate) fn new(address: Option<IpAddr>) -> Self {
        Self(address.map(|address| match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & IPV6_NETWORK)),
            v4 => v4,
        }))
    }
}

/// The slots.
#[derive(Debug)]
pub(crate) struct Slots {
    max: usize,
    /// The name of what is limited.
    of: Refused,
    open: Mutex<Open>,
    /// As many as have slots can wait for one: a request that waits takes memory.
    waiting: Semaphore,
    /// A slot was released.
    released: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    occupied: HashMap<u64, State>,
    /// When one last waited in vain.
    overloaded_at: Option<Instant>,
}

#[derive(Debug)]
struct State {
    holder: Holder,
    requests: u32,
    /// It showed credentials, if they are required.
    authorized: bool,
    admitted: Instant,
    silent_since: Instant,
    close: Close,
}

/// The signal that a holder has to leave, and why.
#[derive(Debug, Clone, Default)]
struct Close(Arc<(OnceLock<Refusal>, CancellationToken)>);

impl Close {
    fn because(&self, why: Refusal) {
        // The first cause is kept.
        let _ = self.0.0.set(why);
        self.0.1.cancel();
    }

    async fn closed(&self) -> Refusal {
        self.0.1.cancelled().await;
        self.0.0.get().cloned().unwrap_or_else(|| Refusal::new(Refused::Stopping, "it is being closed"))
    }
}

/// The groups of holders, in the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// It showed no credentials.
    Unauthorized,
    /// Without an open request.
    Idle,
    /// Active, of a peer with more than its share.
    OverShare,
    Active,
}

/// There is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoSlot {
    /// All holders are active.
    AllBusy,
    /// One can be evicted after this time.
    For(Duration),
}

impl Open {
    /// The id of the holder that is evicted for one more of this peer.
    fn next_to_go(&self, newcomer: Holder, max: usize) -> Result<u64, NoSlot> {
        let now = Instant::now();
        let mut held = HashMap::from([(newcomer, 0_usize)]);
        self.occupied.values().for_each(|state| *held.entry(state.holder).or_default() += 1);
        // Who shows no credentials makes nobody's share smaller.
        let with_credentials = self.occupied.values().filter(|state| state.authorized).map(|state| state.holder);
        let peers: HashSet<_> = with_credentials.chain([newcomer]).collect();
        let share = (max / peers.len()).max(1);
        let has_a_right = held[&newcomer] < share;
        let candidates = self.occupied.iter().map(|(&id, state)| {
            let is_over = has_a_right && held[&state.holder] > share;
            let (group, grace) = match (state.authorized, state.requests > 0) {
                (false, _) => (Group::Unauthorized, GRACE),
                (true, false) => (Group::Idle, GRACE),
                (true, true) if is_over => (Group::OverShare, GRACE),
                (true, true) => (Group::Active, SILENT),
            };
            let since = if state.authorized { state.silent_since } else { state.admitted };
            let spent = now.saturating_duration_since(if is_over { state.admitted } else { since });
            ((group, !is_over, since), grace.saturating_sub(spent), id)
        });
        let candidates: Vec<_> = candidates.collect();
        let &((group, ..), left, id) = candidates.iter().min_by_key(|(rank, ..)| *rank).ok_or(NoSlot::AllBusy)?;
        if left.is_zero() {
            return Ok(id);
        }
        if group == Group::Unauthorized
            && self.occupied.values().filter(|state| !state.authorized).count() < max / NEW_PART
        {
            let idle = candidates.iter().filter(|((group, ..), left, _)| *group <= Group::Idle && left.is_zero());
            if let Some(&(.., id)) = idle.min_by_key(|(rank, ..)| *rank) {
                return Ok(id);
            }
        }
        if left <= GRACE { Err(NoSlot::For(left)) } else { Err(NoSlot::AllBusy) }
    }
}

impl Slots {
    /// So many slots; a refusal for lack of one has this reason.
    pub(crate) fn new(max: usize, of: Refused) -> Arc<Self> {
        let max = max.max(1);
        let waiting = Semaphore::new(max.min(Semaphore::MAX_PERMITS));
        Arc::new(Self { max, of, open: Mutex::default(), waiting, released: Notify::new() })
    }

    /// A slot, if needed by evicting a holder. `None` if all are active.
    pub(crate) async fn acquire(self: &Arc<Self>, holder: Holder) -> Option<Slot> {
        let arrived = Instant::now();
        let mut place = None;
        loop {
            let wait = match self.admit(holder) {
                Ok(slot) => return Some(slot),
                Err(NoSlot::AllBusy) => GRACE,
                Err(NoSlot::For(wait)) => wait,
            };
            if self.refuses(arrived) {
                return None;
            }
            if place.is_none() {
                place = Some(self.waiting.try_acquire().ok()?);
            }
            // A slot that was released before this is not missed: the permit is kept.
            let _ = tokio::time::timeout(wait, self.released.notified()).await;
        }
    }

    /// Whether one that arrived then, and still finds no slot, is refused.
    fn refuses(&self, arrived: Instant) -> bool {
        let mut open = self.open.lock();
        let in_vain = arrived.elapsed() >= MAX_WAIT;
        if in_vain {
            open.overloaded_at = Some(Instant::now());
        }
        in_vain || open.overloaded_at.is_some_and(|at| at.elapsed() < MAX_WAIT)
    }

    fn admit(self: &Arc<Self>, holder: Holder) -> Result<Slot, NoSlot> {
        let mut open = self.open.lock();
        if open.occupied.len() >= self.max {
            let next = open.next_to_go(holder, self.max)?;
            if let Some(state) = open.occupied.remove(&next) {
                let (max, of) = (self.max, self.of.as_str());
                let why =
                    format!("{max} {of} are open, and this one was silent for longest: open a new one to continue");
                state.close.because(Refusal::new(self.of, why));
            }
        }
        let id = open.next;
        open.next += 1;
        let close = Close::default();
        let now = Instant::now();
        let (admitted, silent_since) = (now, now);
        let state = State { holder, requests: 0, authorized: false, admitted, silent_since, close: close.clone() };
        open.occupied.insert(id, state);
        Ok(Slot {
            id,
            close,
            spoke: AtomicBool::new(false),
            was_authorized: AtomicBool::new(false),
            slots: Arc::clone(self),
        })
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.open.lock().occupied.get_mut(&id) {
            change(state);
        }
    }
}

/// A slot; released when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    id: u64,
    close: Close,
    spoke: AtomicBool,
    was_authorized: AtomicBool,
    slots: Arc<Slots>,
}

impl Slot {
    /// Returns when the holder has to leave, and why.
    pub(crate) async fn closed(&self) -> Refusal {
        self.close.closed().await
    }

    /// Evicts the holder, together with its open requests.
    pub(super) fn close(&self, why: Refusal) {
        self.close.because(why);
    }

    /// True once a request showed the required credentials.
    pub(super) fn is_authorized(&self) -> bool {
        self.was_authorized.load(Relaxed)
    }

    /// True once a request's headers arrived.
    pub(super) fn spoke(&self) -> bool {
        self.spoke.load(Relaxed)
    }

    /// Marks a request as open until the return value is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> OpenRequest {
        self.spoke.store(true, Relaxed);
        self.slots.change(self.id, |state| state.requests += 1);
        OpenRequest(Arc::new(RequestGuard(Arc::clone(self))))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.slots.open.lock().occupied.remove(&self.id).is_some() {
            self.slots.released.notify_one();
        }
    }
}

/// An open request, for as long as one of these exists.
#[derive(Debug, Clone)]
pub(crate) struct OpenRequest(Arc<RequestGuard>);

#[derive(Debug)]
struct RequestGuard(Arc<Slot>);

impl OpenRequest {
    /// Records that it showed the required credentials.
    pub(crate) fn mark_authorized(&self) {
        self.0.0.was_authorized.store(true, Relaxed);
        self.change(|state| {
            state.authorized = true;
            state.silent_since = Instant::now();
        });
    }

    /// Records a sign of life.
    pub(super) fn mark_active(&self) {
        self.change(|state| state.silent_since = Instant::now());
    }

    /// Closes the connection, for a peer that does not let its request end.
    pub(super) fn close_connection(&self, why: Refusal) {
        self.0.0.close(why);
    }

    /// True if the holder has no other open request.
    pub(super) fn is_alone(&self) -> bool {
        self.0.0.slots.open.lock().occupied.get(&self.0.0.id).is_some_and(|state| state.requests == 1)
    }

    /// Returns when its slot is given to another holder, and why.
    pub(super) async fn closed(&self) -> Refusal {
        self.0.0.closed().await
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.0.0.slots.change(self.0.0.id, change);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.slots.change(self.0.id, |state| {
            state.requests -= 1;
            state.silent_since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests;
