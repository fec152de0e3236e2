//! `verify` and `recover`: what is wrong is named and counted, what is whole comes out.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{
    record::RecordId,
    spool::{
        disk::{Disk, RealDisk},
        journal::{
            block::{Header, Kind},
            segment::{Found, Walker},
        },
        raw::{RawReader, RawRecord, RawWriter},
    },
};

fn small() -> SpoolOptions {
    SpoolOptions { segment_bytes: 256 << 10, compression: Compression::NONE, ..options() }
}

/// A stopped spool: 3 × 5,000 events in blocks of 500 over several segments, 20 stats, one dead letter (event 0).
async fn filled(directory: &Path, options: SpoolOptions) {
    let spool = Spool::open(directory, options).expect("opens");
    for round in 0..30 {
        spool.append(batch(Stream::Events, round * 500..(round + 1) * 500)).await.expect("accepted");
    }
    spool.append(batch(Stream::Stats, 0..20)).await.expect("accepted");
    reject_one(&spool).await;
    spool.close().await;
}

async fn reject_one(spool: &Spool) {
    let record = spool.lease(Stream::Events, limit(1)).expect("readable").expect("records").records.remove(0);
    let rejection = Rejection { record, reason: "too odd".into(), attempts: 1, first_attempt_at: 1 };
    spool.dead_letter(Stream::Events, vec![rejection]).expect("kept");
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory.join("journal"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}

/// Offset and header of each block of a file.
pub(super) fn blocks(path: &Path) -> Vec<(u64, Header)> {
    let file = RealDisk.open(path).expect("a file");
    let end = file.len().expect("a length");
    let mut walker = Walker::new(file, 0, end);
    let mut blocks = Vec::new();
    while let Some(found) = walker.next().expect("readable") {
        if let Found::Block { header, offset, .. } = found {
            blocks.push((offset, header));
        }
    }
    blocks
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[offset as usize] ^= 0x10;
    fs::write(path, bytes).expect("written");
}

fn check(directory: &Path) -> VerifyReport {
    verify(directory, small()).expect("readable")
}

fn recovered(directory: &Path) -> (RecoverReport, Vec<RawRecord>) {
    let mut out = RawWriter::new(Vec::new()).expect("memory accepts it");
    let report = recover(directory, None, &mut out).expect("readable");
    assert_eq!(report.total(), out.records());
    let bytes = out.finish().expect("memory accepts it");
    let records = RawReader::new(&bytes[..]).expect("a header").collect::<Result<Vec<_>, _>>().expect("whole");
    (report, records)
}

fn events(records: &[RawRecord]) -> BTreeSet<String> {
    let events = records.iter().filter(|record| record.stream == Stream::Events);
    events.map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect()
}

#[tokio::test]
async fn a_sound_spool_is_found_sound_stopped_and_live() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    let stopped = check(directory.path());
    assert!(stopped.is_sound() && stopped.findings.is_empty(), "{:?}", stopped.findings);
    assert_eq!((stopped.records, stopped.dead_letters), (15_020, 1));
    assert!(stopped.queue_entries >= 4, "{}", stopped.queue_entries);
    let spool = Spool::open(directory.path(), small()).expect("opens");
    let live = spool.verify().expect("readable");
    assert!(live.is_sound(), "{:?}", live.findings);
    assert_eq!((live.records, live.dead_letters), (15_020, 1));
    spool.close().await;
}

#[tokio::test]
async fn verifying_during_load_and_delivery_finds_nothing_wrong() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Arc::new(Spool::open(directory.path(), small()).expect("opens"));
    let stop = Arc::new(AtomicBool::new(false));
    let work = tokio::spawn({
        let (spool, stop) = (Arc::clone(&spool), Arc::clone(&stop));
        async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                spool.append(batch(Stream::Events, number..number + 500)).await.expect("accepted");
                number += 500;
                if number % 5000 == 0 {
                    reject_one(&spool).await;
                }
                if let Some(lease) = spool.lease(Stream::Events, limit(400)).expect("readable") {
                    let seqs = lease.records.iter().map(|record| record.seq..record.seq + 1);
                    spool.acknowledge(Stream::Events, &seqs.collect::<Vec<_>>()).expect("noted");
                }
            }
        }
    });
    for _ in 0..12 {
        let spool = Arc::clone(&spool);
        let report = tokio::task::spawn_blocking(move || spool.verify()).await.expect("no panic").expect("readable");
        assert!(report.is_sound(), "{:?}", report.findings);
    }
    stop.store(true, Ordering::Relaxed);
    work.await.expect("no panic");
    spool.close().await;
    let report = check(directory.path());
    assert!(report.is_sound(), "{:?}", report.findings);
}

#[tokio::test]
async fn damage_is_named_with_its_place_and_what_it_cost() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    let files = segments(directory.path());
    assert!(files.len() >= 3);
    let hit: Vec<(u64, Header)> =
        blocks(&files[1]).into_iter().filter(|(_, header)| header.kind == Kind::Records).collect();
    // One in its payload, two neighbours in their headers.
    flip(&files[1], hit[1].0 + 60);
    flip(&files[1], hit[3].0 + 9);
    flip(&files[1], hit[4].0 + 2);
    let before = basics::contents(directory.path());
    let report = check(directory.path());
    assert_eq!(basics::contents(directory.path()), before, "verify changes no byte");
    assert!(!report.is_sound());
    assert_eq!(report.lost[&Stream::Events], 1500);
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.file.clone(), finding.offset.expect("a place"), finding.bytes, finding.records_lost))
        .collect();
    let two = hit[3].1.block_len() + hit[4].1.block_len();
    assert_eq!(
        found,
        [(files[1].clone(), hit[1].0, hit[1].1.block_len(), Some(500)), (files[1].clone(), hit[3].0, two, Some(1000)),],
    );
    // What the spool itself makes of it is the same.
    let spool = Spool::open(directory.path(), small()).expect("opens");
    assert_eq!(lease_all(&spool, Stream::Events).len(), 15_000 - 1 - 1500);
    spool.close().await;
}

#[tokio::test]
async fn damage_to_what_was_delivered_costs_no_record() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), small()).expect("opens");
    for round in 0..4 {
        spool.append(batch(Stream::Events, round * 500..(round + 1) * 500)).await.expect("accepted");
    }
    spool.lease(Stream::Events, limit(1000)).expect("readable");
    spool.acknowledge(Stream::Events, &[0..1000]).expect("noted");
    spool.close().await;
    let files = segments(directory.path());
    let (offset, _) = blocks(&files[0])[2];
    flip(&files[0], offset + 50);
    let report = check(directory.path());
    assert_eq!((report.problems, report.lost.len()), (1, 0), "{:?}", report.findings);
    assert_eq!(report.findings[0].records_lost, Some(0));
}

#[tokio::test]
async fn a_missing_segment_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    let files = segments(directory.path());
    let gone: u64 = blocks(&files[1]).iter().map(|(_, header)| u64::from(header.count)).sum();
    fs::remove_file(&files[1]).expect("removed");
    let report = check(directory.path());
    assert_eq!(report.lost[&Stream::Events], gone);
    assert!(report.findings.iter().any(|finding| finding.file == files[1] && finding.records_lost == Some(gone)));
}

#[tokio::test]
async fn a_torn_tail_is_a_note_and_no_problem() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    let files = segments(directory.path());
    let last = files.last().expect("a segment");
    let mut bytes = fs::read(last).expect("a file");
    let begun = bytes[..100].to_vec();
    bytes.extend_from_slice(&begun[..30]);
    fs::write(last, bytes).expect("written");
    let report = check(directory.path());
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].severity, Severity::Note);
}

#[tokio::test]
async fn a_broken_or_missing_queue_is_a_problem_that_costs_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    fs::remove_dir_all(directory.path().join("queue")).expect("removed");
    let report = check(directory.path());
    assert_eq!((report.problems, report.lost.len()), (1, 0), "{:?}", report.findings);
    fs::create_dir(directory.path().join("queue")).expect("made");
    fs::write(directory.path().join("queue/db"), [0x5A; 5000]).expect("written");
    fs::write(directory.path().join("queue/conf"), b"nonsense").expect("written");
    let report = check(directory.path());
    assert_eq!((report.problems, report.lost.len()), (1, 0), "{:?}", report.findings);
    assert!(!directory.path().join("queue/blobs").exists(), "only a copy was opened");
}

#[tokio::test]
async fn a_damaged_dead_letter_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    let dead = directory.path().join("dead/journal/000000000001.journal");
    let (offset, dead_letter) = blocks(&dead)[1];
    assert_eq!((dead_letter.kind, dead_letter.count), (Kind::DeadLetters, 1));
    flip(&dead, offset + 45);
    let report = check(directory.path());
    assert_eq!(report.problems, 1, "{:?}", report.findings);
    assert_eq!((report.findings[0].file.clone(), report.findings[0].records_lost), (dead, Some(1)));
}

#[tokio::test]
async fn recover_reads_everything_from_an_undamaged_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), options()).await;
    let (report, records) = recovered(directory.path());
    assert_eq!(events(&records), expected(0..15_000).into_iter().collect());
    assert_eq!((report.records[&Stream::Events], report.records[&Stream::Stats]), (15_001, 20));
    assert_eq!(report.from_dead_letters, 1, "it is in the journal too");
    assert_eq!(report.damaged, []);
}

#[tokio::test]
async fn recover_reads_what_is_whole_from_a_damaged_partial_directory_under_another_name() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    let files = segments(directory.path());
    let elsewhere = tempfile::tempdir().expect("a directory");
    // The first segment under another name, the second one damaged and cut, no queue, no front.
    fs::copy(&files[0], elsewhere.path().join("FILE0001.CHK")).expect("copied");
    let whole = blocks(&files[1]);
    let cut = whole[whole.len() - 1].0 + 10;
    fs::write(elsewhere.path().join("000000000002.journal"), &fs::read(&files[1]).expect("a file")[..cut as usize])
        .expect("written");
    flip(&elsewhere.path().join("000000000002.journal"), whole[0].0 + 1);
    flip(&elsewhere.path().join("000000000002.journal"), whole[2].0 + 100);
    fs::write(elsewhere.path().join("notes.txt"), "not ours").expect("written");
    let first = blocks(&files[0]).iter().map(|(_, header)| u64::from(header.count)).sum::<u64>();
    let (report, records) = recovered(elsewhere.path());
    assert_eq!(report.files, 2);
    let mut wanted: BTreeSet<String> = expected(0..first).into_iter().collect();
    for (i, (_, header)) in whole.iter().enumerate() {
        if header.kind == Kind::Records && i != 2 && i != whole.len() - 1 {
            wanted.extend(expected(header.seqs()));
        }
    }
    assert_eq!(events(&records), wanted);
    assert_eq!(report.damaged.len(), 3, "{:?}", report.damaged);
}

#[tokio::test]
async fn recover_reads_dead_letters_that_were_dropped_as_long_as_their_segment_is_there() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    let spool = Spool::open(directory.path(), small()).expect("opens");
    reject_one(&spool).await;
    let filter =
        DeadFilter { id: Some(RecordId::of(Stream::Events, record(1).as_bytes()).to_string()), ..Default::default() };
    assert_eq!(spool.drop_dead_letters(&filter).expect("written"), 1);
    spool.close().await;
    let (report, _) = recovered(&directory.path().join("dead"));
    assert_eq!((report.total(), report.from_dead_letters), (2, 2));
}

#[tokio::test]
async fn encrypted_records_need_the_key_and_are_counted_without_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = Keys::new(Key::new([7; 32]), Vec::new());
    let private = SpoolOptions { encryption: Some(keys.clone()), ..small() };
    filled(directory.path(), private.clone()).await;
    let (report, records) = recovered(directory.path());
    assert_eq!((records.len(), report.locked.values().sum::<u64>()), (0, 15_021));
    let mut out = RawWriter::new(Vec::new()).expect("memory accepts it");
    let report = recover(directory.path(), Some(&keys), &mut out).expect("readable");
    assert_eq!((report.total(), report.locked.len()), (15_021, 0));
    let without = check(directory.path());
    assert!(
        without.is_sound() && without.findings.len() == 2,
        "one each of journal and dead letters: {:?}",
        without.findings
    );
    let with = verify(directory.path(), private).expect("readable");
    assert!(with.findings.is_empty(), "{:?}", with.findings);
}

#[tokio::test]
async fn a_queue_that_contradicts_itself_or_the_journal_is_a_problem_that_costs_nothing() {
    use crate::spool::queue::{Change, Progress, QueueStore, sled::SledQueue};

    let original = tempfile::tempdir().expect("a directory");
    filled(original.path(), small()).await;
    let faults: [fn(&mut Progress, &mut crate::spool::queue::Entry); 3] =
        [|progress, _| progress.done += 1, |_, entry| entry.offset += 1000, |_, entry| entry.records -= 1];
    for (i, fault) in faults.into_iter().enumerate() {
        let directory = tempfile::tempdir().expect("a directory");
        copy(original.path(), directory.path());
        let queue = SledQueue::open(&directory.path().join("queue")).expect("opens");
        let (key, mut entry) = queue.entry_from(Stream::Events, 0).expect("readable").expect("an entry");
        let mut progress = queue.recorded().expect("readable").segments[&entry.segment];
        fault(&mut progress, &mut entry);
        let (entries, segments) = (vec![(Stream::Events, key, Some(entry))], vec![(entry.segment, Some(progress))]);
        queue.apply(&Change { entries, segments, ..Change::default() }).expect("written");
        queue.flush().expect("flushed");
        drop(queue);
        let report = check(directory.path());
        assert!(report.problems > 0 && report.lost.is_empty(), "{i}: {:?}", report.findings);
        let spool = Spool::open(directory.path(), small()).expect("opens");
        let shown = texts(&lease_all(&spool, Stream::Events));
        assert!(expected(1..15_000).iter().eq(shown.iter().skip(usize::from(shown.len() == 15_000))), "{i}");
        spool.close().await;
    }
}

#[tokio::test]
async fn a_segment_on_its_way_out_is_a_note() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path(), small()).await;
    let spool = Spool::open(directory.path(), small()).expect("opens");
    let records = lease_all(&spool, Stream::Events);
    spool.acknowledge(Stream::Events, &[0..records[records.len() - 1].seq + 1]).expect("noted");
    let done = directory.path().join("journal/000000000001.done");
    eventually("the first segment is done", || done.exists()).await;
    spool.close().await;
    let report = check(directory.path());
    assert!(report.is_sound(), "{:?}", report.findings);
    assert!(report.findings.iter().any(|finding| finding.file == done), "{:?}", report.findings);
}

#[tokio::test]
async fn blocks_that_are_not_where_they_were_written_are_named() {
    let original = tempfile::tempdir().expect("a directory");
    filled(original.path(), small()).await;
    // The second segment's file in the third one's place; a block that comes twice.
    let directory = tempfile::tempdir().expect("a directory");
    copy(original.path(), directory.path());
    let files = segments(directory.path());
    fs::copy(&files[1], &files[2]).expect("copied");
    let report = check(directory.path());
    assert!(
        report.findings.iter().any(|finding| finding.what.contains("its payload is invalid")),
        "{:?}",
        report.findings
    );
    assert!(report.findings.iter().any(|finding| finding.what.contains("occur twice")), "{:?}", report.findings);
    assert!(report.lost[&Stream::Events] > 0, "what was in the third one is nowhere");
}
