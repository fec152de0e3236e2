//! A segment whose front or first group is missing, torn or damaged costs what it held, and nothing that another one holds:
//! no other segment becomes deletable by it, and none undeliverable.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use super::*;
use crate::spool::{inspect, journal::segment};

const EVENTS: u64 = 2400;
const STATS: u64 = 600;

fn small() -> SpoolOptions {
    SpoolOptions { segment_bytes: 256 << 10, compression: Compression::NONE, ..options() }
}

fn stat(number: u64) -> String {
    format!("stat {}", record(number))
}

/// Several segments of events, with stats in the older ones alone, nothing delivered; closed.
async fn filled(directory: &Path) {
    let spool = Spool::open(directory, small()).expect("opens");
    for (events, stats) in (0..EVENTS / 100).zip(0..) {
        if stats < STATS / 100 {
            let stats = batch_of(Stream::Stats, (stats * 100..(stats + 1) * 100).map(stat));
            spool.append(stats).await.expect("accepted");
        }
        spool.append(big_batch(events * 100..(events + 1) * 100)).await.expect("accepted");
    }
    assert!(spool.status().segments > 5, "several segments: {}", spool.status().segments);
    spool.close().await;
}

/// What happens to the newest segment, or to a new one that was being begun.
#[derive(Debug, Clone, Copy)]
enum Newest {
    /// As a kill between its creation and its first write leaves it.
    Empty,
    /// The same, with room reserved for it.
    Zeros,
    /// As a write that was cut off leaves it: this much of another segment's front.
    Torn { bytes: u64 },
    /// A bit of its front's header flips, so that it has no front.
    FlippedHeader,
    /// A bit of its front's payload flips.
    FlippedFront,
    /// Its first page cannot be made out: front and first records are gone.
    LostPage,
}

const ALL_NEWEST: [Newest; 8] = [
    Newest::Empty,
    Newest::Zeros,
    Newest::Torn { bytes: 1 },
    Newest::Torn { bytes: 60 },
    Newest::Torn { bytes: 5000 },
    Newest::FlippedHeader,
    Newest::FlippedFront,
    Newest::LostPage,
];

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("there");
    file.write_all_at(&[byte[0] ^ 4], offset).expect("written");
}

impl Newest {
    fn happen(self, journal: &Path) {
        let newest: PathBuf = files(journal).pop().expect("segments");
        let number: u64 = newest.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).expect("a number");
        let next = segment::path(journal, number + 1);
        match self {
            Self::Empty => _ = File::create(next).expect("made"),
            Self::Zeros => File::create(next).and_then(|file| file.set_len(8192)).expect("made"),
            Self::Torn { bytes } => {
                let whole = fs::read(&newest).expect("readable");
                fs::write(next, &whole[..bytes as usize]).expect("written");
            }
            Self::FlippedHeader => flip(&newest, 9),
            Self::FlippedFront => flip(&newest, 50),
            Self::LostPage => {
                let file = OpenOptions::new().write(true).open(newest).expect("a file");
                file.write_all_at(&[0xA5; 4096], 0).expect("written");
            }
        }
    }

    /// Whether records of the newest segment may be gone.
    const fn costs_records(self) -> bool {
        matches!(self, Self::LostPage)
    }
}

fn dropped(status: &SpoolStatus, stream: Stream) -> u64 {
    status.streams[&stream].dropped.values().sum()
}

#[tokio::test]
async fn a_newest_segment_without_its_front_costs_no_other_one() {
    let original = tempfile::tempdir().expect("a directory");
    filled(original.path()).await;
    let mut cases = Vec::new();
    for newest in ALL_NEWEST {
        for (queue_is_there, bad_block) in [(true, false), (false, false), (true, true), (false, true)] {
            let directory = tempfile::tempdir().expect("a directory");
            copy(original.path(), directory.path());
            let journal = directory.path().join("journal");
            newest.happen(&journal);
            if !queue_is_there {
                fs::remove_dir_all(directory.path().join("queue")).expect("removed");
            }
            if bad_block {
                flip(&files(&journal)[1], 100_000);
            }
            let case = format!("{newest:?}, queue: {queue_is_there}, a bad block elsewhere: {bad_block}");
            cases.push(survives(directory, newest, bad_block, case));
        }
    }
    // Side by side: each waits for the maintenance.
    futures::future::join_all(cases).await;
}

async fn survives(directory: tempfile::TempDir, newest: Newest, bad_block: bool, case: String) {
    let directory = directory.path();
    let stopped = inspect(directory, small()).expect("readable");
    assert_eq!(stopped.streams[&Stream::Stats].records, STATS, "{case}: the stopped spool still shows them");
    let spool = Spool::open(directory, small()).expect("opens");
    spool.append(big_batch(EVENTS..EVENTS + 10)).await.expect("accepted");
    // Long enough for the maintenance to delete what it holds for done.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let (events, stats) = (lease_all(&spool, Stream::Events), lease_all(&spool, Stream::Stats));
    let expected: Vec<String> = (0..STATS).map(stat).collect();
    assert!(texts(&stats) == expected, "{case}: {} of {STATS} stats", stats.len());
    let status = spool.status();
    let lost = dropped(&status, Stream::Events);
    assert_eq!(events.len() as u64 + lost, EVENTS + 10, "{case}: delivered and lost events");
    let most = u64::from(bad_block) * 100 + if newest.costs_records() { 100 } else { 0 };
    assert!(lost <= most, "{case}: {lost} events are lost");
    assert_eq!(dropped(&status, Stream::Stats), 0, "{case}");
    spool.close().await;
}

#[tokio::test]
async fn a_segment_that_is_begun_while_the_one_before_is_on_its_way_lets_nothing_go() {
    // In a new spool, and after a restart with nothing to deliver: no segment is known to hold anything then.
    for drained in [0, 10] {
        let directory = tempfile::tempdir().expect("a directory");
        if drained > 0 {
            let spool = open(directory.path());
            spool.append(batch(Stream::Events, 0..drained)).await.expect("accepted");
            assert_eq!(lease_all(&spool, Stream::Events).len() as u64, drained);
            spool.acknowledge(Stream::Events, &[0..drained]).expect("noted");
            eventually("all is done", || spool.status().records() == 0).await;
            spool.close().await;
        }
        let spool = open(directory.path());
        let store = &spool.shared.store;
        let packed = [(0..10, false), (10..20, true), (20..30, true)]
            .map(|(numbers, roll)| store.pack(&[batch(Stream::Events, numbers)], roll).expect("packed"));
        for group in packed {
            store.commit(group, |_| Ok(u64::MAX)).expect("synced");
        }
        spool.close().await;
        for queue in ["kept", "gone"] {
            if queue == "gone" {
                fs::remove_dir_all(directory.path().join("queue")).expect("removed");
            }
            let spool = open(directory.path());
            assert_eq!(
                texts(&lease_all(&spool, Stream::Events)),
                expected(0..30),
                "{drained} before, the queue {queue}"
            );
            spool.close().await;
        }
    }
}

#[tokio::test]
async fn records_of_a_segment_that_is_gone_are_counted_where_the_queue_is_gone_too() {
    for gone in 1..=3 {
        let directory = tempfile::tempdir().expect("a directory");
        let spool = open(directory.path());
        for part in 0..4 {
            let group = spool.shared.store.pack(&[batch(Stream::Events, part * 10..part * 10 + 10)], true);
            spool.shared.store.commit(group.expect("packed"), |_| Ok(u64::MAX)).expect("synced");
        }
        spool.close().await;
        fs::remove_dir_all(directory.path().join("queue")).expect("removed");
        fs::remove_file(segment::path(&directory.path().join("journal"), gone)).expect("removed");
        for start in ["first", "second"] {
            let spool = open(directory.path());
            let all = &spool.status().streams[&Stream::Events];
            assert_eq!((all.records, all.dropped[&DropReason::Damaged]), (30, 10), "segment {gone}, the {start} start");
            spool.close().await;
        }
        let spool = open(directory.path());
        let left: Vec<String> = expected(0..40)
            .into_iter()
            .enumerate()
            .filter(|(i, _)| *i as u64 / 10 + 1 != gone)
            .map(|(_, text)| text)
            .collect();
        assert_eq!(texts(&lease_all(&spool, Stream::Events)), left);
        spool.close().await;
    }
}
