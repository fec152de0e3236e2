//! What a spool holds, as `backlog`, the status page and the metrics show it. Serializes to JSON as the fields are named.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use serde::Serialize;

use super::{
    core::{Core, LastError},
    passed::PassedBytes,
    state::DropReason,
};
use crate::histogram::HistogramSnapshot;
use crate::record::{Stream, UnixMillis, now_millis};

/// A snapshot of one spool. Records are counted as they come and go; nothing is scanned for it.
#[derive(Debug, Clone, Serialize)]
pub struct SpoolStatus {
    /// The sink's name.
    pub sink: String,
    /// Each stream's queue.
    pub streams: BTreeMap<Stream, StreamStatus>,
    /// Bytes on disk: journal, queue and dead letters together (what `max_bytes` limits).
    pub disk_bytes: u64,
    /// The part of each.
    pub disk: DiskBytes,
    /// The limit on `disk_bytes`.
    pub max_bytes: u64,
    /// Free on the disk, as last seen.
    pub free_bytes: u64,
    /// Journal segments.
    pub segments: u64,
    /// What the writer does.
    pub writer: WriterState,
    /// What went wrong last, if anything did since the start.
    pub last_error: Option<LastError>,
    /// How long the journal's syncs took, seconds, since the start.
    pub sync_latency: HistogramSnapshot,
    /// Records that each of them made durable; none where it wrote notes alone.
    pub sync_records: HistogramSnapshot,
}

/// Bytes on disk, by part.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DiskBytes {
    /// Journal segments, what is reserved for the newest included.
    pub journal: u64,
    /// The sled folder.
    pub queue: u64,
    /// Dead letters.
    pub dead: u64,
    /// Copies of damaged bytes; outside `max_bytes`.
    pub quarantine: u64,
}

/// One stream's queue.
#[derive(Debug, Clone, Serialize)]
pub struct StreamStatus {
    /// Records to be delivered.
    pub records: u64,
    /// Journal blocks that hold them.
    pub blocks: u64,
    /// Bytes of these blocks on disk.
    pub bytes: u64,
    /// Of these records, how many are handed out and not yet acknowledged.
    pub in_flight: u64,
    /// When the first of them was received; `None` without records.
    pub oldest_received_at: Option<UnixMillis>,
    /// How long ago that was, in seconds; never negative, and no jump of the wall clock since the start is in it.
    pub oldest_age_seconds: Option<f64>,
    /// Dead letters.
    pub dead_letters: u64,
    /// Delivered since the spool was made.
    pub delivered: u64,
    /// Set aside since the spool was made.
    pub set_aside: u64,
    /// Dropped since the spool was made, by reason; absent means none.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Bytes that came, and what became of them, since the process started.
    pub passed_bytes: PassedBytes,
    /// The ordinal of the first record to be delivered.
    pub head: u64,
    /// The ordinal that the next record gets.
    pub next: u64,
}

/// What the writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WriterState {
    /// It takes records.
    Taking,
    /// A limit is reached.
    Full,
    /// The journal cannot be written: see `last_error`.
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

/// The status of a spool, open or only looked at.
pub(crate) fn of(core: &Core) -> SpoolStatus {
    let now = now_millis();
    let streams = Stream::ALL.map(|stream| (stream, stream_status(core, stream, now)));
    core.usage.dead.store(core.dead.bytes(), Ordering::Relaxed);
    SpoolStatus {
        sink: core.options.name.clone(),
        streams: streams.into(),
        disk_bytes: core.usage.total(),
        disk: core.usage.parts(),
        max_bytes: core.options.max_bytes,
        free_bytes: core.usage.free.load(Ordering::Relaxed),
        segments: core.books.lock().segments.len() as u64,
        writer: match core.admits(0) {
            _ if core.inbox.lock().closing => WriterState::Stopped,
            Ok(()) => WriterState::Taking,
            Err(_) => WriterState::Full,
        },
        last_error: core.last_error.lock().clone(),
        sync_latency: core.meters.sync_latency.snapshot(),
        sync_records: core.meters.sync_records.snapshot(),
    }
}

fn stream_status(core: &Core, stream: Stream, now: UnixMillis) -> StreamStatus {
    let oldest = oldest(core, stream);
    let books = core.books.lock();
    let books = &books.streams[stream as usize];
    let live = &books.live;
    StreamStatus {
        records: live.records(),
        blocks: live.size.blocks,
        bytes: live.size.bytes,
        in_flight: live.records().saturating_sub(books.waiting().0),
        oldest_received_at: oldest,
        oldest_age_seconds: oldest.map(|at| now.saturating_sub(at).max(0) as f64 / 1000.0),
        dead_letters: core.dead.count(stream),
        delivered: live.totals.delivered,
        set_aside: live.totals.set_aside,
        dropped: live.totals.dropped.clone(),
        passed_bytes: books.passed.clone(),
        head: live.head,
        next: live.next,
    }
}

/// A status does not wait longer than this for a reader: one that takes longer has a disk that hangs.
const READER_PATIENCE: Duration = Duration::from_secs(1);

/// When the first record that is still to be delivered was received.
fn oldest(core: &Core, stream: Stream) -> Option<UnixMillis> {
    let (in_flight, open) = {
        let books = core.books.lock();
        let books = &books.streams[stream as usize];
        (books.oldest_in_flight(), books.live.first_open(0))
    };
    let open = open?;
    in_flight.or_else(|| {
        let mut reader = core.readers[stream as usize].try_lock_for(READER_PATIENCE)?;
        reader.look(core, open.start).ok()?
    })
}
