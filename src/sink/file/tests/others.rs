//! Other programs in the sink's directory: a rotation that empties the file, malicious links, leftovers.

use std::os::unix::fs::{MetadataExt, symlink};

use super::{
    faults::{Faults, FaultyDisk},
    *,
};
use crate::sink::file::closed;

#[tokio::test]
async fn a_file_that_someone_emptied_is_gone_on_with_and_holds_no_nul() {
    let directory = tempfile::tempdir().expect("directory");
    let sink = open(options(directory.path())).await;
    let mut next = 0;
    let mut written = |records: u64| {
        next += records;
        events(next - records..next)
    };
    assert!(all_delivered(&sink.send_batch(written(500)).await));
    let file = files(directory.path()).remove(0);
    fs::OpenOptions::new().write(true).truncate(true).open(&file).expect("emptied");
    assert!(all_delivered(&sink.send_batch(written(3)).await));
    assert_eq!((ids(directory.path()), files(directory.path()).len()), (numbered(500..503), 1));
    // Emptied, followed by a batch that fails.
    fs::OpenOptions::new().write(true).truncate(true).open(&file).expect("emptied");
    assert!(all_delivered(&sink.send_batch(written(1)).await));
    assert_eq!(ids(directory.path()), numbered(503..504));
    assert!(!fs::read(&file).expect("file").contains(&0));
    // Cut within a line: the next line does not continue the partial one.
    fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(7)).expect("cut");
    assert!(all_delivered(&sink.send_batch(written(2)).await));
    let last = files(directory.path()).pop().expect("a new file");
    assert!(last != file && text(&last).lines().count() == 2);
}

#[tokio::test]
async fn after_a_failed_batch_an_emptied_file_is_not_made_longer() {
    let directory = tempfile::tempdir().expect("directory");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(directory.path()), FaultyDisk(Arc::clone(&faults))).await;
    assert!(all_delivered(&sink.send_batch(events(0..500)).await));
    let file = files(directory.path()).remove(0);
    fs::OpenOptions::new().write(true).truncate(true).open(&file).expect("emptied");
    faults.appends.store(1, Ordering::SeqCst);
    assert!(!all_delivered(&sink.send_batch(events(500..501)).await));
    assert!(all_delivered(&sink.send_batch(events(500..501)).await));
    assert!(!files(directory.path()).iter().any(|file| fs::read(file).expect("file").contains(&0)));
}

#[tokio::test]
async fn a_file_that_is_not_compressed_leaves_no_unfinished_file() {
    let directory = tempfile::tempdir().expect("directory");
    for (compression, suffix) in [(FileCompression::Gzip, ".gz"), (FileCompression::Zstd, ".zst")] {
        let path = directory.path().join("events-20261122T010203.456Z.ndjson");
        fs::write(&path, "{}\n").expect("written");
        // Blocks the last step.
        let finished = PathBuf::from(format!("{}{suffix}", path.display()));
        fs::create_dir_all(finished.join("in-the-way")).expect("made");
        closed::compress(&path, compression).expect_err("the name is in use");
        assert!(path.exists() && !PathBuf::from(format!("{}.tmp", finished.display())).exists(), "{suffix}");
    }
}

#[tokio::test]
async fn planted_links_are_neither_written_nor_read_nor_emptied() {
    let (directory, elsewhere) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
    let precious = elsewhere.path().join("precious");
    fs::write(&precious, "precious").expect("written");
    // The newest file, an old one, an unfinished one.
    for name in ["events-20991122T010203.456Z.ndjson", "events-20200101T000000.000Z.ndjson.gz"] {
        symlink(&precious, directory.path().join(name)).expect("link");
    }
    let old = directory.path().join("events-20210101T000000.000Z.ndjson");
    fs::write(&old, "{\"_id\":\"AE_old\"}\n").expect("written");
    let options = FileOptions { compression: FileCompression::Gzip, ..options(directory.path()) };
    let sink = open(options.clone()).await;
    symlink(&precious, format!("{}.gz.tmp", old.display())).expect("link");
    closed::compress(&old, FileCompression::Gzip).expect("compressed");
    assert!(all_delivered(&sink.send_batch(events(0..10)).await));
    sink.close().await;
    assert_eq!(fs::read(&precious).expect("file"), b"precious");
    let made = directory.path().join("events-20210101T000000.000Z.ndjson.gz");
    assert!(fs::symlink_metadata(&made).is_ok_and(|made| made.is_file()) && text(&made).contains("AE_old"));

    let lock = directory.path().join(crate::sink::file::LOCK);
    fs::remove_file(&lock).expect("removed");
    symlink(&precious, &lock).expect("link");
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let error = FileSink::new(options, encoder).expect("options").initialize().await.expect_err("a link");
    assert!(error.message.contains("symbolic link"), "{error}");
    assert_eq!(fs::metadata(&precious).expect("file").size(), 8);
}
