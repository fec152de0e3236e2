//! A store: a journal and the queue over it. What holds a sink's records, and, a second time, its dead letters.
//!
//! ```text
//! append    pack ─► write + fdatasync ─► publish (state) ─► answer                                                    commit
//! enter     published groups ─► entries, in one change, by whoever looks at the queue next                            entering
//! finish    entries removed or shrunk, the segment's count of done records and the totals: one change, written
//!           with the next flush                                                                                       edit
//! retain    a segment whose own count of records equals its count of done ones ─► .done ─► truncated ─► unlinked      retention
//! ```
//!
//! **What a crash leaves.** Before the sync: a torn group, which a start cuts off; nobody was told that it is kept. Between sync and
//! change: blocks behind the last entered one, which a start enters. Between change and flush: records that are done and come again.
//! Between the steps of retention: a `.done`, which says that all of it is done.
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

use self::state::State;
use super::{
    disk::Disk,
    expiry::Times,
    journal::{
        block::Kind,
        packing::Packed,
        writer::{Refusal, Writer},
    },
    options::{Compression, Keys},
    quarantine::Quarantine,
    queue::{Entry, QueueStore, Queues},
    reports::Reports,
};
use crate::record::{RecordBatch, Stream};

mod edit;
mod entering;
mod gone;
mod open;
pub(crate) mod pending;
pub(crate) mod reader;
mod recovery;
pub(crate) mod replacing;
mod rereading;
mod retention;
pub(crate) mod settling;
pub(crate) mod state;
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

/// Where a store lies, and what it needs of its surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) home: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) queues: Arc<dyn Queues>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) quarantine: Arc<Quarantine>,
    /// Nothing may be changed on the medium.
    pub(crate) read_only: bool,
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

/// Where the queue of a store lies.
pub(crate) fn queue_directory(home: &Path) -> PathBuf {
    home.join("queue")
}
