//! The state that a spool's threads share: two that append, the maintenance, and the callers.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tokio::sync::Notify;

use super::{
    dead_letters::{DeadError, DeadLetters},
    delivery::QueueError,
    disk::Disk,
    inbox::Inbox,
    losses::Losses,
    options::SpoolOptions,
    quarantine::Quarantine,
    reports::Reports,
    store::{Store, queue_directory, reader::Reader},
};
use crate::{
    histogram::{self, Histogram},
    record::Stream,
};

/// A spool's shared parts. Locks are taken in this order: reader, those of the store, inbox.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) home: PathBuf,
    pub(crate) options: SpoolOptions,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) store: Store,
    pub(crate) dead: DeadLetters,
    pub(crate) readers: [Mutex<Reader>; Stream::ALL.len()],
    pub(crate) inbox: Mutex<Inbox>,
    /// Wakes the threads that append.
    pub(crate) mail: Condvar,
    /// Wakes the maintenance.
    pub(crate) maintenance: Wakeup,
    /// Per stream: records arrived or were released.
    pub(crate) ready: [Notify; Stream::ALL.len()],
    /// Space was freed.
    pub(crate) space: Notify,
    pub(crate) usage: Usage,
    pub(crate) reports: Arc<Reports>,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(super) losses: Losses,
    pub(crate) meters: Meters,
    /// The last append could not be written.
    pub(crate) failing: AtomicBool,
}

/// Measured at each sync.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) sync_latency: Histogram,
    pub(crate) sync_records: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        Self { sync_latency: Histogram::new(histogram::LATENCY), sync_records: Histogram::new(histogram::RECORDS) }
    }
}

/// Wakes a thread, whether or not it is asleep already.
#[derive(Debug, Default)]
pub(crate) struct Wakeup {
    pub(crate) state: Mutex<Woken>,
    pub(crate) condition: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Woken {
    pub(crate) woken: bool,
    pub(crate) closing: bool,
}

impl Wakeup {
    pub(crate) fn wake(&self) {
        self.state.lock().woken = true;
        self.condition.notify_one();
    }
}

/// Bytes on disk, by part.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DiskBytes {
    /// Journal segments, including the space reserved for the newest.
    pub journal: u64,
    /// The sled directories of the records and of the dead letters.
    pub queue: u64,
    /// Dead letters.
    pub dead: u64,
    /// Copies of damaged bytes; outside `max_bytes`.
    pub quarantine: u64,
}

/// Bytes on disk besides the journal, as last measured.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) queue: AtomicU64,
    /// Free on the disk.
    pub(crate) free: AtomicU64,
}

impl Shared {
    /// Measures the bytes on disk and the free space.
    pub(crate) fn measure(&self) {
        let queues = self.disk.directory_bytes(&queue_directory(&self.home));
        match queues.and_then(|bytes| Ok(bytes + self.dead.queue_bytes()?)) {
            Ok(bytes) => self.usage.queue.store(bytes, Ordering::Relaxed),
            Err(error) => {
                self.reports.error(format!("spool {}: could not measure the disk usage: {error}", self.home.display()))
            }
        }
        self.refresh_free();
    }

    pub(crate) fn refresh_free(&self) {
        match self.disk.free_bytes(&self.home) {
            Ok(free) => self.usage.free.store(free, Ordering::Relaxed),
            Err(error) => {
                self.reports.error(format!("spool {}: could not read the free space: {error}", self.home.display()))
            }
        }
    }

    /// Bytes on disk, by part.
    pub(crate) fn disk_bytes(&self) -> DiskBytes {
        let journal = self.store.state.lock().journal_bytes();
        DiskBytes {
            journal,
            queue: self.usage.queue.load(Ordering::Relaxed),
            dead: self.dead.bytes(),
            quarantine: self.quarantine.bytes(),
        }
    }

    /// Whether all queues are on disk, and how often their files failed.
    pub(crate) fn queue_health(&self) -> (bool, u64) {
        let ((journal, failures), (dead, more)) = (self.store.queue_health(), self.dead.queue_health());
        (journal && dead, failures + more)
    }

    /// The bytes that `max_bytes` limits.
    pub(crate) fn used(&self) -> u64 {
        let DiskBytes { journal, queue, dead, quarantine: _ } = self.disk_bytes();
        journal + queue + dead
    }

    /// The error if the whole directory of the dead letters is gone.
    pub(crate) fn dead_letters_gone(&self) -> Option<String> {
        let store = self.dead.store();
        // If the queue's files are missing they are created again, and their directory with them.
        let is_gone = store.is_moved() || self.disk.identity(&store.journal()).is_err();
        is_gone.then(|| self.dead_letters_gone_error()).flatten()
    }

    /// The same if it is certain; `None` if there were never dead letters.
    pub(crate) fn dead_letters_gone_error(&self) -> Option<String> {
        let dead_lettered: u64 = self.store.state.lock().streams.iter().map(|stream| stream.totals.dead_lettered).sum();
        let dead = self.dead.store().home.display();
        (dead_lettered > 0).then(|| {
            format!(
                "{dead}: the directory was removed, moved or replaced, with all dead letters in it (of {dead_lettered} \
                 records that were ever dead-lettered, those that were not retried or dropped): stop livekit-spool, and \
                 put it back if you have it"
            )
        })
    }

    /// A failure of the dead letters, as an error for the flusher.
    pub(crate) fn dead_error(&self, error: DeadError) -> QueueError {
        match error {
            DeadError::Full { .. } => QueueError::DeadLettersFull {
                sink: self.options.name.clone(),
                dead_letters: Stream::ALL.iter().map(|&stream| self.dead.count(stream)).sum(),
                bytes: self.dead.bytes(),
            },
            error @ DeadError::NotDurable { .. } => self.io_error(io::Error::other(error.to_string())),
            DeadError::NoKey { path, key } => QueueError::NoKey { path: path.display().to_string(), key },
            DeadError::Io { path, source } => QueueError::Io { path: path.display().to_string(), source },
        }
    }

    /// An error of this spool as a whole.
    pub(crate) fn io_error(&self, source: io::Error) -> QueueError {
        QueueError::Io { path: self.home.display().to_string(), source }
    }
}
