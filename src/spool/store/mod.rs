//! A store: a journal and the queue over it. One store holds a sink's records, and a second one its dead letters.
//!
//! ```text
//! append    pack ─► write + fdatasync ─► publish (state) ─► answer                                                    commit
//! enter     published groups ─► entries, in one change, by whoever uses the queue next                                entering
//! finish    entries removed or shrunk, the segment's count of done records and the totals: one change, written
//!           with the next flush                                                                                       edit
//! retain    a segment whose own count of records equals its count of done ones ─► .done ─► truncated ─► unlinked      retention
//! ```
//!
//! **What a crash leaves.** Before the sync: a torn group, which recovery cuts off; its callers were not answered OK.
//! Between sync and change: blocks after the last entered one, which recovery enters. Between change and flush: records
//! that are done and are redelivered. Between the steps of retention: a `.done`, which says that all of it is done.
//!
//! **Invariants.**
//! - Every synced record that is not done is in the queue, or in the published groups that are not entered yet.
//! - A segment is deleted only by positive proof ([`retention`]); what is missing, empty or damaged proves nothing.
//! - A record is lost only by evidence ([`reader`], [`recovery`]): its own bytes were read and are damaged, or its
//!   segment is missing at a start. Lost records are counted in the same change that removes them.
//! - A queue that fails is replaced by one in memory, filled from the journal; nothing waits for it.
//!
//! Locks are taken in this order: flushing, queue, writer, state. The state is locked only briefly, never during I/O.

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

/// The options of a store.
#[derive(Debug, Clone)]
pub(crate) struct StoreOptions {
    /// The kind of its blocks.
    pub(crate) kind: Kind,
    /// About the length at which segments are sealed.
    pub(crate) segment_bytes: u64,
    /// An entry's records were received within this time.
    pub(crate) max_entry_span: u32,
    pub(crate) compression: Compression,
    pub(crate) keys: Option<Keys>,
}

/// A store's directory, and what it needs from outside.
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
    /// The directory that contains both.
    pub(crate) home: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    queues: Arc<dyn Queues>,
    pub(crate) options: StoreOptions,
    pub(crate) state: Mutex<State>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) quarantine: Arc<Quarantine>,
    writer: Writer,
    queue: Mutex<Arc<dyn QueueStore>>,
    /// The queue was replaced: its directory is to be created again.
    queue_is_lost: AtomicBool,
    /// Handles of failed queues that were leaked because their drop hangs.
    leaked_queues: AtomicU64,
    /// Handles that are being closed, which may hang.
    closing_queues: Arc<AtomicU64>,
    /// The last attempt to put the queue on disk again.
    restored: Mutex<Instant>,
    /// Changes since the queue was flushed last.
    changed: AtomicBool,
    /// Held during a flush, before any other lock.
    flushing: Mutex<()>,
    /// Nothing may be changed on the medium.
    read_only: bool,
}

/// A packed group, and what it records of delivery if it begins a segment.
#[derive(Debug)]
pub(crate) struct PackedGroup {
    packed: Packed,
    /// It says that segments before this one are no longer needed.
    needed_from: Option<u64>,
}

impl PackedGroup {
    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.packed.bytes()
    }
}

impl Store {
    pub(crate) fn journal(&self) -> PathBuf {
        self.home.join("journal")
    }

    /// Packs batches for the journal; they have to be committed. `roll` begins a new segment with them.
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

    /// Makes a group durable and publishes it; returns how long the sync took. `admit` gets the space that it needs,
    /// and returns how much more may be reserved.
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

    /// Begins a new segment with its front alone, which reserves no space: a full spool is within its limit with it too.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn roll(&self) -> Result<(), Refusal> {
        loop {
            let front = self.pack(&[], true).map_err(Refusal::Io)?;
            match self.commit(front, |_| Ok(0)) {
                Err(Refusal::Stale) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Seals the segment that is being written, without a new segment's front: it can be deleted, and needs no space
    /// for that. A start without any front or queue may then use sequence numbers again: this is for dead letters,
    /// which are not identified by them.
    pub(crate) fn seal(&self) {
        let Some(ended) = self.writer.leave_segment() else { return };
        self.state.lock().record_sealed(ended);
    }

    /// True if its directory is missing or was replaced since the start.
    pub(crate) fn is_moved(&self) -> bool {
        self.writer.is_moved()
    }

    /// True if nothing may be changed on the medium.
    pub(crate) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The segment that is being written.
    pub(crate) fn active_segment(&self) -> Option<u64> {
        self.writer.active_segment()
    }

    /// The first entry that holds `seq` or a later one, of everything that is synced.
    pub(crate) fn entry_from(&self, stream: Stream, seq: u64) -> Option<(u64, Entry)> {
        self.with_queue(|queue| {
            self.enter_into(queue)?;
            queue.entry_from(stream, seq)
        })
    }

    /// The last entry that holds one before `seq`, of everything that is synced.
    pub(crate) fn entry_before(&self, stream: Stream, seq: u64) -> Option<(u64, Entry)> {
        self.with_queue(|queue| {
            self.enter_into(queue)?;
            queue.entry_before(stream, seq)
        })
    }

    /// Whether the queue outlasts the process, and how many handles were leaked.
    pub(crate) fn queue_health(&self) -> (bool, u64) {
        (!self.queue_is_lost.load(Ordering::Relaxed), self.leaked_queues.load(Ordering::Relaxed))
    }

    /// Releases leased records: the next lease takes them again. Ignores others.
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

    /// The time that was last recorded.
    pub(crate) fn clock(&self) -> Option<Times> {
        self.with_queue(|queue| queue.recorded()).clock
    }

    /// Records the time with the next flush.
    pub(crate) fn record_clock(&self, clock: Times) {
        let change = super::queue::Change { clock: Some(clock), ..Default::default() };
        self.with_queue(|queue| queue.apply(&change));
        self.mark_changed();
    }

    /// Enters the published groups, flushes the queue, and closes the journal.
    pub(crate) fn close(&self) {
        if let Err(error) = self.writer.close() {
            self.reports
                .error(format!("spool {}: could not release reserved space: {error}", self.journal().display()));
        }
        self.enter();
        self.flush();
        self.delete_done();
        self.close_queue();
    }
}

/// The directory of a store's queue.
pub(crate) fn queue_directory(home: &Path) -> PathBuf {
    home.join("queue")
}
