//! The spool: per sink, a journal that makes records durable and a queue that says which are still to be delivered.
//!
//! ```text
//! <home>/lock                           held (flock) while the spool is open
//!       /journal/000000000001.journal   segments: groups of blocks, appended, never changed       journal
//!       /queue/                         sled: a tree a stream, the FIFO; what was done of each segment    queue
//!       /dead/journal/, /dead/queue/    dead letters: the same two parts again                    dead_letters
//!       /losses                         what was lost though its call was answered OK             losses
//!       /quarantine/                    copies of damaged bytes, each with a line in report.ndjson
//! ```
//!
//! **Constraints.** The bytes are described in docs/format.md. What callers rely on:
//! - A batch is answered after its `fdatasync`, as a whole or not at all. Sequence numbers are never used twice.
//! - A record leaves the queue when it was acknowledged, when it is a synced dead letter, or when a policy dropped it,
//!   which is counted. A damaged record is lost only by evidence, counted and named.
//! - A segment is deleted only by positive proof (`store`'s retention).
//! - The queue can always be rebuilt: if it fails, a queue in memory is filled from the journal, and delivered records
//!   may be redelivered.
//!
//! **Operation.**
//! - Append (`appending`): pack, write, `fdatasync`, publish, answer. Batches that wait meanwhile (`inbox`) form the
//!   next group.
//! - Deliver (`leasing`): lease, then release, acknowledge, or dead-letter (`rejecting`).
//! - About once a second (`maintenance`): enter synced groups into the queue, drop expired records, flush the queue,
//!   delete segments that are done.
//! - Limits (`quota`) are checked before each write, and count everything on disk.
//! - Start (`open`): journal and queue are reconciled (`store`'s recovery).
//! - Inspecting (`contents`) changes nothing, whether the spool is open or not.
//!
//! `ingest` appends, `flush` delivers (the trait [`Queue`]), `app` opens and closes; `admin` and `cli` inspect.
//!
//! Uses `catch_panic`, `files`, `histogram`, `record`, `setting`, `tasks`.

use std::{collections::HashSet, io, ops::Deref, path::Path, sync::Arc};

use parking_lot::Mutex;
use tokio::runtime::RuntimeFlavor;

use crate::{
    record::{RecordBatch, Stream},
    tasks,
};

mod appending;
mod contents;
mod dead_letters;
mod delivery;
mod disk;
mod encoding;
mod error;
mod expiry;
pub mod failpoint;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod inbox;
mod journal;
mod leasing;
mod losses;
mod maintenance;
mod open;
mod options;
mod peek;
mod purge;
mod quarantine;
mod queue;
mod quota;
mod rejecting;
mod reports;
mod shared;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod threads;
mod tools;
mod totals;

pub use self::{
    contents::{Contents, check, inspect, verify},
    dead_letters::{DeadFilter, DeadLetter},
    delivery::{Lease, LeaseLimit, Queue, QueueError, Rejection},
    error::{AppendError, Appended, FullLimit, OpenError},
    losses::{add_missed, missed},
    options::{Codec, Compression, DeadLettersOptions, Key, Keys, SpoolOptions, WhenFull},
    peek::{Peek, PeekFrom},
    purge::Purged,
    reports::LastError,
    shared::DiskBytes,
    status::{SpoolStatus, StreamStatus, WriterState},
    tools::{
        raw,
        recover::{DamagedPlace, RecoverError, RecoverReport, recover},
        verify::{Finding, Severity, VerifyReport},
    },
    totals::{ByteTotals, DropReason, Totals},
};
pub(crate) use self::{
    disk::{DirectoryLock, check_writable},
    error::remedy,
};
use self::{maintenance::Maintenance, shared::Shared, threads::Threads};

/// One sink's spool, open. Share it in an `Arc`. [`Contents`] shows what it holds.
#[derive(Debug)]
pub struct Spool {
    contents: Contents,
    threads: Mutex<Option<Threads>>,
    lock: Mutex<Option<DirectoryLock>>,
}

impl Spool {
    /// Opens the spool in `home`, or creates one there. Blocking.
    ///
    /// # Errors
    /// See [`OpenError`]. Damage is no error: it is skipped, counted and reported.
    pub fn open(home: &Path, options: SpoolOptions) -> Result<Self, OpenError> {
        let (shared, maintenance, lock) = open::open(home, options)?;
        Self::start(shared, maintenance, Some(lock)).map_err(OpenError::io(home))
    }

    fn start(shared: Shared, maintenance: Maintenance, lock: Option<DirectoryLock>) -> io::Result<Self> {
        let shared = Arc::new(shared);
        let threads = Threads::start(&shared, maintenance)?;
        let contents = Contents::of_open(shared);
        Ok(Self { contents, threads: Mutex::new(Some(threads)), lock: Mutex::new(lock) })
    }

    /// Accepts a batch, as a whole or not at all; returns when it is durable (`fdatasync`). With `when_full:
    /// drop_newest`, a full spool drops it and returns [`Appended::Dropped`].
    ///
    /// If the caller stops waiting, the batch may still be kept.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the batch is kept then.
    pub async fn append(&self, batch: RecordBatch) -> Result<Appended, AppendError> {
        self.shared.append(batch, false).await
    }

    /// [`append`](Self::append) for a caller that waits for nothing else meanwhile: if no other caller appends, the
    /// calling thread appends by itself, which saves two thread switches.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the batch is kept then.
    pub async fn append_in_place(&self, batch: RecordBatch) -> Result<Appended, AppendError> {
        let runtime = tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor());
        self.shared.append(batch, matches!(runtime, Ok(RuntimeFlavor::MultiThread))).await
    }

    /// True if `when_full` is `drop_newest`: records for which there is no space are dropped and counted, and their
    /// call is answered OK.
    #[must_use]
    pub fn drops_newest(&self) -> bool {
        matches!(self.shared.options.when_full, WhenFull::DropNewest)
    }

    /// Counts records that an optional sink missed although their call was answered OK; a kill does not lose the count.
    /// Blocking.
    pub fn count_missed(&self, records: u64) {
        self.shared.losses.add_missed(records);
    }

    /// Drops everything that these streams hold, counted as purged; returns what that was once it is durable.
    ///
    /// # Errors
    /// When neither journal nor queue can record it: the records are dropped, but a restart may bring them back.
    pub async fn purge(&self, streams: &[Stream]) -> Result<Vec<Purged>, QueueError> {
        let (shared, streams) = (Arc::clone(&self.shared), streams.to_vec());
        let purged = tasks::run_blocking(move || purge::purge(&shared, &streams)).await;
        purged.unwrap_or_else(|panic| Err(self.shared.io_error(io::Error::other(panic))))
    }

    /// The dead letters that match a filter, those with the oldest last attempt first: at most `limit` of them after
    /// the first `skip`. Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn dead_letters(&self, filter: &DeadFilter, skip: usize, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.shared.dead.list(filter, &HashSet::new(), skip, limit).map_err(|error| self.shared.dead_error(error))
    }

    /// The dead letters that match a filter, at most `limit`, without those with these streams and `_id`s. Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn dead_letters_except(
        &self,
        filter: &DeadFilter,
        except: &HashSet<(Stream, String)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        self.shared.dead.list(filter, except, 0, limit).map_err(|error| self.shared.dead_error(error))
    }

    /// Removes the dead letters that match a filter, for good; returns how many. Blocking.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn drop_dead_letters(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        self.shared.dead.drop_matching(filter).map_err(|error| self.shared.dead_error(error))
    }

    /// Removes all dead letters, for good; returns how many. Blocking.
    ///
    /// # Errors
    /// As [`Self::drop_dead_letters`]; and when some cannot be read: those are kept, and the others are removed.
    pub fn purge_dead_letters(&self) -> Result<u64, QueueError> {
        let dropped = self.drop_dead_letters(&DeadFilter::default())?;
        purge::check_dead_letters_read(&self.shared).map(|()| dropped)
    }

    /// Keeps dead letters again after another attempt failed, and adds to their history. Blocking.
    ///
    /// # Errors
    /// When the dead letters are full or cannot be written.
    pub fn keep_dead_letters(&self, dead_letters: &[DeadLetter]) -> Result<(), QueueError> {
        rejecting::keep_again(&self.shared, dead_letters)
    }

    /// Removes dead letters by stream and `_id`, for good; returns how many there were. Blocking.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn remove_dead_letters(&self, keys: &[(Stream, String)]) -> Result<u64, QueueError> {
        self.shared.dead.remove(keys).map_err(|error| self.shared.dead_error(error))
    }

    /// Accepts no more records, makes waiting batches durable, updates the queue, and releases the directory.
    pub async fn close(&self) {
        let threads = self.threads.lock().take();
        if let Some(threads) = threads {
            let shared = Arc::clone(&self.shared);
            let stopped = tasks::run_blocking(move || threads.stop(&shared)).await;
            debug_assert!(stopped.is_ok(), "stopping the spool's threads does not panic");
        }
        self.lock.lock().take();
    }
}

impl Deref for Spool {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.contents
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.lock().take() {
            threads.stop(&self.shared);
        }
    }
}
