//! The file sink on a real folder, and on a disk that fails on demand.

mod others;

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use livekit_protocol::AnalyticsEvent;
use prost::Message;

use super::{
    Compression, FileOptions, FileSink,
    output::{Disk, Output, RealDisk},
    stream_file::{name_of, time_of_name},
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

fn options(folder: &Path) -> FileOptions {
    FileOptions { path: folder.to_owned(), ..FileOptions::default() }
}

async fn open(options: FileOptions) -> FileSink {
    open_on(options, RealDisk).await
}

async fn open_on(options: FileOptions, disk: impl Disk + 'static) -> FileSink {
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let sink = FileSink::on(options, encoder, Arc::new(disk)).expect("options");
    sink.initialize().await.expect("a folder");
    sink
}

/// Files of events, oldest first.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
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
fn ids(folder: &Path) -> Vec<String> {
    let lines: String = files(folder).iter().map(|path| text(path)).collect();
    let id = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a whole line of JSON");
        line["_id"].as_str().expect("_id").to_owned()
    };
    lines.lines().map(id).collect()
}

fn numbered(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|i| format!("AE_{i}")).collect()
}

fn all_delivered(outcome: &BatchOutcome) -> bool {
    outcome.records.iter().all(|outcome| *outcome == Outcome::Delivered)
}

#[tokio::test]
async fn lines_are_documents_in_the_order_of_the_queue() {
    let folder = tempfile::tempdir().expect("folder");
    let sink = open(options(folder.path())).await;
    for at in 0..5 {
        assert!(all_delivered(&sink.send_batch(events(at * 100..at * 100 + 100)).await));
    }
    assert_eq!(ids(folder.path()), numbered(0..500));
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test]
async fn a_torn_last_line_is_cut_and_what_comes_again_is_not_written_twice() {
    let folder = tempfile::tempdir().expect("folder");
    open(options(folder.path())).await.send_batch(events(0..100)).await;
    let file = files(folder.path()).pop().expect("a file");
    let whole = fs::metadata(&file).expect("file").len();
    fs::OpenOptions::new().write(true).open(&file).expect("file").set_len(whole - 5).expect("torn");
    let sink = open(options(folder.path())).await;
    assert_eq!(ids(folder.path()), numbered(0..99));
    assert!(all_delivered(&sink.send_batch(events(50..150)).await));
    assert_eq!(ids(folder.path()), numbered(0..150));
    assert_eq!(files(folder.path()), [file], "the same file goes on");
}

#[tokio::test]
async fn what_comes_again_is_found_in_closed_files_too_compressed_or_not() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let folder = tempfile::tempdir().expect("folder");
        let options = FileOptions { rotate_bytes: 4096, compression, ..options(folder.path()) };
        let sink = open(options.clone()).await;
        for at in 0..10 {
            assert!(all_delivered(&sink.send_batch(events(at * 100..at * 100 + 100)).await));
        }
        sink.inner.compress_closed();
        sink.close().await;
        assert!(files(folder.path()).len() >= 10);
        assert!(files(folder.path()).iter().all(|path| path.to_string_lossy().ends_with(compression.suffix())));
        let sink = open(options).await;
        assert!(all_delivered(&sink.send_batch(events(0..1001)).await));
        assert_eq!(ids(folder.path()), numbered(0..1001), "{compression:?}");
    }
}

#[tokio::test]
async fn an_old_file_is_closed_and_compressed_without_another_record() {
    let folder = tempfile::tempdir().expect("folder");
    let (rotate_age, compression) = (Duration::from_millis(50), Compression::Gzip);
    let sink = open(FileOptions { rotate_age, compression, ..options(folder.path()) }).await;
    sink.send_batch(events(0..10)).await;
    for _ in 0..1000 {
        if files(folder.path()).iter().all(|path| path.to_string_lossy().ends_with(".ndjson.gz")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(files(folder.path())[0].to_string_lossy().ends_with(".ndjson.gz"));
    assert_eq!(ids(folder.path()), numbered(0..10));
}

#[tokio::test]
async fn what_a_crash_left_half_compressed_is_compressed_again() {
    let folder = tempfile::tempdir().expect("folder");
    let zipped = FileOptions { rotate_bytes: 1, compression: Compression::Zstd, ..options(folder.path()) };
    open(options(folder.path())).await.send_batch(events(0..10)).await;
    let file = files(folder.path()).pop().expect("a file");
    fs::write(file.with_extension("ndjson.zst.tmp"), b"half").expect("file");
    let sink = open(zipped).await;
    sink.send_batch(events(10..20)).await;
    sink.inner.compress_closed();
    let names: Vec<String> = files(folder.path()).iter().map(|path| path.to_string_lossy().into_owned()).collect();
    assert!(names.iter().all(|name| name.ends_with(".ndjson.zst")), "{names:?}");
    assert_eq!(ids(folder.path()), numbered(0..20));
}

#[tokio::test]
async fn a_record_that_makes_no_document_is_rejected_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let sink = open(options(folder.path())).await;
    let mut records = events(0..3).records.to_vec();
    records[1].bytes = Bytes::from_static(&[0xFF; 3]);
    let outcome = sink.send_batch(Batch { stream: Stream::Events, records: records.into() }).await;
    assert!(matches!(outcome.records[..], [Outcome::Delivered, Outcome::Rejected(_), Outcome::Delivered]));
    assert_eq!(ids(folder.path()), ["AE_0", "AE_2"]);
}

#[tokio::test]
async fn a_file_that_someone_removed_is_begun_anew() {
    let folder = tempfile::tempdir().expect("folder");
    let sink = open(options(folder.path())).await;
    sink.send_batch(events(0..10)).await;
    fs::remove_file(&files(folder.path())[0]).expect("removed");
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(ids(folder.path()), numbered(10..20));
}

#[tokio::test]
async fn a_second_sink_does_not_write_into_the_same_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let first = open(options(folder.path())).await;
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let second = FileSink::new(options(folder.path()), encoder).expect("options");
    let error = second.initialize().await.expect_err("in use");
    assert!(error.message.contains("another sink or process"), "{error}");
    first.close().await;
    second.initialize().await.expect("free now");
}

#[tokio::test]
async fn no_second_sink_takes_up_a_folder_while_its_files_are_compressed() {
    let folder = tempfile::tempdir().expect("folder");
    let first = Arc::new(open(options(folder.path())).await);
    first.send_batch(events(0..10)).await;
    let (inner, (end, ended), (begin, begun)) = (Arc::clone(&first.inner), mpsc::channel(), mpsc::channel());
    let compressing = std::thread::spawn(move || {
        let _compressing = inner.compressing.lock();
        begin.send(()).expect("awaited");
        ended.recv().expect("told to end");
    });
    begun.recv().expect("begun");
    let closing = tokio::spawn({
        let first = Arc::clone(&first);
        async move { first.close().await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let second = FileSink::new(options(folder.path()), encoder).expect("options");
    let error = second.initialize().await.expect_err("in use");
    assert!(error.message.contains("another sink or process"), "{error}");
    end.send(()).expect("awaited");
    compressing.join().expect("ended");
    closing.await.expect("closed");
    second.initialize().await.expect("free now");
}

#[tokio::test]
async fn a_sink_that_closes_begins_to_compress_no_other_file() {
    let folder = tempfile::tempdir().expect("folder");
    let sink = open(FileOptions { compression: Compression::Gzip, ..options(folder.path()) }).await;
    fs::write(folder.path().join(format!("events-{}.ndjson", name_of(1_000))), lines(0..10)).expect("written");
    sink.inner.closing.store(true, Ordering::Relaxed);
    sink.inner.compress_closed();
    assert!(files(folder.path())[0].to_string_lossy().ends_with(".ndjson"));
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

/// What goes wrong, and how often still.
#[derive(Default)]
struct Faults {
    appends: AtomicU32,
    syncs: AtomicU32,
    cuts: AtomicU32,
    /// Bytes of the longest append.
    longest: AtomicUsize,
}

struct FaultyDisk(Arc<Faults>);

struct FaultyOutput {
    output: Box<dyn Output>,
    faults: Arc<Faults>,
}

fn fails(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(FaultyOutput { output: RealDisk.create(path)?, faults: Arc::clone(&self.0) }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(FaultyOutput { output: RealDisk.open(path)?, faults: Arc::clone(&self.0) }))
    }
}

impl Output for FaultyOutput {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if fails(&self.faults.appends) {
            self.output.append(&bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.faults.longest.fetch_max(bytes.len(), Ordering::SeqCst);
        self.output.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if fails(&self.faults.syncs) { Err(io::Error::other("sync failed")) } else { self.output.sync() }
    }

    fn len(&self) -> io::Result<u64> {
        self.output.len()
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        if fails(&self.faults.cuts) { Err(io::Error::other("cut failed")) } else { self.output.cut(bytes) }
    }

    fn is_linked(&self) -> bool {
        self.output.is_linked()
    }
}

#[tokio::test]
async fn a_full_disk_is_retry_and_leaves_no_half_line() {
    let folder = tempfile::tempdir().expect("folder");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(folder.path()), FaultyDisk(Arc::clone(&faults))).await;
    sink.send_batch(events(0..10)).await;
    faults.appends.store(3, Ordering::SeqCst);
    for _ in 0..3 {
        let outcome = sink.send_batch(events(10..20)).await;
        assert_eq!(outcome.records, vec![Outcome::Retry; 10]);
        let error = outcome.error.expect("a reason");
        assert!(error.kind == SinkErrorKind::Full && error.message.contains("make room"), "{error:?}");
        assert_eq!(ids(folder.path()), numbered(0..10));
    }
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(ids(folder.path()), numbered(0..20));
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test]
async fn documents_much_larger_than_their_records_are_written_a_part_at_a_time() {
    let folder = tempfile::tempdir().expect("folder");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(folder.path()), FaultyDisk(Arc::clone(&faults))).await;
    let batch = small_records_of_large_documents(150);
    let records: usize = batch.records.iter().map(|record| record.bytes.len()).sum();
    assert!(all_delivered(&sink.send_batch(batch).await));
    assert_eq!(ids(folder.path()), numbered(0..150));
    let (lines, longest) = (text(&files(folder.path())[0]).len(), faults.longest.load(Ordering::SeqCst));
    assert!(lines > 2 * PART_BYTES && lines > 20 * records, "{lines} bytes of {records}");
    assert!(longest < PART_BYTES + PART_BYTES / 4, "{longest} bytes at once");
}

#[tokio::test]
async fn a_batch_that_fails_in_its_last_part_leaves_nothing_of_the_others() {
    let folder = tempfile::tempdir().expect("folder");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(folder.path()), FaultyDisk(Arc::clone(&faults))).await;
    sink.send_batch(events(1000..1010)).await;
    let batch = small_records_of_large_documents(150);
    faults.syncs.store(1, Ordering::SeqCst);
    assert_eq!(sink.send_batch(batch.clone()).await.records, vec![Outcome::Retry; 150]);
    assert_eq!(ids(folder.path()), numbered(1000..1010));
    assert!(all_delivered(&sink.send_batch(batch).await));
    assert_eq!(ids(folder.path()), [numbered(1000..1010), numbered(0..150)].concat());
}

#[tokio::test]
async fn a_batch_that_nobody_waits_for_any_more_is_not_written_to_its_end() {
    let folder = tempfile::tempdir().expect("folder");
    let sink = open(options(folder.path())).await;
    sink.send_batch(events(1000..1010)).await;
    let batch = small_records_of_large_documents(150);
    let left = tokio::time::timeout(Duration::from_millis(1), sink.send_batch(batch.clone())).await;
    assert!(left.is_err(), "150 large documents within a millisecond");
    // The next one has its turn when that one has ended, and taken back what it had written.
    assert!(all_delivered(&sink.send_batch(events(1010..1020)).await));
    assert_eq!(ids(folder.path()), numbered(1000..1020));
}

#[tokio::test]
async fn after_a_failed_sync_the_file_is_left_and_a_new_one_begun() {
    let folder = tempfile::tempdir().expect("folder");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(folder.path()), FaultyDisk(Arc::clone(&faults))).await;
    sink.send_batch(events(0..10)).await;
    faults.syncs.store(1, Ordering::SeqCst);
    let outcome = sink.send_batch(events(10..20)).await;
    assert_eq!(outcome.records, vec![Outcome::Retry; 10]);
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(files(folder.path()).len(), 2);
    assert_eq!(ids(folder.path()), numbered(0..20));
}

#[tokio::test]
async fn where_half_a_line_cannot_be_cut_the_next_line_begins_in_a_new_file() {
    let folder = tempfile::tempdir().expect("folder");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(folder.path()), FaultyDisk(Arc::clone(&faults))).await;
    sink.send_batch(events(0..10)).await;
    faults.appends.store(1, Ordering::SeqCst);
    faults.cuts.store(1, Ordering::SeqCst);
    sink.send_batch(events(10..20)).await;
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(files(folder.path()).len(), 2);
    let second = text(&files(folder.path())[1]);
    assert!(second.starts_with(r#"{"_id":"AE_10""#) && second.lines().count() == 10, "{second}");
}

/// So many lines as no run remembers, in an open file and in closed ones, compressed or not.
const MANY: u64 = 300_000;

fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|i| format!("{{\"_id\":\"AE_{i}\",\"room\":{{\"sid\":\"RM_x\"}}}}\n")).collect()
}

fn write_many(folder: &Path, at: i64) {
    let name = |at: i64, suffix| folder.join(format!("events-{}.ndjson{suffix}", name_of(at)));
    let gzip = fs::File::create(name(at, ".gz")).expect("a file");
    let mut gzip = flate2::write::GzEncoder::new(gzip, flate2::Compression::fast());
    io::Write::write_all(&mut gzip, lines(0..100_000).as_bytes()).expect("written");
    gzip.finish().expect("written");
    fs::write(name(at + 1000, ".zst"), zstd::encode_all(lines(100_000..150_000).as_bytes(), 1).expect("zstd"))
        .expect("written");
    fs::write(name(at + 2000, ""), lines(150_000..200_000)).expect("written");
    fs::write(name(at + 3000, ""), lines(200_000..MANY)).expect("written");
}

async fn deliver_all(sink: &FileSink, records: u64) {
    for at in (0..records).step_by(5000) {
        assert!(all_delivered(&sink.send_batch(events(at..records.min(at + 5000))).await));
    }
}

#[tokio::test]
async fn after_it_looked_back_no_line_stands_twice_however_many_come_again() {
    let folder = tempfile::tempdir().expect("folder");
    let began = now_millis();
    write_many(folder.path(), began);
    let sink = open(options(folder.path())).await;
    sink.look_back(began).await.expect("readable");
    deliver_all(&sink, MANY + 10).await;
    let mut ids = ids(folder.path());
    assert_eq!(ids.len() as u64, MANY + 10);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, MANY + 10);
}

#[tokio::test]
async fn it_looks_into_no_file_that_was_written_before() {
    let folder = tempfile::tempdir().expect("folder");
    let (day, now) = (86_400_000, now_millis());
    let file = |at: i64, lines: &str| {
        let path = folder.path().join(format!("events-{}.ndjson", name_of(at)));
        fs::write(&path, lines).expect("written");
        let modified = std::time::UNIX_EPOCH + Duration::from_millis(at as u64 + 3_600_000);
        fs::File::options().write(true).open(path).and_then(|file| file.set_modified(modified)).expect("a time");
    };
    let newer = lines(100..200_000);
    for (at, lines) in [(now - 3 * day, &*lines(0..10)), (now - 2 * day, &*lines(10..100)), (now - day, &newer)] {
        file(at, lines);
    }
    let seen = |since: i64| {
        let folder = folder.path();
        async move {
            let sink = open(options(folder)).await;
            sink.look_back(since).await.expect("readable");
            let file = sink.inner.streams[&Stream::Events].lock();
            let file = file.as_ref().expect("in use");
            [0, 10, 100].map(|i| file.has(&format!("AE_{i}")))
        }
    };
    assert_eq!(seen(now - day / 2).await, [false, false, true]);
    assert_eq!(seen(now - day).await, [false, true, true], "the one before: its last line may be as young");
    assert_eq!(seen(now - 3 * day).await, [true; 3]);
    assert_eq!(seen(now + day).await, [true; 3], "the clock was wrong when they came");
    assert_eq!(seen(i64::MAX).await, [false; 3], "none may come again");
}

#[tokio::test]
async fn a_folder_that_someone_removed_holds_no_lines_to_look_back_at() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("out");
    let sink = open(options(&path)).await;
    sink.send_batch(events(0..10)).await;
    fs::remove_dir_all(&path).expect("removed");
    sink.look_back(0).await.expect("nothing to look at");
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(ids(&path), numbered(10..20));
}
