//! Damage on the medium: what is intact is delivered, what is lost is counted exactly, the bad bytes are kept.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::spool::journal::block::{self, Header, Kind};

/// More of them: `LIVEKIT_SPOOL_FAULTS=1000 cargo test --release spool::tests::damage`
pub(super) fn rounds() -> usize {
    std::env::var("LIVEKIT_SPOOL_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

pub(super) fn small() -> SpoolOptions {
    SpoolOptions { segment_bytes: 256 << 10, compression: Compression::NONE, ..options() }
}

const BLOCK: u64 = 100;
const BLOCKS: u64 = 120;

/// A spool with several segments, acknowledged in part, closed.
async fn filled(directory: &Path) {
    let spool = Spool::open(directory, small()).expect("opens");
    for block in 0..BLOCKS {
        spool.append(long_batch(block * BLOCK..(block + 1) * BLOCK)).await.expect("accepted");
        if block == BLOCKS / 2 {
            spool.lease(Stream::Events, limit(50)).expect("readable");
            spool.acknowledge(Stream::Events, &[0..50]).expect("noted");
            let mut records = spool.lease(Stream::Events, limit(3)).expect("readable").expect("records").records;
            let rejections = records.drain(..).map(|record| Rejection {
                record,
                reason: "no".into(),
                attempts: 1,
                first_attempt_at: 0,
            });
            spool.dead_letter(Stream::Events, rejections.collect()).expect("kept");
        }
    }
    spool.close().await;
}

fn long_batch(numbers: Range<u64>) -> RecordBatch {
    batch_of(Stream::Events, numbers.map(long_record))
}

fn long_record(number: u64) -> String {
    format!("{} {}", record(number), "x".repeat(100))
}

struct Outcome {
    records: Vec<String>,
    damaged: u64,
    dead: u64,
    quarantined: bool,
}

/// Opens and drains a damaged copy, twice: what was found stays found.
async fn drain(directory: &Path) -> Outcome {
    let spool = Spool::open(directory, small()).expect("damage never keeps a spool from opening");
    let records = lease_all(&spool, Stream::Events);
    // What is lost of dead letters is known once they are inspected.
    let dead_letters = spool.dead_letters(&DeadFilter::default(), 0, 10).expect("readable").len() as u64;
    let damaged = damaged(&spool);
    spool.close().await;
    let spool = Spool::open(directory, small()).expect("opens again");
    assert_eq!(self::damaged(&spool), damaged, "the count survives");
    assert_eq!(lease_all(&spool, Stream::Events), records, "what was not acknowledged comes again");
    assert_eq!(spool.dead_letters(&DeadFilter::default(), 0, 10).expect("readable").len() as u64, dead_letters);
    let dead = spool.status().dead_letters();
    assert_eq!(dead, dead_letters, "the status counts them");
    spool.close().await;
    Outcome {
        records: texts(&records),
        damaged,
        dead,
        quarantined: directory.join("quarantine/report.ndjson").exists(),
    }
}

fn damaged(spool: &Spool) -> u64 {
    let status = spool.status();
    status.streams[&Stream::Events].dropped.get(&DropReason::Damaged).copied().unwrap_or(0)
}

fn all() -> Vec<String> {
    (53..BLOCK * BLOCKS).map(long_record).collect()
}

/// Whether `some` are among `all`, in the same order.
fn in_order(some: &[String], all: &[String]) -> bool {
    let mut all = all.iter();
    some.iter().all(|wanted| all.any(|text| text == wanted))
}

/// Flips a bit of a file.
pub(super) fn flip(file: &Path, bit: u64) {
    let mut bytes = fs::read(file).expect("a file");
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    fs::write(file, bytes).expect("written");
}

/// Flips a random bit of a file; answers which.
fn flip_any(file: &Path, random: &mut StdRng) -> u64 {
    let bit = random.random_range(0..fs::metadata(file).expect("a file").len() * 8);
    flip(file, bit);
    bit
}

#[tokio::test]
async fn a_flipped_bit_in_the_journal_costs_its_block_and_is_counted_exactly() {
    let origin = tempfile::tempdir().expect("a directory");
    filled(origin.path()).await;
    let mut random = StdRng::seed_from_u64(1);
    let all = all();
    for round in 0..rounds() {
        let copied = tempfile::tempdir().expect("a directory");
        copy(origin.path(), copied.path());
        let files = files(&copied.path().join("journal"));
        assert!(files.len() > 4);
        let file = &files[random.random_range(0..files.len())];
        let bit = flip_any(file, &mut random);
        let name = file.file_name().expect("a name").display().to_string();
        let outcome = drain(copied.path()).await;
        let context = format!("round {round}: bit {bit} of {name}");
        assert!(in_order(&outcome.records, &all), "{context}: in order, nothing twice");
        assert_eq!(outcome.records.len() as u64 + outcome.damaged, all.len() as u64, "{context}: counted exactly");
        assert!(outcome.damaged <= BLOCK, "{context}: {} lost", outcome.damaged);
        assert!(outcome.damaged == 0 || outcome.quarantined, "{context}: the bad bytes are kept");
        assert_eq!(outcome.dead, 3, "{context}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_queue_costs_a_redelivery_at_the_most() {
    let origin = tempfile::tempdir().expect("a directory");
    filled(origin.path()).await;
    let mut random = StdRng::seed_from_u64(2);
    let (all, everything) = (all(), (0..BLOCK * BLOCKS).map(long_record).collect::<Vec<_>>());
    for round in 0..rounds() {
        let copied = tempfile::tempdir().expect("a directory");
        copy(origin.path(), copied.path());
        let mut files = files(&copied.path().join("queue"));
        files.extend(self::files(&copied.path().join("queue")).into_iter().filter(|path| path.ends_with("db")));
        let file = &files[random.random_range(0..files.len())];
        let bit = flip_any(file, &mut random);
        let outcome = drain(copied.path()).await;
        let context = format!("round {round}: bit {bit} of {}", file.display());
        assert_eq!(outcome.damaged, 0, "{context}");
        assert!(in_order(&all, &outcome.records), "{context}: what is to be delivered comes");
        assert!(in_order(&outcome.records, &everything), "{context}: in order, nothing twice");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_dead_letters_costs_no_queued_record() {
    let origin = tempfile::tempdir().expect("a directory");
    filled(origin.path()).await;
    let mut random = StdRng::seed_from_u64(3);
    let all = all();
    for round in 0..rounds() {
        let copied = tempfile::tempdir().expect("a directory");
        copy(origin.path(), copied.path());
        let file = &files(&copied.path().join("dead/journal"))[0];
        let bit = flip_any(file, &mut random);
        let outcome = drain(copied.path()).await;
        assert_eq!((outcome.records == all, outcome.damaged + outcome.dead), (true, 3), "round {round}: bit {bit}");
        assert!(outcome.dead == 3 || outcome.quarantined, "round {round}: bit {bit}");
    }
}

#[tokio::test]
async fn a_deleted_segment_costs_its_records_counted() {
    let origin = tempfile::tempdir().expect("a directory");
    filled(origin.path()).await;
    let segments = files(&origin.path().join("journal")).len();
    let all = all();
    for deleted in 0..segments {
        let copied = tempfile::tempdir().expect("a directory");
        copy(origin.path(), copied.path());
        fs::remove_file(&files(&copied.path().join("journal"))[deleted]).expect("removed");
        let outcome = drain(copied.path()).await;
        assert!(in_order(&outcome.records, &all), "segment {deleted}");
        assert!(outcome.damaged > 0, "segment {deleted}");
        let counted = outcome.records.len() as u64 + outcome.damaged;
        assert_eq!(counted, all.len() as u64, "segment {deleted}: counted exactly");
    }
}

#[tokio::test]
async fn a_deleted_file_of_the_queue_costs_nothing() {
    let origin = tempfile::tempdir().expect("a directory");
    filled(origin.path()).await;
    let all = all();
    for deleted in 0..files(&origin.path().join("queue")).len() {
        let copied = tempfile::tempdir().expect("a directory");
        copy(origin.path(), copied.path());
        fs::remove_file(&files(&copied.path().join("queue"))[deleted]).expect("removed");
        let outcome = drain(copied.path()).await;
        assert!(outcome.records == all && outcome.damaged == 0, "file {deleted}");
    }
    let copied = tempfile::tempdir().expect("a directory");
    copy(origin.path(), copied.path());
    fs::remove_dir_all(copied.path().join("queue")).expect("removed");
    let outcome = drain(copied.path()).await;
    assert!(outcome.records == all && outcome.damaged == 0, "the whole directory");
}

/// Cuts a file, or fills it with zeros, from a random place on; answers where.
fn cut_or_zero(file: &Path, cut: bool, random: &mut StdRng) -> usize {
    let mut bytes = fs::read(file).expect("a file");
    let at = random.random_range(0..bytes.len());
    if cut {
        bytes.truncate(at);
    } else {
        bytes[at..].fill(0);
    }
    fs::write(file, bytes).expect("written");
    at
}

#[tokio::test]
async fn a_cut_or_zeroed_end_costs_what_lay_there_counted() {
    let origin = tempfile::tempdir().expect("a directory");
    filled(origin.path()).await;
    let mut random = StdRng::seed_from_u64(4);
    let all = all();
    for round in 0..rounds() {
        let copied = tempfile::tempdir().expect("a directory");
        copy(origin.path(), copied.path());
        let files = files(&copied.path().join("journal"));
        let file = &files[random.random_range(0..files.len())];
        let at = cut_or_zero(file, round % 2 == 0, &mut random);
        let outcome = drain(copied.path()).await;
        let context = format!("round {round}: {} from {at}", file.display());
        assert!(in_order(&outcome.records, &all), "{context}");
        assert_eq!(outcome.records.len() as u64 + outcome.damaged, all.len() as u64, "{context}: counted exactly");
    }
}

#[tokio::test]
async fn a_cut_or_zeroed_file_of_the_queue_or_of_the_dead_letters_costs_no_queued_record() {
    let origin = tempfile::tempdir().expect("a directory");
    filled(origin.path()).await;
    let mut random = StdRng::seed_from_u64(5);
    let all = all();
    for round in 0..rounds() / 2 {
        let copied = tempfile::tempdir().expect("a directory");
        copy(origin.path(), copied.path());
        let files = files(&copied.path().join(["queue", "dead/queue", "dead/journal"][round % 3]));
        let file = &files[random.random_range(0..files.len())];
        let at = cut_or_zero(file, round % 2 == 0, &mut random);
        let outcome = drain(copied.path()).await;
        let context = format!("round {round}: {} from {at}", file.display());
        assert!(in_order(&all, &outcome.records) && outcome.damaged + outcome.dead <= 3, "{context}");
    }
}

#[tokio::test]
async fn a_block_that_was_cut_off_while_it_was_written_is_no_loss() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path()).await;
    let newest = files(&directory.path().join("journal")).pop().expect("a segment");
    let mut bytes = fs::read(&newest).expect("a segment");
    let header = Header {
        kind: Kind::Records,
        stream: Stream::Events,
        codec: 0,
        seq: BLOCK * BLOCKS,
        count: 10,
        raw_len: 50_000,
        stored_len: 50_000,
        received_at: 0,
        group: bytes.len() as u32,
        ends_group: true,
    };
    let mut block = Vec::new();
    block::write_block(&mut block, header, &[7; 50_000]);
    bytes.extend_from_slice(&block[..30_000]);
    fs::write(&newest, bytes).expect("written");
    let outcome = drain(directory.path()).await;
    assert!(outcome.records == all());
    assert_eq!(outcome.damaged, 0, "nobody was told that it was kept");
}
