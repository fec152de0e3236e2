//! A disk that fails on demand: no record is delivered that is not durable, and no partial line is left.

use std::{
    io,
    sync::atomic::{AtomicU32, AtomicUsize},
};

use super::*;

/// What fails, and how many more times.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) appends: AtomicU32,
    pub(super) syncs: AtomicU32,
    pub(super) cuts: AtomicU32,
    /// Bytes of the longest append.
    longest: AtomicUsize,
}

pub(super) struct FaultyDisk(pub(super) Arc<Faults>);

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
    let directory = tempfile::tempdir().expect("directory");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(directory.path()), FaultyDisk(Arc::clone(&faults))).await;
    sink.send_batch(events(0..10)).await;
    faults.appends.store(3, Ordering::SeqCst);
    for _ in 0..3 {
        let outcome = sink.send_batch(events(10..20)).await;
        assert_eq!(outcome.records, vec![Outcome::Retry; 10]);
        let error = outcome.error.expect("a reason");
        assert!(error.kind == SinkErrorKind::Full && error.message.contains("free space"), "{error:?}");
        assert_eq!(ids(directory.path()), numbered(0..10));
    }
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(ids(directory.path()), numbered(0..20));
    assert_eq!(files(directory.path()).len(), 1);
}

#[tokio::test]
async fn documents_much_larger_than_their_records_are_written_a_part_at_a_time() {
    let directory = tempfile::tempdir().expect("directory");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(directory.path()), FaultyDisk(Arc::clone(&faults))).await;
    let batch = small_records_of_large_documents(150);
    let records: usize = batch.records.iter().map(|record| record.bytes.len()).sum();
    assert!(all_delivered(&sink.send_batch(batch).await));
    assert_eq!(ids(directory.path()), numbered(0..150));
    let (lines, longest) = (text(&files(directory.path())[0]).len(), faults.longest.load(Ordering::SeqCst));
    assert!(lines > 2 * PART_BYTES && lines > 20 * records, "{lines} bytes of {records}");
    assert!(longest < PART_BYTES + PART_BYTES / 4, "{longest} bytes at once");
}

#[tokio::test]
async fn a_batch_that_fails_in_its_last_part_leaves_nothing_of_the_others() {
    let directory = tempfile::tempdir().expect("directory");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(directory.path()), FaultyDisk(Arc::clone(&faults))).await;
    sink.send_batch(events(1000..1010)).await;
    let batch = small_records_of_large_documents(150);
    faults.syncs.store(1, Ordering::SeqCst);
    assert_eq!(sink.send_batch(batch.clone()).await.records, vec![Outcome::Retry; 150]);
    assert_eq!(ids(directory.path()), numbered(1000..1010));
    assert!(all_delivered(&sink.send_batch(batch).await));
    assert_eq!(ids(directory.path()), [numbered(1000..1010), numbered(0..150)].concat());
}

#[tokio::test]
async fn a_batch_that_nobody_waits_for_any_more_is_not_written_to_its_end() {
    let directory = tempfile::tempdir().expect("directory");
    let sink = open(options(directory.path())).await;
    sink.send_batch(events(1000..1010)).await;
    let batch = small_records_of_large_documents(150);
    let left = tokio::time::timeout(Duration::from_millis(1), sink.send_batch(batch.clone())).await;
    assert!(left.is_err(), "150 large documents within a millisecond");
    // The next one has its turn after this one has ended and removed what it had written.
    assert!(all_delivered(&sink.send_batch(events(1010..1020)).await));
    assert_eq!(ids(directory.path()), numbered(1000..1020));
}

#[tokio::test]
async fn after_a_failed_sync_the_file_is_left_and_a_new_one_begun() {
    let directory = tempfile::tempdir().expect("directory");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(directory.path()), FaultyDisk(Arc::clone(&faults))).await;
    sink.send_batch(events(0..10)).await;
    faults.syncs.store(1, Ordering::SeqCst);
    let outcome = sink.send_batch(events(10..20)).await;
    assert_eq!(outcome.records, vec![Outcome::Retry; 10]);
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(files(directory.path()).len(), 2);
    assert_eq!(ids(directory.path()), numbered(0..20));
}

#[tokio::test]
async fn where_half_a_line_cannot_be_cut_the_next_line_begins_in_a_new_file() {
    let directory = tempfile::tempdir().expect("directory");
    let faults = Arc::new(Faults::default());
    let sink = open_on(options(directory.path()), FaultyDisk(Arc::clone(&faults))).await;
    sink.send_batch(events(0..10)).await;
    faults.appends.store(1, Ordering::SeqCst);
    faults.cuts.store(1, Ordering::SeqCst);
    sink.send_batch(events(10..20)).await;
    assert!(all_delivered(&sink.send_batch(events(10..20)).await));
    assert_eq!(files(directory.path()).len(), 2);
    let second = text(&files(directory.path())[1]);
    assert!(second.starts_with(r#"{"_id":"AE_10""#) && second.lines().count() == 10, "{second}");
}
