//! A limited number of places (connections, streams), and which holder is evicted when one more arrives.
//!
//! The order of eviction is: holders that showed no credentials; holders without an open request; active holders of a peer
//! that has more than its share; holders that have been silent for long. Within each group it is the one silent for
//! longest, of a peer with more than its share before others. So many silent holders keep nobody out, a single peer keeps
//! no other peer out, and an active sender is not cut off. Each holder gets a moment to speak first: a flood is accepted no
//! faster than that allows. An evicted holder is told why.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Refusal, Refused};

/// No holder is evicted for another one before it was silent for this long.
const GRACE: Duration = Duration::from_millis(250);
/// An authorized holder with an open request is not evicted before this, if its peer has no more than its share.
const SILENT: Duration = Duration::from_secs(10);
/// The group that is evicted last.
const SENDING: u8 = 3;
/// This part of the places is for newcomers: while there are fewer, one more takes the place of an idle holder and does not
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

/// The places.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    /// The name of what is limited.
    of: Refused,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    occupied: HashMap<u64, State>,
}

#[derive(Debug)]
struct State {
    holder: Holder,
    requests: u32,
    /// It showed credentials, if they are required.
    let_in: bool,
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

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoSpace {
    /// All holders are active.
    AllBusy,
    /// One can be evicted after this time.
    For(Duration),
}

impl Open {
    /// The id of the holder that is evicted for one more of this peer.
    fn next_to_go(&self, newcomer: Holder, max: usize) -> Result<u64, NoSpace> {
        let now = Instant::now();
        let mut held = HashMap::from([(newcomer, 0_usize)]);
        self.occupied.values().for_each(|state| *held.entry(state.holder).or_default() += 1);
        let share = (max / held.len()).max(1);
        let has_a_right = held[&newcomer] < share;
        let candidates = self.occupied.iter().map(|(&id, state)| {
            let is_over = has_a_right && held[&state.holder] > share;
            let (class, grace) = match (state.let_in, state.requests > 0) {
                (false, _) => (0, GRACE),
                (true, false) => (1, GRACE),
                (true, true) if is_over => (2, GRACE),
                (true, true) => (SENDING, SILENT),
            };
            let left = grace.saturating_sub(now.saturating_duration_since(state.silent_since));
            ((class, !is_over, state.silent_since), left, id)
        });
        let candidates: Vec<_> = candidates.collect();
        let &((class, ..), left, id) = candidates.iter().min_by_key(|(rank, ..)| *rank).ok_or(NoSpace::AllBusy)?;
        if left.is_zero() {
            return Ok(id);
        }
        if class == 0 && self.occupied.values().filter(|state| !state.let_in).count() < max / NEW_PART {
            let idle = candidates.iter().filter(|((class, ..), left, _)| *class < SENDING && left.is_zero());
            if let Some(&(.., id)) = idle.min_by_key(|(rank, ..)| *rank) {
                return Ok(id);
            }
        }
        if left <= GRACE { Err(NoSpace::For(left)) } else { Err(NoSpace::AllBusy) }
    }
}

impl Places {
    /// So many places; a refusal for lack of one has this reason.
    pub(crate) fn new(max: usize, of: Refused) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), of, open: Mutex::default() })
    }

    /// A place, if needed by evicting a holder; later callers wait meanwhile. `None` if all are active.
    pub(crate) async fn space(self: &Arc<Self>, holder: Holder) -> Option<Place> {
        loop {
            match self.admit(holder) {
                Ok(place) => return Some(place),
                Err(NoSpace::AllBusy) => return None,
                Err(NoSpace::For(wait)) => tokio::time::sleep(wait).await,
            }
        }
    }

    fn admit(self: &Arc<Self>, holder: Holder) -> Result<Place, NoSpace> {
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
        let silent_since = Instant::now();
        open.occupied.insert(id, State { holder, requests: 0, let_in: false, silent_since, close: close.clone() });
        Ok(Place {
            id,
            close,
            spoke: AtomicBool::new(false),
            was_let_in: AtomicBool::new(false),
            places: Arc::clone(self),
        })
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.open.lock().occupied.get_mut(&id) {
            change(state);
        }
    }
}

/// A place; released when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    close: Close,
    spoke: AtomicBool,
    was_let_in: AtomicBool,
    places: Arc<Places>,
}

impl Place {
    /// Returns when the holder has to leave, and why.
    pub(crate) async fn closed(&self) -> Refusal {
        self.close.closed().await
    }

    /// Evicts the holder, together with its open requests.
    pub(super) fn close(&self, why: Refusal) {
        self.close.because(why);
    }

    /// True once a request showed the required credentials.
    pub(super) fn is_let_in(&self) -> bool {
        self.was_let_in.load(Relaxed)
    }

    /// True once a request's headers arrived.
    pub(super) fn spoke(&self) -> bool {
        self.spoke.load(Relaxed)
    }

    /// Marks a request as open until the visit is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>) -> Visit {
        self.spoke.store(true, Relaxed);
        self.places.change(self.id, |state| state.requests += 1);
        Visit(Arc::new(UnderWay(Arc::clone(self))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open.lock().occupied.remove(&self.id);
    }
}

/// An open request, for as long as one of these exists.
#[derive(Debug, Clone)]
pub(crate) struct Visit(Arc<UnderWay>);

#[derive(Debug)]
struct UnderWay(Arc<Place>);

impl Visit {
    /// Records that it showed the required credentials.
    pub(crate) fn let_in(&self) {
        self.0.0.was_let_in.store(true, Relaxed);
        self.change(|state| {
            state.let_in = true;
            state.silent_since = Instant::now();
        });
    }

    /// Records a sign of life.
    pub(super) fn is_alive(&self) {
        self.change(|state| state.silent_since = Instant::now());
    }

    /// Returns when its place is taken away, and why.
    pub(super) async fn closed(&self) -> Refusal {
        self.0.0.closed().await
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.0.0.places.change(self.0.0.id, change);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.places.change(self.0.id, |state| {
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

    fn admitted(places: &Arc<Places>, holder: Holder) -> Arc<Place> {
        Arc::new(places.admit(holder).unwrap())
    }

    /// Active and authorized.
    fn busy(place: &Arc<Place>) -> Visit {
        let visit = place.begin_request();
        visit.let_in();
        visit
    }

    /// Makes all look as if they had been silent for longer.
    fn age(places: &Places, by: Duration) {
        for state in places.open.lock().occupied.values_mut() {
            state.silent_since -= by;
        }
    }

    fn gone<const N: usize>(places: [&Arc<Place>; N]) -> [bool; N] {
        places.map(|place| place.close.0.1.is_cancelled())
    }

    #[test]
    fn the_one_silent_for_longest_loses_its_place() {
        let places = Places::new(3, Refused::Connections);
        let [a, b, c] = [(); 3].map(|()| admitted(&places, HERE));
        drop(a.begin_request());
        let _busy = busy(&b);
        age(&places, GRACE);
        let d = admitted(&places, HERE);
        assert_eq!(gone([&a, &b, &c]), [false, false, true]);
        let _e = admitted(&places, HERE);
        assert_eq!(gone([&a, &b, &d]), [true, false, false]);
    }

    #[test]
    fn one_that_was_let_in_stays_before_those_that_only_came_even_with_a_request() {
        let places = Places::new(2, Refused::Connections);
        let [a, b] = [(); 2].map(|()| admitted(&places, HERE));
        drop(busy(&a));
        age(&places, 2 * GRACE);
        let _under_way = b.begin_request();
        b.begin_request().is_alive();
        age(&places, GRACE);
        let _c = admitted(&places, HERE);
        assert_eq!(gone([&a, &b]), [false, true]);
    }

    #[test]
    fn newcomers_do_not_wait_for_each_other_while_they_are_few_and_others_are_idle() {
        let places = Places::new(8, Refused::Connections);
        let idle: Vec<_> = (0..8).map(|_| admitted(&places, HERE)).collect();
        idle.iter().for_each(|place| drop(busy(place)));
        age(&places, GRACE);
        let _newcomers = [(); 2].map(|()| admitted(&places, HERE));
        assert_eq!(idle.iter().filter(|place| place.close.0.1.is_cancelled()).count(), 2);
        assert!(matches!(places.admit(HERE), Err(NoSpace::For(_))), "a flood of them leaves the others their places");
    }

    #[test]
    fn each_has_a_moment_to_speak_before_it_goes_for_another() {
        let places = Places::new(1, Refused::Connections);
        let first = admitted(&places, HERE);
        assert!(matches!(places.admit(HERE), Err(NoSpace::For(wait)) if wait <= GRACE));
        assert!(!first.close.0.1.is_cancelled());
        age(&places, GRACE);
        assert!(places.admit(HERE).is_ok() && first.close.0.1.is_cancelled());
    }

    #[test]
    fn where_all_send_nobody_is_cut_off_and_the_next_is_refused_until_one_falls_silent_or_ends() {
        let places = Places::new(2, Refused::Connections);
        let [a, b] = [(); 2].map(|()| admitted(&places, HERE));
        let [_busy, silent] = [busy(&a), busy(&b)];
        assert_eq!(places.admit(HERE).err(), Some(NoSpace::AllBusy));
        age(&places, SILENT);
        silent.is_alive();
        let c = admitted(&places, HERE);
        assert_eq!(gone([&a, &b]), [true, false]);
        let _busy = busy(&c);
        assert_eq!(places.admit(HERE).err(), Some(NoSpace::AllBusy));
        drop(silent);
        age(&places, GRACE);
        assert!(places.admit(HERE).is_ok() && b.close.0.1.is_cancelled());
    }

    #[test]
    fn a_peer_with_more_than_its_share_gives_a_place_to_one_with_less_and_not_to_itself() {
        let places = Places::new(4, Refused::Connections);
        let greedy: Vec<_> = (0..3).map(|_| admitted(&places, holder(1))).collect();
        let modest = admitted(&places, holder(2));
        let _visits: Vec<_> = greedy.iter().chain([&modest]).map(busy).collect();
        age(&places, GRACE);
        assert_eq!(places.admit(holder(1)).err(), Some(NoSpace::AllBusy), "it has its share");
        let second = admitted(&places, holder(2));
        let _busy = busy(&second);
        assert_eq!(greedy.iter().filter(|place| place.close.0.1.is_cancelled()).count(), 1);
        assert!(!modest.close.0.1.is_cancelled());
        assert_eq!(places.admit(holder(2)).err(), Some(NoSpace::AllBusy), "both have their share");
    }

    #[test]
    fn a_place_that_is_dropped_is_free_without_an_eviction() {
        let places = Places::new(1, Refused::Connections);
        drop(admitted(&places, HERE));
        let place = admitted(&places, HERE);
        assert!(!place.close.0.1.is_cancelled() && !place.spoke());
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let [a, b, c] = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"]
            .map(|address| Holder::new(Some(address.parse().unwrap())));
        assert!(a == b && a != c);
        assert_eq!(Holder::new(Some("::ffff:10.0.0.1".parse().unwrap())), holder(1));
    }
}
