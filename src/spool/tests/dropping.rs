//! `when_full: drop_oldest` drops what makes the append fit, or nothing; what can never fit is refused for good in all modes.

use std::{fs::File, sync::atomic::Ordering};

use super::{
    memory::{MemoryDisk, over_with},
    *,
};

const MAX: u64 = 8 << 20;

fn small(when_full: WhenFull) -> SpoolOptions {
    SpoolOptions { max_bytes: MAX, when_full, compression: Compression::NONE, ..options() }
}

async fn fill(spool: &Spool, batches: u64) {
    for number in 0..batches {
        spool.append(big_batch(number * 100..(number + 1) * 100)).await.expect("accepted");
    }
}

/// What is there after a `kill -9`: all that was written, synced or not.
fn killed(home: &Path) -> tempfile::TempDir {
    let after = tempfile::tempdir().expect("a directory");
    copy(home, after.path());
    after
}

fn dropped(spool: &Spool) -> u64 {
    spool.status().streams[&Stream::Events].dropped.values().sum()
}

#[tokio::test]
async fn nothing_is_dropped_where_another_program_fills_the_disk() {
    let disk = MemoryDisk::new();
    let options = SpoolOptions { min_free_bytes: 100 << 20, ..small(WhenFull::DropOldest) };
    let spool = over_with(&disk, None, options);
    fill(&spool, 40).await;
    disk.faults.free.store(50 << 20, Ordering::Relaxed);
    eventually("it is seen", || spool.status().writer == WriterState::Full).await;
    for number in 0..20 {
        let error = spool.append(big_batch(number..number + 1)).await.expect_err("too little is free");
        assert!(matches!(error, AppendError::Full { limit: FullLimit::Disk { .. }, .. }), "{error}");
    }
    assert_eq!((dropped(&spool), spool.status().records()), (0, 4000));
    disk.faults.free.store(1 << 30, Ordering::Relaxed);
    eventually("it is seen", || spool.status().writer == WriterState::Taking).await;
    spool.append(big_batch(0..1)).await.expect("accepted again");
    spool.close().await;
}

#[tokio::test]
async fn what_never_fits_is_refused_for_good_and_drops_nothing_in_all_modes() {
    for when_full in [WhenFull::Reject, WhenFull::Block, WhenFull::DropOldest, WhenFull::DropNewest] {
        let directory = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(directory.path(), small(when_full)).expect("opens");
        fill(&spool, 20).await;
        let error = spool.append(big_batch(0..9000)).await.expect_err("it never fits");
        assert!(matches!(error, AppendError::NeverFits { .. }) && !error.is_retryable(), "{when_full:?}: {error}");
        assert!(error.to_string().contains("max_bytes"), "{error}");
        assert_eq!((dropped(&spool), spool.status().records()), (0, 2000), "{when_full:?}");
        spool.append(big_batch(0..10)).await.expect("what fits is accepted");
        spool.close().await;
    }
}

#[tokio::test]
async fn a_segment_that_another_process_holds_open_still_frees_its_space() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), small(WhenFull::DropOldest)).expect("opens");
    let mut number = 0;
    let mut held = Vec::new();
    while dropped(&spool) == 0 {
        spool.append(big_batch(number * 100..(number + 1) * 100)).await.expect("space is made");
        number += 1;
        held = files(&directory.path().join("journal")).iter().map(|path| File::open(path).expect("there")).collect();
    }
    let segment = dropped(&spool);
    for _ in 0..5 {
        spool.append(big_batch(number * 100..(number + 1) * 100)).await.expect("space is made");
        number += 1;
    }
    assert!(dropped(&spool) <= 2 * segment, "one segment made space for several appends: {}", dropped(&spool));
    drop(held);
    spool.close().await;
}

#[tokio::test]
async fn leased_records_are_dropped_too_and_their_late_acknowledgement_counts_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), small(WhenFull::DropOldest)).expect("opens");
    fill(&spool, 5).await;
    assert_eq!(lease_all(&spool, Stream::Events).len(), 500);
    let mut appended = 500;
    while dropped(&spool) < 500 {
        spool.append(big_batch(appended..appended + 100)).await.expect("space is made");
        appended += 100;
    }
    let before = spool.status();
    spool.acknowledge(Stream::Events, &[0..500]).expect("noted");
    let status = spool.status();
    assert_eq!(status.streams[&Stream::Events].delivered, 0);
    assert_eq!(status.records(), before.records());
    assert_eq!(status.records() + dropped(&spool), appended);
    spool.close().await;
}

#[tokio::test]
async fn what_an_answer_says_was_dropped_as_the_newest_is_counted_after_a_kill_just_then_whatever_the_queue_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = || small(WhenFull::DropNewest);
    let spool = Spool::open(directory.path(), options()).expect("opens");
    let mut told = 0;
    for number in 0..100 {
        let appended = spool.append(big_batch(number * 100..(number + 1) * 100)).await.expect("answered OK");
        told += if appended == Appended::Kept { 0 } else { 100 };
        if told == 0 {
            continue;
        }
        assert_eq!(dropped(&spool), told);
        let after = killed(directory.path());
        if number % 2 == 0 {
            // Kept in memory: the disk was full.
            fs::remove_dir_all(after.path().join("queue")).expect("there");
        }
        let again = Spool::open(after.path(), options()).expect("opens");
        assert_eq!(dropped(&again), told);
        again.close().await;
        if told >= 500 {
            break;
        }
    }
    assert_eq!(told, 500);
    spool.close().await;
}

#[tokio::test]
async fn what_was_dropped_as_the_oldest_is_counted_as_such_after_a_kill_just_then_whatever_the_queue_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = || small(WhenFull::DropOldest);
    let spool = Spool::open(directory.path(), options()).expect("opens");
    let (mut appended, mut drops) = (0, 0);
    while drops < 4 {
        let before = dropped(&spool);
        spool.append(big_batch(appended..appended + 100)).await.expect("space is made");
        appended += 100;
        let told = dropped(&spool);
        if told == before {
            continue;
        }
        drops += 1;
        let after = killed(directory.path());
        if drops % 2 == 0 {
            fs::remove_dir_all(after.path().join("queue")).expect("there");
        }
        let again = Spool::open(after.path(), options()).expect("opens");
        let status = again.status();
        let delivered = status.streams[&Stream::Events].delivered;
        assert_eq!((delivered, dropped(&again), status.records()), (0, told, appended - told));
        again.close().await;
    }
    spool.close().await;
}

#[tokio::test]
async fn what_an_optional_sink_missed_is_counted_after_a_kill_whether_its_spool_is_open_or_not() {
    let directory = tempfile::tempdir().expect("a directory");
    assert_eq!(missed(directory.path()), 0);
    add_missed(directory.path(), 3).expect("counted without a spool");
    let spool = Spool::open(directory.path(), small(WhenFull::Reject)).expect("opens");
    spool.count_missed(4);
    assert_eq!(missed(killed(directory.path()).path()), 7);
    assert!(add_missed(directory.path(), 1).is_err(), "an open spool counts itself");
    spool.close().await;
    add_missed(directory.path(), 5).expect("counted");
    assert_eq!(missed(directory.path()), 12);
    let losses = directory.path().join("losses");
    let mut bytes = fs::read(&losses).expect("readable");
    bytes[35] ^= 1;
    fs::write(&losses, bytes).expect("written");
    assert_eq!(missed(directory.path()), 0, "damaged: begun again");
    let spool = Spool::open(directory.path(), small(WhenFull::Reject)).expect("opens nevertheless");
    assert!(spool.status().last_error.is_some(), "and says so");
    spool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_that_make_space_at_once_all_find_some() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Arc::new(Spool::open(directory.path(), small(WhenFull::DropOldest)).expect("opens"));
    let sender = |sender: u64| {
        let spool = Arc::clone(&spool);
        tokio::spawn(async move {
            for number in 0..60 {
                let first = (sender * 60 + number) * 300;
                spool.append(big_batch(first..first + 300)).await.expect("space is made");
            }
        })
    };
    for sender in (0..6).map(sender).collect::<Vec<_>>() {
        sender.await.expect("all are accepted");
    }
    spool.close().await;
}
