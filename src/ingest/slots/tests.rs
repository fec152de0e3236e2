//! Who gets a slot, who is evicted for it, and who waits.

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
    assert!(slots.acquire(HERE).await.is_none() && began.elapsed() >= MAX_WAIT);
    assert!(slots.refuses(Instant::now()), "others do not wait again");
    slots.open.lock().overloaded_at = Instant::now().checked_sub(MAX_WAIT);
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
        waited = waiting => assert!(waited >= MAX_WAIT),
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
