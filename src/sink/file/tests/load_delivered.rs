//! A queue that was rebuilt redelivers all records that it still holds.

use super::*;

/// More lines than the sink remembers, in an open file and in closed ones, compressed or not.
const MANY: u64 = 300_000;

fn write_many(directory: &Path, at: i64) {
    let name = |at: i64, suffix| directory.join(format!("events-{}.ndjson{suffix}", name_of(at)));
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
async fn after_it_loaded_what_it_delivered_no_line_is_written_twice_however_many_are_redelivered() {
    let directory = tempfile::tempdir().expect("directory");
    let began = now_millis();
    write_many(directory.path(), began);
    let sink = open(options(directory.path())).await;
    sink.load_delivered(began).await.expect("readable");
    deliver_all(&sink, MANY + 10).await;
    let mut ids = ids(directory.path());
    assert_eq!(ids.len() as u64, MANY + 10);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, MANY + 10);
}

#[tokio::test]
async fn it_reads_no_file_that_was_written_before() {
    let directory = tempfile::tempdir().expect("directory");
    let (day, now) = (86_400_000, now_millis());
    let file = |at: i64, lines: &str| {
        let path = directory.path().join(format!("events-{}.ndjson", name_of(at)));
        fs::write(&path, lines).expect("written");
        let modified = std::time::UNIX_EPOCH + Duration::from_millis(at as u64 + 3_600_000);
        fs::File::options().write(true).open(path).and_then(|file| file.set_modified(modified)).expect("a time");
    };
    let newer = lines(100..200_000);
    for (at, lines) in [(now - 3 * day, &*lines(0..10)), (now - 2 * day, &*lines(10..100)), (now - day, &newer)] {
        file(at, lines);
    }
    let seen = |since: i64| {
        let directory = directory.path();
        async move {
            let sink = open(options(directory)).await;
            sink.load_delivered(since).await.expect("readable");
            let file = sink.inner.streams[&Stream::Events].lock();
            let file = file.as_ref().expect("in use");
            [0, 10, 100].map(|i| file.has(&format!("AE_{i}")))
        }
    };
    assert_eq!(seen(now - day / 2).await, [false, false, true]);
    assert_eq!(seen(now - day).await, [false, true, true], "the one before: its last line may be as young");
    assert_eq!(seen(now - 3 * day).await, [true; 3]);
    assert_eq!(seen(now + day).await, [true; 3], "the clock was wrong when they came");
    assert_eq!(seen(i64::MAX).await, [false; 3], "none may be redelivered");
}

#[tokio::test]
async fn a_directory_that_someone_removed_has_no_lines_to_load() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("out");
    let sink = open(options(&path)).await;
    sink.send_batch(events(0..10)).await;
    fs::remove_dir_all(&path).expect("removed");
    sink.load_delivered(0).await.expect("nothing to load");
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(ids(&path), numbered(10..20));
}
