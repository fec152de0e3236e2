//! The spool: per sink, a journal that makes records durable and a queue that says which are still to be delivered.
//!
//! ```text
//! <home>/lock                           held (flock) while the spool is open
//!       /journal/000000000001.journal   segments: groups of blocks, appended, never changed       journal
//!       /queue/                         sled: a tree a stream, the FIFO; what was done of each segment    queue
//!       /dead/journal/, /dead/queue/    dead letters: the same two parts again                    dead_letters
//!       /losses                         what was lost though its call was answered OK                    losses
//!       /quarantine/                    copies of damaged bytes, each with a line in report.ndjson
//! ```
//!
//! An append: pack, write, `fdatasync`, publish, answer ([`appending`]). A delivery: lease, then acknowledge or dead-letter
//! ([`leasing`]). What is done about once a second: [`maintenance`]. A start: [`open`], [`store::recovery`]. Limits: [`quota`]. What
//! binds a journal to a queue, and what keeps the promise: [`store`].
//!
//! Used by `ingest` (append), `flush` (the trait [`Queue`]), `app`, `admin` and `cli` (status, peek, tools).

use std::{collections::HashSet, path::Path, sync::Arc, thread::JoinHandle, time::Instant};

use parking_lot::Mutex;
use tokio::{runtime::RuntimeFlavor, sync::oneshot};

use crate::record::{RecordBatch, Stream};

mod ages;
mod appending;
mod dead_letters;
mod delivery;
mod disk;
mod encoding;
mod error;
pub mod failpoint;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
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
mod tools;
mod totals;

use self::{appending::Waiting, journal::builder, shared::Shared};
pub use self::{
    dead_letters::{DeadFilter, DeadLetter},
    delivery::{Lease, LeaseLimit, Queue, QueueError, Rejection},
    error::{AppendError, Appended, FullLimit, OpenError},
    losses::{add_missed, missed},
    options::{Compression, Key, Keys, SpoolOptions, WhenFull},
    peek::{Peek, PeekFrom},
    purge::Purged,
    reports::LastError,
    status::{DiskBytes, SpoolStatus, StreamStatus, WriterState},
    tools::{
        inspect::{StoppedSpool, check, inspect},
        raw,
        recover::{DamagedPlace, RecoverError, RecoverReport, recover},
        verify::{Finding, Severity, VerifyReport, verify},
    },
    totals::{DropReason, PassedBytes, Totals},
};
pub(crate) use self::{
    disk::{DirectoryLock, check_writable},
    error::remedy,
    quota::MIN_MAX_BYTES,
};

/// One sink's spool, open. Share it in an `Arc`.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    lock: Mutex<Option<DirectoryLock>>,
}

#[derive(Debug)]
struct Threads {
    appenders: [JoinHandle<()>; 2],
    maintenance: JoinHandle<()>,
}

impl Spool {
    /// Opens the spool in `home`, or makes one there. Blocking.
    ///
    /// # Errors
    /// See [`OpenError`]. Damage is none: it is stepped over, counted and reported.
    pub fn open(home: &Path, options: SpoolOptions) -> Result<Self, OpenError> {
        open::open(home, options)
    }

    /// Takes a batch, whole or not at all; returns when it is durable (`fdatasync`). With `when_full: drop_newest`, a full spool
    /// drops it and says so.
    ///
    /// If the caller stops waiting, the batch may be kept all the same.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the batch is kept then.
    pub async fn append(&self, batch: RecordBatch) -> Result<Appended, AppendError> {
        self.append_as(batch, false).await
    }

    /// [`append`](Self::append) for a caller that waits for nothing else meanwhile: where no other one appends, the calling
    /// thread does it itself, which saves two thread switches.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the batch is kept then.
    pub async fn append_in_place(&self, batch: RecordBatch) -> Result<Appended, AppendError> {
        let runtime = tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor());
        self.append_as(batch, matches!(runtime, Ok(RuntimeFlavor::MultiThread))).await
    }

    async fn append_as(&self, batch: RecordBatch, in_place: bool) -> Result<Appended, AppendError> {
        if batch.is_empty() {
            return Ok(Appended::Kept);
        }
        let until = match self.shared.options.when_full {
            WhenFull::Block { timeout } => Some(Instant::now() + timeout),
            _ => None,
        };
        loop {
            // Listening begins before the attempt: space that comes meanwhile is not missed.
            let space = self.shared.space.notified();
            let (sink, limit) = match self.append_once(batch.clone(), in_place).await {
                Err(AppendError::Full { sink, limit }) => (sink, limit),
                result => return result.map(|()| Appended::Kept),
            };
            match (self.shared.options.when_full, until) {
                (WhenFull::DropNewest, _) => {
                    self.count_newest_dropped(&batch).await;
                    return Ok(Appended::Dropped { limit });
                }
                (_, Some(until)) if tokio::time::timeout_at(until.into(), space).await.is_ok() => {}
                _ => return Err(AppendError::Full { sink, limit }),
            }
        }
    }

    /// Hands a batch to the threads that append, or appends it here.
    async fn append_once(&self, batch: RecordBatch, in_place: bool) -> Result<(), AppendError> {
        let closed = || AppendError::Closed { sink: self.shared.options.name.clone() };
        if let Some(bytes) = builder::too_long(&batch) {
            return Err(AppendError::TooLong { bytes, most: builder::MAX_RECORD_BYTES });
        }
        let (answer, answered) = oneshot::channel();
        let alone = {
            let mut inbox = self.shared.inbox.lock();
            if inbox.closing {
                return Err(closed());
            }
            inbox.push(Waiting { batch, answer });
            let alone = if in_place { inbox.take_alone() } else { None };
            if alone.is_none() && inbox.is_due() {
                self.shared.mail.notify_one();
            }
            alone
        };
        if let Some(group) = alone {
            tokio::task::block_in_place(|| self.shared.append_group(group));
        }
        answered.await.unwrap_or_else(|_| {
            if self.shared.inbox.lock().closing {
                return Err(closed());
            }
            let source = Arc::new(std::io::Error::other("appending panicked: what it held may or may not be kept"));
            Err(AppendError::Io { path: self.shared.store.journal(), source })
        })
    }

    /// Counted where the disk may hang, off the async threads.
    async fn count_newest_dropped(&self, batch: &RecordBatch) {
        let (shared, stream) = (Arc::clone(&self.shared), batch.stream);
        let (records, bytes) = (u64::from(batch.count()), batch.bytes().len() as u64);
        let counted = tokio::task::spawn_blocking(move || {
            shared.count_newest(stream, records, bytes);
        });
        if counted.await.is_err() {
            self.shared.reports.error(format!("{records} dropped records of {stream} could not be counted"));
        }
    }

    /// True where `when_full` is `drop_newest`: records that it has no space for are dropped, and counted, with an OK.
    #[must_use]
    pub fn drops_newest(&self) -> bool {
        matches!(self.shared.options.when_full, WhenFull::DropNewest)
    }

    /// Counts records that an optional sink missed though their call was answered OK: a kill does not take it. Blocking.
    pub fn count_missed(&self, records: u64) {
        self.shared.losses.add_missed(records);
    }

    /// What the spool holds now. Cheap: counters, and at most one block read per stream.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        status::of(&self.shared)
    }

    /// The records of a stream that are still to be delivered, without taking them. Blocking.
    ///
    /// # Errors
    /// When no reader can be made for it.
    pub fn peek(&self, stream: Stream, from: PeekFrom) -> Result<Peek, QueueError> {
        Peek::new(Arc::clone(&self.shared), stream, from)
    }

    /// Checks all that is on disk, beside the work that goes on. Blocking, as long as reading all of it takes.
    ///
    /// # Errors
    /// When a file cannot be read; damage is no error.
    pub fn verify(&self) -> Result<VerifyReport, QueueError> {
        tools::verify::verify_live(&self.shared).map_err(|error| self.shared.io_error(error))
    }

    /// Drops all that these streams hold, counted as purged; returns what that was when it is durable.
    ///
    /// # Errors
    /// When neither journal nor queue takes it: the records are gone, but a restart may bring them back.
    pub async fn purge(&self, streams: &[Stream]) -> Result<Vec<Purged>, QueueError> {
        let (shared, streams) = (Arc::clone(&self.shared), streams.to_vec());
        let purged = tokio::task::spawn_blocking(move || purge::purge(&shared, &streams)).await;
        purged.unwrap_or_else(|panic| Err(self.shared.io_error(std::io::Error::other(panic))))
    }

    /// The dead letters that a filter means, those that were tried longest ago first: at most `limit` of them behind the first `skip`. Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn dead_letters(&self, filter: &DeadFilter, skip: usize, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.shared.dead.list(filter, &HashSet::new(), skip, limit).map_err(|error| self.shared.dead_error(error))
    }

    /// The same one after another (`range`: how many are passed over, how many are meant), until `each` answers false, or `is_over`
    /// true: it may take its time. Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn each_dead_letter(
        &self,
        filter: &DeadFilter,
        range: (usize, usize),
        is_over: &dyn Fn() -> bool,
        each: &mut dyn FnMut(DeadLetter) -> bool,
    ) -> Result<(), QueueError> {
        self.shared.each_dead_letter(filter, range, is_over, each)
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
        self.shared.dead.list(filter, except, 0, limit).map_err(|error| self.shared.dead_error(error))
    }

    /// Removes the dead letters that a filter means, for good; answers how many. Blocking.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn drop_dead_letters(&self, filter: &DeadFilter) -> Result<u64, QueueError> {
        self.shared.dead.drop_matching(filter).map_err(|error| self.shared.dead_error(error))
    }

    /// Removes all dead letters, for good; answers how many. Blocking.
    ///
    /// # Errors
    /// As [`Self::drop_dead_letters`]; and when some cannot be read, which are left: the others are gone.
    pub fn purge_dead_letters(&self) -> Result<u64, QueueError> {
        let dropped = self.drop_dead_letters(&DeadFilter::default())?;
        purge::check_letters_read(&self.shared).map(|()| dropped)
    }

    /// Keeps letters again after another attempt failed: what is known of earlier ones is added to. Blocking.
    ///
    /// # Errors
    /// When the dead letters are full or cannot be written.
    pub fn keep_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), QueueError> {
        rejecting::keep_again(&self.shared, letters)
    }

    /// Removes letters by stream and `_id`, for good; answers how many there were. Blocking.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn remove_dead_letters(&self, keys: &[(Stream, String)]) -> Result<u64, QueueError> {
        self.shared.dead.remove(keys).map_err(|error| self.shared.dead_error(error))
    }

    /// Takes no more records, makes durable what waits, brings the queue up to date, lets go of the directory.
    pub async fn close(&self) {
        let threads = self.threads.lock().take();
        let shared = Arc::clone(&self.shared);
        let stopped = tokio::task::spawn_blocking(move || stop(&shared, threads)).await;
        debug_assert!(stopped.is_ok(), "stopping the spool's threads does not panic");
        self.lock.lock().take();
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        stop(&self.shared, self.threads.lock().take());
    }
}

/// Ends appending, then the maintenance, whose last look has all of it.
fn stop(shared: &Shared, threads: Option<Threads>) {
    let Some(Threads { appenders, maintenance }) = threads else { return };
    shared.inbox.lock().closing = true;
    shared.mail.notify_all();
    for thread in appenders {
        if thread.join().is_err() {
            shared.reports.error("a thread that appends panicked".to_owned());
        }
    }
    // Nobody is left to answer them.
    shared.inbox.lock().clear();
    shared.maintenance.state.lock().closing = true;
    shared.maintenance.condition.notify_one();
    if maintenance.join().is_err() {
        shared.reports.error("the maintenance panicked".to_owned());
    }
}
