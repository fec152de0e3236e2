//! A thread of the spool panics: what it held is refused, and it continues.

use std::sync::atomic::Ordering;

use super::{
    memory::{MemoryDisk, over},
    *,
};

async fn append(spool: &Spool, numbers: Range<u64>) -> Result<Appended, AppendError> {
    spool.append(batch(Stream::Events, numbers)).await
}

#[tokio::test]
async fn appending_that_panics_refuses_what_it_held_and_goes_on() {
    let disk = MemoryDisk::new();
    let spool = over(&disk, None);
    append(&spool, 0..3).await.expect("accepted");
    disk.faults.panic_in_write.store(true, Ordering::Relaxed);
    let error = append(&spool, 3..5).await.expect_err("it panicked").to_string();
    assert!(error.contains("appending panicked"), "{error}");
    let said = |error: LastError| error.message.contains("a bug of these tests");
    eventually("the status says so", || spool.status().last_error.is_some_and(said)).await;
    append(&spool, 5..8).await.expect("accepted");
    let kept: Vec<String> = (0..3).chain(5..8).map(record).collect();
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), kept);

    let after = over(&disk.after_kill(), None);
    assert_eq!(texts(&lease_all(&after, Stream::Events)), kept, "a start finds the same");
    let status = after.status();
    assert!(status.streams.values().all(|stream| stream.dropped.is_empty()), "refused is not lost");
    after.close().await;
    spool.close().await;
}

#[tokio::test]
async fn all_that_is_leased_can_be_released_without_knowing_what() {
    let spool = over(&MemoryDisk::new(), None);
    append(&spool, 0..30).await.expect("accepted");
    let lease = || spool.lease(Stream::Events, limit(10)).expect("readable").expect("records").records;
    assert_eq!((lease().len(), lease().len()), (10, 10));
    spool.acknowledge(Stream::Events, &[3..5]).expect("noted");
    spool.release(Stream::Events, &[0..u64::MAX]);
    spool.release(Stream::Events, &[0..u64::MAX]);
    let left: Vec<String> = (0..3).chain(5..30).map(record).collect();
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), left);
    spool.close().await;
}

#[tokio::test]
async fn maintenance_that_panics_is_tried_again() {
    let disk = MemoryDisk::new();
    let spool = over(&disk, None);
    for first in (0..2000).step_by(100) {
        spool.append(big_batch(first..first + 100)).await.expect("accepted");
    }
    assert_eq!(lease_all(&spool, Stream::Events).len(), 2000);
    disk.faults.panic_in_rename.store(true, Ordering::Relaxed);
    spool.acknowledge(Stream::Events, &[0..2000]).expect("noted");
    eventually("segments are deleted", || spool.status().segments <= 1).await;
    let last_error = spool.status().last_error.expect("said").message;
    assert!(last_error.contains("maintenance panicked"), "{last_error}");
    append(&spool, 0..3).await.expect("accepted");
    spool.close().await;
}
