//! Dead letters: listed, kept again, removed.

use super::*;
use crate::record::UnixMillis;

fn reject(record: QueuedRecord, reason: &str, first_attempt_at: UnixMillis) -> Rejection {
    Rejection { record, reason: reason.into(), attempts: 2, first_attempt_at }
}

async fn with_dead_letters(directory: &Path) -> Spool {
    let spool = open(directory);
    spool.append(batch(Stream::Events, 0..5)).await.expect("accepted");
    let records = lease_all(&spool, Stream::Events);
    let rejections = records.into_iter().map(|record| reject(record, "too odd", 1000)).collect();
    spool.dead_letter(Stream::Events, rejections).expect("kept");
    spool
}

fn dead_letters(spool: &Spool) -> Vec<DeadLetter> {
    spool.dead_letters(&DeadFilter::default(), 0, 1000).expect("readable")
}

#[tokio::test]
async fn a_letter_that_is_rejected_again_keeps_its_history() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = with_dead_letters(directory.path()).await;
    let again = DeadLetter { reason: "still odd".into(), attempts: 1, ..dead_letters(&spool).remove(2) };
    let filter = DeadFilter { id: Some(again.id.clone()), ..DeadFilter::default() };
    spool.keep_dead_letters(&[DeadLetter { first_attempt_at: 5000, ..again }]).expect("kept");
    spool.close().await;
    let spool = open(directory.path());
    assert_eq!(spool.status().dead_letters(), 5, "no second letter");
    let dead_letter = spool.dead_letters(&filter, 0, 1).expect("readable").remove(0);
    assert_eq!(
        (dead_letter.reason.as_str(), dead_letter.attempts, dead_letter.first_attempt_at),
        ("still odd", 3, 1000)
    );
    spool.close().await;
}

#[tokio::test]
async fn a_search_that_finds_nothing_ends_with_whoever_asked_for_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = with_dead_letters(directory.path()).await;
    let filter = DeadFilter { reason: Some("never said".into()), ..DeadFilter::default() };
    let asked = std::cell::Cell::new(0);
    let is_over = || {
        asked.set(asked.get() + 1);
        asked.get() == 2
    };
    spool.each_dead_letter(&filter, (0, 10), &is_over, &mut |_| unreachable!("there is none")).expect("readable");
    assert_eq!(asked.get(), 2, "of five letters");
    spool.close().await;
}

#[tokio::test]
async fn letters_come_and_go_and_the_rest_stays_readable() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    let dead_letter = |number: u64| DeadLetter {
        stream: Stream::Events,
        id: format!("AE_{number}"),
        received_at: 1,
        reason: "no".into(),
        attempts: 1,
        first_attempt_at: 1,
        last_attempt_at: number as UnixMillis,
        // Hardly compressible, so that segments fill.
        record: (0..2000_u64)
            .flat_map(|i| blake3::hash(&(number * 5000 + i).to_le_bytes()).as_bytes()[..2].to_vec())
            .collect(),
    };
    for round in 0..40 {
        spool.keep_dead_letters(&(round * 100..(round + 1) * 100).map(dead_letter).collect::<Vec<_>>()).expect("kept");
        let gone: Vec<_> =
            (round * 100..(round + 1) * 100 - 1).map(|number| (Stream::Events, format!("AE_{number}"))).collect();
        assert_eq!(spool.remove_dead_letters(&gone).expect("removed"), 99);
    }
    assert!(spool.status().disk.dead < 12 << 20, "what is gone gives its space back: {}", spool.status().disk.dead);
    spool.close().await;
    let spool = open(directory.path());
    let left = dead_letters(&spool);
    assert_eq!(left.len(), 40);
    assert!(left.iter().zip(0..).all(|(left, round)| *left == dead_letter(round * 100 + 99)));
    spool.close().await;
}

#[tokio::test]
async fn filters_pick_dead_letters() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = with_dead_letters(directory.path()).await;
    let by = |filter: DeadFilter| spool.dead_letters(&filter, 0, 100).expect("readable").len();
    assert_eq!(by(DeadFilter { stream: Some(Stream::Stats), ..DeadFilter::default() }), 0);
    assert_eq!(by(DeadFilter { reason: Some("odd".into()), ..DeadFilter::default() }), 5);
    assert_eq!(by(DeadFilter { reason: Some("even".into()), ..DeadFilter::default() }), 0);
    assert_eq!(by(DeadFilter { before: Some(1), ..DeadFilter::default() }), 0);
    assert_eq!(spool.dead_letters(&DeadFilter::default(), 3, 100).expect("readable").len(), 2, "skip");
    let first = dead_letters(&spool)[0].id.clone();
    assert_eq!(spool.drop_dead_letters(&DeadFilter { id: Some(first), ..DeadFilter::default() }).expect("removed"), 1);
    assert_eq!(dead_letters(&spool).len(), 4);
    spool.close().await;
}

const QUOTA: u64 = 256 << 10;
/// Pages that are begun.
const SLACK: u64 = 8 << 10;

fn tight() -> SpoolOptions {
    SpoolOptions { dead_letters: DeadLettersOptions { max_bytes: QUOTA }, compression: Compression::NONE, ..options() }
}

fn long_dead_letter(number: u64) -> DeadLetter {
    DeadLetter {
        stream: Stream::Events,
        id: format!("AE_{number:05}"),
        received_at: 1,
        reason: "no".into(),
        attempts: 1,
        first_attempt_at: 1,
        last_attempt_at: number as UnixMillis,
        record: format!("{} {}", record(number), "z".repeat(2000)).into_bytes(),
    }
}

/// Keeps letters one by one from a number on until one does not fit; the number of that one.
fn fill_dead_letters_to_the_limit(spool: &Spool, from: u64) -> u64 {
    let full = (from..).find(|&number| match spool.keep_dead_letters(&[long_dead_letter(number)]) {
        Ok(()) => false,
        Err(QueueError::DeadLettersFull { .. }) => true,
        Err(error) => panic!("{error}"),
    });
    full.expect("the quota is finite")
}

fn key(number: u64) -> (Stream, String) {
    (Stream::Events, format!("AE_{number:05}"))
}

#[tokio::test]
async fn at_a_full_quota_letters_are_dropped_and_what_they_took_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), tight()).expect("opens");
    let full = fill_dead_letters_to_the_limit(&spool, 0);
    assert!(full > 80, "most of the quota is for letters: {full}");
    let mut there: Vec<u64> = (0..full).collect();
    let mut next = full;
    // Whichever go, in whatever pattern: the space they took is there again.
    for (step, offset) in [(2, 0), (7, 3), (3, 1), (1000, 5), (2, 1)] {
        let gone: Vec<u64> = there.iter().copied().skip(offset).step_by(step).collect();
        let keys: Vec<_> = gone.iter().map(|&number| key(number)).collect();
        assert_eq!(spool.remove_dead_letters(&keys).expect("removing works at a full quota"), gone.len() as u64);
        there.retain(|number| !gone.contains(number));
        let from = next;
        next = fill_dead_letters_to_the_limit(&spool, from);
        assert!(next - from >= gone.len() as u64 * 9 / 10, "{} went, {} came", gone.len(), next - from);
        there.extend(from..next);
        assert!(spool.status().disk.dead <= QUOTA + SLACK, "{}", spool.status().disk.dead);
    }
    spool.close().await;
    let spool = Spool::open(directory.path(), tight()).expect("opens");
    let left = dead_letters(&spool);
    assert_eq!(left, there.iter().map(|&number| long_dead_letter(number)).collect::<Vec<_>>());
    assert_eq!(spool.drop_dead_letters(&DeadFilter::default()).expect("removed"), there.len() as u64);
    assert!(spool.status().disk.dead <= 4096, "no more than a front: {}", spool.status().disk.dead);
    spool.close().await;
}

#[tokio::test]
async fn at_a_full_quota_letters_that_fail_again_keep_their_history() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), tight()).expect("opens");
    let full = fill_dead_letters_to_the_limit(&spool, 0);
    for round in 1..=3 {
        let again: Vec<DeadLetter> = dead_letters(&spool)
            .into_iter()
            .map(|dead_letter| DeadLetter {
                attempts: 1,
                last_attempt_at: dead_letter.last_attempt_at + 1000,
                ..dead_letter
            })
            .collect();
        spool.keep_dead_letters(&again).expect("letters that are there already fit");
        let dead_letters = dead_letters(&spool);
        assert_eq!(dead_letters.len() as u64, full);
        assert!(dead_letters.iter().all(|dead_letter| dead_letter.attempts == 1 + round));
        assert!(spool.status().disk.dead <= QUOTA + SLACK, "{}", spool.status().disk.dead);
    }
    spool.close().await;
}

#[tokio::test]
async fn rejections_that_do_not_fit_together_are_kept_as_far_as_they_do_and_go_on_when_there_is_space() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), tight()).expect("opens");
    let mut builder = RecordBatchBuilder::new(Stream::Events);
    (0..200).for_each(|number| builder.push(&long_dead_letter(number).record));
    spool.append(builder.build(now_millis())).await.expect("accepted");
    let records = lease_all(&spool, Stream::Events);
    let rejections: Vec<_> = records.into_iter().map(|record| reject(record, "too odd", 1)).collect();
    let mut seen = 0;
    for _ in 0..10 {
        let done = spool.dead_letter(Stream::Events, rejections.clone());
        let kept = dead_letters(&spool);
        assert!(!kept.is_empty() && kept.iter().all(|dead_letter| dead_letter.attempts == 2), "each is kept once");
        seen += spool.drop_dead_letters(&DeadFilter::default()).expect("removed");
        assert_eq!(spool.status().records(), 200 - seen);
        match done {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, QueueError::DeadLettersFull { .. }), "{error}"),
        }
    }
    assert_eq!(seen, 200);
    spool.close().await;
}

#[tokio::test]
async fn a_retry_finds_letters_whatever_the_clock_said_when_they_failed() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    let ahead = now_millis() + 365 * 24 * 3_600_000;
    let at = |number, last_attempt_at| DeadLetter { last_attempt_at, ..long_dead_letter(number) };
    spool.keep_dead_letters(&[at(0, 0), at(1, ahead), at(2, now_millis())]).expect("kept");
    let except = std::collections::HashSet::from([key(2)]);
    let left = spool.dead_letters_except(&DeadFilter::default(), &except, 10).expect("readable");
    assert_eq!(left.iter().map(|dead_letter| dead_letter.id.as_str()).collect::<Vec<_>>(), ["AE_00000", "AE_00001"]);
    spool.close().await;
}
