//! A journal of which something is gone, comes back, or is next to another one's queue: what is lost is counted once, what returns is
//! delivered and counts no more.

use super::{
    damage::{flip, small},
    *,
};
use crate::spool::journal::segment;

/// Records of a segment, in blocks of ten.
const SEGMENT: u64 = 40;

fn open_small(home: &Path) -> Spool {
    Spool::open(home, small()).expect("opens")
}

/// A run of the spool: a segment of its own.
async fn append(home: &Path, numbers: Range<u64>) {
    let spool = open_small(home);
    for first in numbers.step_by(10) {
        spool.append(batch(Stream::Events, first..first + 10)).await.expect("accepted");
    }
    spool.close().await;
}

async fn with_segments(segments: u64) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for number in 0..segments {
        append(directory.path(), number * SEGMENT..(number + 1) * SEGMENT).await;
    }
    directory
}

/// How many records a start finds and has counted as damaged.
async fn counts(home: &Path) -> (u64, u64) {
    let spool = open_small(home);
    let events = spool.status().streams[&Stream::Events].clone();
    spool.close().await;
    (events.records, events.dropped.get(&DropReason::Damaged).copied().unwrap_or(0))
}

fn segment_of(home: &Path, number: u64) -> PathBuf {
    segment::path(&home.join("journal"), number)
}

#[tokio::test]
async fn a_queue_that_belongs_to_another_history_is_made_again() {
    let directory = with_segments(2).await;
    let parent = tempfile::tempdir().expect("a directory");
    let (home, before, other_queue) = (directory.path(), parent.path().join("before"), parent.path().join("queue"));
    copy(home, &before);
    // All is delivered in one history, and its queue is next to the journal of another one.
    append(home, 1000..1000 + SEGMENT).await;
    let spool = open_small(home);
    let all = lease_all(&spool, Stream::Events);
    spool.acknowledge(Stream::Events, &[all[0].seq..all[all.len() - 1].seq + 1]).expect("noted");
    spool.close().await;
    copy(&home.join("queue"), &other_queue);
    fs::remove_dir_all(home).expect("removed");
    copy(&before, home);
    append(home, 2 * SEGMENT..3 * SEGMENT).await;
    fs::remove_dir_all(home.join("queue")).expect("removed");
    copy(&other_queue, &home.join("queue"));
    assert_eq!(counts(home).await, (3 * SEGMENT, 0));
    let spool = open_small(home);
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(0..3 * SEGMENT));
    spool.close().await;
}

#[tokio::test]
async fn damage_before_a_jump_in_sequence_numbers_is_counted_once() {
    for queue_is_kept in [true, false] {
        let directory = with_segments(2).await;
        let home = directory.path();
        fs::remove_file(segment_of(home, 2)).expect("removed");
        assert_eq!(counts(home).await, (SEGMENT, SEGMENT), "the newest one is gone");
        append(home, 100..100 + SEGMENT).await;
        let path = segment_of(home, 1);
        let bytes = fs::read(&path).expect("readable");
        let last = bytes.windows(4).rposition(|bytes| bytes == b"LKSB").expect("a block");
        flip(&path, (last as u64 + 20) * 8);
        let mut lost = SEGMENT;
        if !queue_is_kept {
            fs::remove_dir_all(home.join("queue")).expect("removed");
            lost += 10;
        }
        for start in 0..4 {
            assert_eq!(
                counts(home).await,
                (3 * SEGMENT - lost, lost),
                "start {start}, the queue kept: {queue_is_kept}"
            );
        }
    }
}

#[tokio::test]
async fn a_journal_with_a_jump_in_sequence_numbers_is_sound() {
    let directory = with_segments(2).await;
    let home = directory.path();
    fs::remove_file(segment_of(home, 2)).expect("removed");
    append(home, 100..110).await;
    let report = verify(home, small()).expect("readable");
    assert!(report.is_sound(), "{:?}", report.findings);
}

/// The front of a segment that was begun meanwhile says that what is before it is done.
#[tokio::test]
async fn a_segment_that_returns_after_the_journal_went_on_without_it_is_kept_in_the_quarantine() {
    for (gone, deliver) in [(1, false), (1, true), (2, true), (3, true)] {
        let case = format!("segment {gone}, the others delivered: {deliver}");
        let directory = with_segments(3).await;
        let (home, away) = (directory.path(), tempfile::tempdir().expect("a directory"));
        let (path, away) = (segment_of(home, gone), away.path().join("away"));
        fs::rename(&path, &away).expect("moved");
        let spool = open_small(home);
        if deliver {
            lease_all(&spool, Stream::Events);
            spool.acknowledge(Stream::Events, &[0..u64::MAX]).expect("noted");
        }
        spool.close().await;
        append(home, 200..240).await;
        append(home, 240..250).await;
        let without = counts(home).await;
        assert_eq!(without.1, SEGMENT, "{case}");
        fs::rename(&away, &path).expect("moved back");
        let report = verify(home, small()).expect("readable");
        assert!(!report.is_sound(), "{case}: {:?}", report.findings);
        for start in 0..2 {
            assert_eq!(counts(home).await, without, "{case}: start {start} with it");
            let report = verify(home, small()).expect("readable");
            assert!(report.is_sound(), "{case}: {:?}", report.findings);
        }
        let kept = home.join("quarantine").join(path.file_name().expect("a name"));
        assert!(kept.exists() && !path.exists(), "{case}");
    }
}

#[tokio::test]
async fn a_segment_that_returns_is_delivered_and_counts_as_damaged_no_more() {
    for (gone, more, queue_is_kept) in
        [(1, 0, true), (2, 0, true), (2, 40, true), (3, 0, true), (3, 40, true), (2, 40, false)]
    {
        let case = format!("segment {gone}, {more} more, the queue kept: {queue_is_kept}");
        let directory = with_segments(3).await;
        let (home, away) = (directory.path(), tempfile::tempdir().expect("a directory"));
        let (path, away) = (segment_of(home, gone), away.path().join("away"));
        fs::rename(&path, &away).expect("moved");
        if !queue_is_kept {
            fs::remove_dir_all(home.join("queue")).expect("removed");
        }
        for start in 0..2 {
            assert_eq!(counts(home).await, (2 * SEGMENT, SEGMENT), "{case}: start {start} without it");
        }
        append(home, 200..200 + more).await;
        fs::rename(&away, &path).expect("moved back");
        for start in 0..3 {
            assert_eq!(counts(home).await, (3 * SEGMENT + more, 0), "{case}: start {start} with it");
            let report = verify(home, small()).expect("readable");
            assert!(report.is_sound(), "{case}: {:?}", report.findings);
        }
        let spool = open_small(home);
        assert_eq!(
            texts(&lease_all(&spool, Stream::Events)),
            [expected(0..3 * SEGMENT), expected(200..200 + more)].concat()
        );
        spool.close().await;
        append(home, 300..310).await;
        assert_eq!(counts(home).await, (3 * SEGMENT + more + 10, 0), "{case}: after more");
    }
}
