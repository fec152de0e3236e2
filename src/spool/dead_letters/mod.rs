//! Dead letters: records that a sink rejected for good, kept with their reason until they are retried or dropped.
//!
//! A store of its own, with the same two parts as the spool's: a journal whose records are dead letters (bincode), and
//! a queue over it. A dead letter's key is its stream and `_id`: a later one with the same key replaces the earlier one
//! and keeps its history. The index ([`index`]) is in memory and is read soon after each start: about a hundred bytes
//! each, bounded by the quota.
//!
//! - Keeping: append and sync. Removing: remove from the queue, and flush the queue.
//! - After a crash between keeping a later dead letter and removing the earlier one with the same key, the later one
//!   counts.
//! - Space is freed as in the spool's store, by whole segments. When little of a segment is left, its dead letters are
//!   appended again and it is deleted ([`compaction`]). A part of the quota is reserved for that, so that dead letters
//!   can be removed when no new ones fit.
//! - A single dead letter is kept whatever its length: no record stops its sink for good.
//! - Losses to damage are counted as "at least": what the queue knew.
//!
//! Locks: [`State`] first, then those of the store.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use super::{
    error::OpenError,
    journal::block::Kind,
    options::SpoolOptions,
    queue::QueueStore,
    store::{Place, Store, StoreOptions, queue_directory, reader::Reader, settling::Findings},
    totals::DropReason,
};
use crate::record::{PerStream, Stream};

mod compaction;
mod dead_letter;
mod index;
mod reading;
mod writing;

pub use self::dead_letter::{DeadFilter, DeadLetter};
pub(crate) use self::dead_letter::{Key, groups};
use self::index::Index;

/// About the length at which segments are sealed; a sixteenth of a small quota.
const MAX_SEGMENT_BYTES: u64 = 4 << 20;
/// About the most unpacked bytes of dead letters that are appended together; a thirty-second of a small quota.
const MAX_GROUP_BYTES: u64 = 256 << 10;
/// A dead letter takes about a hundred bytes of memory: there is at most one for each such part of the quota …
const MIN_BYTES_PER_DEAD_LETTER: u64 = 1 << 10;
/// … and never more than this many.
const MAX_DEAD_LETTERS: u64 = 500_000;

/// Why dead letters could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadError {
    #[error("the dead letters are full by {over} bytes")]
    Full { over: u64 },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is encrypted with key {key}")]
    NoKey { path: PathBuf, key: String },
    #[error(
        "{path}: {removed} dead letters are removed, but a restart may bring some back, because the queue is kept in \
         memory: make space on the disk, or see the last error of the spool"
    )]
    NotDurable { path: PathBuf, removed: u64 },
}

/// The dead letters of a spool.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    store: Store,
    limits: Limits,
    inner: Mutex<State>,
}

#[derive(Debug)]
struct Limits {
    max_bytes: u64,
    max_dead_letters: u64,
    segment_bytes: u64,
    group_bytes: u64,
    /// Space that only compaction may use.
    spare_bytes: u64,
}

impl Limits {
    fn of(max_bytes: u64) -> Self {
        let segment_bytes = MAX_SEGMENT_BYTES.min(max_bytes / 16);
        let group_bytes = MAX_GROUP_BYTES.min(max_bytes / 32);
        let max_dead_letters = (max_bytes / MIN_BYTES_PER_DEAD_LETTER).clamp(1, MAX_DEAD_LETTERS);
        Self { max_bytes, max_dead_letters, segment_bytes, group_bytes, spare_bytes: segment_bytes + 2 * group_bytes }
    }
}

/// The dead letters that exist.
#[derive(Debug)]
struct State {
    index: Index,
    is_loaded: bool,
    /// Segments that could not be read when the index was filled.
    unread: BTreeSet<u64>,
    /// The queue's number of failures when the index last agreed with it.
    queue_failures: u64,
    /// Garbage that compaction could not remove at its last attempt.
    residue: u64,
    readers: PerStream<Reader>,
}

impl DeadLetters {
    /// Opens the dead letters over a queue that was opened for them. Blocking.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) fn open(
        place: Place,
        options: &SpoolOptions,
        max_bytes: u64,
        queue: Option<Arc<dyn QueueStore>>,
    ) -> Result<(Self, Findings), OpenError> {
        let limits = Limits::of(max_bytes);
        let store_options = StoreOptions {
            kind: Kind::DeadLetters,
            segment_bytes: limits.segment_bytes,
            max_entry_span: u32::MAX,
            compression: options.compression,
            keys: options.encryption.clone(),
        };
        let home = place.home.clone();
        let (store, findings) = Store::open(place, store_options, queue)?;
        let reader = |stream| Reader::new(&store, stream).map_err(OpenError::io(&home));
        let readers = [reader(Stream::Events)?, reader(Stream::Stats)?, reader(Stream::NodeRooms)?];
        let inner = State {
            index: Index::default(),
            is_loaded: false,
            unread: BTreeSet::new(),
            queue_failures: 0,
            residue: 0,
            readers,
        };
        Ok((Self { store, limits, inner: Mutex::new(inner) }, findings))
    }

    /// Their journal and queue.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Bytes of the journal.
    pub(crate) fn bytes(&self) -> u64 {
        self.store.state.lock().journal_bytes()
    }

    /// Bytes of the queue.
    pub(crate) fn queue_bytes(&self) -> io::Result<u64> {
        self.store.disk.directory_bytes(&queue_directory(&self.store.home))
    }

    /// The number of dead letters of a stream.
    pub(crate) fn count(&self, stream: Stream) -> u64 {
        self.store.state.lock().streams[stream as usize].records
    }

    /// The number of dead letters of a stream that were lost to damage, at least.
    pub(crate) fn lost(&self, stream: Stream) -> u64 {
        let state = self.store.state.lock();
        state.streams[stream as usize].totals.dropped.get(&DropReason::Damaged).copied().unwrap_or(0)
    }

    /// Whether the queue is on disk, and how often it failed.
    pub(crate) fn queue_health(&self) -> (bool, u64) {
        self.store.queue_health()
    }

    /// The most unpacked bytes of dead letters to append together.
    pub(crate) const fn group_bytes(&self) -> u64 {
        self.limits.group_bytes
    }

    /// Maintains the store and the index: about once a second.
    pub(crate) fn maintain(&self, free: u64) {
        self.store.maintain(free);
        // Whoever holds the lock does the same.
        let Some(mut inner) = self.inner.try_lock() else { return };
        if let Err(error) = self.settle(&mut inner) {
            self.store.reports.error(format!("could not read the dead letters: {error}"));
        }
    }

    /// Closes the files.
    pub(crate) fn close(&self) {
        self.store.close();
    }
}
