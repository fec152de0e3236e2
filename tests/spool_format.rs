//! The format on disk: a second reader reads it, and this build reads what earlier format versions wrote.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use livekit_spool::{
    demo::delimited,
    record::{RecordBatch, RecordBatchBuilder, Stream},
    spool::{
        Compression, DeadFilter, DropReason, LeaseLimit, PeekFrom, Queue, Rejection, Spool, SpoolOptions, StoppedSpool,
        verify,
    },
};

const RECEIVED_AT: i64 = 1_790_000_000_000;
/// Where to write a spool of the present format, for a new folder under tests/data: see `the_fixture_is_made_like_this`.
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

/// A record to be delivered: ordinal, received at, bytes.
type Expected = BTreeMap<Stream, Vec<(u64, i64, Vec<u8>)>>;

/// Writes a spool with something of everything: big and small blocks, several segments, records that were delivered (the
/// middle ones too), purged, rejected; a dead letter that was dropped. Answers what is to be delivered.
async fn write(folder: &Path, compression: Compression) -> Expected {
    let (events, stats) = (real(Stream::Events), real(Stream::Stats));
    let spool = Spool::open(folder, options(compression)).expect("opens");
    let mut written = Vec::new();
    let mut at = RECEIVED_AT;
    for round in 0..6 {
        // One big block, then some small ones.
        for records in [&events[..400], &events[400..401], &events[401..404]] {
            at += 2000;
            spool.append(batch(Stream::Events, at, records)).await.expect("taken");
            written.extend(records.iter().map(|record| (at, record.clone())));
        }
        spool.append(batch(Stream::Stats, at, &stats[round * 3..round * 3 + 3])).await.expect("taken");
    }
    let node_rooms = vec![b"\x0a\x04ND_1\x10\x07".to_vec()];
    spool.append(batch(Stream::NodeRooms, at, &node_rooms)).await.expect("taken");
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
    spool.append(batch(Stream::Stats, at, &stats[100..102])).await.expect("taken");
    spool.close().await;
    let done = |ordinal: u64| ordinal < 410 || (500..700).contains(&ordinal) || ordinal == 450 || ordinal == 451;
    let to_deliver = written.into_iter().zip(0..).filter(|(_, ordinal)| !done(*ordinal));
    let stats = stats[100..102].iter().zip(18..).map(|(record, ordinal)| (ordinal, at, record.clone()));
    BTreeMap::from([
        (Stream::Events, to_deliver.map(|((at, record), ordinal)| (ordinal, at, record)).collect()),
        (Stream::Stats, stats.collect()),
        (Stream::NodeRooms, vec![(0, at, node_rooms[0].clone())]),
    ])
}

/// What the Python reader says is to be delivered, and how many damaged bytes it met.
fn second_reader(folder: &Path) -> (Expected, u64) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spool_reader.py");
    let dictionary = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spool/dictionary-1.zstd");
    let output = Command::new("python3")
        .args([script.as_os_str(), folder.join("journal").as_os_str(), dictionary.as_os_str()])
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines: Vec<&str> = text.lines().collect();
    let summary: serde_json::Value = serde_json::from_str(lines.pop().expect("a summary")).expect("JSON");
    let mut records = Expected::new();
    for line in lines {
        let (stream, ordinal, at, hex): (String, u64, i64, String) = serde_json::from_str(line).expect("a record");
        let digits: Vec<char> = hex.chars().collect();
        let bytes = digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).expect("hex"));
        records.entry(stream.parse().expect("a stream")).or_default().push((ordinal, at, bytes.collect()));
    }
    (records, summary["damaged_bytes"].as_u64().expect("a number"))
}

fn peeked(spool: &StoppedSpool) -> Expected {
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
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
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
    let folder = tempfile::tempdir().expect("a folder");
    let expected = write(folder.path(), Compression::None).await;
    assert_eq!(second_reader(folder.path()), (expected, 0));
}

#[tokio::test]
async fn a_second_reader_reads_a_compressed_spool() {
    let folder = tempfile::tempdir().expect("a folder");
    let expected = write(folder.path(), Compression::default()).await;
    assert_eq!(second_reader(folder.path()), (expected, 0));
}

#[tokio::test]
async fn a_second_reader_steps_over_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let expected = write(folder.path(), Compression::None).await;
    let newest = fs::read_dir(folder.path().join("journal")).expect("a folder").map(|entry| entry.expect("one").path());
    let path = newest.max().expect("a segment");
    let mut bytes = fs::read(&path).expect("a segment");
    let at = bytes.windows(4).rposition(|window| window == b"LKSB").expect("a block");
    let cut = &bytes.split_off(at)[..20];
    fs::write(&path, [&bytes, cut].concat()).expect("written");
    let (found, damaged) = second_reader(folder.path());
    assert_eq!(damaged, 20);
    assert_eq!(found[&Stream::Events], expected[&Stream::Events]);
}

/// A spool written now holds what the fixture holds. To keep one for a new format version:
/// `LIVEKIT_SPOOL_KEEP_FIXTURE=tests/data/format-N cargo test --test spool_format fixture`.
#[tokio::test]
async fn the_fixture_is_made_like_this() {
    let folder = tempfile::tempdir().expect("a folder");
    let expected = write(folder.path(), Compression::default()).await;
    if let Some(keep) = std::env::var_os(KEEP_IN) {
        copy(folder.path(), Path::new(&keep));
    }
    let spool = StoppedSpool::look(folder.path(), options(Compression::default())).expect("readable");
    assert_eq!(peeked(&spool), expected);
    let fixture = StoppedSpool::look(&data("format-1"), options(Compression::default())).expect("readable");
    assert_eq!(peeked(&fixture), expected);
}

#[tokio::test]
async fn a_spool_of_format_version_1_is_read_and_gone_on_with() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&data("format-1"), folder.path());
    let report = verify(folder.path(), options(Compression::default())).expect("readable");
    assert!(report.is_sound() && report.findings.is_empty(), "{:?}", report.findings);
    let expected = peeked(&StoppedSpool::look(folder.path(), options(Compression::default())).expect("readable"));
    assert_eq!(second_reader(folder.path()).0, expected);

    let spool = Spool::open(folder.path(), options(Compression::default())).expect("opens");
    let status = spool.status();
    let events = &status.streams[&Stream::Events];
    assert_eq!((events.delivered, events.set_aside, events.dead_letters), (610, 2, 1));
    assert_eq!(status.streams[&Stream::Stats].dropped[&DropReason::Purged], 18);
    let letters = spool.dead_letters(&DeadFilter::default(), 0, 10).expect("readable");
    assert_eq!((letters[0].reason.as_str(), letters[0].attempts), ("number 450 is too odd", 3));
    assert_eq!(letters[0].first_attempt_at, RECEIVED_AT + 1);

    spool.append(batch(Stream::Events, RECEIVED_AT, &[b"new".to_vec()])).await.expect("taken");
    let mut taken = Expected::new();
    let all = LeaseLimit { records: usize::MAX, bytes: usize::MAX };
    for stream in Stream::ALL {
        while let Some(lease) = spool.lease(stream, all).expect("readable") {
            let records =
                lease.records.into_iter().map(|record| (record.seq, record.received_at, record.bytes.to_vec()));
            taken.entry(stream).or_default().extend(records);
        }
    }
    assert_eq!(taken.get_mut(&Stream::Events).and_then(Vec::pop), Some((6 * 404, RECEIVED_AT, b"new".to_vec())));
    assert_eq!(taken, expected);
    spool.close().await;
}
