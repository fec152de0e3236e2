//! The queue in sled, see [`queue`](super). The one file that names sled.
//!
//! Known problems of sled 0.34, and how they are handled:
//! - It panics on damaged files: each call is caught.
//! - A crash while it writes a snapshot leaves one that it cannot open: that is removed, because sled does not need it.
//! - `flush` is no fsync: its files are fsynced after it.
//! - After a failed write, `flush` and the drop of its handle hang forever: a flush has a timeout, and the caller
//!   leaks a handle that failed.
//! - The drop of its last handle syncs, and a failure of that aborts the process: such a handle is leaked, see
//!   [`leak_unless_synced`], up to [`MAX_LEAKED`] in a process.
//! - A value longer than a quarter of its segments goes to a file that is never synced: entries are far shorter.
//! - Its handle releases the files some time after its drop: opening waits for that.

use std::{
    fmt,
    fs::OpenOptions,
    io, mem,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use sled::{
    Config, Db, Mode, Transactional, Tree,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};

use super::{Change, Entry, Progress, QueueFailed, QueueStore, Queues, Recorded};
use crate::{
    catch_panic::catch_panic,
    files,
    record::Stream,
    spool::{
        disk::{Disk, RealDisk},
        encoding::{decode, encode},
        failpoint,
    },
};

/// The page cache of one queue.
const CACHE_BYTES: u64 = 2 << 20;
/// sled grows in steps of this size.
const STEP_BYTES: usize = 64 << 10;
/// How long to wait for an earlier handle of this process to release the files.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a flush may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 30 });
/// How many handles are leaked in one process, whichever spools they belong to: each takes a file, and about a
/// megabyte.
const MAX_LEAKED: u64 = if cfg!(test) { 1 << 20 } else { 32 };
static LEAKED: AtomicU64 = AtomicU64::new(0);
const TOTALS: &[u8] = b"totals";
const NEXT: &[u8] = b"next";
const CLOCK: &[u8] = b"clock";
const STREAMS: usize = Stream::ALL.len();

/// Queues in sled databases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SledQueues;

impl Queues for SledQueues {
    fn spent(&self) -> Option<QueueFailed> {
        let leaked = LEAKED.load(Ordering::Relaxed);
        (leaked >= MAX_LEAKED).then(|| {
            QueueFailed(format!(
                "{leaked} queues that failed are still open in this process: restart livekit-spool when the disk works again"
            ))
        })
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn QueueStore>, QueueFailed> {
        Ok(Arc::new(SledQueue::open(directory)?))
    }
}

/// A queue in a sled database.
pub(crate) struct SledQueue {
    /// `None` while it is being dropped.
    db: Option<Db>,
    /// Of the streams, the segments, and the state, in this order.
    trees: Vec<Tree>,
    directory: PathBuf,
}

impl fmt::Debug for SledQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledQueue").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl SledQueue {
    /// Opens or creates the database.
    ///
    /// # Errors
    /// When sled fails or panics.
    pub(crate) fn open(directory: &Path) -> Result<Self, QueueFailed> {
        remove_half_snapshots(directory);
        // sled would create it readable for everyone.
        RealDisk.make_directory(directory).map_err(|error| QueueFailed(format!("{}: {error}", directory.display())))?;
        check_files(directory).map_err(|error| QueueFailed(error.to_string()))?;
        let until = Instant::now() + RELEASE_TIMEOUT;
        loop {
            match guarded(|| Self::open_once(directory)) {
                Err(error) if error.0.contains("lock") && Instant::now() < until => {
                    thread::sleep(Duration::from_millis(20));
                }
                opened => return opened,
            }
        }
    }

    fn open_once(directory: &Path) -> sled::Result<Self> {
        let db = Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .segment_size(STEP_BYTES)
            .mode(Mode::LowSpace)
            .flush_every_ms(None)
            .open()?;
        match Self::trees(&db) {
            Ok(trees) => Ok(Self { trees: trees.into(), db: Some(db), directory: directory.to_owned() }),
            Err(error) => {
                leak_unless_synced(&db, directory);
                Err(error)
            }
        }
    }

    fn trees(db: &Db) -> sled::Result<[Tree; STREAMS + 2]> {
        let [events, stats, node_rooms] = Stream::ALL.map(|stream| db.open_tree(stream.as_str()));
        Ok([events?, stats?, node_rooms?, db.open_tree("segments")?, db.open_tree("state")?])
    }

    fn segments(&self) -> &Tree {
        &self.trees[STREAMS]
    }

    fn state(&self) -> &Tree {
        &self.trees[STREAMS + 1]
    }

    fn value<T: bincode::Decode<()>>(&self, key: &[u8]) -> Result<Option<T>, QueueFailed> {
        let bytes = guarded(|| self.state().get(key))?;
        bytes.map(|bytes| decode(&bytes).ok_or_else(|| unreadable("its state"))).transpose()
    }
}

impl QueueStore for SledQueue {
    fn recorded(&self) -> Result<Recorded, QueueFailed> {
        let rows = guarded(|| self.segments().iter().collect::<sled::Result<Vec<_>>>())?;
        let row = |(key, value): (sled::IVec, sled::IVec)| Some((number(&key)?, decode::<Progress>(&value)?));
        let segments = rows.into_iter().map(|pair| row(pair).ok_or_else(|| unreadable("a segment")));
        Ok(Recorded {
            segments: segments.collect::<Result<_, _>>()?,
            totals: self.value(TOTALS)?.unwrap_or_default(),
            next: self.value(NEXT)?.unwrap_or_default(),
            clock: self.value(CLOCK)?,
        })
    }

    fn entry_from(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        let tree = &self.trees[stream as usize];
        let before = guarded(|| tree.get_lt(seq.saturating_add(1).to_be_bytes()))?;
        if let Some(pair) = before {
            let (key, entry) = entry_of(pair)?;
            if entry.seqs(key).contains(&seq) {
                return Ok(Some((key, entry)));
            }
        }
        guarded(|| tree.get_gt(seq.to_be_bytes()))?.map(entry_of).transpose()
    }

    fn entry_before(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        guarded(|| self.trees[stream as usize].get_lt(seq.to_be_bytes()))?.map(entry_of).transpose()
    }

    fn apply(&self, change: &Change) -> Result<(), QueueFailed> {
        failpoint::reach("queue_change");
        let put = |tree: &TransactionalTree, key: &[u8], value: Option<Vec<u8>>| -> Result<(), _> {
            match value {
                Some(value) => tree.insert(key, value)?,
                None => tree.remove(key)?,
            };
            Ok::<(), sled::transaction::UnabortableTransactionError>(())
        };
        let write = |trees: &Vec<TransactionalTree>| -> Result<(), ConflictableTransactionError<()>> {
            for (stream, key, entry) in &change.entries {
                put(&trees[*stream as usize], &key.to_be_bytes(), entry.as_ref().map(encode))?;
            }
            for (segment, progress) in &change.segments {
                put(&trees[STREAMS], &segment.to_be_bytes(), progress.as_ref().map(encode))?;
            }
            let state = &trees[STREAMS + 1];
            if let Some(totals) = &change.totals {
                put(state, TOTALS, Some(encode(totals)))?;
            }
            if let Some(next) = &change.next {
                put(state, NEXT, Some(encode(next)))?;
            }
            if let Some(clock) = &change.clock {
                put(state, CLOCK, Some(encode(clock)))?;
            }
            Ok(())
        };
        guarded(|| match self.trees.as_slice().transaction(write) {
            Ok(()) => Ok(()),
            Err(TransactionError::Storage(error)) => Err(error),
            Err(TransactionError::Abort(())) => unreachable!("no change aborts"),
        })
    }

    fn flush(&self) -> Result<(), QueueFailed> {
        let (answer, answered) = mpsc::channel();
        let Some(db) = self.db.clone() else { return Ok(()) };
        let directory = self.directory.clone();
        thread::Builder::new()
            .name("spool-queue".to_owned())
            .spawn(move || {
                let flushed = flush(&db, &directory);
                // If the store released its handle meanwhile, this is the last one: if its drop hangs, it hangs on this
                // thread.
                match &flushed {
                    Ok(()) => drop(db),
                    Err(_) => mem::forget(db),
                }
                // The caller may have stopped waiting.
                let _ = answer.send(flushed);
            })
            .map_err(|error| QueueFailed(error.to_string()))?;
        answered
            .recv_timeout(FLUSH_TIMEOUT)
            .unwrap_or_else(|_| Err(QueueFailed(format!("no answer for {} s", FLUSH_TIMEOUT.as_secs()))))
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn leak(self: Arc<Self>) {
        LEAKED.fetch_add(1, Ordering::Relaxed);
        mem::forget(self);
    }
}

impl Drop for SledQueue {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else { return };
        leak_unless_synced(&db, &self.directory);
        let trees = mem::take(&mut self.trees);
        // Caught: two queues that are dropped one after the other and both panic would end the process.
        if let Err(panic) = catch_panic(move || drop((trees, db))) {
            tracing::warn!(
                directory = %self.directory.display(),
                panic,
                "could not sync the queue's files when closing them"
            );
        }
    }
}

/// Called before a handle is dropped: if its file cannot be synced now, the handle is leaked. sled syncs once more in
/// its drop and panics if that fails, during other drops, which ends the process without a message. The leak costs some
/// memory and the file; the spool's last error names the cause.
fn leak_unless_synced(db: &Db, directory: &Path) {
    let db_file = files::open(&directory.join("db"), OpenOptions::new().read(true));
    // As sled does it: with metadata.
    let synced = db_file.and_then(|file| file.sync_all());
    if synced.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
        LEAKED.fetch_add(1, Ordering::Relaxed);
        mem::forget(db.clone());
    }
}

/// Flushes, and syncs what the flush wrote.
fn flush(db: &Db, directory: &Path) -> Result<(), QueueFailed> {
    failpoint::reach("queue_flush");
    guarded(|| db.flush())?;
    let sync = || -> std::io::Result<()> {
        for file in RealDisk.list(directory)? {
            match RealDisk.open(&directory.join(&file.name)) {
                Ok(file) => file.sync()?,
                // A snapshot that was replaced by a newer one, or a directory.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound || files::is_refusal(&error) => {}
                Err(error) => return Err(error),
            }
        }
        RealDisk.sync_directory(directory)
    };
    sync().map_err(|error| QueueFailed(format!("{}: {error}", directory.display())))?;
    failpoint::reach("queue_flushed");
    Ok(())
}

fn entry_of((key, value): (sled::IVec, sled::IVec)) -> Result<(u64, Entry), QueueFailed> {
    number(&key).zip(decode(&value)).ok_or_else(|| unreadable("an entry"))
}

fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

fn unreadable(what: &str) -> QueueFailed {
    QueueFailed(format!("{what} cannot be read"))
}

/// A crash while sled writes a snapshot leaves one that it cannot open (sled issues 1527, 1533); sled does not need it.
fn remove_half_snapshots(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            // If it cannot be removed, sled does not open, and the queue is rebuilt from the journal.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// sled opens its files by itself and follows links in their place: they are checked before.
fn check_files(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", entry.path().display()));
            RealDisk.open_writable(&entry.path()).map_err(named)?;
        }
    }
    Ok(())
}

/// Runs a call into sled; a panic becomes an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, QueueFailed> {
    match catch_panic(call) {
        Ok(result) => result.map_err(|error| QueueFailed(error.to_string())),
        Err(panic) => Err(QueueFailed(format!("sled panicked: {panic}"))),
    }
}
