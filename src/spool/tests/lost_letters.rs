//! Damage to dead letters: the loss is known exactly, counted once, and said alike by all who say it.

use std::fs;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    damage::{copy, files, flip, rounds},
    *,
};
use crate::spool::{
    block::{Header, Kind},
    io::Disk,
    segment::{Found, Walker},
    verify::verify,
};

/// Segments of 16 KiB.
fn small() -> SpoolOptions {
    SpoolOptions { dead_max_bytes: 256 << 10, compression: Compression::None, ..options() }
}

fn letter(number: u64) -> DeadLetter {
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

fn keep(spool: &Spool, numbers: Range<u64>) {
    spool.keep_dead_letters(&numbers.map(letter).collect::<Vec<_>>()).expect("kept");
}

fn remove(spool: &Spool, numbers: impl Iterator<Item = u64>) {
    let keys: Vec<_> = numbers.map(|number| letter(number).key()).collect();
    assert_eq!(spool.remove_dead_letters(&keys).expect("removed"), keys.len() as u64);
}

/// Letters of all streams in calls of all sizes; some rejected again, some removed, `moved` so many that segments go.
async fn filled(folder: &Path, moved: bool) -> u64 {
    let spool = Spool::open(folder, small()).expect("opens");
    for first in (0..90).step_by(9) {
        keep(&spool, first..first + 1);
        keep(&spool, first + 1..first + 9);
    }
    keep(&spool, 20..30);
    remove(&spool, (0..90).step_by(7));
    keep(&spool, 90..130);
    let oldest = files(&folder.join("dead"))[0].clone();
    if moved {
        remove(&spool, (0..90).filter(|number| number % 7 != 0 && number % 10 != 3));
        remove(&spool, 90..120);
        keep(&spool, 200..202);
        assert!(!oldest.exists(), "what was left of it was moved");
    }
    let there = spool.status().dead_letters();
    spool.close().await;
    there
}

fn damaged(spool: &Spool) -> u64 {
    let status = spool.status();
    Stream::ALL.iter().filter_map(|stream| status.streams[stream].dropped.get(&DropReason::Damaged)).sum()
}

struct Outcome {
    lost: u64,
    left: u64,
    /// What `verify` said before.
    verified: u64,
    /// What the quarantine's report says.
    reported: u64,
}

/// Looks, and opens three times: what is lost is counted by the first.
async fn outcome(folder: &Path) -> Outcome {
    let before = basics::contents(folder);
    let report = verify(folder, small()).expect("readable");
    assert_eq!(basics::contents(folder), before, "a look changes no byte");
    let verified = report.findings.iter().map(|finding| finding.records_lost.expect("told")).sum();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let spool = Spool::open(folder, small()).expect("damage never keeps a spool from opening");
        seen.push((damaged(&spool), spool.status().dead_letters()));
        let findings = spool.verify().expect("readable").findings;
        assert!(findings.iter().all(|finding| finding.records_lost == Some(0)), "counted before: {findings:?}");
        spool.close().await;
    }
    let (lost, left) = seen[0];
    assert_eq!(seen, [(lost, left); 3], "counted once");
    let reports = fs::read_to_string(folder.join("quarantine/report.ndjson")).unwrap_or_default();
    let reports = reports.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let reported = reports.map(|report| report["records_lost"].as_u64().expect("told")).sum();
    Outcome { lost, left, verified, reported }
}

/// The blocks of a segment.
fn blocks(path: &Path) -> Vec<(u64, Header)> {
    let file = io::RealDisk.open(path).expect("a file");
    let end = file.len().expect("a length");
    let mut walker = Walker::new(file, 0, end);
    let mut blocks = Vec::new();
    while let Some(found) = walker.next().expect("readable") {
        let Found::Block { header, offset, .. } = found else { panic!("{found:?}") };
        blocks.push((offset, header));
    }
    blocks
}

async fn flip_bits(moved: bool, seed: u64) {
    let origin = tempfile::tempdir().expect("a folder");
    let there = filled(origin.path(), moved).await;
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..rounds() {
        let copied = tempfile::tempdir().expect("a folder");
        copy(origin.path(), copied.path());
        let files = files(&copied.path().join("dead"));
        assert!(files.len() > 2);
        let file = &files[random.random_range(0..files.len())];
        let blocks = blocks(file);
        let (offset, header) = blocks[random.random_range(0..blocks.len())];
        // The header as often as the rest.
        let place = if random.random() { 0..40 } else { 40..header.block_len() };
        let at = offset + random.random_range(place);
        flip(file, at * 8 + random.random_range(0..8));
        let Outcome { lost, left, verified, reported } = outcome(copied.path()).await;
        let context =
            format!("round {round}: {} at {at}, a block with {} {:?}", file.display(), header.count, header.kind);
        if header.kind == Kind::DeadLetters {
            assert_eq!(lost + left, there, "{context}");
            assert!(lost <= u64::from(header.count), "{context}: {lost} lost");
        } else {
            assert_eq!(lost, 0, "{context}: no letter lay there");
            assert!((there..=there + u64::from(header.count)).contains(&left), "{context}: removed ones may come back");
        }
        assert_eq!((verified, reported), (lost, lost), "{context}");
    }
}

#[tokio::test]
async fn a_flipped_bit_among_dead_letters_costs_its_block_counted_exactly_and_once() {
    flip_bits(false, 1).await;
}

#[tokio::test]
async fn so_it_does_after_letters_were_moved() {
    flip_bits(true, 2).await;
}

#[tokio::test]
async fn a_deleted_file_of_dead_letters_is_counted_but_for_what_was_told_last() {
    let origin = tempfile::tempdir().expect("a folder");
    let there = filled(origin.path(), false).await;
    let count = files(&origin.path().join("dead")).len();
    for deleted in 0..count - 1 {
        let copied = tempfile::tempdir().expect("a folder");
        copy(origin.path(), copied.path());
        fs::remove_file(&files(&copied.path().join("dead"))[deleted]).expect("removed");
        let Outcome { lost, left, verified, .. } = outcome(copied.path()).await;
        assert!(lost > 0, "file {deleted}");
        // A removal that lay in another file than its letter costs nothing; one that lay in this file is missed.
        assert!(lost + left >= there, "file {deleted}: {lost} lost, {left} left");
        assert_eq!(verified, lost, "file {deleted}");
    }
}

#[tokio::test]
async fn several_damaged_blocks_are_counted_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let there = filled(folder.path(), false).await;
    let file = files(&folder.path().join("dead"))[0].clone();
    let hit = blocks(&file).into_iter().filter(|(_, header)| header.kind == Kind::DeadLetters && header.count == 8);
    for (offset, _) in hit.step_by(2).take(2) {
        flip(&file, (offset + 9) * 8 + 2);
    }
    let report = verify(folder.path(), small()).expect("readable");
    let parts: Vec<_> = report.findings.iter().map(|finding| finding.records_lost).collect();
    assert_eq!(parts[..2], [None, None], "neither header tells which of them cost what");
    let spool = Spool::open(folder.path(), small()).expect("opens");
    let lost = damaged(&spool);
    assert_eq!(lost + spool.status().dead_letters(), there);
    assert_eq!(parts[2..], [Some(lost)], "the sum is known");
    spool.close().await;
}

#[tokio::test]
async fn letters_lost_and_rejected_again_are_no_loss_and_later_ones_count_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::open(folder.path(), small()).expect("opens");
    keep(&spool, 0..6);
    spool.close().await;
    let flip_first = |file: usize| {
        let file = files(&folder.path().join("dead"))[file].clone();
        let (offset, _) = blocks(&file).into_iter().find(|(_, header)| header.kind == Kind::DeadLetters).expect("one");
        flip(&file, (offset + 8) * 8);
    };
    flip_first(0);
    let spool = Spool::open(folder.path(), small()).expect("opens");
    assert_eq!((damaged(&spool), spool.status().dead_letters()), (6, 0));
    keep(&spool, 4..8);
    spool.close().await;
    let spool = Spool::open(folder.path(), small()).expect("opens");
    assert_eq!((damaged(&spool), spool.status().dead_letters()), (6, 4), "they are there anew");
    spool.close().await;
    flip_first(1);
    let spool = Spool::open(folder.path(), small()).expect("opens");
    assert_eq!((damaged(&spool), spool.status().dead_letters()), (10, 0));
    spool.close().await;
}

#[tokio::test]
async fn where_nothing_behind_the_damage_tells_the_loss_is_unknown_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::open(folder.path(), small()).expect("opens");
    keep(&spool, 0..6);
    spool.close().await;
    let file = files(&folder.path().join("dead"))[0].clone();
    for (offset, _) in blocks(&file) {
        flip(&file, (offset + 9) * 8);
    }
    let report = verify(folder.path(), small()).expect("readable");
    assert_eq!((report.problems, report.findings[0].records_lost), (1, None), "{:?}", report.findings);
    let spool = Spool::open(folder.path(), small()).expect("opens");
    assert_eq!(damaged(&spool), 0);
    spool.close().await;
    let reports = fs::read_to_string(folder.path().join("quarantine/report.ndjson")).expect("a report");
    assert!(reports.contains("\"records_lost\":null"), "{reports}");
}
