//! The state is true, and only evidence makes dead letters.

use super::*;

/// The fault, how the sink is scripted, and the state that follows.
type Fault = (&'static str, fn(&mut Behaviour), SinkState);

/// Faults that affect all records, and the state that has to follow.
fn problems() -> Vec<Fault> {
    use SinkErrorKind::{Full, Timeout, Unauthorized, Unavailable, Unnamed, Unsuitable};
    fn all() -> BTreeSet<u64> {
        (0..10_000).collect()
    }
    vec![
        ("each is refused by name", |b| b.failing = all(), SinkState::Unavailable),
        ("each fails its batch", |b| b.poison = all(), SinkState::Unavailable),
        ("each is left for later", |b| b.later = all(), SinkState::Unavailable),
        ("each is rejected", |b| b.bad = all(), SinkState::Rejecting),
        (
            "one is rejected, the others fail",
            |b| (b.bad, b.failing) = ((100..104).collect(), all()),
            SinkState::Unavailable,
        ),
        ("unavailable", |b| b.fails = Some(Unavailable), SinkState::Unavailable),
        ("timeout", |b| b.fails = Some(Timeout), SinkState::Unavailable),
        ("unauthorized", |b| b.fails = Some(Unauthorized), SinkState::Unauthorized),
        ("full", |b| b.fails = Some(Full), SinkState::Unavailable),
        ("unsuitable", |b| b.fails = Some(Unsuitable), SinkState::Unavailable),
        ("unnamed", |b| b.fails = Some(Unnamed), SinkState::Unavailable),
    ]
}

#[tokio::test(start_paused = true)]
async fn where_nothing_passes_the_state_says_so_within_seconds_whatever_the_reason() {
    for max_in_flight in [1, 2] {
        for (what, break_it, state) in problems() {
            for records in [1, 40, 1000] {
                let bench =
                    start(&MemoryQueue::with(0), Behaviour::default(), FlushOptions { max_in_flight, ..options() });
                bench.warmed_up().await;
                bench.sink.set(break_it);
                bench.queue.push(records);
                tokio::time::sleep(Duration::from_secs(10)).await;
                for _ in 0..100 {
                    let status = bench.handle.status();
                    assert_eq!(status.state, state, "{what}, {records} records, {max_in_flight} in flight: {status:?}");
                    assert!(status.state.is_failing() && status.last_error.is_some());
                    tokio::time::sleep(Duration::from_millis(570)).await;
                }
                if state != SinkState::Rejecting {
                    let rejected = bench.handle.status().figures.rejected_records;
                    assert!(
                        rejected <= 4 && bench.queue.dead().len() as u64 == rejected,
                        "{what}: {rejected} rejected"
                    );
                }
                bench.sink.set(|behaviour| *behaviour = Behaviour::default());
                let began = tokio::time::Instant::now();
                bench.queue.push(1);
                bench.drained().await;
                assert!(began.elapsed() < Duration::from_secs(100), "{what}: {:?}", began.elapsed());
                let state = bench.handle.status().state;
                assert!(matches!(state, SinkState::Idle | SinkState::Delivering), "{what}: {state:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_server_makes_no_dead_letters_and_holds_up_nothing_for_ever() {
    for max_in_flight in [1, 2] {
        let throttled: BTreeSet<u64> = (200..500).filter(|seq| seq % 3 == 0).collect();
        let behaviour = Behaviour { failing: throttled.clone(), ..Behaviour::default() };
        let bench = start(&MemoryQueue::with(0), behaviour, FlushOptions { max_in_flight, ..options() });
        bench.warmed_up().await;
        bench.queue.push(300);
        for _ in 0..50 {
            bench.queue.push(1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(bench.queue.dead().is_empty(), "not within a minute");
        assert!(bench.sorted().len() >= 200 + 200 + 40, "the others went past: {}", bench.sorted().len());
        bench.sink.set(|behaviour| behaviour.failing.clear());
        bench.drained().await;
        assert_eq!(bench.sorted(), all_but(bench.queue.pushed(), &[]));
        assert!(bench.queue.dead().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_fail_by_name_for_long_while_others_pass_become_dead_letters_with_that_reason() {
    for max_in_flight in [1, 2] {
        let behaviour = Behaviour { failing: BTreeSet::from([203, 204, 231]), ..Behaviour::default() };
        let bench = start(&MemoryQueue::with(0), behaviour, FlushOptions { max_in_flight, ..options() });
        bench.warmed_up().await;
        let began = tokio::time::Instant::now();
        bench.queue.push(40);
        bench.drained_with_traffic().await;
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(300), "{took:?}");
        let mut dead: Vec<_> = bench.queue.dead().iter().map(|dead| (dead.record.seq, dead.reason.clone())).collect();
        dead.sort();
        assert_eq!(dead, [203, 204, 231].map(|seq| (seq, "scripted to fail by name".to_owned())));
        assert_eq!(bench.sorted(), all_but(bench.queue.pushed(), &[203, 204, 231]));
        assert!(!bench.handle.status().state.is_failing());
    }
}

#[tokio::test(start_paused = true)]
async fn many_records_that_never_pass_hold_up_none_of_the_others() {
    type Of = fn(&mut Behaviour) -> &mut BTreeSet<u64>;
    for (what, of) in
        [("by name", (|b| &mut b.failing) as Of), ("unavailable", |b| &mut b.later), ("poison", |b| &mut b.poison)]
    {
        // One in each batch of ten, more than there may be batches in flight.
        let stuck: Vec<u64> = (200..500).filter(|seq| seq % 10 == 7).collect();
        let mut behaviour = Behaviour::default();
        of(&mut behaviour).extend(&stuck);
        let forever = Duration::from_secs(1_000_000);
        let bench = start(&MemoryQueue::with(0), behaviour, FlushOptions { reject_after: forever, ..options() });
        bench.warmed_up().await;
        bench.queue.push(300);
        bench.until(what, |bench| bench.sorted() == all_but(500, &stuck)).await;
        bench.queue.push(100);
        bench.until(what, |bench| bench.sorted() == all_but(600, &stuck)).await;
        bench.sink.set(|behaviour| of(behaviour).clear());
        bench.drained().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_bounded_and_what_is_more_goes_on_passing() {
    // Memory for some sixty records; more than that fail, and for good.
    let stuck: Vec<u64> = (200..1200).filter(|seq| seq % 10 == 7).collect();
    let behaviour = Behaviour { failing: stuck.iter().copied().collect(), ..Behaviour::default() };
    let bench = start(
        &MemoryQueue::with(0),
        behaviour,
        FlushOptions { batch_records: 200, batch_bytes: 1500, reject_after: Duration::from_secs(300), ..options() },
    );
    bench.warmed_up().await;
    bench.queue.push(1000);
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(bench.queue.dead().is_empty());
    assert!(bench.sorted().len() > 1000, "the others went past: {}", bench.sorted().len());
    bench.drained_with_traffic().await;
    let dead: BTreeSet<u64> = bench.queue.dead().iter().map(|dead| dead.record.seq).collect();
    assert_eq!(dead, stuck.into_iter().collect());
}

#[tokio::test(start_paused = true)]
async fn what_is_more_than_may_be_held_is_not_sent_again_whenever_there_is_a_little_space() {
    // Memory for some sixty records. Sometimes one of them is accepted, which frees space for another one.
    let stuck: Vec<u64> = (200..2200).filter(|seq| seq % 2 == 1).collect();
    let behaviour = Behaviour { failing: stuck.iter().copied().collect(), ..Behaviour::default() };
    let forever = Duration::from_secs(1_000_000);
    let bench =
        start(&MemoryQueue::with(0), behaviour, FlushOptions { batch_bytes: 1500, reject_after: forever, ..options() });
    bench.warmed_up().await;
    bench.queue.push(2000);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before: usize = bench.sink.batches.lock().iter().sum();
    for _ in 0..60 {
        bench.queue.push(1);
        bench.sink.set(|behaviour| _ = behaviour.failing.pop_first());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let sent = bench.sink.batches.lock().iter().sum::<usize>() - before;
    // Each is sent again every half minute, held ones somewhat more often.
    assert!(sent < stuck.len() * 3, "{sent} records were sent in a minute, of {} that are stuck", stuck.len());
}

#[tokio::test(start_paused = true)]
async fn no_more_is_held_in_the_last_flush_than_before() {
    let behaviour = Behaviour { failing: (200..10_000).filter(|seq| seq % 2 == 1).collect(), ..Behaviour::default() };
    let bench = start(
        &MemoryQueue::with(0),
        Behaviour { delay: Duration::from_micros(100), ..behaviour },
        FlushOptions { batch_records: 200, batch_bytes: 1500, ..options() },
    );
    bench.warmed_up().await;
    bench.queue.push(9800);
    bench.shutdown.cancel();
    let mut most = 0;
    bench
        .until("over", |bench| {
            most = most.max(bench.handle.in_memory());
            bench.handle.status().state == SinkState::Stopped
        })
        .await;
    assert!(most < 1000, "{most} records were in memory, of 60 that may be held and 400 in flight");
    let passed = (0..10_000).filter(|seq| *seq < 200 || seq % 2 == 0).collect::<Vec<u64>>();
    assert_eq!((bench.queue.leased(), bench.sorted()), (0, passed), "all that can pass do");
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_of_the_sink_left_held_is_not_in_the_way_when_it_is_back() {
    // More lone records that are never accepted than there may be batches, and the sink is unavailable meanwhile.
    for max_in_flight in [1, 2] {
        let stuck: Vec<u64> = (200..220).collect();
        let behaviour = Behaviour { failing: stuck.iter().copied().collect(), ..Behaviour::default() };
        let options = FlushOptions { max_in_flight, reject_after: Duration::from_secs(1_000_000), ..options() };
        let bench = start(&MemoryQueue::with(0), behaviour, options);
        bench.warmed_up().await;
        for _ in 0..20 {
            bench.queue.push(1);
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        bench.sink.set(|behaviour| behaviour.fails = Some(SinkErrorKind::Unavailable));
        bench.queue.push(50);
        tokio::time::sleep(Duration::from_secs(1800)).await;
        bench.sink.set(|behaviour| behaviour.fails = None);
        bench.until("the others", |bench| bench.sorted() == all_but(270, &stuck)).await;
    }
}
