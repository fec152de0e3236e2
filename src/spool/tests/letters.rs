//! Dead letters: listed, kept anew, removed.

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
async fn a_letter_that_is_rejected_again_keeps_its_history() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = with_letters(folder.path()).await;
    let again = DeadLetter { reason: "still odd".into(), attempts: 1, ..letters(&spool).remove(2) };
    let filter = DeadFilter { id: Some(again.id.clone()), ..DeadFilter::default() };
    spool.keep_dead_letters(vec![DeadLetter { first_attempt_at: 5000, ..again }]).expect("kept");
    spool.close().await;
    let spool = open(folder.path());
    assert_eq!(spool.status().dead_letters(), 5, "no second letter");
    let letter = spool.dead_letters(&filter, 0, 1).expect("readable").remove(0);
    assert_eq!((letter.reason.as_str(), letter.attempts, letter.first_attempt_at), ("still odd", 3, 1000));
    spool.close().await;
}

#[tokio::test]
async fn letters_come_and_go_and_the_rest_stays_readable() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open(folder.path());
    let letter = |number: u64| DeadLetter {
        stream: Stream::Events,
        id: format!("AE_{number}"),
        received_at: 1,
        reason: "no".into(),
        attempts: 1,
        first_attempt_at: 1,
        last_attempt_at: 2,
        // Hardly compressible, so that segments fill.
        record: (0..2000_u64)
            .flat_map(|i| blake3::hash(&(number * 5000 + i).to_le_bytes()).as_bytes()[..2].to_vec())
            .collect(),
    };
    for round in 0..40 {
        spool.keep_dead_letters((round * 100..(round + 1) * 100).map(letter).collect()).expect("kept");
        let gone: Vec<_> =
            (round * 100..(round + 1) * 100 - 1).map(|number| (Stream::Events, format!("AE_{number}"))).collect();
        assert_eq!(spool.remove_dead_letters(&gone).expect("removed"), 99);
    }
    assert!(spool.status().disk.dead < 12 << 20, "what is gone gives its space back: {}", spool.status().disk.dead);
    spool.close().await;
    let spool = open(folder.path());
    let left = letters(&spool);
    assert_eq!(left.len(), 40);
    assert!(left.iter().zip(0..).all(|(left, round)| *left == letter(round * 100 + 99)));
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
