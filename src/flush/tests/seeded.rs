//! The same seed gives the same run, which a simulation requires of the worker.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::{record::UnixMillis, sink::SinkErrorKind::Unavailable};

/// Everything in a run's result that depends on order, randomness or time.
#[derive(Debug, PartialEq)]
struct Story {
    arrived: Vec<u64>,
    batches: Vec<usize>,
    dead: Vec<(u64, u32, UnixMillis)>,
    took: Duration,
    status: String,
}

fn story(seed: u64) -> Story {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let behaviour = Behaviour {
            first: [Unavailable; 5].into(),
            poison: BTreeSet::from([7, 33, 34, 250]),
            later: BTreeSet::from([120]),
            bad: BTreeSet::from([60]),
            delay: Duration::from_millis(3),
            ..Behaviour::default()
        };
        let (wall, began) = (AtomicI64::new(1_800_000_000_000), tokio::time::Instant::now());
        let environment = Environment::simulated(seed, move || wall.fetch_add(1, Ordering::Relaxed));
        let options = FlushOptions { max_in_flight: 3, ..options() };
        let bench = start_in(environment, &MemoryQueue::with(300), behaviour, options);
        tokio::time::sleep(Duration::from_secs(20)).await;
        bench.handle.flush_now();
        tokio::time::sleep(Duration::from_secs(100)).await;
        bench.sink.set(|behaviour| behaviour.later.clear());
        bench.drained_with_traffic().await;
        let took = began.elapsed();
        bench.shutdown.cancel();
        let status = format!("{:?}", bench.handle.status());
        bench.handle.stopped().await;
        let dead = bench.queue.dead().into_iter().map(|dead| (dead.record.seq, dead.attempts, dead.first_attempt_at));
        let (arrived, batches) = (bench.sink.arrived(), bench.sink.batches.lock().clone());
        Story { arrived, batches, dead: dead.collect(), took, status }
    })
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    for seed in 0..20 {
        assert_eq!(story(seed), story(seed), "seed {seed}");
    }
    assert_ne!(story(1).batches, story(2).batches);
}
