//! The spool: per sink, a journal that makes records durable and sled queues over it.
//!
//! ```text
//! <folder>/lock                           held (flock) while the spool is open
//!         /journal/000000000001.journal   segments: blocks of records and notes, nothing else
//!         /queue/                         sled: a tree per stream, entries for runs of blocks, and the checkpoint
//!         /dead/000000000001.journal      dead letters, in blocks of the same format
//!         /quarantine/                    damaged bytes, each with a line in report.ndjson
//! ```
//!
//! The journal is the truth: its newest segment begins with the whole state and holds every note after it. The queue
//! only says where to look; what it lacks is found by walking segments.
//!
//! The order of things, for a batch: pack, write, `fdatasync`, enter into the books, answer. For a delivered record: out
//! of the books, a note with the next group; its segment goes when all such notes are durable and the queue has followed.

use std::{collections::HashSet, ops::Range, path::Path, sync::Arc, thread::JoinHandle, time::Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::record::{RecordBatch, Stream};

mod active;
mod ages;
mod aside;
mod block;
mod books;
mod codec;
mod core;
mod dead;
mod delivery;
mod draft;
mod error;
pub mod failpoint;
mod inspect;
mod io;
mod journal;
mod keeper;
mod limits;
mod open;
mod options;
mod passed;
mod peek;
mod purge;
mod quarantine;
mod queue;
mod ranges;
pub mod raw;
mod reader;
mod recover;
mod recovery;
mod segment;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod verify;

use self::{
    books::StreamBooks,
    core::{Core, Waiting},
    state::Fate,
};
pub use self::{
    core::LastError,
    dead::{DeadFilter, DeadLetter},
    delivery::{Lease, LeaseLimit, Queue, QueueError, QueuedRecord, Rejection},
    error::{AppendError, Appended, FullLimit, OpenError},
    inspect::{StoppedSpool, inspect},
    options::{Compression, Key, Keys, SpoolOptions, WhenFull},
    passed::PassedBytes,
    peek::{Peek, PeekFrom},
    purge::Purged,
    recover::{DamagedPlace, RecoverError, RecoverReport, recover},
    state::{DropReason, Totals},
    status::{DiskBytes, SpoolStatus, StreamStatus, WriterState},
    verify::{Finding, Severity, VerifyReport, verify},
};
pub(crate) use self::{
    error::remedy,
    io::{FolderLock, check_writable},
};

/// One sink's spool, open. Share it in an `Arc`.
#[derive(Debug)]
pub struct Spool {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<FolderLock>>,
}

impl Spool {
    /// Opens the spool in `folder`, or makes one there. Blocking.
    ///
    /// # Errors
    /// See [`OpenError`]. Damage is none: it is stepped over, counted and reported.
    pub fn open(folder: &Path, options: SpoolOptions) -> Result<Self, OpenError> {
        open::open(folder, options)
    }

    /// Takes a batch, whole or not at all; returns when it is durable (`fdatasync`), or when `when_full: drop_newest` has
    /// dropped it.
    ///
    /// If the caller stops waiting, the batch may be kept all the same.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the batch is kept then.
    pub async fn append(&self, batch: RecordBatch) -> Result<Appended, AppendError> {
        if batch.is_empty() {
            return Ok(Appended::Kept);
        }
        let patience = match self.core.options.when_full {
            WhenFull::Block { timeout } => Some(Instant::now() + timeout),
            _ => None,
        };
        loop {
            // Listening begins before the attempt: room that comes meanwhile is not missed.
            let room = self.core.room.notified();
            let (sink, limit) = match self.append_once(batch.clone()).await {
                Err(AppendError::Full { sink, limit }) => (sink, limit),
                result => return result.map(|_| Appended::Kept),
            };
            match (self.core.options.when_full, patience) {
                (WhenFull::DropNewest, _) => {
                    self.count_newest_dropped(&batch);
                    return Ok(Appended::Dropped { limit });
                }
                (_, Some(until)) if tokio::time::timeout_at(until.into(), room).await.is_ok() => {}
                _ => return Err(AppendError::Full { sink, limit }),
            }
        }
    }

    /// Hands a batch to the writer; answers its first record's ordinal.
    async fn append_once(&self, batch: RecordBatch) -> Result<u64, AppendError> {
        let closed = || AppendError::Closed { sink: self.core.options.name.clone() };
        if let Some(bytes) = draft::too_long(&batch) {
            return Err(AppendError::TooLong { bytes, most: draft::LONGEST_RECORD_BYTES });
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut inbox = self.core.inbox.lock();
            if inbox.closing {
                return Err(closed());
            }
            inbox.appends.push_back(Waiting { batch, answer });
            self.core.mail.notify_one();
        }
        answered.await.unwrap_or_else(|_| {
            if self.core.inbox.lock().closing {
                return Err(closed());
            }
            let source = Arc::new(std::io::Error::other("the writer panicked: what it held may or may not be kept"));
            Err(AppendError::Io { path: self.core.journal_folder(), source })
        })
    }

    fn count_newest_dropped(&self, batch: &RecordBatch) {
        self.core.count_dropped(batch.stream, DropReason::Newest, u64::from(batch.count()));
        let bytes = batch.bytes().len() as u64;
        let mut books = self.core.books.lock();
        let passed = &mut books.stream(batch.stream).passed;
        passed.appended += bytes;
        passed.leave(Fate::Dropped(DropReason::Newest), bytes);
    }

    /// What the spool holds now. Cheap: counters, and at most one block read per stream.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        status::of(&self.core)
    }

    /// The records of a stream that are still to be delivered, without taking them. Blocking.
    ///
    /// # Errors
    /// When no reader can be made for it.
    pub fn peek(&self, stream: Stream, from: PeekFrom) -> Result<Peek, QueueError> {
        Peek::new(Arc::clone(&self.core), stream, from)
    }

    /// Checks all that is on disk, beside the work that goes on. Blocking, as long as reading all of it takes.
    ///
    /// # Errors
    /// When a file cannot be read; damage is no error.
    pub fn verify(&self) -> Result<VerifyReport, QueueError> {
        verify::verify_live(&self.core)
            .map_err(|source| QueueError::Io { path: self.core.folder.display().to_string(), source })
    }

    /// Drops all that these streams hold, counted as purged; returns what that was when it is durable.
    ///
    /// # Errors
    /// When the journal does not take the note: the records are gone, but a restart may bring them back.
    pub async fn purge(&self, streams: &[Stream]) -> Result<Vec<Purged>, QueueError> {
        purge::purge(&self.core, streams).await
    }

    /// The dead letters that a filter means, those that were tried longest ago first: at most `limit` of them behind the first `skip`. Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn dead_letters(&self, filter: &DeadFilter, skip: usize, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.core.dead.list(filter, &HashSet::new(), skip, limit).map_err(|error| self.core.dead_error(error))
    }

    /// The dead letters that a filter means, at most `limit`, without those of these streams and `_id`s.
    /// Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn dead_letters_except(
        &self,
        filter: &DeadFilter,
        except: &HashSet<(Stream, String)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        self.core.dead.list(filter, except, 0, limit).map_err(|error| self.core.dead_error(error))
    }

    /// Removes the dead letters that a filter means, for good; answers how many. Blocking.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn drop_dead_letters(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        aside::remove(&self.core, || self.core.dead.drop_matching(filter))
    }

    /// Keeps letters again after another attempt failed: what is known of earlier ones is added to. Blocking.
    ///
    /// # Errors
    /// When the dead letters are full or cannot be written.
    pub fn keep_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        aside::keep_again(&self.core, letters)
    }

    /// Removes letters by stream and `_id`, for good; answers how many there were. Blocking.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn remove_dead_letters(&self, keys: &[(Stream, String)]) -> Result<u64, QueueError> {
        aside::remove(&self.core, || self.core.dead.remove(keys))
    }

    /// Takes no more records, makes durable what waits, brings the queue up to date, lets go of the folder.
    pub async fn close(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        let core = Arc::clone(&self.core);
        let stopped = tokio::task::spawn_blocking(move || stop(&core, threads)).await;
        debug_assert!(stopped.is_ok(), "stopping the spool's threads does not panic");
        self.lock.lock().take();
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        stop(&self.core, std::mem::take(&mut *self.threads.lock()));
    }
}

/// Ends the writer, then the keeper, whose last checkpoint has all of it.
fn stop(core: &Core, threads: Vec<JoinHandle<()>>) {
    core.inbox.lock().closing = true;
    core.mail.notify_one();
    let mut threads = threads.into_iter();
    let join = |thread: Option<JoinHandle<()>>| {
        if thread.is_some_and(|thread| thread.join().is_err()) {
            core.report("a thread of the spool panicked".to_owned());
        }
    };
    join(threads.next());
    core.keeper.state.lock().closing = true;
    core.keeper.bell.notify_one();
    join(threads.next());
    // sled lets go of its files with the last handle.
    core.index.write().take();
}

#[async_trait]
impl Queue for Spool {
    fn lease(&self, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError> {
        self.core.readers[stream as usize].lock().lease(&self.core, limit)
    }

    fn release(&self, stream: Stream, ordinals: &[Range<u64>]) {
        {
            let mut books = self.core.books.lock();
            let books = books.stream(stream);
            ordinals.iter().for_each(|range| books.take_back(range));
        }
        self.core.ready[stream as usize].notify_waiters();
    }

    fn acknowledge(&self, stream: Stream, ordinals: &[Range<u64>]) -> Result<(), QueueError> {
        self.core.finish(stream, ordinals, Fate::Delivered);
        Ok(())
    }

    fn dead_letter(&self, stream: Stream, rejections: Vec<Rejection>) -> Result<(), QueueError> {
        aside::set_aside(&self.core, stream, rejections)
    }

    async fn ready(&self, stream: Stream) {
        loop {
            let notified = self.core.ready[stream as usize].notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.waiting(stream).0 > 0 {
                return;
            }
            notified.await;
        }
    }

    fn waiting(&self, stream: Stream) -> (u64, u64) {
        self.core.books.lock().streams[stream as usize].waiting()
    }

    fn unflushed(&self, stream: Stream) -> u64 {
        let books = self.core.books.lock();
        let StreamBooks { live, durable, .. } = &books.streams[stream as usize];
        durable.records().saturating_sub(live.records())
    }
}
