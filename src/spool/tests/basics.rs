//! Append, lease, acknowledge, reopen.

use super::*;

#[tokio::test]
async fn records_come_out_as_they_went_in_and_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..3)).await.expect("accepted");
    spool.append(batch(Stream::Stats, 100..101)).await.expect("accepted");
    spool.append(batch(Stream::Events, 3..2000)).await.expect("accepted");
    let records = lease_all(&spool, Stream::Events);
    assert_eq!(texts(&records), expected(0..2000));
    assert!(records.iter().map(|record| record.seq).eq(0..2000));
    assert_eq!(texts(&lease_all(&spool, Stream::Stats)), expected(100..101));
    assert!(spool.lease(Stream::NodeRooms, ALL).expect("readable").is_none());
    spool.close().await;
}

#[tokio::test]
async fn what_is_not_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..100)).await.expect("accepted");
    lease_all(&spool, Stream::Events);
    spool.acknowledge(Stream::Events, &[0..10, 50..60]).expect("noted");
    spool.close().await;
    let spool = open(directory.path());
    let status = spool.status();
    assert_eq!(status.streams[&Stream::Events].records, 80);
    assert_eq!(status.streams[&Stream::Events].delivered, 20);
    let mut rest = expected(10..50);
    rest.extend(expected(60..100));
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), rest);
    spool.close().await;
}

#[tokio::test]
async fn what_is_given_back_is_handed_out_again_at_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    let first = spool.lease(Stream::Events, limit(4)).expect("readable").expect("records");
    assert_eq!(texts(&first.records), expected(0..4));
    spool.release(Stream::Events, &[1..3]);
    assert_eq!(spool.waiting(Stream::Events).0, 8);
    let again = spool.lease(Stream::Events, limit(3)).expect("readable").expect("records");
    let mut numbers = expected(1..3);
    numbers.extend(expected(4..5));
    assert_eq!(texts(&again.records), numbers);
    spool.acknowledge(Stream::Events, &[0..5]).expect("noted");
    spool.release(Stream::Events, &[0..5]);
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(5..10), "what is acknowledged stays so");
    spool.close().await;
}

#[tokio::test]
async fn a_lease_keeps_to_its_limits_but_is_never_empty() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    let one = record(0).len();
    let tiny = LeaseLimit { records: 5, bytes: 1 };
    assert_eq!(spool.lease(Stream::Events, tiny).expect("readable").expect("records").records.len(), 1);
    let two = LeaseLimit { records: 5, bytes: 2 * one + 1 };
    assert_eq!(spool.lease(Stream::Events, two).expect("readable").expect("records").records.len(), 2);
    spool.close().await;
}

#[tokio::test]
async fn concurrent_callers_get_all_their_records_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Arc::new(open(directory.path()));
    let callers = (0..16_u64).map(|caller| {
        let spool = Arc::clone(&spool);
        tokio::spawn(async move {
            for round in 0..10_u64 {
                let from = caller * 1000 + round * 64;
                spool.append(batch(Stream::Events, from..from + 64)).await.expect("accepted");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("no panic");
    }
    let mut got = texts(&lease_all(&spool, Stream::Events));
    assert_eq!(got.len(), 16 * 640);
    for caller in 0..16_u64 {
        let mine = expected(caller * 1000..caller * 1000 + 640);
        let place = got.iter().filter(|text| mine.contains(text)).cloned().collect::<Vec<_>>();
        assert_eq!(place, mine, "each caller's records are in its order");
    }
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 16 * 640);
    spool.close().await;
}

#[tokio::test]
async fn segments_go_when_they_are_delivered_and_the_count_survives() {
    let directory = tempfile::tempdir().expect("a directory");
    let small = SpoolOptions { segment_bytes: 256 << 10, compression: Compression::NONE, ..options() };
    let spool = Spool::open(directory.path(), small.clone()).expect("opens");
    for round in 0..40 {
        spool.append(batch(Stream::Events, round * 1000..(round + 1) * 1000)).await.expect("accepted");
    }
    assert!(spool.status().segments > 4, "{}", spool.status().segments);
    let records = lease_all(&spool, Stream::Events);
    assert_eq!(texts(&records), expected(0..40_000));
    spool.acknowledge(Stream::Events, &[0..40_000]).expect("noted");
    eventually("one segment is left", || spool.status().segments == 1).await;
    let status = spool.status();
    assert_eq!((status.records(), status.streams[&Stream::Events].blocks), (0, 0));
    spool.close().await;
    let spool = Spool::open(directory.path(), small).expect("opens");
    assert_eq!(spool.status().streams[&Stream::Events].delivered, 40_000);
    spool.append(batch(Stream::Events, 7..8)).await.expect("accepted");
    assert_eq!(lease_all(&spool, Stream::Events)[0].seq, 40_000, "sequence numbers continue");
    spool.close().await;
}

#[tokio::test]
async fn a_stopped_spool_shows_the_same_figures_and_no_byte_changes() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..500)).await.expect("accepted");
    spool.append(batch(Stream::Stats, 0..20)).await.expect("accepted");
    spool.lease(Stream::Events, limit(100)).expect("readable");
    spool.acknowledge(Stream::Events, &[0..100]).expect("noted");
    let live = spool.status();
    spool.close().await;
    let before = contents(directory.path());
    let stopped = inspect(directory.path(), options()).expect("readable");
    assert_eq!(contents(directory.path()), before);
    assert_eq!(stopped.writer, WriterState::Stopped);
    for stream in Stream::ALL {
        let (live, stopped) = (&live.streams[&stream], &stopped.streams[&stream]);
        assert_eq!(live.records, stopped.records);
        assert_eq!((live.blocks, live.bytes), (stopped.blocks, stopped.bytes));
        assert_eq!(live.oldest_received_at, stopped.oldest_received_at);
        assert_eq!(live.delivered, stopped.delivered);
    }
}

/// Every file below a directory: path, contents, time of change.
pub(super) fn contents(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>, std::time::SystemTime)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(contents(&entry));
        } else {
            let changed = entry.metadata().and_then(|metadata| metadata.modified()).expect("a time");
            files.push((entry.clone(), std::fs::read(&entry).expect("a file"), changed));
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    assert!(matches!(Spool::open(directory.path(), options()), Err(OpenError::InUse { .. })));
    spool.close().await;
    open(directory.path()).close().await;
}

#[tokio::test]
async fn ready_returns_when_records_come_and_when_they_come_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Arc::new(open(directory.path()));
    let waiter = tokio::spawn({
        let spool = Arc::clone(&spool);
        async move { spool.ready(Stream::Events).await }
    });
    spool.append(batch(Stream::Events, 0..1)).await.expect("accepted");
    waiter.await.expect("woken");
    lease_all(&spool, Stream::Events);
    let waiter = tokio::spawn({
        let spool = Arc::clone(&spool);
        async move { spool.ready(Stream::Events).await }
    });
    tokio::task::yield_now().await;
    spool.release(Stream::Events, &[0..1]);
    waiter.await.expect("woken");
    spool.close().await;
}

#[tokio::test]
async fn a_rejected_record_becomes_a_dead_letter_and_leaves_the_queue() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..3)).await.expect("accepted");
    let mut records = lease_all(&spool, Stream::Events);
    let rejection =
        Rejection { record: records.remove(1), reason: "too odd".into(), attempts: 3, first_attempt_at: 42 };
    spool.dead_letter(Stream::Events, vec![rejection]).expect("kept");
    spool.close().await;
    let spool = open(directory.path());
    let status = spool.status();
    assert_eq!((status.records(), status.dead_letters()), (2, 1));
    let dead_letters = spool.dead_letters(&DeadFilter::default(), 0, 10).expect("readable");
    assert_eq!(dead_letters[0].record, record(1).as_bytes());
    assert_eq!(
        (dead_letters[0].reason.as_str(), dead_letters[0].attempts, dead_letters[0].first_attempt_at),
        ("too odd", 3, 42)
    );
    spool.close().await;
}

#[tokio::test]
async fn what_is_leased_and_out_of_the_queue_is_leased_no_more_once_it_is_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), options()).expect("opens");
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    assert_eq!(lease_all(&spool, Stream::Events).len(), 10);
    spool.acknowledge(Stream::Events, &[0..5]).expect("noted");
    // A rebuilt queue has no entry for what is lost, though a flusher holds it.
    spool.shared.store.state.lock().streams[Stream::Events as usize].leased.insert(2..5);
    assert_eq!(spool.status().streams[&Stream::Events].in_flight, 8);
    spool.acknowledge(Stream::Events, &[2..5]).expect("noted");
    assert_eq!(spool.status().streams[&Stream::Events].in_flight, 5);
    spool.close().await;
}
