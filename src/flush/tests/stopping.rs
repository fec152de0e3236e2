//! The last flush: the backlog is sent, within the timeout, whatever hangs.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_last_flush_sends_what_waits_without_waiting_for_the_interval() {
    let options = FlushOptions { interval: Duration::from_secs(3600), ..options() };
    let bench = start(&MemoryQueue::with(25), Behaviour::default(), options);
    bench.until("ready", |bench| bench.handle.status().state != SinkState::Connecting).await;
    bench.shutdown.cancel();
    bench.handle.stopped().await;
    assert_eq!(bench.queue.backlog(), 0);
    assert_eq!(bench.sink.arrived().len(), 25);
}

#[tokio::test(start_paused = true)]
async fn the_last_flush_ends_at_its_deadline_and_leaves_the_rest_in_the_queue() {
    let slow = Behaviour { delay: Duration::from_secs(1), ..Behaviour::default() };
    let options = FlushOptions { shutdown_timeout: Duration::from_secs(5), ..options() };
    let bench = start(&MemoryQueue::with(100), slow, options);
    bench.until("in flight", |bench| bench.handle.status().figures.in_flight > 0).await;
    let began = tokio::time::Instant::now();
    bench.shutdown.cancel();
    bench.handle.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!((bench.queue.backlog(), bench.queue.leased()), (100, 0), "released");
}

#[tokio::test(start_paused = true)]
async fn a_dead_sink_gets_one_last_attempt_at_the_end() {
    let behaviour = Behaviour { fails: Some(SinkErrorKind::Unavailable), ..Behaviour::default() };
    let slow_to_return = BackoffOptions { initial: Duration::from_secs(3600), max: Duration::from_secs(3600) };
    let bench = start(&MemoryQueue::with(30), behaviour, FlushOptions { backoff: slow_to_return, ..options() });
    bench.until("unavailable", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    bench.sink.set(|behaviour| behaviour.fails = None);
    bench.shutdown.cancel();
    bench.handle.stopped().await;
    assert_eq!(bench.queue.backlog(), 0);

    let behaviour = Behaviour { fails: Some(SinkErrorKind::Unavailable), ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(30), behaviour, options());
    bench.until("unavailable", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    bench.shutdown.cancel();
    bench.handle.stopped().await;
    assert_eq!((bench.queue.backlog(), bench.queue.leased()), (30, 0));
}

/// Stops a worker; returns how long that took.
async fn stop(bench: Bench) -> Duration {
    let began = tokio::time::Instant::now();
    bench.shutdown.cancel();
    bench.handle.stopped().await;
    began.elapsed()
}

/// A worker with a batch of ten records and one of five in flight; the shorter one is answered first.
async fn with_two_in_flight(queue: &Arc<MemoryQueue>) -> Bench {
    let bench = start(queue, Behaviour::default(), options());
    bench.warmed_up().await;
    let delay = Duration::from_millis(10);
    bench.sink.set(|behaviour| *behaviour = Behaviour { delay, ..Behaviour::default() });
    queue.push(15);
    bench.handle.flush_now();
    bench.until("both are in flight", |bench| bench.handle.status().figures.in_flight == 2).await;
    bench
}

/// More than a last attempt may take, and far less than the last flush.
const AT_ONCE: Duration = Duration::from_millis(500);
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_known_to_be_away_does_not_hold_up_the_end() {
    for behaviour in [
        Behaviour { delay: FOR_EVER, ..Behaviour::default() },
        Behaviour { connect_delay: FOR_EVER, ..Behaviour::default() },
    ] {
        let queue = MemoryQueue::with(300);
        let bench = start(&queue, behaviour, options());
        bench.until("unavailable", |bench| bench.handle.status().state == SinkState::Unavailable).await;
        // A probe is in flight, or will be soon.
        let probes = |bench: &Bench| bench.handle.status().figures.in_flight > 0 || *bench.sink.initialized.lock() > 1;
        bench.until("tried again", probes).await;
        let took = stop(bench).await;
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!((queue.backlog(), queue.leased()), (300, 0), "released");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_was_never_reached_is_waited_for_only_if_the_worker_has_just_started() {
    let connecting = |delay| Behaviour { connect_delay: delay, ..Behaviour::default() };
    let bench = start(&MemoryQueue::with(30), connecting(FOR_EVER), options());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.handle.status().state, SinkState::Connecting);
    let took = stop(bench).await;
    assert!(took < AT_ONCE, "{took:?}");

    let queue = MemoryQueue::with(30);
    let bench = start(&queue, connecting(Duration::from_secs(1)), options());
    tokio::time::sleep(Duration::from_millis(10)).await;
    stop(bench).await;
    assert_eq!(queue.backlog(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_takes_batches_and_answers_none_does_not_hold_up_the_end() {
    for (answered_before, silent_for) in [(false, 3), (false, 25), (true, 3), (true, 25)] {
        let queue = MemoryQueue::with(0);
        let bench = start(&queue, Behaviour::default(), options());
        if answered_before {
            bench.warmed_up().await;
        }
        bench.sink.set(|behaviour| behaviour.delay = FOR_EVER);
        queue.push(300);
        tokio::time::sleep(Duration::from_secs(silent_for)).await;
        let context = format!("answered before: {answered_before}, silent for {silent_for} s");
        assert_eq!(bench.handle.status().state, SinkState::Delivering, "{context}");
        let took = stop(bench).await;
        assert!(took < AT_ONCE, "{context}: {took:?}");
        assert_eq!((queue.backlog(), queue.leased()), (300, 0), "released; {context}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_during_the_last_flush_is_waited_for_as_long_as_for_a_first_answer() {
    let options = FlushOptions { interval: Duration::from_secs(3600), shutdown_timeout: FOR_EVER, ..options() };
    for answered_before in [false, true] {
        let queue = MemoryQueue::with(0);
        let bench = start(&queue, Behaviour::default(), options.clone());
        if answered_before {
            bench.warmed_up().await;
        }
        bench.sink.set(|behaviour| behaviour.delay = FOR_EVER);
        queue.push(5);
        let took = stop(bench).await;
        let seconds = took.as_secs_f64();
        assert!((2.0..2.5).contains(&seconds), "answered before: {answered_before}: {took:?}");
        assert_eq!((queue.backlog(), queue.leased()), (5, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_sink_has_all_of_the_last_flush() {
    let slow = |delay| Behaviour { delay: Duration::from_millis(delay), ..Behaviour::default() };
    // The first answer takes 1.5 s.
    let queue = MemoryQueue::with(100);
    let bench = start(&queue, slow(150), FlushOptions { shutdown_timeout: FOR_EVER, ..options() });
    bench.until("in flight", |bench| bench.handle.status().figures.in_flight > 0).await;
    stop(bench).await;
    assert_eq!(queue.backlog(), 0);
    // Each answer takes 6 s, and one batch is on its way for 5 s.
    let queue = MemoryQueue::with(100);
    let bench = start(&queue, slow(600), FlushOptions { shutdown_timeout: FOR_EVER, ..options() });
    bench.until("answered", |bench| bench.handle.status().figures.batches == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop(bench).await;
    assert_eq!(queue.backlog(), 0);
    // The first batch is bisected: many answers, each within 1.6 s.
    let queue = MemoryQueue::with(16);
    let options = FlushOptions { batch_records: 100, shutdown_timeout: FOR_EVER, ..options() };
    let bench = start(&queue, Behaviour { poison: [3].into(), ..slow(100) }, options);
    bench.until("in flight", |bench| bench.handle.status().figures.in_flight > 0).await;
    stop(bench).await;
    assert_eq!(queue.backlog(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_back_has_all_of_the_last_flush() {
    let behaviour = Behaviour { fails: Some(SinkErrorKind::Unavailable), ..Behaviour::default() };
    let queue = MemoryQueue::with(200);
    let bench = start(&queue, behaviour, options());
    bench.until("unavailable", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    let answers = Behaviour { delay: Duration::from_millis(10), ..Behaviour::default() };
    bench.sink.set(|behaviour| *behaviour = answers);
    let took = stop(bench).await;
    assert!(took > AT_ONCE, "{took:?}");
    assert_eq!(queue.backlog(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_last_flush_that_is_too_short_for_the_backlog_sends_nothing_that_is_sent_again_later() {
    let queue = MemoryQueue::with(0);
    let options = FlushOptions { shutdown_timeout: Duration::from_secs(5), ..options() };
    let bench = start(&queue, Behaviour::default(), options);
    bench.warmed_up().await;
    bench.sink.set(|behaviour| behaviour.delay = Duration::from_millis(13));
    queue.push(100_000);
    let sink = Arc::clone(&bench.sink);
    let took = stop(bench).await;
    assert!(took > Duration::from_secs(4) && took <= Duration::from_secs(5), "{took:?}");
    assert!(queue.backlog() > 90_000);
    let sent: usize = sink.batches.lock().iter().sum();
    assert_eq!(sent, 100_200 - queue.backlog(), "each batch was answered");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_is_still_acknowledged_when_the_sink_fails_during_the_last_flush() {
    let queue = MemoryQueue::with(0);
    let bench = with_two_in_flight(&queue).await;
    bench.sink.set(|behaviour| behaviour.first = [SinkErrorKind::Unavailable].into());
    let took = stop(bench).await;
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!((queue.backlog(), queue.leased()), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_wants_no_records_before_the_end_does_not_hold_it_up() {
    let queue = MemoryQueue::with(0);
    let bench = with_two_in_flight(&queue).await;
    // The second answer ends the outage.
    let wanted_in = Some(Duration::from_secs(60));
    bench.sink.set(|behaviour| {
        (behaviour.first, behaviour.retry_after) = ([SinkErrorKind::Unavailable].into(), wanted_in);
    });
    bench.until("one is delivered", |bench| bench.queue.backlog() == 5).await;
    let took = stop(bench).await;
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!((queue.backlog(), queue.leased()), (5, 0));
}

/// On the real clock: a thread that hangs blocks a paused one.
#[tokio::test]
async fn a_disk_that_hangs_does_not_hold_up_the_end() {
    for hang in [Hang::Leases, Hang::Acknowledgements] {
        let options = FlushOptions { shutdown_timeout: Duration::from_millis(50), ..options() };
        let queue = MemoryQueue::with(30);
        queue.hang(hang);
        let bench = start(&queue, Behaviour::default(), options);
        bench.until("it hangs", |bench| bench.queue.is_hanging()).await;
        bench.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), bench.handle.stopped());
        ended.await.expect("the end does not wait for the disk");
        // What the disk returns in the end is left to the next run, or recorded.
        queue.hang(Hang::Nothing);
        for _ in 0..1000 {
            if queue.leased() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(queue.leased(), 0);
    }
}
