//! Directories and files that go, move or are replaced under a running spool: nothing is answered that is not where the next start
//! finds it, and what is away for a while is waited for.

use super::*;

fn small(home: &Path) -> Spool {
    let options = SpoolOptions { segment_bytes: 256 << 10, compression: Compression::NONE, ..options() };
    Spool::open(home, options).expect("opens")
}

/// What a start finds, after the spool is closed.
async fn found(spool: Spool, home: &Path) -> Vec<String> {
    spool.close().await;
    let spool = small(home);
    let found = texts(&lease_all(&spool, Stream::Events));
    spool.close().await;
    found
}

#[derive(Debug, Clone, Copy)]
enum Displacement {
    JournalRemoved,
    JournalMoved,
    SegmentRemoved,
    SegmentReplaced,
    HomeMoved,
    HomeReplacedByCopy,
    HomeRemoved,
}

impl Displacement {
    fn happen(self, home: &Path) {
        let journal = home.join("journal");
        let away = home.with_extension("away");
        let newest = || files(&journal).pop().expect("a segment");
        match self {
            Self::JournalRemoved => fs::remove_dir_all(journal),
            Self::JournalMoved => fs::rename(&journal, home.join("journal.away")),
            Self::SegmentRemoved => fs::remove_file(newest()),
            Self::SegmentReplaced => {
                let path = newest();
                let contents = fs::read(&path).expect("readable");
                fs::remove_file(&path).expect("removed");
                fs::write(path, contents)
            }
            Self::HomeMoved => fs::rename(home, away),
            Self::HomeReplacedByCopy => {
                fs::rename(home, &away).expect("moved");
                copy(&away, home);
                Ok(())
            }
            Self::HomeRemoved => fs::remove_dir_all(home),
        }
        .expect("done");
    }
}

#[tokio::test]
async fn what_is_answered_is_where_the_next_start_finds_it() {
    use Displacement::*;
    let all =
        [JournalRemoved, JournalMoved, SegmentRemoved, SegmentReplaced, HomeMoved, HomeReplacedByCopy, HomeRemoved];
    for displacement in all {
        let parent = tempfile::tempdir().expect("a directory");
        let home = parent.path().join("spool");
        let spool = small(&home);
        spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
        displacement.happen(&home);
        let mut kept = Vec::new();
        for number in 1..40 {
            let numbers = number * 10..(number + 1) * 10;
            match spool.append(batch(Stream::Events, numbers.clone())).await {
                Ok(_) => kept.extend(numbers.map(record)),
                Err(error) => assert!(error.is_retryable(), "{displacement:?}: {error}"),
            }
        }
        let gone = matches!(displacement, HomeMoved | HomeReplacedByCopy | HomeRemoved);
        let state = spool.status().writer;
        assert_eq!(state == WriterState::Failed, gone, "{displacement:?}: {state:?}");
        assert_eq!(
            kept.is_empty(),
            gone,
            "{displacement:?}: it continues where the directory is the one that is locked"
        );
        let found = found(spool, &home).await;
        let missing: Vec<_> = kept.iter().filter(|record| !found.contains(record)).collect();
        assert!(missing.is_empty(), "{displacement:?}: answered and not there: {missing:?}");
    }
}

#[tokio::test]
async fn a_directory_that_comes_back_is_used_again_without_a_restart() {
    let parent = tempfile::tempdir().expect("a directory");
    let (home, away) = (parent.path().join("spool"), parent.path().join("away"));
    let spool = small(&home);
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    fs::rename(&home, &away).expect("moved");
    let error = spool.append(batch(Stream::Events, 10..20)).await.expect_err("refused");
    assert!(error.to_string().contains("put it back"), "the remedy is named: {error}");
    assert_eq!(spool.status().writer, WriterState::Failed);
    assert!(spool.status().last_error.is_some());
    fs::rename(&away, &home).expect("moved back");
    spool.append(batch(Stream::Events, 20..30)).await.expect("accepted again");
    assert_eq!(spool.status().writer, WriterState::Taking);
    let found = found(spool, &home).await;
    assert!(expected(0..10).iter().chain(&expected(20..30)).all(|record| found.contains(record)), "{found:?}");
}

#[tokio::test]
async fn a_segment_that_is_missing_for_a_while_is_waited_for() {
    let parent = tempfile::tempdir().expect("a directory");
    let home = parent.path().join("spool");
    let spool = small(&home);
    for number in 0..20 {
        spool.append(big_batch(number * 100..(number + 1) * 100)).await.expect("accepted");
    }
    let segments = files(&home.join("journal"));
    assert!(segments.len() > 4);
    for segment in &segments {
        fs::rename(segment, segment.with_extension("away")).expect("moved");
    }
    for _ in 0..20 {
        spool.lease(Stream::Events, ALL).expect_err("it cannot be read now");
    }
    // The maintenance looks around, and lets nothing go.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for segment in &segments {
        fs::rename(segment.with_extension("away"), segment).expect("moved back");
    }
    let all: Vec<String> = (0..2000).map(big_record).collect();
    assert!(texts(&lease_all(&spool, Stream::Events)) == all);
    assert!(spool.status().streams[&Stream::Events].dropped.is_empty());
    spool.close().await;
}

#[tokio::test]
async fn a_segment_that_is_gone_at_a_start_is_counted_and_costs_no_other_one() {
    let parent = tempfile::tempdir().expect("a directory");
    let home = parent.path().join("spool");
    let spool = small(&home);
    for number in 0..20 {
        spool.append(big_batch(number * 100..(number + 1) * 100)).await.expect("accepted");
    }
    spool.close().await;
    let segments = files(&home.join("journal"));
    fs::remove_file(&segments[2]).expect("removed");
    let spool = small(&home);
    let left = lease_all(&spool, Stream::Events).len() as u64;
    let status = spool.status();
    let events = &status.streams[&Stream::Events];
    assert_eq!(left + events.dropped[&DropReason::Damaged], 2000);
    assert!(left >= 1600, "{left}");
    spool.acknowledge(Stream::Events, &[0..u64::MAX]).expect("noted");
    eventually("the others go", || spool.status().segments <= 1).await;
    spool.close().await;
}
