//! A store: a journal and the queue over it. What holds a sink's records, and, a second time, its dead letters.
//!
//! ```text
//! append    pack ─► write + fdatasync ─► publish (state) ─► answer
//! enter     published groups ─► entries, in one change          by whoever looks at the queue next
//! finish    entries removed or shrunk, the segment's count of done records and the totals: one change, written with the next flush
//! retain    a segment whose own count of records equals its count of done ones ─► .done ─► truncated ─► unlinked
//! ```
//!
//! **Invariants.**
//! - What is synced and not done is in the queue, or among the published groups that are yet to be entered.
//! - A segment goes by positive proof only ([`retention`]); what is missing, empty or damaged proves nothing.
//! - A record is lost only by evidence ([`reader`], [`recovery`]): its own bytes were read and do not hold, or its segment is gone at
//!   a start. Lost records are counted in the same change that removes them.
//! - A queue that fails is replaced by its twin in memory, filled from the journal; nothing waits for it.
//!
//! Locks are taken in this order: flushing, queue, writer, state. The state's is held for moments only, never over I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;

use super::{
    ages::Times,
    disk::Disk,
    journal::{
        block::{Header, Kind},
        codec::Packer,
        front::Ending,
        scan::Extent,
        writer::{Committed, FrontFacts, Packed, Position, Refusal, Writer},
    },
    options::{Compression, Keys},
    quarantine::Quarantine,
    queue::{Entry, Progress, QueueStore, Queues, Size, ranges::RangeSet},
    reports::Reports,
    totals::{PassedBytes, Totals},
};
use crate::record::{PerStream, RecordBatch, Stream, UnixMillis};

mod edit;
mod entering;
pub(crate) mod pending;
pub(crate) mod reader;
pub(crate) mod recovery;
pub(crate) mod replacing;
mod rereading;
mod retention;
mod settling;
pub(crate) mod survey;
mod walk;

/// How a store is to behave.
#[derive(Debug, Clone)]
pub(crate) struct StoreOptions {
    /// What its blocks hold.
    pub(crate) kind: Kind,
    /// Segments end at about this length.
    pub(crate) segment_bytes: u64,
    /// An entry's records were received within this time.
    pub(crate) max_entry_span: u32,
    pub(crate) compression: Compression,
    pub(crate) keys: Option<Keys>,
}

/// A journal and the queue over it.
#[derive(Debug)]
pub(crate) struct Store {
    /// The directory that holds both.
    pub(crate) home: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    queues: Arc<dyn Queues>,
    pub(crate) options: StoreOptions,
    pub(crate) state: Mutex<State>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) quarantine: Arc<Quarantine>,
    writer: Writer,
    queue: Mutex<Arc<dyn QueueStore>>,
    /// The queue was replaced: its directory is to be made again.
    queue_is_lost: AtomicBool,
    /// Handles of queues that failed, and were leaked because their drop hangs.
    leaked_queues: AtomicU64,
    /// Handles that are being closed, which may hang.
    closing_queues: Arc<AtomicU64>,
    /// When it was tried last to put the queue on disk again.
    restored: Mutex<Instant>,
    /// Changes since the queue was flushed last.
    changed: AtomicBool,
    /// Held while it is flushed, before any other lock.
    flushing: Mutex<()>,
    /// Nothing may be changed on the medium.
    read_only: bool,
}

/// What is known without looking at the medium. Bounded by what is leased and by the number of segments.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) streams: PerStream<StreamState>,
    /// By number, oldest first.
    pub(crate) segments: BTreeMap<u64, Segment>,
    /// Segments that are proven to be needed no more, their files empty: to be unlinked.
    pub(crate) done: BTreeMap<u64, ()>,
    /// The highest number of a segment that was published, or met at the start. Those on their way have higher ones.
    pub(crate) newest: u64,
    /// A front that is synced says that segments before this one are needed no more.
    pub(crate) needed_from: u64,
    /// The segment with the newest front that is synced: a start goes by what that one says.
    pub(crate) newest_front: u64,
    /// Groups that are synced and not entered into the queue.
    pub(crate) unentered: VecDeque<Group>,
    /// What may come again beyond [`StreamState::unflushed`]: the queue was made from the journal.
    pub(crate) redeliveries: Option<Redeliveries>,
}

/// Records that may come again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Redeliveries {
    /// They were received from then on.
    pub(crate) since: UnixMillis,
    /// They lie before these sequence numbers.
    until: PerStream<u64>,
}

/// A stream's part of the state.
#[derive(Debug, Default, Clone)]
pub(crate) struct StreamState {
    /// The sequence number that the next record gets.
    pub(crate) next: u64,
    /// All before it are done.
    pub(crate) ack_floor: u64,
    /// Records still to be delivered, leased ones included.
    pub(crate) records: u64,
    pub(crate) size: Size,
    /// When the first of them was received.
    pub(crate) oldest: Option<UnixMillis>,
    pub(crate) totals: Totals,
    /// Bytes that came and went since the start.
    pub(crate) passed: PassedBytes,
    /// All before it were leased at least once.
    pub(crate) cursor: u64,
    pub(crate) leased: RangeSet,
    /// Leased once and released.
    pub(crate) released: RangeSet,
    /// Records done since the queue was flushed: a crash brings them again.
    pub(crate) unflushed: u64,
}

impl StreamState {
    /// Records and about how many bytes are not leased.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let records = self.records.saturating_sub(self.leased.len());
        (records, self.size.share(records, self.records).raw)
    }
}

/// A segment, as far as is known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Segment {
    /// Bytes it takes on the medium.
    pub(crate) allocated: u64,
    /// It is synced up to here.
    pub(crate) end: u64,
    /// Records that it holds, those lost to damage included.
    pub(crate) held: u64,
    /// It gets no more.
    pub(crate) sealed: bool,
    pub(crate) progress: Progress,
    /// Some of it could not be read when it was to be walked; it will be.
    pub(crate) unread: Option<Unread>,
}

/// What of a segment is yet to be walked. Groups behind it are entered as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) extent: Extent,
    /// How many records it holds, if that is known.
    held: Option<u64>,
    /// Records before these were done when it was to be walked.
    floor: PerStream<u64>,
    /// The sequence numbers that the streams' next records should have at least.
    pub(crate) expected: PerStream<u64>,
    /// Since when it is read but for some of it: for a while more, and that is damage.
    since: Option<Instant>,
}

impl Segment {
    /// What the queue is told of it. Of a part that is yet to be walked nothing is known, nor of what lies behind: a start walks both.
    fn noted(&self) -> Progress {
        match self.unread {
            Some(Unread { extent: Extent { from: 0, .. }, .. }) => self.progress.unwalked(),
            Some(Unread { extent, .. }) => Progress { entered_to: extent.from, ..self.progress },
            None => self.progress,
        }
    }
}

/// A group that is synced.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) segment: u64,
    pub(crate) end: u64,
    /// Its blocks, with their offsets.
    pub(crate) blocks: Vec<(u64, Header)>,
}

impl State {
    /// Bytes that all segments take.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.allocated).sum()
    }

    /// Takes in a group that is durable.
    fn publish(&mut self, committed: Committed) {
        let Committed { segment, blocks, front, end, allocated, next, sealed, .. } = committed;
        if let Some(ended) = sealed {
            self.note_sealed(ended);
        }
        self.newest = self.newest.max(segment);
        let known = self.segments.entry(segment).or_default();
        known.end = end;
        known.progress.front = known.progress.front.or(front);
        known.allocated = allocated.next_multiple_of(PAGE_BYTES);
        known.held += blocks.iter().map(|(_, header)| u64::from(header.count)).sum::<u64>();
        for (_, header) in &blocks {
            let stream = &mut self.streams[header.stream as usize];
            stream.records += u64::from(header.count);
            stream.size.add(size_of(header));
            stream.passed.appended += u64::from(header.raw_len);
            stream.oldest.get_or_insert(header.received_at);
        }
        for (stream, next) in self.streams.iter_mut().zip(next) {
            stream.next = next;
        }
        self.unentered.push_back(Group { segment, end, blocks });
    }

    /// Of what the journal holds now, records received from `since` on may come again.
    fn expect_redeliveries(&mut self, since: Option<UnixMillis>) {
        if let Some(since) = since {
            // A little earlier than before: who has looked back that far looks again, at what was delivered since.
            let since = self.redeliveries.map_or(since, |known| since.min(known.since.saturating_sub(1)));
            let until = self.streams.each_ref().map(|stream| stream.next);
            self.redeliveries = Some(Redeliveries { since, until });
        }
        self.end_redeliveries();
    }

    /// Nothing of it comes again once all that the journal held then is done.
    fn end_redeliveries(&mut self) {
        let Some(Redeliveries { until, .. }) = self.redeliveries else { return };
        let is_done = self.streams.iter().zip(until).all(|(stream, until)| stream.ack_floor >= until);
        if is_done && self.segments.values().all(|segment| segment.unread.is_none()) {
            self.redeliveries = None;
        }
    }

    fn note_sealed(&mut self, Ending { segment, len, records, .. }: Ending) {
        if let Some(ended) = self.segments.get_mut(&segment) {
            (ended.sealed, ended.end, ended.held) = (true, len, records);
            ended.allocated = ended.allocated.min(len.next_multiple_of(PAGE_BYTES));
        }
    }

    fn front_facts(&self) -> FrontFacts {
        // Without any, a segment that is on its way is needed: the group that begins it may be synced at this moment.
        let lowest = self.segments.first_key_value().map_or(self.newest + 1, |(&segment, _)| segment);
        let unread = self.segments.values().filter_map(|segment| segment.unread.map(|unread| unread.floor));
        let floor = self.streams.each_ref().map(|stream| stream.ack_floor);
        FrontFacts {
            needed_from: lowest,
            ack_floor: unread.fold(floor, |floor, unread| std::array::from_fn(|i| floor[i].min(unread[i]))),
            totals: self.streams.each_ref().map(|stream| stream.totals.clone()),
        }
    }
}

const PAGE_BYTES: u64 = 4096;

/// What a block takes.
pub(crate) fn size_of(header: &Header) -> Size {
    Size { blocks: 1, bytes: header.block_len(), raw: u64::from(header.raw_len) }
}

/// A group on its way, and what it says of delivery if it begins a segment.
#[derive(Debug)]
pub(crate) struct PackedGroup {
    packed: Packed,
    /// Segments before it are said to be needed no more.
    needed_from: Option<u64>,
}

impl PackedGroup {
    /// Its length.
    pub(crate) fn bytes(&self) -> u64 {
        self.packed.bytes()
    }
}

impl Store {
    pub(crate) fn journal(&self) -> PathBuf {
        self.home.join("journal")
    }

    /// Packs batches for the journal; has to be committed. `roll` begins a new segment with them.
    ///
    /// # Errors
    /// When they cannot be packed.
    pub(crate) fn pack<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a RecordBatch>,
        roll: bool,
    ) -> io::Result<PackedGroup> {
        let mut needed_from = None;
        let packed = self.writer.pack(batches, roll, || {
            let facts = self.state.lock().front_facts();
            needed_from = Some(facts.needed_from);
            facts
        })?;
        Ok(PackedGroup { packed, needed_from })
    }

    /// Makes a group durable and publishes it; answers how long the sync took. `admit` is asked about the space it takes, and
    /// answers how much more may be reserved.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn commit(
        &self,
        group: PackedGroup,
        admit: impl FnOnce(u64) -> Result<u64, super::error::FullLimit>,
    ) -> Result<std::time::Duration, Refusal> {
        let PackedGroup { packed, needed_from } = group;
        self.writer.commit(packed, admit, |committed| {
            let time = committed.sync_time;
            let own = committed.segment;
            let mut state = self.state.lock();
            state.publish(committed);
            if let Some(needed_from) = needed_from {
                state.needed_from = state.needed_from.max(needed_from.min(own));
                state.newest_front = own;
            }
            time
        })
    }

    /// Makes batches durable, one group, without a limit of space.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn append(&self, batches: &[RecordBatch], roll: bool) -> Result<(), Refusal> {
        loop {
            let group = self.pack(batches, roll).map_err(Refusal::Io)?;
            match self.commit(group, |_| Ok(u64::MAX)) {
                Err(Refusal::Stale) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Leaves the segment that is written to, without a new one's front: it can go, and needs no space for it. A start that meets no
    /// front and no queue may use sequence numbers again: this is for letters, which are not known by them.
    pub(crate) fn seal(&self) {
        let Some(ended) = self.writer.leave_segment() else { return };
        self.state.lock().note_sealed(ended);
    }

    /// Whether its directory is not there, or another one than at the start.
    pub(crate) fn is_moved(&self) -> bool {
        self.writer.is_moved()
    }

    /// Whether nothing may be changed on the medium.
    pub(crate) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The segment that is written to.
    pub(crate) fn active_segment(&self) -> Option<u64> {
        self.writer.active_segment()
    }

    /// The first entry that holds `seq` or one behind it, of all that is synced.
    pub(crate) fn entry_from(&self, stream: Stream, seq: u64) -> Option<(u64, Entry)> {
        self.with_queue(|queue| {
            self.enter_into(queue)?;
            queue.entry_from(stream, seq)
        })
    }

    /// The last entry that holds one before `seq`, of all that is synced.
    pub(crate) fn entry_before(&self, stream: Stream, seq: u64) -> Option<(u64, Entry)> {
        self.with_queue(|queue| {
            self.enter_into(queue)?;
            queue.entry_before(stream, seq)
        })
    }

    /// Whether the queue outlasts the process; where it does not, how many handles were leaked.
    pub(crate) fn queue_health(&self) -> (bool, u64) {
        (!self.queue_is_lost.load(Ordering::Relaxed), self.leaked_queues.load(Ordering::Relaxed))
    }

    /// Releases leased records: the next lease takes them again. Others are passed over.
    pub(crate) fn release(&self, stream: Stream, seqs: &[Range<u64>]) {
        let mut state = self.state.lock();
        let stream = &mut state.streams[stream as usize];
        for range in seqs {
            for leased in stream.leased.overlap(range) {
                stream.leased.remove(&leased);
                stream.released.insert(leased);
            }
        }
    }

    /// The time, as it was noted last.
    pub(crate) fn clock(&self) -> Option<Times> {
        self.with_queue(|queue| queue.recorded()).clock
    }

    /// Notes the time with the next flush.
    pub(crate) fn note_clock(&self, clock: Times) {
        let change = super::queue::Change { clock: Some(clock), ..Default::default() };
        self.with_queue(|queue| queue.apply(&change));
        self.mark_changed();
    }

    /// Enters what is published, makes the queue durable, and lets go of the journal.
    pub(crate) fn close(&self) {
        if let Err(error) = self.writer.close() {
            self.reports.error(format!("spool {}: giving back reserved space: {error}", self.journal().display()));
        }
        self.enter();
        self.flush();
        self.delete_done();
        self.let_go_of_queue();
    }
}

/// Makes the packer of a store.
pub(crate) fn packer(options: &StoreOptions) -> io::Result<Packer> {
    Packer::new(options.compression, options.keys.as_ref())
}

/// Where a store's parts lie.
pub(crate) fn queue_directory(home: &Path) -> PathBuf {
    home.join("queue")
}

/// Makes a writer that goes on behind what was found.
fn writer_at(disk: &Arc<dyn Disk>, home: &Path, options: &StoreOptions, position: Position) -> io::Result<Writer> {
    let packer = packer(options)?;
    let directory = home.join("journal");
    let kind = options.kind;
    Ok(Writer::new(Arc::clone(disk), home, directory, kind, options.segment_bytes, packer, position))
}
