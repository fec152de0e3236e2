//! Evidence for dead letters: records that fail alone while others are delivered become dead letters, never those that
//! a throttled or broken server fails.

use rand::{SeedableRng, rngs::StdRng};

use super::*;

/// Delivers to a sink that fails records by name that it accepts later, and that accepts everything in the end.
async fn nothing_dies_of(behaviour: Behaviour, records: u64, seconds: u64, per_second: u64) {
    for max_in_flight in [1, 2] {
        let bench = start(
            &MemoryQueue::with(0),
            Behaviour { delay: Duration::from_micros(100), ..Behaviour::default() },
            FlushOptions { batch_records: 500, interval: Duration::from_millis(100), max_in_flight, ..options() },
        );
        bench.warmed_up().await;
        bench.sink.set(|b| (b.throttle, b.coin) = (behaviour.throttle, behaviour.coin.clone()));
        bench.queue.push(records);
        for _ in 0..seconds * 5 {
            bench.queue.push(per_second / 5);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(bench.queue.dead().len(), 0, "{max_in_flight} in flight");
        bench.sink.set(|b| (b.throttle, b.coin) = (None, None));
        bench.drained().await;
        assert_eq!(bench.sorted(), all_but(bench.queue.pushed(), &[]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_few_a_second_and_fails_the_rest_makes_no_dead_letters() {
    for per_second in [1.0, 20.0, 200.0] {
        let throttle = || Behaviour { throttle: Some(Throttle::new(per_second)), ..Behaviour::default() };
        nothing_dies_of(throttle(), 3000, 150, 0).await;
        nothing_dies_of(throttle(), 500, 150, 25).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_a_random_half_makes_no_dead_letters() {
    for seed in 0..2 {
        let coin = || Behaviour { coin: Some(StdRng::seed_from_u64(seed)), ..Behaviour::default() };
        nothing_dies_of(coin(), 0, 120, 400).await;
        nothing_dies_of(coin(), 0, 120, 5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_records_that_never_pass_become_dead_letters_after_a_minute_and_soon() {
    for max_in_flight in [1, 2] {
        let bad: Vec<u64> = (200..250).collect();
        let behaviour = Behaviour { failing: bad.iter().copied().collect(), ..Behaviour::default() };
        let options = FlushOptions { max_in_flight, interval: Duration::from_millis(100), ..options() };
        let bench = start(&MemoryQueue::with(0), behaviour, options);
        bench.warmed_up().await;
        bench.queue.push(60);
        let (began, mut first) = (tokio::time::Instant::now(), None);
        while bench.queue.dead().len() < bad.len() {
            bench.queue.push(5);
            tokio::time::sleep(Duration::from_millis(250)).await;
            if !bench.queue.dead().is_empty() {
                first.get_or_insert(began.elapsed());
            }
            assert!(began.elapsed() < Duration::from_secs(90), "{} of 50", bench.queue.dead().len());
        }
        assert!(first.is_some_and(|first| first >= Duration::from_secs(60)), "{first:?}");
        bench.drained().await;
        assert_eq!(bench.sorted(), all_but(bench.queue.pushed(), &bad));
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_fails_while_another_of_its_kind_passes_late_stays() {
    // Two fail; one of them is accepted after fifty seconds, and the evidence against the other begins again.
    let behaviour = Behaviour { failing: BTreeSet::from([200, 201]), ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(0), behaviour, options());
    bench.warmed_up().await;
    bench.queue.push(5);
    for second in 0..100 {
        if second == 50 {
            bench.sink.set(|behaviour| _ = behaviour.failing.remove(&201));
        }
        bench.queue.push(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(bench.queue.dead().is_empty());
    bench.drained_with_traffic().await;
    assert_eq!(bench.queue.dead().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_records_that_are_refused_does_not_hold_up_those_behind_it() {
    // This many in a row, with memory for all of them, or for few: parked ones are not retried before the rest.
    type Of = fn(&mut Behaviour) -> &mut BTreeSet<u64>;
    for of in [(|b| &mut b.failing) as Of, |b| &mut b.poison] {
        for (run, batch_records, batch_bytes, within) in
            [(300, 1000, 4 << 20, 10), (3000, 1000, 4 << 20, 20), (10_000, 50, 1500, 300)]
        {
            for max_in_flight in [1, 2] {
                let mut behaviour = Behaviour::default();
                of(&mut behaviour).extend(0..run);
                let bench = start(
                    &MemoryQueue::with(run + 500),
                    behaviour,
                    FlushOptions {
                        interval: Duration::from_millis(100),
                        batch_records,
                        batch_bytes,
                        max_in_flight,
                        ..options()
                    },
                );
                let began = tokio::time::Instant::now();
                let mut most = 0;
                // Some of the others may have been parked with them for now.
                while bench.sink.arrived().len() < 490 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    most = most.max(bench.handle.in_memory());
                    let took = began.elapsed();
                    assert!(took < Duration::from_secs(within), "{run}: {} arrived", bench.sink.arrived().len());
                }
                assert!(most <= 3000 || batch_records == 1000, "{most} in memory");
                assert!(bench.queue.dead().is_empty());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_record_that_drops_the_connection_holds_no_others() {
    for at in [3, 207, 999] {
        let behaviour = Behaviour { drops: BTreeSet::from([at]), ..Behaviour::default() };
        let bench = start(&MemoryQueue::with(1000), behaviour, FlushOptions { batch_records: 1000, ..options() });
        for _ in 0..60 {
            bench.queue.push(5);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(bench.sorted() == all_but(bench.queue.pushed(), &[at]), "{} left", bench.queue.backlog());
        assert_eq!((bench.queue.backlog(), bench.queue.dead().len()), (1, 0));
        // When nothing else is delivered, nothing distinguishes its failure from an outage.
        let is_told = || bench.handle.status().last_error.is_some_and(|error| error.contains("alone"));
        for _ in 0..60 {
            if !is_told() {
                bench.queue.push(5);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        assert!(is_told(), "{:?}", bench.handle.status().last_error);
        bench.sink.set(|behaviour| behaviour.drops.clear());
        bench.drained_with_traffic().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_keeps_no_block_in_memory_that_it_was_read_with() {
    type Of = fn(&mut Behaviour) -> &mut BTreeSet<u64>;
    for of in [(|b| &mut b.failing) as Of, |b| &mut b.poison, |b| &mut b.later, |b| &mut b.drops] {
        let mut behaviour = Behaviour::default();
        of(&mut behaviour).extend([203, 231]);
        let bench = start(&MemoryQueue::with(0), behaviour, options());
        bench.warmed_up().await;
        bench.queue.push(100);
        for _ in 0..20 {
            bench.queue.push(1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        bench.until("two are held", |bench| bench.queue.leased() == 2 && bench.queue.backlog() == 2).await;
        assert_eq!(bench.queue.shared(), 0);
    }
}
