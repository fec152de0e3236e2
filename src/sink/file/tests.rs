//! The file sink on a real directory.

mod faults;
mod load_delivered;
mod others;

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use bytes::Bytes;
use livekit_protocol::AnalyticsEvent;
use prost::Message;

use super::{
    FileCompression, FileOptions, FileSink,
    names::{name_of, time_of_name},
    output::{Disk, Output, RealDisk},
};
use crate::{
    document::{DocumentOptions, Encoder},
    record::{QueuedRecord, Stream, now_millis},
    sink::{
        Batch, BatchOutcome, Outcome, Sink, SinkErrorKind,
        encoding::{PART_BYTES, small_records_of_large_documents},
    },
};

fn events(range: std::ops::Range<u64>) -> Batch {
    let record = |seq| {
        let event = AnalyticsEvent { id: format!("AE_{seq}"), room_id: "RM_x".into(), ..Default::default() };
        QueuedRecord { seq, received_at: 0, bytes: Bytes::from(event.encode_to_vec()) }
    };
    Batch { stream: Stream::Events, records: range.map(record).collect() }
}

fn options(directory: &Path) -> FileOptions {
    FileOptions { path: directory.to_owned(), ..FileOptions::default() }
}

async fn open(options: FileOptions) -> FileSink {
    open_on(options, RealDisk).await
}

async fn open_on(options: FileOptions, disk: impl Disk + 'static) -> FileSink {
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let sink = FileSink::on(options, encoder, Arc::new(disk)).expect("options");
    sink.initialize().await.expect("a directory");
    sink
}

/// Files of events, oldest first.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).expect("directory").map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("events-")));
    files.sort();
    files
}

fn text(path: &Path) -> String {
    let mut text = String::new();
    let file = fs::File::open(path).expect("file");
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => flate2::read::GzDecoder::new(file).read_to_string(&mut text),
        Some("zst") => zstd::Decoder::new(file).expect("zstd").read_to_string(&mut text),
        _ => io::BufReader::new(file).read_to_string(&mut text),
    }
    .expect("UTF-8");
    text
}

/// The `_id`s of all lines, each of which must be a whole JSON document.
fn ids(directory: &Path) -> Vec<String> {
    let lines: String = files(directory).iter().map(|path| text(path)).collect();
    let id = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a whole line of JSON");
        line["_id"].as_str().expect("_id").to_owned()
    };
    lines.lines().map(id).collect()
}

fn numbered(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|i| format!("AE_{i}")).collect()
}

fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|i| format!("{{\"_id\":\"AE_{i}\",\"room\":{{\"sid\":\"RM_x\"}}}}\n")).collect()
}

fn all_delivered(outcome: &BatchOutcome) -> bool {
    outcome.records.iter().all(|outcome| *outcome == Outcome::Delivered)
}

#[tokio::test]
async fn lines_are_documents_in_the_order_of_the_queue() {
    let directory = tempfile::tempdir().expect("directory");
    let sink = open(options(directory.path())).await;
    for at in 0..5 {
        assert!(all_delivered(&sink.send_batch(events(at * 100..at * 100 + 100)).await));
    }
    assert_eq!(ids(directory.path()), numbered(0..500));
    assert_eq!(files(directory.path()).len(), 1);
}

#[tokio::test]
async fn a_torn_last_line_is_cut_and_what_is_redelivered_is_not_written_twice() {
    let directory = tempfile::tempdir().expect("directory");
    open(options(directory.path())).await.send_batch(events(0..100)).await;
    let file = files(directory.path()).pop().expect("a file");
    let whole = fs::metadata(&file).expect("file").len();
    fs::OpenOptions::new().write(true).open(&file).expect("file").set_len(whole - 5).expect("torn");
    let sink = open(options(directory.path())).await;
    assert_eq!(ids(directory.path()), numbered(0..99));
    assert!(all_delivered(&sink.send_batch(events(50..150)).await));
    assert_eq!(ids(directory.path()), numbered(0..150));
    assert_eq!(files(directory.path()), [file], "the same file is continued");
}

#[tokio::test]
async fn what_is_redelivered_is_found_in_closed_files_too_compressed_or_not() {
    for compression in [FileCompression::None, FileCompression::Gzip, FileCompression::Zstd] {
        let directory = tempfile::tempdir().expect("directory");
        let options = FileOptions { rotate_bytes: 4096, compression, ..options(directory.path()) };
        let sink = open(options.clone()).await;
        for at in 0..10 {
            assert!(all_delivered(&sink.send_batch(events(at * 100..at * 100 + 100)).await));
        }
        sink.inner.compress_closed();
        sink.close().await;
        assert!(files(directory.path()).len() >= 10);
        assert!(files(directory.path()).iter().all(|path| path.to_string_lossy().ends_with(compression.suffix())));
        let sink = open(options).await;
        assert!(all_delivered(&sink.send_batch(events(0..1001)).await));
        assert_eq!(ids(directory.path()), numbered(0..1001), "{compression:?}");
    }
}

#[tokio::test]
async fn an_old_file_is_closed_and_compressed_without_another_record() {
    let directory = tempfile::tempdir().expect("directory");
    let (rotate_age, compression) = (Duration::from_millis(50), FileCompression::Gzip);
    let sink = open(FileOptions { rotate_age, compression, ..options(directory.path()) }).await;
    sink.send_batch(events(0..10)).await;
    for _ in 0..1000 {
        if files(directory.path()).iter().all(|path| path.to_string_lossy().ends_with(".ndjson.gz")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(files(directory.path())[0].to_string_lossy().ends_with(".ndjson.gz"));
    assert_eq!(ids(directory.path()), numbered(0..10));
}

#[tokio::test]
async fn what_a_crash_left_half_compressed_is_compressed_again() {
    let directory = tempfile::tempdir().expect("directory");
    let zipped = FileOptions { rotate_bytes: 1, compression: FileCompression::Zstd, ..options(directory.path()) };
    open(options(directory.path())).await.send_batch(events(0..10)).await;
    let file = files(directory.path()).pop().expect("a file");
    fs::write(file.with_extension("ndjson.zst.tmp"), b"half").expect("file");
    let sink = open(zipped).await;
    sink.send_batch(events(10..20)).await;
    sink.inner.compress_closed();
    let names: Vec<String> = files(directory.path()).iter().map(|path| path.to_string_lossy().into_owned()).collect();
    assert!(names.iter().all(|name| name.ends_with(".ndjson.zst")), "{names:?}");
    assert_eq!(ids(directory.path()), numbered(0..20));
}

#[tokio::test]
async fn a_record_that_makes_no_document_is_rejected_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let sink = open(options(directory.path())).await;
    let mut records = events(0..3).records.to_vec();
    records[1].bytes = Bytes::from_static(&[0xFF; 3]);
    let outcome = sink.send_batch(Batch { stream: Stream::Events, records: records.into() }).await;
    assert!(matches!(outcome.records[..], [Outcome::Delivered, Outcome::Rejected(_), Outcome::Delivered]));
    assert_eq!(ids(directory.path()), ["AE_0", "AE_2"]);
}

#[tokio::test]
async fn a_file_that_someone_removed_is_created_again() {
    let directory = tempfile::tempdir().expect("directory");
    let sink = open(options(directory.path())).await;
    sink.send_batch(events(0..10)).await;
    fs::remove_file(&files(directory.path())[0]).expect("removed");
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(ids(directory.path()), numbered(10..20));
}

#[tokio::test]
async fn a_second_sink_does_not_write_into_the_same_directory() {
    let directory = tempfile::tempdir().expect("directory");
    let first = open(options(directory.path())).await;
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let second = FileSink::new(options(directory.path()), encoder).expect("options");
    let error = second.initialize().await.expect_err("in use");
    assert!(error.message.contains("another sink or process"), "{error}");
    first.close().await;
    second.initialize().await.expect("free now");
}

#[tokio::test]
async fn no_second_sink_opens_a_directory_while_its_files_are_compressed() {
    let directory = tempfile::tempdir().expect("directory");
    let first = Arc::new(open(options(directory.path())).await);
    first.send_batch(events(0..10)).await;
    let (inner, (end, ended), (begin, begun)) = (Arc::clone(&first.inner), mpsc::channel(), mpsc::channel());
    let compressing = std::thread::spawn(move || {
        let _compressing = inner.compressing.lock();
        begin.send(()).expect("awaited");
        ended.recv().expect("the signal to end");
    });
    begun.recv().expect("begun");
    let closing = tokio::spawn({
        let first = Arc::clone(&first);
        async move { first.close().await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let second = FileSink::new(options(directory.path()), encoder).expect("options");
    let error = second.initialize().await.expect_err("in use");
    assert!(error.message.contains("another sink or process"), "{error}");
    end.send(()).expect("awaited");
    compressing.join().expect("ended");
    closing.await.expect("closed");
    second.initialize().await.expect("free now");
}

#[tokio::test]
async fn a_sink_that_closes_begins_to_compress_no_other_file() {
    let directory = tempfile::tempdir().expect("directory");
    let sink = open(FileOptions { compression: FileCompression::Gzip, ..options(directory.path()) }).await;
    fs::write(directory.path().join(format!("events-{}.ndjson", name_of(1_000))), lines(0..10)).expect("written");
    sink.inner.closing.store(true, Ordering::Relaxed);
    sink.inner.compress_closed();
    assert!(files(directory.path())[0].to_string_lossy().ends_with(".ndjson"));
}

#[test]
fn names_hold_the_time_they_were_made() {
    let at = 1_763_773_323_456;
    assert_eq!(name_of(at), "20251122T010203.456Z");
    assert_eq!(time_of_name(&name_of(at)), Some(at));
    for other in ["", "20251122T010203.456", "2025112aT010203.456Z", "20251122T010203.456Zx", "99999999T999999.999Z"] {
        assert_eq!(time_of_name(other), None, "{other}");
    }
}
