//! Damage to dead letters: at least what the queue knew to be there is counted, once, and the rest stays.

use super::*;
use crate::spool::{
    disk::{Disk, RealDisk},
    journal::{
        block::{Header, Kind},
        segment::{Found, Walker},
    },
};

fn dead_letter(number: u64) -> DeadLetter {
    DeadLetter {
        stream: Stream::ALL[number as usize % 3],
        id: format!("AE_{number:05}"),
        received_at: 1,
        reason: "no".into(),
        attempts: 1,
        first_attempt_at: 1,
        last_attempt_at: 1,
        record: format!("{} {}", record(number), "z".repeat(300)).into_bytes(),
    }
}

async fn filled(directory: &Path) -> u64 {
    let spool = open(directory);
    for first in (0..90).step_by(9) {
        spool.keep_dead_letters(&(first..first + 9).map(dead_letter).collect::<Vec<_>>()).expect("kept");
    }
    let gone: Vec<_> = (0..90).step_by(7).map(|number| dead_letter(number).key()).collect();
    spool.remove_dead_letters(&gone).expect("removed");
    let there = spool.status().dead_letters();
    spool.close().await;
    there
}

fn damaged(spool: &Spool) -> u64 {
    let status = spool.status();
    Stream::ALL.iter().filter_map(|stream| status.streams[stream].dropped.get(&DropReason::Damaged)).sum()
}

fn journal(directory: &Path) -> PathBuf {
    files(&directory.join("dead/journal")).pop().expect("a segment")
}

fn blocks(path: &Path) -> Vec<(u64, Header)> {
    let file = RealDisk.open(path).expect("a file");
    let end = file.len().expect("a length");
    let mut walker = Walker::new(file, 0, end);
    let mut blocks = Vec::new();
    while let Some(found) = walker.next().expect("readable") {
        let Found::Block { header, offset, .. } = found else { panic!("{found:?}") };
        blocks.push((offset, header));
    }
    blocks.retain(|(_, header)| header.kind == Kind::DeadLetters);
    blocks
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[at as usize] ^= 1;
    fs::write(path, bytes).expect("written");
}

async fn reopened(directory: &Path) -> (u64, u64) {
    let spool = open(directory);
    let all = spool.dead_letters(&DeadFilter::default(), 0, 1000).expect("damage keeps no letter from being read");
    assert_eq!(all.len() as u64, spool.status().dead_letters());
    let seen = (damaged(&spool), spool.status().dead_letters());
    spool.close().await;
    seen
}

#[tokio::test]
async fn a_flipped_bit_costs_its_block_counted_once_whatever_restarts_and_the_rest_stays() {
    let origin = tempfile::tempdir().expect("a directory");
    let there = filled(origin.path()).await;
    for (i, (offset, header)) in blocks(&journal(origin.path())).into_iter().enumerate() {
        let copied = tempfile::tempdir().expect("a directory");
        copy(origin.path(), copied.path());
        // In the header, then in what follows it.
        let at = if i % 2 == 0 { offset + 9 } else { offset + header.block_len() / 2 };
        flip(&journal(copied.path()), at);
        let (lost, left) = reopened(copied.path()).await;
        assert_eq!(lost + left, there, "block {i}");
        assert!((1..=u64::from(header.count)).contains(&lost), "block {i}: {lost} lost of {}", header.count);
        assert_eq!(reopened(copied.path()).await, (lost, left), "counted once");
        // Without its queue, what was removed is there again; what is left stays.
        fs::remove_dir_all(copied.path().join("dead/queue")).expect("removed");
        let (_, left_now) = reopened(copied.path()).await;
        assert!(left_now >= left, "block {i}: {left} left, then {left_now}");
    }
}

#[tokio::test]
async fn damage_that_is_met_by_a_list_is_counted_and_listed_no_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool =
        Spool::open(directory.path(), SpoolOptions { compression: Compression::NONE, ..options() }).expect("opens");
    let long = |number| DeadLetter { record: vec![7; 100_000], ..dead_letter(number) };
    (0..30).for_each(|number| spool.keep_dead_letters(&[long(number)]).expect("kept"));
    assert_eq!(spool.dead_letters(&DeadFilter::default(), 0, 1000).expect("readable").len(), 30);
    let path = journal(directory.path());
    for (offset, _) in blocks(&path) {
        flip(&path, offset + 60);
    }
    // Some of it was read before, and is known still.
    let left = spool.dead_letters(&DeadFilter::default(), 0, 1000).expect("readable").len() as u64;
    assert!(left < 20, "{left}");
    assert_eq!((damaged(&spool), spool.status().dead_letters()), (30 - left, left));
    spool.close().await;
}

#[tokio::test]
async fn a_directory_of_dead_letters_that_is_gone_is_named_stopped_and_running_and_after_a_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..3)).await.expect("accepted");
    let rejected = lease_all(&spool, Stream::Events).into_iter().map(|record| Rejection {
        record,
        reason: "no".to_owned(),
        attempts: 1,
        first_attempt_at: 1,
    });
    spool.dead_letter(Stream::Events, rejected.collect()).expect("dead letters");
    let named = |status: &SpoolStatus| {
        status.last_error.as_ref().is_some_and(|error| error.message.contains("with all dead letters in it"))
    };
    assert!(!named(&spool.status()) && spool.verify().expect("readable").is_sound());
    fs::rename(directory.path().join("dead"), directory.path().join("moved")).expect("moved");
    eventually("it is named", || named(&spool.status())).await;
    assert!(!spool.verify().expect("readable").is_sound());
    spool.close().await;
    assert!(named(&inspect(directory.path(), options()).expect("readable")));
    let report = verify(directory.path(), options()).expect("readable");
    assert!(
        report.findings.iter().any(|finding| finding.what.contains("3 records that were ever dead-lettered")),
        "{report:?}"
    );
    let spool = open(directory.path());
    assert!(named(&spool.status()));
    spool.close().await;
}
