//! The sink's set-up is checked again, concurrently with the deliveries.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_setup_is_checked_every_few_minutes_and_soon_after_an_outage_or_a_doubt() {
    let bench = start(&MemoryQueue::with(100), Behaviour::default(), options());
    bench.drained().await;
    assert!(bench.sink.checked.lock().is_empty());
    tokio::time::sleep(Duration::from_secs(1200)).await;
    let checks = bench.sink.checked.lock().len();
    assert!((10..=20).contains(&checks), "{checks} in twenty minutes, though nothing came");

    bench.sink.set(|behaviour| behaviour.fails = Some(SinkErrorKind::Unavailable));
    bench.queue.push(20);
    bench.until("unavailable", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    let before = bench.sink.checked.lock().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.sink.checked.lock().len(), before, "none while it is unavailable");
    bench.sink.set(|behaviour| behaviour.fails = None);
    bench.drained().await;
    let soon = |bench: &Bench| bench.sink.checked.lock().len() > before;
    bench.until("checked after the outage", soon).await;
    assert!(bench.sink.checked.lock().last().unwrap().elapsed() < Duration::from_secs(1));

    tokio::time::sleep(Duration::from_secs(10)).await;
    let (before, began) = (bench.sink.checked.lock().len(), tokio::time::Instant::now());
    bench.sink.set(|behaviour| behaviour.doubts = true);
    bench.queue.push(1);
    bench.until("checked for a doubt", |bench| bench.sink.checked.lock().len() > before).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_check_holds_up_no_delivery_however_long_it_takes_and_none_is_made_twice_at_once() {
    let bench = start(&MemoryQueue::with(0), Behaviour { doubts: true, ..Behaviour::default() }, options());
    bench.sink.set(|behaviour| behaviour.check_delay = Duration::from_secs(100_000));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(bench.sink.checked.lock().len(), 1);
    for _ in 0..5 {
        let began = tokio::time::Instant::now();
        bench.sink.set(|behaviour| behaviour.doubts = true);
        bench.queue.push(100);
        bench.drained().await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    assert_eq!(bench.sink.checked.lock().len(), 1);
    let began = tokio::time::Instant::now();
    bench.shutdown.cancel();
    bench.handle.stopped().await;
    assert!(began.elapsed() < Duration::from_secs(1), "nor the end: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_keep_records_stops_deliveries_until_it_is_another_and_a_failed_inspection_stops_nothing() {
    let checks = [Err(SinkErrorKind::Unavailable), Err(SinkErrorKind::Unnamed), Err(SinkErrorKind::Unsuitable)];
    let bench = start(&MemoryQueue::with(10), Behaviour { checks: checks.into(), ..Behaviour::default() }, options());
    bench.drained().await;
    bench.until("two checks", |bench| bench.sink.checked.lock().len() == 2).await;
    bench.queue.push(10);
    bench.drained().await;
    assert_eq!(*bench.sink.initialized.lock(), 1);
    // Before the third check, after which it is initialised again at once.
    bench.sink.set(|behaviour| behaviour.fails = Some(SinkErrorKind::Unsuitable));
    bench.until("a third check", |bench| bench.sink.checked.lock().len() == 3).await;
    bench.until("it says so", |bench| bench.handle.status().state == SinkState::Unavailable).await;
    let arrived = bench.sink.arrived().len();
    bench.queue.push(10);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!((bench.sink.arrived().len(), bench.queue.leased()), (arrived, 0));
    assert!(*bench.sink.initialized.lock() > 3, "it is tried again");
    bench.sink.set(|behaviour| behaviour.fails = None);
    bench.drained().await;
}
