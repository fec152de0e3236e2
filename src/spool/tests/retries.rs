//! Dead letters get another try.

use super::*;
use crate::record::UnixMillis;

fn reject(record: QueuedRecord, reason: &str, first_attempt_at: UnixMillis) -> Rejection {
    Rejection { record, reason: reason.into(), attempts: 2, first_attempt_at }
}

async fn with_letters(folder: &Path) -> Spool {
    let spool = open(folder);
    spool.append(batch(Stream::Events, 0..5)).await.expect("taken");
    let records = lease_all(&spool, Stream::Events);
    let rejections = records.into_iter().map(|record| reject(record, "too odd", 1000)).collect();
    spool.set_aside(Stream::Events, rejections).await.expect("kept");
    spool
}

fn letters(spool: &Spool) -> Vec<DeadLetter> {
    spool.dead_letters(&DeadFilter::default(), 0, 100).expect("readable")
}

#[tokio::test]
async fn a_retry_that_succeeds_leaves_no_trace() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = with_letters(folder.path()).await;
    assert_eq!(spool.retry_dead_letters(&DeadFilter::default()).await.expect("queued"), 5);
    assert_eq!(spool.retry_dead_letters(&DeadFilter::default()).await.expect("none left"), 0, "once is enough");
    let records = lease_all(&spool, Stream::Events);
    assert_eq!(texts(&records), expected(0..5));
    assert_eq!(letters(&spool).len(), 5, "they stay until they are delivered");
    spool.acknowledge(Stream::Events, &[5..10]).expect("noted");
    eventually("the letters are gone", || spool.status().dead_letters() == 0).await;
    spool.close().await;
    assert_eq!(inspect(folder.path(), options()).expect("readable").dead_letters(), 0);
}

#[tokio::test]
async fn a_retry_that_fails_keeps_its_history() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = with_letters(folder.path()).await;
    let one = letters(&spool)[2].id.clone();
    let filter = DeadFilter { id: Some(one.clone()), ..DeadFilter::default() };
    assert_eq!(spool.retry_dead_letters(&filter).await.expect("queued"), 1);
    let again = lease_all(&spool, Stream::Events).remove(0);
    spool.set_aside(Stream::Events, vec![reject(again, "still odd", 5000)]).await.expect("kept");
    spool.close().await;
    let spool = open(folder.path());
    assert_eq!((spool.status().dead_letters(), spool.status().records()), (5, 0));
    let letter = spool.dead_letters(&filter, 0, 1).expect("readable").remove(0);
    assert_eq!((letter.reason.as_str(), letter.attempts, letter.first_attempt_at), ("still odd", 4, 1000));
    spool.close().await;
}

#[tokio::test]
async fn a_letter_whose_retry_was_delivered_before_a_crash_is_gone_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = with_letters(folder.path()).await;
    spool.retry_dead_letters(&DeadFilter::default()).await.expect("queued");
    lease_all(&spool, Stream::Events);
    spool.close().await;
    let spool = open(folder.path());
    assert_eq!(spool.status().dead_letters(), 5);
    let records = lease_all(&spool, Stream::Events);
    assert_eq!(records.len(), 5);
    spool.acknowledge(Stream::Events, &[5..10]).expect("noted");
    eventually("the letters are gone", || spool.status().dead_letters() == 0).await;
    spool.close().await;
}

#[tokio::test]
async fn filters_pick_letters() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = with_letters(folder.path()).await;
    let by = |filter: DeadFilter| spool.dead_letters(&filter, 0, 100).expect("readable").len();
    assert_eq!(by(DeadFilter { stream: Some(Stream::Stats), ..DeadFilter::default() }), 0);
    assert_eq!(by(DeadFilter { reason: Some("odd".into()), ..DeadFilter::default() }), 5);
    assert_eq!(by(DeadFilter { reason: Some("even".into()), ..DeadFilter::default() }), 0);
    assert_eq!(by(DeadFilter { before: Some(1), ..DeadFilter::default() }), 0);
    assert_eq!(spool.dead_letters(&DeadFilter::default(), 3, 100).expect("readable").len(), 2, "skip");
    let first = letters(&spool)[0].id.clone();
    assert_eq!(spool.drop_dead_letters(&DeadFilter { id: Some(first), ..DeadFilter::default() }).expect("removed"), 1);
    assert_eq!(letters(&spool).len(), 4);
    spool.close().await;
}
