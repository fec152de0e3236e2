//! The status of a spool, as `backlog`, the status page and the metrics show it.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    journal::segment,
    reports::LastError,
    shared::{DiskBytes, Shared},
    store::Store,
    totals::{ByteTotals, DropReason},
};
use crate::histogram::HistogramSnapshot;
use crate::record::{Stream, UnixMillis, now_millis};

/// A snapshot of one spool. Records are counted as they arrive and leave; nothing is scanned for it.
#[derive(Debug, Clone)]
pub struct SpoolStatus {
    /// The sink's name.
    pub sink: String,
    /// Each stream's queue.
    pub streams: BTreeMap<Stream, StreamStatus>,
    /// Bytes on disk: journal, queue and dead letters together (what `max_bytes` limits).
    pub disk_bytes: u64,
    /// The same by part.
    pub disk: DiskBytes,
    /// The limit on `disk_bytes`.
    pub max_bytes: u64,
    /// Free on the disk, as last measured.
    pub free_bytes: u64,
    /// Journal segments.
    pub segments: u64,
    /// The segments that could not be read at their last attempt. Their records are not all included in `streams`.
    pub unread_segments: u64,
    /// Which segments, and the consequence; `None` if there are none.
    pub unread_error: Option<String>,
    /// The segments of the dead letters that could not be read at their last attempt, and the consequence; `None` if
    /// there are none.
    pub unread_dead_letters: Option<String>,
    /// What happens to new records.
    pub writer: WriterState,
    /// Whether the queue is on disk; it is in memory while the disk is full or the queue's files fail.
    pub queue_on_disk: bool,
    /// How often the queue's files failed since the start; each failure leaks some memory until the next start.
    pub queue_failures: u64,
    /// The last error since the start, if any.
    pub last_error: Option<LastError>,
    /// How long the journal's syncs took, seconds, since the start.
    pub sync_latency: HistogramSnapshot,
    /// Records per sync.
    pub sync_records: HistogramSnapshot,
}

/// One stream's queue. JSON uses the fields' names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Records to be delivered.
    pub records: u64,
    /// Journal blocks that contain them.
    pub blocks: u64,
    /// Bytes of these blocks on disk.
    pub bytes: u64,
    /// Those of these records that are leased and not yet acknowledged.
    #[serde(skip)]
    pub in_flight: u64,
    /// When the first of them was received; `None` without records.
    pub oldest_received_at: Option<UnixMillis>,
    /// Its age in seconds; never negative, and without the wall clock's jumps since the start.
    pub oldest_age_seconds: Option<f64>,
    /// Dead letters.
    pub dead_letters: u64,
    /// Delivered since the spool was created.
    pub delivered: u64,
    /// Dead-lettered since the spool was created.
    pub dead_lettered: u64,
    /// Dropped since the spool was created, by reason; absent means none. The damaged ones include the dead letters
    /// that are known to be lost to damage.
    #[serde(serialize_with = "in_the_order_of_names")]
    pub dropped: BTreeMap<DropReason, u64>,
    /// Bytes that arrived and left since the process started.
    pub byte_totals: ByteTotals,
    /// The sequence number of the first record to be delivered.
    #[serde(skip)]
    pub head: u64,
    /// The sequence number of the next record.
    #[serde(skip)]
    pub next: u64,
}

fn in_the_order_of_names<S: Serializer>(dropped: &BTreeMap<DropReason, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    let named: BTreeMap<&str, u64> = dropped.iter().map(|(reason, records)| (reason.as_str(), *records)).collect();
    named.serialize(serializer)
}

/// What happens to new records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterState {
    /// They are accepted.
    Taking,
    /// A limit is reached.
    Full,
    /// The journal cannot be written: see the last error.
    Failed,
    /// The spool is not open.
    Stopped,
}

impl SpoolStatus {
    /// All streams together.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.streams.values().map(|stream| stream.records).sum()
    }

    /// Dead letters of all streams.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.streams.values().map(|stream| stream.dead_letters).sum()
    }
}

/// The status of a spool, open or inspected from outside.
pub(crate) fn of(shared: &Shared) -> SpoolStatus {
    let now = now_millis();
    let streams = Stream::ALL.map(|stream| (stream, stream_status(shared, stream, now)));
    let (queue_on_disk, queue_failures) = shared.queue_health();
    let segments = shared.store.state.lock().segments.len() as u64;
    let unread = shared.store.unread_segments();
    SpoolStatus {
        sink: shared.options.name.clone(),
        streams: streams.into(),
        disk_bytes: shared.used(),
        disk: shared.disk_bytes(),
        max_bytes: shared.options.max_bytes,
        free_bytes: shared.usage.free.load(Ordering::Relaxed),
        segments,
        unread_segments: unread.len() as u64,
        unread_error: unread_error(&shared.store, &unread),
        unread_dead_letters: unread_dead_letters(shared.dead.store()),
        writer: match shared.admit(0) {
            _ if shared.inbox.lock().closing => WriterState::Stopped,
            _ if shared.failing.load(Ordering::Relaxed) => WriterState::Failed,
            Ok(_) => WriterState::Taking,
            Err(_) => WriterState::Full,
        },
        queue_on_disk,
        queue_failures,
        last_error: shared.reports.last(),
        sync_latency: shared.meters.sync_latency.snapshot(),
        sync_records: shared.meters.sync_records.snapshot(),
    }
}

/// Records that cannot be read are not known to be delivered: the other records must not be mistaken for all there are.
fn unread_error(store: &Store, unread: &[u64]) -> Option<String> {
    let (paths, its, they) = named(store, unread)?;
    Some(format!(
        "{paths} cannot be read now: {its} records are not all counted, and are delivered when {they} can be read"
    ))
}

/// The same for dead letters: those that are listed must not be mistaken for all there are.
pub(crate) fn unread_dead_letters(dead: &Store) -> Option<String> {
    let (paths, its, they) = named(dead, &dead.unread_segments())?;
    Some(format!(
        "{paths} cannot be read now: {its} dead letters are not all counted or listed, and stay until {they} can be read"
    ))
}

/// Segments in words: which, "its" or "their", "it" or "they".
fn named(store: &Store, segments: &[u64]) -> Option<(String, &'static str, &'static str)> {
    let first = segment::path(&store.journal(), *segments.first()?).display().to_string();
    Some(match segments.len() - 1 {
        0 => (first, "its", "it"),
        1 => (format!("{first} and another segment"), "their", "they"),
        more => (format!("{first} and {more} other segments"), "their", "they"),
    })
}

fn stream_status(shared: &Shared, stream: Stream, now: UnixMillis) -> StreamStatus {
    let (dead_letters, lost_dead_letters) = (shared.dead.count(stream), shared.dead.lost(stream));
    let state = shared.store.state.lock();
    let of_stream = &state.streams[stream as usize];
    let mut dropped = of_stream.totals.dropped.clone();
    if lost_dead_letters > 0 {
        *dropped.entry(DropReason::Damaged).or_default() += lost_dead_letters;
    }
    StreamStatus {
        records: of_stream.records,
        blocks: of_stream.size.blocks,
        bytes: of_stream.size.bytes,
        in_flight: of_stream.leased.len(),
        oldest_received_at: of_stream.oldest,
        oldest_age_seconds: of_stream.oldest.map(|at| now.saturating_sub(at).max(0) as f64 / 1000.0),
        dead_letters,
        delivered: of_stream.totals.delivered,
        dead_lettered: of_stream.totals.dead_lettered,
        dropped,
        byte_totals: of_stream.byte_totals.clone(),
        head: of_stream.ack_floor,
        next: of_stream.next,
    }
}
