//! What the spool promises, over real files.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{store::Store, *};
use crate::record::{QueuedRecord, RecordBatchBuilder, now_millis};

mod basics;
mod checking;
mod damage;
mod dead_letters;
mod dead_letters_attack;
mod dead_letters_model;
mod displaced;
mod dropping;
mod fronts;
mod histories;
mod inspecting;
mod limits;
mod lost_dead_letters;
mod memory;
mod panics;
mod planted;
mod private;
mod queue_faults;
mod simulation;
mod space;
mod torn;

fn options() -> SpoolOptions {
    SpoolOptions { name: "test".into(), min_free_bytes: 0, ..SpoolOptions::default() }
}

fn open(directory: &Path) -> Spool {
    Spool::open(directory, options()).expect("the spool opens")
}

/// A batch of records, each of which says its number.
fn batch(stream: Stream, numbers: Range<u64>) -> RecordBatch {
    batch_of(stream, numbers.map(record))
}

fn batch_of(stream: Stream, records: impl Iterator<Item = String>) -> RecordBatch {
    let mut builder = RecordBatchBuilder::new(stream);
    records.for_each(|record| builder.push(record.as_bytes()));
    builder.build(now_millis())
}

/// Makes batches durable as one group.
fn append_together(store: &Store, batches: &[RecordBatch]) {
    let group = store.pack(batches, false).expect("packed");
    store.commit(group, |_| Ok(u64::MAX)).expect("accepted");
}

fn record(number: u64) -> String {
    format!("record {number} of many that look alike")
}

fn big_batch(numbers: Range<u64>) -> RecordBatch {
    batch_of(Stream::Events, numbers.map(big_record))
}

fn big_record(number: u64) -> String {
    format!("{} {}", record(number), "y".repeat(1000))
}

const ALL: LeaseLimit = LeaseLimit { records: usize::MAX, bytes: usize::MAX };

fn limit(records: usize) -> LeaseLimit {
    LeaseLimit { records, bytes: usize::MAX }
}

/// Takes all that is waiting; the contents, in order.
fn lease_all(spool: &Spool, stream: Stream) -> Vec<QueuedRecord> {
    let mut records = Vec::new();
    while let Some(lease) = spool.lease(stream, ALL).expect("the journal is readable") {
        records.extend(lease.records);
    }
    records
}

fn texts(records: &[QueuedRecord]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect()
}

fn expected(numbers: Range<u64>) -> Vec<String> {
    numbers.map(record).collect()
}

/// Polls until it holds; a generous deadline turns a hang into a failure.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

/// Copies a directory with all below it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        let target = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            fs::copy(&entry, &target).expect("a copy");
        }
    }
}

/// The files of a directory that hold something, by name.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && path.metadata().is_ok_and(|metadata| metadata.len() > 0))
        .collect();
    files.sort_unstable();
    files
}
