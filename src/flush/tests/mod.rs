//! The worker with fakes, on a paused clock: its guarantees, and its behaviour when queue or sink fail.

mod evidence;
mod fleet;
mod seeded;
mod setup;
mod stopping;
mod truth;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    BackoffOptions, FlushOptions, Handle, SinkState, Worker,
    environment::Environment,
    fake_queue::{Hang, MemoryQueue},
    fake_sink::{Behaviour, ScriptedSink, Throttle},
};
use crate::{record::SinkName, sink::SinkErrorKind};

fn options() -> FlushOptions {
    FlushOptions { batch_records: 10, timeout: Duration::from_secs(30), ..FlushOptions::default() }
}

struct Bench {
    queue: Arc<MemoryQueue>,
    sink: Arc<ScriptedSink>,
    handle: Handle,
    shutdown: CancellationToken,
}

fn start(queue: &Arc<MemoryQueue>, behaviour: Behaviour, options: FlushOptions) -> Bench {
    start_in(Environment::of_the_system(), queue, behaviour, options)
}

fn start_in(environment: Environment, queue: &Arc<MemoryQueue>, behaviour: Behaviour, options: FlushOptions) -> Bench {
    let sink = ScriptedSink::new(behaviour);
    let shutdown = CancellationToken::new();
    let name = SinkName::new("fake").expect("a good name");
    let handle =
        Worker::spawn_in(environment, &name, Arc::clone(queue) as _, Arc::clone(&sink) as _, options, shutdown.clone());
    Bench { queue: Arc::clone(queue), sink, handle, shutdown }
}

impl Bench {
    async fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..100_000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; {:?}", self.handle.status());
    }

    async fn drained(&self) {
        self.until("the queue is empty", |bench| bench.queue.backlog() == 0).await;
        // The figures follow the queue: a task first removes its records, then the worker counts them.
        let counted = |bench: &Self| {
            let status = bench.handle.status();
            status.figures.delivered_records + status.figures.rejected_records == bench.queue.pushed()
        };
        self.until("all are counted", counted).await;
    }

    /// Delivers some records, after which the window is full: it starts small.
    async fn warmed_up(&self) {
        self.queue.push(200);
        self.drained().await;
    }

    /// The same, with a good record a second, so that others are delivered while some are not.
    async fn drained_with_traffic(&self) {
        for _ in 0..3600 {
            if self.queue.backlog() == 0 {
                return self.drained().await;
            }
            self.queue.push(1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("never drained; {:?}", self.handle.status());
    }

    /// What arrived, sorted by sequence number.
    fn sorted(&self) -> Vec<u64> {
        let mut arrived = self.sink.arrived();
        arrived.sort_unstable();
        arrived
    }
}

fn all_but(records: u64, without: &[u64]) -> Vec<u64> {
    (0..records).filter(|seq| !without.contains(seq)).collect()
}

#[tokio::test(start_paused = true)]
async fn every_record_arrives_once_and_leaves_the_queue() {
    let bench = start(&MemoryQueue::with(1234), Behaviour::default(), options());
    bench.drained().await;
    assert_eq!(bench.sorted(), all_but(1234, &[]));
    let status = bench.handle.status();
    assert_eq!((status.figures.delivered_records, status.figures.rejected_records), (1234, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_full_goes_when_its_interval_is_over() {
    let bench = start(&MemoryQueue::with(0), Behaviour::default(), options());
    bench.until("idle", |bench| bench.handle.status().state == SinkState::Idle).await;
    bench.queue.push(3);
    let began = tokio::time::Instant::now();
    bench.drained().await;
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(900) && waited < Duration::from_millis(1500), "{waited:?}");
    assert_eq!(*bench.sink.batches.lock(), [3]);
}

#[tokio::test(start_paused = true)]
async fn flush_now_does_not_wait_for_the_interval() {
    let options = FlushOptions { interval: Duration::from_secs(3600), ..options() };
    let bench = start(&MemoryQueue::with(3), Behaviour::default(), options);
    bench.until("idle", |bench| bench.handle.status().state == SinkState::Idle).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.queue.backlog(), 3);
    let began = tokio::time::Instant::now();
    bench.handle.flush_now();
    bench.drained().await;
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn no_more_batches_than_max_in_flight_are_sent_at_once() {
    let slow = || Behaviour { delay: Duration::from_millis(5), ..Behaviour::default() };
    for max_in_flight in [1, 3] {
        let bench = start(&MemoryQueue::with(300), slow(), FlushOptions { max_in_flight, ..options() });
        bench.drained().await;
        assert_eq!(bench.sink.in_flight.lock().1, max_in_flight);
    }
}

#[tokio::test(start_paused = true)]
async fn one_batch_in_flight_keeps_strict_order_through_failures() {
    use SinkErrorKind::{Full, Timeout, Unavailable};
    let first = [Unavailable, Timeout, Full, Unavailable].into();
    let behaviour = Behaviour { first, later: BTreeSet::from([25]), ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(200), behaviour, FlushOptions { max_in_flight: 1, ..options() });
    let retried = |bench: &Bench| bench.handle.status().figures.retried_records.get("unavailable").copied();
    bench.until("a record is held back", |bench| retried(bench).is_some_and(|records| records > 25)).await;
    assert!(bench.sink.arrived().iter().all(|&seq| seq < 30), "later records went past it");
    bench.sink.set(|behaviour| behaviour.later.clear());
    bench.drained().await;
    assert_eq!(bench.sorted(), all_but(200, &[]));
}

#[tokio::test(start_paused = true)]
async fn an_hour_long_outage_makes_few_attempts_and_loses_nothing() {
    let behaviour = Behaviour { fails: Some(SinkErrorKind::Unavailable), ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(100), behaviour, options());
    bench.until("unavailable", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    bench.sink.set(|behaviour| behaviour.fails = None);
    bench.drained().await;
    assert_eq!(bench.sorted(), all_but(100, &[]));
    assert!(matches!(bench.handle.status().state, SinkState::Idle | SinkState::Delivering));
    assert!(bench.handle.status().last_error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_later_is_probed_with_one_batch_at_growing_pauses() {
    let bench = start(&MemoryQueue::with(10), Behaviour::default(), options());
    bench.drained().await;
    bench.sink.set(|behaviour| behaviour.fails = Some(SinkErrorKind::Unavailable));
    bench.queue.push(1000);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let attempts = bench.sink.batches.lock().len();
    assert!((100..600).contains(&attempts), "{attempts} attempts in an hour with pauses of 15 s on average");
    assert!(bench.queue.leased() <= 60, "{} records in memory", bench.queue.leased());
    bench.sink.set(|behaviour| behaviour.fails = None);
    bench.drained().await;
    assert_eq!(bench.sorted(), all_but(1010, &[]));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_drops_nothing_and_is_loud() {
    let behaviour = Behaviour { fails: Some(SinkErrorKind::Unauthorized), ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(50), behaviour, options());
    bench.until("unauthorized", |bench| bench.handle.status().state == SinkState::Unauthorized).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.queue.backlog(), 50);
    bench.sink.set(|behaviour| behaviour.fails = None);
    bench.drained().await;
    assert!(bench.queue.dead().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_record_rejected_by_name_becomes_a_dead_letter_alone() {
    let behaviour = Behaviour { bad: BTreeSet::from([3, 17]), ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(40), behaviour, options());
    bench.drained().await;
    assert_eq!(bench.sorted(), all_but(40, &[3, 17]));
    let mut dead = bench.queue.dead();
    dead.sort_by_key(|dead| dead.record.seq);
    assert_eq!(
        dead.iter().map(|dead| (dead.record.seq, &*dead.reason)).collect::<Vec<_>>(),
        [(3, "scripted to reject"), (17, "scripted to reject")]
    );
}

#[tokio::test(start_paused = true)]
async fn bisection_finds_the_records_that_fail_their_batch() {
    for poison in [vec![200], vec![239], vec![207, 208, 231], (200..239).collect()] {
        let behaviour = Behaviour { poison: poison.iter().copied().collect(), ..Behaviour::default() };
        let bench = start(&MemoryQueue::with(0), behaviour, FlushOptions { batch_records: 40, ..options() });
        bench.warmed_up().await;
        bench.queue.push(40);
        bench.drained_with_traffic().await;
        assert_eq!(bench.sorted(), all_but(bench.queue.pushed(), &poison));
        let mut dead: Vec<u64> = bench.queue.dead().iter().map(|dead| dead.record.seq).collect();
        dead.sort_unstable();
        assert_eq!(dead, poison);
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_accepted_nothing_is_rejected() {
    let behaviour = Behaviour { fails: None, poison: (0..500).collect(), ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(500), behaviour, options());
    tokio::time::sleep(Duration::from_secs(1800)).await;
    assert!(bench.queue.dead().is_empty() && bench.queue.backlog() == 500);
    assert_eq!(bench.handle.status().state, SinkState::Unavailable);
    bench.sink.set(|behaviour| behaviour.poison.clear());
    bench.drained().await;
    assert_eq!(bench.sorted(), all_but(500, &[]));
}

#[tokio::test(start_paused = true)]
async fn a_lone_suspect_waits_until_others_were_accepted() {
    for max_in_flight in [1, 2] {
        let behaviour = Behaviour { poison: BTreeSet::from([0]), ..Behaviour::default() };
        let bench = start(&MemoryQueue::with(1), behaviour, FlushOptions { max_in_flight, ..options() });
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(bench.queue.backlog(), 1, "nothing else was accepted, so it may be the sink's fault");
        bench.drained_with_traffic().await;
        assert_eq!(bench.sorted(), all_but(bench.queue.pushed(), &[0]));
        assert_eq!(bench.queue.dead().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_server_falls_over_does_not_hold_up_the_others() {
    let behaviour = Behaviour { later: BTreeSet::from([0]), ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(200), behaviour, options());
    bench.until("all others arrived", |bench| bench.sorted() == all_but(200, &[0])).await;
    assert_eq!(bench.queue.backlog(), 1);
    bench.sink.set(|behaviour| behaviour.later.clear());
    bench.drained().await;
}

#[tokio::test(start_paused = true)]
async fn batches_shrink_under_timeouts_and_grow_back() {
    let options = FlushOptions { batch_records: 100, timeout: Duration::from_secs(1), ..options() };
    let bench = start(&MemoryQueue::with(0), Behaviour::default(), options);
    bench.warmed_up().await;
    bench.sink.set(|behaviour| behaviour.delay = Duration::from_millis(50));
    bench.queue.push(300);
    bench.drained().await;
    assert!(bench.handle.status().figures.retried_records["timeout"] > 0);
    bench.sink.set(|behaviour| behaviour.delay = Duration::ZERO);
    bench.queue.push(3000);
    bench.drained().await;
    assert_eq!(bench.handle.status().figures.batch_records, 100);
    assert_eq!(bench.sorted(), all_but(3500, &[]));
}

#[tokio::test(start_paused = true)]
async fn full_dead_letters_pause_the_sink_until_there_is_space() {
    let queue = MemoryQueue::with(100);
    queue.fill_dead_letters(true);
    let behaviour = Behaviour { bad: BTreeSet::from([0]), ..Behaviour::default() };
    let bench = start(&queue, behaviour, options());
    bench.until("paused", |bench| bench.handle.status().state == SinkState::DeadLettersFull).await;
    let arrived = bench.sink.arrived().len();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(bench.sink.arrived().len(), arrived, "nothing goes out meanwhile");
    assert!(bench.handle.status().last_error.is_some_and(|error| error.contains("dead letters of sink fake are full")));
    queue.fill_dead_letters(false);
    bench.drained().await;
    assert_eq!(queue.dead().len(), 1);
    assert_eq!(bench.sorted(), all_but(100, &[0]));
}

#[tokio::test(start_paused = true)]
async fn deliveries_that_the_queue_would_not_record_are_recorded_later_not_sent_twice() {
    let queue = MemoryQueue::with(100);
    queue.refuse_acknowledgements(true);
    let bench = start(&queue, Behaviour::default(), options());
    bench.until("the spool failed", |bench| bench.handle.status().state == SinkState::SpoolFailed).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    queue.refuse_acknowledgements(false);
    bench.drained().await;
    assert_eq!(bench.sorted(), all_but(100, &[]));
}

#[tokio::test(start_paused = true)]
async fn no_more_is_sent_unflushed_than_the_sink_recognizes_when_it_is_redelivered() {
    for max_in_flight in [1, 3] {
        let queue = MemoryQueue::with(100);
        queue.hold_flushes(true);
        let behaviour = Behaviour { recognizes: Some(25), ..Behaviour::default() };
        let bench = start(&queue, behaviour, FlushOptions { max_in_flight, ..options() });
        bench.until("all that may went out", |bench| bench.sink.arrived().len() == 25).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(bench.sink.arrived().len(), 25);
        queue.hold_flushes(false);
        bench.drained().await;
        assert_eq!(bench.sorted(), all_but(100, &[]));
    }
}

#[tokio::test(start_paused = true)]
async fn the_sink_loads_what_it_delivered_before_the_first_batch_as_far_back_as_the_queue_may_redeliver() {
    let queue = MemoryQueue::with(100);
    queue.redeliver_since(Some(1000));
    let behaviour = Behaviour { cannot_load_delivered: [SinkErrorKind::Unavailable; 2].into(), ..Behaviour::default() };
    let bench = start(&queue, behaviour, options());
    bench.until("it failed", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    bench.drained().await;
    assert_eq!(*bench.sink.loads.lock(), [(1000, 0); 3], "until it could");
}

#[tokio::test(start_paused = true)]
async fn the_sink_loads_again_what_it_delivered_when_the_queue_is_rebuilt_while_it_delivers() {
    for max_in_flight in [1, 3] {
        let slow = Behaviour { delay: Duration::from_millis(5), ..Behaviour::default() };
        let bench = start(&MemoryQueue::with(300), slow, FlushOptions { max_in_flight, ..options() });
        bench.until("half is delivered", |bench| bench.sink.arrived().len() > 150).await;
        assert!(bench.sink.loads.lock().is_empty(), "nothing comes again");
        bench.queue.redeliver_since(Some(7));
        bench.drained().await;
        assert_eq!(bench.sorted(), all_but(300, &[]));
        let loads = bench.sink.loads.lock().clone();
        assert!(matches!(loads[..], [(7, batches)] if batches >= 15), "{loads:?}");
        bench.queue.redeliver_since(None);
        bench.queue.push(10);
        bench.drained().await;
        let last = bench.sink.loads.lock().last().copied();
        assert!(last.is_some_and(|(since, _)| since == crate::record::UnixMillis::MAX), "what it took up may go");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_loads_what_it_delivered_after_it_has_delivered_is_not_connecting_again() {
    let queue = MemoryQueue::with(300);
    queue.redeliver_since(Some(1000));
    let slow = Behaviour { delay: Duration::from_millis(5), ..Behaviour::default() };
    let bench = start(&queue, slow, options());
    let loads = |bench: &Bench| bench.sink.loads.lock().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((bench.handle.status().state, loads(&bench)), (SinkState::Connecting, 0), "the first time");
    bench.until("it delivers", |bench| bench.sink.arrived().len() > 50).await;
    // The queue is rebuilt while records wait; then everything that was redelivered is done.
    for (since, records) in [(Some(7), 0), (None, 0), (Some(9), 20), (None, 0)] {
        let before = loads(&bench);
        queue.redeliver_since(since);
        queue.push(records);
        bench
            .until("it has loaded what it delivered", |bench| {
                let status = bench.handle.status();
                assert!(matches!(status.state, SinkState::Delivering | SinkState::Idle), "{status:?}");
                loads(bench) > before
            })
            .await;
    }
    bench.drained().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_read_is_tried_again() {
    let queue = MemoryQueue::with(100);
    queue.refuse_leases(true);
    let bench = start(&queue, Behaviour::default(), options());
    bench.until("the spool failed", |bench| bench.handle.status().state == SinkState::SpoolFailed).await;
    queue.refuse_leases(false);
    bench.drained().await;
    assert_eq!(bench.sorted(), all_but(100, &[]));
}

#[tokio::test(start_paused = true)]
async fn max_rate_limits_the_drain() {
    let bench = start(&MemoryQueue::with(1000), Behaviour::default(), FlushOptions { max_rate: 100, ..options() });
    let began = tokio::time::Instant::now();
    bench.drained().await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(9) && took <= Duration::from_secs(11), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_worker_sends_nothing_until_it_is_resumed() {
    let bench = start(&MemoryQueue::with(0), Behaviour::default(), options());
    bench.handle.pause();
    bench.until("paused", |bench| bench.handle.status().state == SinkState::Paused).await;
    bench.queue.push(50);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.queue.backlog(), 50);
    bench.handle.resume();
    bench.drained().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_started_again_and_sends_what_was_in_flight() {
    let slow = Behaviour { delay: Duration::from_millis(10), ..Behaviour::default() };
    let queue = MemoryQueue::with(100);
    queue.panic_in_inspection();
    let bench = start(&queue, slow, options());
    bench.until("it is said", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    let error = bench.handle.status().last_error.expect("why");
    assert!(error.contains("panicked") && error.contains("a bug of these tests"), "{error}");
    bench.until("the queue is empty", |bench| bench.queue.backlog() + bench.queue.leased() == 0).await;
    let mut arrived = bench.sorted();
    arrived.dedup();
    assert_eq!(arrived, (0..100).collect::<Vec<_>>());
    bench.shutdown.cancel();
    bench.handle.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_says_when_to_come_again_is_left_alone_until_then_or_a_command() {
    let bench = start(&MemoryQueue::with(0), Behaviour::default(), options());
    bench.warmed_up().await;
    bench.sink.set(|behaviour| {
        behaviour.fails = Some(SinkErrorKind::Unavailable);
        behaviour.retry_after = Some(Duration::from_secs(300));
    });
    bench.queue.push(100);
    bench.until("unavailable", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = bench.sink.batches.lock().len();
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(bench.sink.batches.lock().len(), asked, "though the longest pause of its own is 30 s");
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(bench.sink.batches.lock().len() > asked, "the time is over");

    let asked = bench.sink.batches.lock().len();
    bench.sink.set(|behaviour| behaviour.fails = None);
    bench.handle.flush_now();
    bench.drained().await;
    assert!(bench.sink.batches.lock().len() > asked);
}

#[tokio::test(start_paused = true)]
async fn the_last_flush_leaves_alone_a_sink_that_wants_nothing_yet() {
    let behaviour = Behaviour {
        fails: Some(SinkErrorKind::Unavailable),
        retry_after: Some(Duration::from_secs(300)),
        ..Behaviour::default()
    };
    let bench = start(&MemoryQueue::with(100), Behaviour::default(), options());
    bench.drained().await;
    bench.sink.set(|new| *new = behaviour);
    bench.queue.push(10);
    bench.until("unavailable", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    let (asked, began) = (bench.sink.batches.lock().len(), tokio::time::Instant::now());
    bench.shutdown.cancel();
    bench.handle.stopped().await;
    assert_eq!((bench.sink.batches.lock().len(), bench.queue.backlog()), (asked, 10));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
