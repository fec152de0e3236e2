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
const PATIENCE: Duration = Duration::from_secs(1);
/// The group of those without an open request, and the group that is evicted last.
const IDLE: u8 = 1;
const SENDING: u8 = 3;
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
            let (class, grace) = match (state.authorized, state.requests > 0) {
                (false, _) => (0, GRACE),
                (true, false) => (IDLE, GRACE),
                (true, true) if is_over => (2, GRACE),
                (true, true) => (SENDING, SILENT),
            };
            let since = if state.authorized { state.silent_since } else { state.admitted };
            let spent = now.saturating_duration_since(if is_over { state.admitted } else { since });
            ((class, !is_over, since), grace.saturating_sub(spent), id)
        });
        let candidates: Vec<_> = candidates.collect();
        let &((class, ..), left, id) = candidates.iter().min_by_key(|(rank, ..)| *rank).ok_or(NoSlot::AllBusy)?;
        if left.is_zero() {
            return Ok(id);
        }
        if class == 0 && self.occupied.values().filter(|state| !state.authorized).count() < max / NEW_PART {
            let idle = candidates.iter().filter(|((class, ..), left, _)| *class <= IDLE && left.is_zero());
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
        let in_vain = arrived.elapsed() >= PATIENCE;
        if in_vain {
            open.overloaded_at = Some(Instant::now());
        }
        in_vain || open.overloaded_at.is_some_and(|at| at.elapsed() < PATIENCE)
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
mod tests {
    use super::*;

    const HERE: Holder = Holder(None);

    fn holder(last: u8) -> Holder {
        Holder::new(Some(IpAddr::from([10, 0, 0, last])))
    }

    fn admitted(slots: &Arc<Slots>, holder: Holder) -> Arc<Slot> {
        Arc::new(slots.admit(holder).unwrap())
    }

    /// Active and authorized.
    fn busy(slot: &Arc<Slot>) -> OpenRequest {
        let open_request = slot.begin_request();
        open_request.mark_authorized();
        open_request
    }

    /// Makes all look as if they had been silent for longer.
    fn age(slots: &Slots, by: Duration) {
        for state in slots.open.lock().occupied.values_mut() {
            state.silent_since -= by;
            state.admitted -= by;
        }
    }

    fn gone<const N: usize>(slots: [&Arc<Slot>; N]) -> [bool; N] {
        slots.map(|slot| slot.close.0.1.is_cancelled())
    }

    #[test]
    fn the_one_silent_for_longest_loses_its_place() {
        let slots = Slots::new(3, Refused::Connections);
        let [a, b, c] = [(); 3].map(|()| admitted(&slots, HERE));
        let _busy = busy(&b);
        drop(busy(&c));
        drop(busy(&a));
        age(&slots, GRACE);
        let d = admitted(&slots, HERE);
        assert_eq!(gone([&a, &b, &c]), [false, false, true]);
        drop(busy(&d));
        let _e = admitted(&slots, HERE);
        assert_eq!(gone([&a, &b, &d]), [true, false, false]);
    }

    #[test]
    fn an_authorized_holder_stays_longer_than_an_unauthorized_one_even_with_an_open_request() {
        let slots = Slots::new(2, Refused::Connections);
        let [a, b] = [(); 2].map(|()| admitted(&slots, HERE));
        drop(busy(&a));
        age(&slots, 2 * GRACE);
        let _under_way = b.begin_request();
        b.begin_request().mark_active();
        age(&slots, GRACE);
        let _c = admitted(&slots, HERE);
        assert_eq!(gone([&a, &b]), [false, true]);
    }

    #[test]
    fn newcomers_do_not_wait_for_each_other_while_they_are_few_and_others_are_idle() {
        let slots = Slots::new(8, Refused::Connections);
        let idle: Vec<_> = (0..8).map(|_| admitted(&slots, HERE)).collect();
        idle.iter().for_each(|slot| drop(busy(slot)));
        age(&slots, GRACE);
        let _newcomers = [(); 2].map(|()| admitted(&slots, HERE));
        assert_eq!(idle.iter().filter(|slot| slot.close.0.1.is_cancelled()).count(), 2);
        assert!(matches!(slots.admit(HERE), Err(NoSlot::For(_))), "a flood of them leaves the others their slots");
    }

    #[test]
    fn each_has_a_moment_to_speak_before_it_goes_for_another() {
        let slots = Slots::new(1, Refused::Connections);
        let first = admitted(&slots, HERE);
        assert!(matches!(slots.admit(HERE), Err(NoSlot::For(wait)) if wait <= GRACE));
        assert!(!first.close.0.1.is_cancelled());
        age(&slots, GRACE);
        assert!(slots.admit(HERE).is_ok() && first.close.0.1.is_cancelled());
    }

    #[test]
    fn where_all_send_nobody_is_cut_off_and_the_next_is_refused_until_one_falls_silent_or_ends() {
        let slots = Slots::new(2, Refused::Connections);
        let [a, b] = [(); 2].map(|()| admitted(&slots, HERE));
        let [_busy, silent] = [busy(&a), busy(&b)];
        assert_eq!(slots.admit(HERE).err(), Some(NoSlot::AllBusy));
        age(&slots, SILENT);
        silent.mark_active();
        let c = admitted(&slots, HERE);
        assert_eq!(gone([&a, &b]), [true, false]);
        let _busy = busy(&c);
        assert_eq!(slots.admit(HERE).err(), Some(NoSlot::AllBusy));
        drop(silent);
        age(&slots, GRACE);
        assert!(slots.admit(HERE).is_ok() && b.close.0.1.is_cancelled());
    }

    #[tokio::test]
    async fn nobody_is_refused_because_all_are_active_for_an_instant_but_once_it_lasts_all_are() {
        let slots = Slots::new(2, Refused::Connections);
        let [a, b] = [(); 2].map(|()| admitted(&slots, HERE));
        let [busy_a, _busy_b] = [busy(&a), busy(&b)];
        let first = tokio::join!(slots.acquire(HERE), async {
            tokio::time::sleep(GRACE / 2).await;
            drop(busy_a);
        });
        let first = Arc::new(first.0.expect("a slot, once a request has ended"));
        let _busy = busy(&first);
        let began = Instant::now();
        assert!(slots.acquire(HERE).await.is_none() && began.elapsed() >= PATIENCE);
        assert!(slots.refuses(Instant::now()), "others do not wait again");
        slots.open.lock().overloaded_at = Instant::now().checked_sub(PATIENCE);
        assert!(!slots.refuses(Instant::now()), "but later ones do");
    }

    #[tokio::test]
    async fn whoever_goes_on_talking_keeps_no_other_peer_out() {
        type Talk = fn(&Arc<Slot>) -> Option<OpenRequest>;
        let talks: [(&str, Talk); 3] = [
            ("requests without credentials", |slot| {
                drop(slot.begin_request());
                None
            }),
            ("requests", |slot| {
                drop(busy(slot));
                None
            }),
            ("a request that goes on", |slot| Some(busy(slot))),
        ];
        for (name, talk) in talks {
            let slots = Slots::new(4, Refused::Connections);
            let greedy: Vec<_> = (0..4).map(|_| admitted(&slots, holder(1))).collect();
            age(&slots, GRACE);
            let _open_requests: Vec<_> = greedy.iter().map(talk).collect();
            assert!(slots.admit(holder(2)).is_ok(), "{name}");
        }
    }

    #[test]
    fn newcomers_without_credentials_cut_off_no_sender_and_make_nobodys_share_smaller() {
        let slots = Slots::new(8, Refused::Connections);
        let senders: Vec<_> = (0..7).map(|_| admitted(&slots, holder(1))).collect();
        let _open_requests: Vec<_> = senders.iter().map(busy).collect();
        let _newcomer = admitted(&slots, holder(2));
        age(&slots, GRACE / 2);
        for peer in 3..20 {
            assert!(matches!(slots.admit(holder(peer)), Err(NoSlot::For(_))));
        }
        age(&slots, GRACE);
        for peer in 3..20 {
            let _newcomer = admitted(&slots, holder(peer));
            age(&slots, GRACE);
        }
        assert!(senders.iter().all(|sender| !sender.close.0.1.is_cancelled()));
    }

    #[tokio::test]
    async fn a_slot_that_is_released_is_given_away_at_once() {
        let slots = Slots::new(1, Refused::Connections);
        let only = admitted(&slots, HERE);
        let mut next = std::pin::pin!(slots.acquire(HERE));
        assert!(futures::poll!(&mut next).is_pending());
        drop(only);
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_a_second_and_a_limited_number_at_once() {
        let slots = Slots::new(1, Refused::Streams);
        let only = admitted(&slots, HERE);
        let talking = async {
            loop {
                drop(busy(&only));
                tokio::time::sleep(GRACE / 8).await;
            }
        };
        let began = Instant::now();
        let waiting = async {
            let both = tokio::join!(slots.acquire(HERE), slots.acquire(HERE));
            assert!(both.0.is_none() && both.1.is_none());
            began.elapsed()
        };
        tokio::select! {
            () = talking => {}
            waited = waiting => assert!(waited >= PATIENCE),
        }
        slots.open.lock().overloaded_at = None;
        let _place = slots.waiting.try_acquire().unwrap();
        let _busy = busy(&only);
        assert!(slots.acquire(HERE).await.is_none() && !slots.refuses(Instant::now()), "at once, without an overload");
    }

    #[test]
    fn a_peer_with_more_than_its_share_gives_a_place_to_one_with_less_and_not_to_itself() {
        let slots = Slots::new(4, Refused::Connections);
        let greedy: Vec<_> = (0..3).map(|_| admitted(&slots, holder(1))).collect();
        let small = admitted(&slots, holder(2));
        let _open_requests: Vec<_> = greedy.iter().chain([&small]).map(busy).collect();
        age(&slots, GRACE);
        assert_eq!(slots.admit(holder(1)).err(), Some(NoSlot::AllBusy), "it has its share");
        let second = admitted(&slots, holder(2));
        let _busy = busy(&second);
        assert_eq!(greedy.iter().filter(|slot| slot.close.0.1.is_cancelled()).count(), 1);
        assert!(!small.close.0.1.is_cancelled());
        assert_eq!(slots.admit(holder(2)).err(), Some(NoSlot::AllBusy), "both have their share");
    }

    #[test]
    fn a_request_is_alone_while_its_holder_has_no_other() {
        let slots = Slots::new(2, Refused::Connections);
        let [a, b] = [(); 2].map(|()| admitted(&slots, HERE));
        let (first, _of_another) = (a.begin_request(), b.begin_request());
        assert!(first.is_alone());
        let second = a.begin_request();
        assert!(!first.is_alone() && !second.is_alone());
        drop(first);
        assert!(second.is_alone());
    }

    #[test]
    fn a_place_that_is_dropped_is_free_without_an_eviction() {
        let slots = Slots::new(1, Refused::Connections);
        drop(admitted(&slots, HERE));
        let slot = admitted(&slots, HERE);
        assert!(!slot.close.0.1.is_cancelled() && !slot.spoke());
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let [a, b, c] = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"]
            .map(|address| Holder::new(Some(address.parse().unwrap())));
        assert!(a == b && a != c);
        assert_eq!(Holder::new(Some("::ffff:10.0.0.1".parse().unwrap())), holder(1));
    }
}
