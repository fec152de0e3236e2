//! The format on disk: a second reader reads it, this build reads what was written in it before, and refuses another one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use livekit_spool::{
    record::{RecordBatch, RecordBatchBuilder, Stream, wire::delimited},
    spool::{
        Compression, Contents, DeadFilter, DropReason, LeaseLimit, OpenError, PeekFrom, Queue, Rejection, Spool,
        SpoolOptions, inspect, verify,
    },
};
use serde_json::Value;

const RECEIVED_AT: i64 = 1_790_000_000_000;
/// Where to write a spool of the present format, for a new directory under tests/data: see `the_fixture_is_made_like_this`.
const KEEP_IN: &str = "LIVEKIT_SPOOL_KEEP_FIXTURE";

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)
}

fn real(stream: Stream) -> Vec<Vec<u8>> {
    let file = data("livekit-1.11").join(format!("{stream}.pb"));
    delimited(&fs::read(file).expect("test data")).map(<[u8]>::to_vec).collect()
}

fn batch(stream: Stream, received_at: i64, records: &[Vec<u8>]) -> RecordBatch {
    let mut batch = RecordBatchBuilder::new(stream);
    records.iter().for_each(|record| batch.push(record));
    batch.build(received_at)
}

fn options(compression: Compression) -> SpoolOptions {
    SpoolOptions {
        name: "format".into(),
        min_free_bytes: 0,
        segment_bytes: 256 << 10,
        compression,
        ..Default::default()
    }
}

/// Records: sequence number, received at, bytes.
type Expected = BTreeMap<Stream, Vec<(u64, i64, Vec<u8>)>>;

/// All records before these are done when the newest segment is begun.
const ACK_FLOOR: [u64; 3] = [410, 18, 0];

/// What was written: all records at and above the ack floor, and those that are to be delivered.
struct Written {
    above_floor: Expected,
    to_deliver: Expected,
}

/// Writes a spool with something of everything: big and small blocks, several segments, records that were delivered (the
/// middle ones too), purged, rejected; a dead letter that was dropped.
async fn write(directory: &Path, compression: Compression) -> Written {
    let (events, stats) = (real(Stream::Events), real(Stream::Stats));
    let spool = Spool::open(directory, options(compression)).expect("opens");
    let mut written = Vec::new();
    let mut at = RECEIVED_AT;
    for round in 0..6 {
        // One big block, then some small ones.
        for records in [&events[..400], &events[400..401], &events[401..404]] {
            at += 2000;
            spool.append(batch(Stream::Events, at, records)).await.expect("accepted");
            written.extend(records.iter().map(|record| (at, record.clone())));
        }
        spool.append(batch(Stream::Stats, at, &stats[round * 3..round * 3 + 3])).await.expect("accepted");
    }
    let node_rooms = vec![b"\x0a\x04ND_1\x10\x07".to_vec()];
    spool.append(batch(Stream::NodeRooms, at, &node_rooms)).await.expect("accepted");
    let limit = LeaseLimit { records: 1000, bytes: usize::MAX };
    let leased = spool.lease(Stream::Events, limit).expect("readable").expect("records").records;
    for range in [0..410, 500..700] {
        spool.acknowledge(Stream::Events, &[range]).expect("noted");
    }
    let rejections = [450, 451].map(|at: usize| Rejection {
        record: leased[at].clone(),
        reason: format!("number {at} is too odd"),
        attempts: 3,
        first_attempt_at: RECEIVED_AT + 1,
    });
    spool.dead_letter(Stream::Events, rejections.into()).expect("kept");
    let dropped = DeadFilter { reason: Some("451".into()), ..Default::default() };
    assert_eq!(spool.drop_dead_letters(&dropped).expect("written"), 1);
    spool.purge(&[Stream::Stats]).await.expect("purged");
    spool.append(batch(Stream::Stats, at, &stats[100..102])).await.expect("accepted");
    spool.close().await;
    let done = |seq: u64| seq < 410 || (500..700).contains(&seq) || seq == 450 || seq == 451;
    let events = written.into_iter().zip(0..).map(|((at, record), seq)| (seq, at, record));
    let events: Vec<_> = events.filter(|(seq, ..)| *seq >= ACK_FLOOR[0]).collect();
    let stats = stats[100..102].iter().zip(ACK_FLOOR[1]..).map(|(record, seq)| (seq, at, record.clone()));
    let above_floor = BTreeMap::from([
        (Stream::Events, events),
        (Stream::Stats, stats.collect()),
        (Stream::NodeRooms, vec![(0, at, node_rooms[0].clone())]),
    ]);
    let mut to_deliver = above_floor.clone();
    to_deliver.entry(Stream::Events).or_default().retain(|(seq, ..)| !done(*seq));
    Written { above_floor, to_deliver }
}

/// What the Python reader says.
struct SecondReader {
    records: Expected,
    fronts: Vec<Value>,
    damaged: u64,
    torn: u64,
}

fn second_reader(directory: &Path) -> SecondReader {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (script, dictionary) = (root.join("tests/spool_reader.py"), root.join("src/spool/journal/dictionary-1.zstd"));
    let output = Command::new("python3")
        .args([script.as_os_str(), directory.join("journal").as_os_str(), dictionary.as_os_str()])
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines: Vec<&str> = text.lines().collect();
    let summary: Value = serde_json::from_str(lines.pop().expect("a summary")).expect("JSON");
    let (mut records, mut fronts) = (Expected::new(), Vec::new());
    for line in lines {
        if line.starts_with('{') {
            fronts.push(serde_json::from_str::<Value>(line).expect("JSON")["front"].take());
            continue;
        }
        let (stream, seq, at, hex): (String, u64, i64, String) = serde_json::from_str(line).expect("a record");
        let digits: Vec<char> = hex.chars().collect();
        let bytes = digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).expect("hex"));
        records.entry(stream.parse().expect("a stream")).or_default().push((seq, at, bytes.collect()));
    }
    let number = |name: &str| summary[name].as_u64().expect("a number");
    SecondReader { records, fronts, damaged: number("damaged_bytes"), torn: number("torn_bytes") }
}

fn assert_read_whole(read: &SecondReader, written: &Expected) {
    assert_eq!((read.damaged, read.torn), (0, 0));
    assert_eq!(read.records, *written);
    let newest = read.fronts.last().expect("a front");
    assert_eq!(newest["ack_floor"], serde_json::json!(ACK_FLOOR));
    assert_eq!(newest["totals"][1]["dropped"], serde_json::json!({ "3": 18 }), "purged");
    for pair in read.fronts.windows(2) {
        assert_eq!(pair[1]["previous"]["segment"], pair[0]["segment"], "each front tells of the segment before it");
        assert_eq!(pair[1]["previous"]["next"], pair[1]["first"]);
    }
}

fn peeked(spool: &Contents) -> Expected {
    let records = |stream| {
        let peek = spool.peek(stream, PeekFrom::Oldest).expect("a reader");
        peek.map(|record| record.map(|record| (record.seq, record.received_at, record.bytes.to_vec())))
            .collect::<Result<Vec<_>, _>>()
            .expect("readable")
    };
    Stream::ALL.into_iter().map(|stream| (stream, records(stream))).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry")) {
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).expect("copied");
        }
    }
}

#[tokio::test]
async fn a_second_reader_reads_an_uncompressed_spool() {
    let directory = tempfile::tempdir().expect("a directory");
    let written = write(directory.path(), Compression::NONE).await;
    assert_read_whole(&second_reader(directory.path()), &written.above_floor);
}

#[tokio::test]
async fn a_second_reader_reads_a_compressed_spool() {
    let directory = tempfile::tempdir().expect("a directory");
    let written = write(directory.path(), Compression::default()).await;
    assert_read_whole(&second_reader(directory.path()), &written.above_floor);
}

/// The newest segment, and where its last block begins.
fn last_block(directory: &Path) -> (PathBuf, Vec<u8>, usize) {
    let segments =
        fs::read_dir(directory.join("journal")).expect("a directory").map(|entry| entry.expect("one").path());
    let path = segments.max().expect("a segment");
    let bytes = fs::read(&path).expect("a segment");
    let at = bytes.windows(4).rposition(|window| window == b"LKSB").expect("a block");
    (path, bytes, at)
}

#[tokio::test]
async fn a_second_reader_tells_a_torn_group_from_damage() {
    let directory = tempfile::tempdir().expect("a directory");
    let written = write(directory.path(), Compression::NONE).await;
    let (path, bytes, at) = last_block(directory.path());
    fs::write(&path, &bytes[..at + 20]).expect("written");
    let read = second_reader(directory.path());
    assert_eq!((read.damaged, read.torn), (0, 20));
    assert_eq!(read.records[&Stream::Events], written.above_floor[&Stream::Events]);
    assert!(!read.records.contains_key(&Stream::Stats), "they were in the torn group");

    let first = path.with_file_name("000000000001.journal");
    let mut bytes = fs::read(&first).expect("a segment");
    bytes[300] ^= 1;
    fs::write(&first, bytes).expect("written");
    let read = second_reader(directory.path());
    assert!(read.damaged > 100_000, "the block of 400 events: {}", read.damaged);
}

/// A spool written now holds what the fixture holds. To keep one for a new format version:
/// `LIVEKIT_SPOOL_KEEP_FIXTURE=tests/data/format-N cargo test --test spool_format fixture`.
#[tokio::test]
async fn the_fixture_is_made_like_this() {
    let directory = tempfile::tempdir().expect("a directory");
    let written = write(directory.path(), Compression::default()).await;
    if let Some(keep) = std::env::var_os(KEEP_IN) {
        copy(directory.path(), Path::new(&keep));
    }
    let spool = Contents::of_stopped(directory.path(), options(Compression::default())).expect("readable");
    assert_eq!(peeked(&spool), written.to_deliver);
    let fixture = Contents::of_stopped(&data("format-2"), options(Compression::default())).expect("readable");
    assert_eq!(peeked(&fixture), written.to_deliver);
    assert_read_whole(&second_reader(&data("format-2")), &written.above_floor);
}

#[tokio::test]
async fn a_spool_of_format_version_2_is_read_and_gone_on_with() {
    let directory = tempfile::tempdir().expect("a directory");
    copy(&data("format-2"), directory.path());
    let report = verify(directory.path(), options(Compression::default())).expect("readable");
    assert!(report.is_sound() && report.findings.is_empty(), "{:?}", report.findings);
    let expected = peeked(&Contents::of_stopped(directory.path(), options(Compression::default())).expect("readable"));

    let spool = Spool::open(directory.path(), options(Compression::default())).expect("opens");
    let status = spool.status();
    let events = &status.streams[&Stream::Events];
    assert_eq!((events.delivered, events.dead_lettered, events.dead_letters), (610, 2, 1));
    assert_eq!(status.streams[&Stream::Stats].dropped[&DropReason::Purged], 18);
    let dead_letters = spool.dead_letters(&DeadFilter::default(), 0, 10).expect("readable");
    assert_eq!((dead_letters[0].reason.as_str(), dead_letters[0].attempts), ("number 450 is too odd", 3));
    assert_eq!(dead_letters[0].first_attempt_at, RECEIVED_AT + 1);

    spool.append(batch(Stream::Events, RECEIVED_AT, &[b"new".to_vec()])).await.expect("accepted");
    let mut leased = Expected::new();
    let all = LeaseLimit { records: usize::MAX, bytes: usize::MAX };
    for stream in Stream::ALL {
        while let Some(lease) = spool.lease(stream, all).expect("readable") {
            let records =
                lease.records.into_iter().map(|record| (record.seq, record.received_at, record.bytes.to_vec()));
            leased.entry(stream).or_default().extend(records);
        }
    }
    assert_eq!(leased.get_mut(&Stream::Events).and_then(Vec::pop), Some((6 * 404, RECEIVED_AT, b"new".to_vec())));
    assert_eq!(leased, expected);
    spool.close().await;
}

/// All files and directories below one, with contents and times.
fn contents(directory: &Path) -> BTreeMap<PathBuf, (Option<Vec<u8>>, SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        let changed = entry.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        if entry.is_dir() {
            all.extend(contents(&entry));
            all.insert(entry, (None, changed));
        } else {
            all.insert(entry.clone(), (Some(fs::read(&entry).expect("a file")), changed));
        }
    }
    all
}

#[tokio::test]
async fn a_spool_of_format_version_1_is_refused_and_left_as_it_is() {
    let whole = tempfile::tempdir().expect("a directory");
    copy(&data("format-1"), whole.path());
    // Its dead letters alone tell it, too.
    let dead_alone = tempfile::tempdir().expect("a directory");
    copy(&data("format-1").join("dead"), &dead_alone.path().join("dead"));
    for directory in [whole.path(), dead_alone.path()] {
        let before = contents(directory);
        let options = || options(Compression::default());
        let refusals = [
            Spool::open(directory, options()).map(drop),
            Contents::of_stopped(directory, options()).map(drop),
            inspect(directory, options()).map(drop),
            verify(directory, options()).map(drop),
        ];
        for refused in refusals {
            let error = refused.expect_err("it is refused");
            assert!(matches!(error, OpenError::OtherFormat { found: 1, known: 2, .. }), "{error}");
            assert!(error.to_string().contains("000000000001.journal has format version 1"), "{error}");
        }
        assert_eq!(contents(directory), before, "nothing is made or changed");
    }
}
