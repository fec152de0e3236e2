//! Full spools, full disks, old records: what is refused, what is dropped, and that it is counted.

use std::{io::ErrorKind, sync::atomic::Ordering};

use super::{
    memory::{MemoryDisk, over, over_with},
    *,
};
use crate::spool::{
    Contents,
    queue::{QueueStore, sled::SledQueue},
};

const MAX: u64 = 8 << 20;

fn small(when_full: WhenFull) -> SpoolOptions {
    SpoolOptions { max_bytes: MAX, when_full, compression: Compression::NONE, ..options() }
}

/// Appends batches of 100 until one is not kept; answers how many records were accepted.
async fn fill(spool: &Spool) -> (u64, Result<Appended, AppendError>) {
    for batch in 0.. {
        let appended = spool.append(big_batch(batch * 100..(batch + 1) * 100)).await;
        if !matches!(appended, Ok(Appended::Kept)) {
            return (batch * 100, appended);
        }
    }
    unreachable!("a spool of {MAX} bytes never refuses")
}

/// What the directory takes on disk.
fn on_disk(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            let metadata = entry.metadata().expect("metadata");
            match entry.file_name().to_str() {
                Some("quarantine") => 0,
                _ if metadata.is_dir() => on_disk(&entry.path()),
                _ => metadata.blocks() * 512,
            }
        })
        .sum()
}

#[tokio::test]
async fn a_full_spool_refuses_then_accepts_again_as_it_drains() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), small(WhenFull::Reject)).expect("opens");
    let (accepted, refused) = fill(&spool).await;
    let error = refused.expect_err("it is full");
    assert!(matches!(error, AppendError::Full { limit: FullLimit::Quota { .. }, .. }), "{error}");
    assert!(error.is_retryable() && error.is_full());
    assert!(accepted > 3000, "most of the space is for records: {accepted}");
    assert!(spool.status().segments >= 4, "at least four segments");
    assert!(on_disk(directory.path()) <= MAX, "{} bytes", on_disk(directory.path()));
    let records = lease_all(&spool, Stream::Events);
    assert_eq!(records.len() as u64, accepted);
    spool.acknowledge(Stream::Events, &[0..accepted]).expect("noted");
    eventually("there is space again", || spool.status().disk.journal < MAX / 2).await;
    spool.append(big_batch(0..100)).await.expect("accepted again, without a restart");
    assert!(on_disk(directory.path()) <= MAX);
    spool.close().await;
}

#[tokio::test]
async fn a_full_spool_that_drops_the_newest_says_so_and_counts_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), small(WhenFull::DropNewest)).expect("opens");
    let (accepted, dropped) = fill(&spool).await;
    assert!(matches!(dropped, Ok(Appended::Dropped { .. })), "{dropped:?}");
    spool.close().await;
    let spool = Spool::open(directory.path(), small(WhenFull::DropNewest)).expect("opens");
    let status = spool.status();
    let events = &status.streams[&Stream::Events];
    assert_eq!((events.records, events.dropped.get(&DropReason::Newest)), (accepted, Some(&100)));
    assert_eq!(lease_all(&spool, Stream::Events).len() as u64, accepted);
    spool.close().await;
}

#[tokio::test]
async fn bytes_that_come_and_go_are_counted_as_what_became_of_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), small(WhenFull::DropNewest)).expect("opens");
    let byte_totals = || spool.status().streams[&Stream::Events].byte_totals.clone();
    let bytes = |numbers: Range<u64>| big_batch(numbers).bytes().len() as u64;
    spool.append(big_batch(0..100)).await.expect("accepted");
    spool.append(big_batch(100..200)).await.expect("accepted");
    let came = bytes(0..100) + bytes(100..200);
    assert_eq!(byte_totals(), ByteTotals { appended: came, ..Default::default() });
    lease_all(&spool, Stream::Events);
    spool.acknowledge(Stream::Events, &[0..150]).expect("noted");
    assert!(byte_totals().delivered.abs_diff(came * 3 / 4) <= 1, "records count with their share of their blocks");
    spool.acknowledge(Stream::Events, &[150..200]).expect("noted");
    assert_eq!(byte_totals(), ByteTotals { appended: came, delivered: came, ..Default::default() });
    let _ = fill(&spool).await;
    let appended = byte_totals().appended;
    spool.purge(&[Stream::Events]).await.expect("purged");
    let dropped = &byte_totals().dropped;
    let newest = dropped[&DropReason::Newest];
    assert!((100_000..110_000).contains(&newest), "the batch that did not fit: {newest}");
    assert_eq!(came + newest + dropped[&DropReason::Purged], appended);
    spool.close().await;
}

#[tokio::test]
async fn a_full_spool_that_drops_the_oldest_keeps_the_newest_in_order_and_counts_the_rest() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), small(WhenFull::DropOldest)).expect("opens");
    let appended = 20_000;
    for batch in 0..appended / 100 {
        spool.append(big_batch(batch * 100..(batch + 1) * 100)).await.expect("space is made");
        assert!(on_disk(directory.path()) <= MAX, "{} bytes", on_disk(directory.path()));
    }
    spool.close().await;
    let spool = Spool::open(directory.path(), small(WhenFull::DropOldest)).expect("opens");
    let status = spool.status();
    let events = &status.streams[&Stream::Events];
    let dropped = events.dropped[&DropReason::Oldest];
    assert_eq!(events.records + dropped, appended);
    assert!(events.records > 2500, "no more is dropped than need be: {} are left", events.records);
    assert_eq!(events.dropped.len(), 1, "{:?}", events.dropped);
    let left: Vec<String> = (dropped..appended).map(big_record).collect();
    assert!(texts(&lease_all(&spool, Stream::Events)) == left);
    spool.close().await;
}

#[tokio::test]
async fn a_caller_waits_for_space_and_gets_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let patient = SpoolOptions { block_timeout: Duration::from_millis(50), ..small(WhenFull::Block) };
    let spool = Spool::open(directory.path(), patient).expect("opens");
    let (accepted, refused) = fill(&spool).await;
    assert!(matches!(refused, Err(AppendError::Full { .. })), "it waited in vain: {refused:?}");
    spool.close().await;
    let patient = SpoolOptions { block_timeout: Duration::from_secs(60), ..small(WhenFull::Block) };
    let spool = Arc::new(Spool::open(directory.path(), patient).expect("opens"));
    let waiting = tokio::spawn({
        let spool = Arc::clone(&spool);
        async move { spool.append(big_batch(0..100)).await }
    });
    lease_all(&spool, Stream::Events);
    spool.acknowledge(Stream::Events, &[0..accepted]).expect("noted");
    waiting.await.expect("no panic").expect("accepted when there is space");
    spool.close().await;
}

#[tokio::test]
async fn full_dead_letters_refuse_and_the_records_stay() {
    let directory = tempfile::tempdir().expect("a directory");
    let tight = SpoolOptions {
        dead_letters: DeadLettersOptions { max_bytes: 100_000 },
        compression: Compression::NONE,
        ..options()
    };
    let spool = Spool::open(directory.path(), tight).expect("opens");
    spool.append(big_batch(0..300)).await.expect("accepted");
    let records = lease_all(&spool, Stream::Events);
    let reject = |record: &QueuedRecord| Rejection {
        record: record.clone(),
        reason: "no".into(),
        attempts: 1,
        first_attempt_at: 0,
    };
    let mut kept = 0;
    let error = loop {
        match spool.dead_letter(Stream::Events, vec![reject(&records[kept])]) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, QueueError::DeadLettersFull { .. }), "{error}");
    assert!(kept > 50, "{kept}");
    let status = spool.status();
    assert_eq!((status.dead_letters(), status.records()), (kept as u64, 300 - kept as u64));
    assert_eq!(spool.drop_dead_letters(&DeadFilter::default()).expect("removed"), kept as u64);
    spool.dead_letter(Stream::Events, vec![reject(&records[kept])]).expect("space again");
    spool.close().await;
}

#[tokio::test]
async fn what_is_too_old_is_dropped_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let brief = SpoolOptions { max_age: Some(Duration::from_millis(500)), ..options() };
    let spool = Spool::open(directory.path(), brief).expect("opens");
    spool.append(batch(Stream::Events, 0..100)).await.expect("accepted");
    eventually("they are dropped", || spool.status().records() == 0).await;
    let status = spool.status();
    assert_eq!(status.streams[&Stream::Events].dropped[&DropReason::Expired], 100);
    spool.close().await;
}

#[tokio::test]
async fn a_clock_that_jumped_between_runs_drops_nothing_for_its_age() {
    let directory = tempfile::tempdir().expect("a directory");
    let day = SpoolOptions { max_age: Some(Duration::from_secs(24 * 3600)), ..options() };
    let spool = Spool::open(directory.path(), day.clone()).expect("opens");
    // Received half a day ago, and yet nothing after the checkpoint tells what time it was at the end.
    let received_at = now_millis() - 12 * 3_600_000;
    let mut builder = RecordBatchBuilder::new(Stream::Events);
    builder.push(b"young");
    spool.append(builder.build(received_at)).await.expect("accepted");
    spool.close().await;
    let core = Contents::of_stopped(directory.path(), day).expect("readable");
    assert_eq!(core.status().records(), 1);
    let queue = SledQueue::open(&directory.path().join("queue")).expect("sled opens");
    let recorded = queue.recorded().expect("readable");
    let noted = recorded.clock.expect("the time of the end is noted").written_at;
    assert!((now_millis() - noted).abs() < 60_000, "{noted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_dead_letters_that_hangs_delays_neither_the_status_nor_ingest_nor_delivery() {
    let disk = MemoryDisk::new();
    let spool = Arc::new(over(&disk, None));
    spool.append(batch(Stream::Events, 0..100)).await.expect("accepted");
    let record = spool.lease(Stream::Events, limit(1)).expect("readable").expect("a record").records.remove(0);
    *disk.faults.held.lock() = Some("/spool/dead/journal".into());
    let dead_lettering = tokio::spawn({
        let spool = Arc::clone(&spool);
        async move {
            let rejection = Rejection { record, reason: "no".into(), attempts: 1, first_attempt_at: 0 };
            spool.dead_letter(Stream::Events, vec![rejection])
        }
    });
    eventually("the write hangs", || disk.faults.holding.load(Ordering::Relaxed)).await;
    let work = {
        let spool = Arc::clone(&spool);
        tokio::spawn(async move {
            spool.append(batch(Stream::Events, 100..200)).await.expect("accepted");
            let records = tokio::task::spawn_blocking({
                let spool = Arc::clone(&spool);
                move || {
                    assert_eq!(spool.status().dead_letters(), 0, "not yet durable");
                    lease_all(&spool, Stream::Events)
                }
            });
            assert_eq!(texts(&records.await.expect("no panic")), expected(1..200));
            spool.acknowledge(Stream::Events, &[1..200]).expect("noted");
        })
    };
    let done = tokio::time::timeout(Duration::from_secs(60), work).await;
    disk.faults.release();
    done.expect("it continues while the write hangs").expect("no panic");
    dead_lettering.await.expect("no panic").expect("kept");
    assert_eq!((spool.status().dead_letters(), spool.status().records()), (1, 0));
    spool.close().await;
}

#[tokio::test]
async fn a_full_disk_refuses_records_and_delivery_goes_on() {
    let disk = MemoryDisk::new();
    let spool = over(&disk, None);
    spool.append(batch(Stream::Events, 0..100)).await.expect("accepted");
    *disk.faults.write.lock() = Some((0, ErrorKind::StorageFull));
    let error = spool.append(batch(Stream::Events, 100..200)).await.expect_err("no space");
    assert!(matches!(error, AppendError::Full { limit: FullLimit::NoSpace, .. }), "{error}");
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(0..100));
    spool.append(batch(Stream::Events, 100..200)).await.expect("space is back, and no restart was needed");
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(100..200));
    spool.close().await;
}

#[tokio::test]
async fn where_less_than_min_free_bytes_is_left_records_are_refused_until_there_is_more() {
    let disk = MemoryDisk::new();
    let spool = over_with(&disk, None, SpoolOptions { min_free_bytes: 100 << 20, ..options() });
    spool.append(batch(Stream::Events, 0..100)).await.expect("accepted");
    disk.faults.free.store(99 << 20, Ordering::Relaxed);
    eventually("it is seen", || spool.status().writer == WriterState::Full).await;
    let error = spool.append(batch(Stream::Events, 100..200)).await.expect_err("too little is free");
    let AppendError::Full { limit: FullLimit::Disk { free, min }, .. } = error else { panic!("{error}") };
    assert_eq!((free, min), (99 << 20, 100 << 20));
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(0..100));
    spool.acknowledge(Stream::Events, &[0..100]).expect("delivery continues");
    disk.faults.free.store(200 << 20, Ordering::Relaxed);
    eventually("it is seen, without a restart", || spool.status().writer == WriterState::Taking).await;
    spool.append(batch(Stream::Events, 200..300)).await.expect("accepted again");
    spool.close().await;
}

#[tokio::test]
async fn after_a_failed_sync_no_sequence_number_is_used_twice() {
    let disk = MemoryDisk::new();
    let spool = over(&disk, None);
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    *disk.faults.sync.lock() = Some((0, ErrorKind::Other));
    let error = spool.append(batch(Stream::Events, 10..20)).await.expect_err("the sync fails");
    assert!(matches!(error, AppendError::Io { .. }) && error.is_retryable(), "{error}");
    spool.append(batch(Stream::Events, 20..30)).await.expect("into another segment");
    let records = lease_all(&spool, Stream::Events);
    let mut wanted = expected(0..10);
    wanted.extend(expected(20..30));
    assert_eq!(texts(&records), wanted);
    assert!(records.iter().map(|record| record.seq).eq((0..10).chain(20..30)));
    spool.close().await;
    let spool = over(&disk, None);
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), wanted);
    assert!(spool.status().streams[&Stream::Events].dropped.is_empty(), "what was refused is not missed");
    spool.close().await;
}

#[tokio::test]
async fn what_is_acknowledged_counts_as_unflushed_until_the_queue_is_flushed() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..100)).await.expect("accepted");
    assert_eq!(lease_all(&spool, Stream::Events).len(), 100);
    assert_eq!(spool.unflushed(Stream::Events), 0, "leased is not done");
    spool.acknowledge(Stream::Events, &[0..10, 50..60]).expect("noted");
    assert!([0, 20].contains(&spool.unflushed(Stream::Events)));
    assert_eq!(spool.unflushed(Stream::Stats), 0);
    eventually("the queue is flushed", || spool.unflushed(Stream::Events) == 0).await;
    spool.close().await;
}
