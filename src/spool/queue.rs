//! The queues: a sled tree per stream over the journal. The one file that names sled.
//!
//! Key: the big-endian ordinal of a run's first record. Value: where the run lies ([`Run`], bincode). Present means not
//! yet all delivered. The tree `meta` holds the checkpoint: how far the journal is in here, and when
//! that was saved.
//!
//! Nothing in here is the truth: whatever is missing or wrong is found again in the journal. sled is known to panic on
//! damaged files, so each call is caught.

use std::{
    fmt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use sled::{Config, Db, Mode, Tree};

use super::{
    ages::Times,
    failpoint,
    io::{Disk, RealDisk},
    state::{Checkpoint, Run, decode, encode},
};
use crate::{caught::caught, record::Stream};

/// The page cache of one sink's queue.
const CACHE_BYTES: u64 = 2 << 20;
/// sled grows in steps of this.
const STEP_BYTES: usize = 64 << 10;
/// How long to wait for an earlier handle of this process to let go of the files (it does so in the background).
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);
const CHECKPOINT: &[u8] = b"checkpoint";
const TIMES: &[u8] = b"times";

/// What changes in the queues with one checkpoint.
#[derive(Debug)]
pub(crate) struct Changes {
    /// New or grown entries.
    pub(crate) runs: Vec<(Stream, u64, Run)>,
    /// Per stream: entries that end at or before this ordinal go.
    pub(crate) heads: [u64; Stream::ALL.len()],
    pub(crate) checkpoint: Checkpoint,
    /// The time, for the next start to hold its own against.
    pub(crate) times: Times,
}

/// What the spool needs of its queues.
pub(crate) trait Index: Send + Sync + fmt::Debug + 'static {
    /// The last checkpoint.
    fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError>;
    /// The time when the last checkpoint was saved.
    fn times(&self) -> Option<Times>;
    /// Forgets what was entered after the checkpoint: the journal tells it again.
    fn rewind(&self, checkpoint: &Checkpoint) -> Result<(), IndexError>;
    /// The entry that holds `ordinal`.
    fn run_at(&self, stream: Stream, ordinal: u64) -> Result<Option<(u64, Run)>, IndexError>;
    /// The entries from `ordinal` on, at most `limit` of them.
    fn runs_from(&self, stream: Stream, ordinal: u64, limit: usize) -> Result<Vec<(u64, Run)>, IndexError>;
    /// Enters changes and makes them last.
    fn save(&self, changes: &Changes) -> Result<(), IndexError>;
}

/// sled failed or panicked.
#[derive(Debug, thiserror::Error)]
#[error("queue: {0}")]
pub(crate) struct IndexError(pub(crate) String);

/// The queues in a sled database.
pub(crate) struct SledIndex {
    db: Db,
    streams: [Tree; Stream::ALL.len()],
    meta: Tree,
    folder: PathBuf,
}

impl fmt::Debug for SledIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledIndex").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl SledIndex {
    /// Opens or makes the database.
    pub(crate) fn open(folder: &Path) -> Result<Self, IndexError> {
        remove_half_snapshots(folder);
        // sled would let everyone in.
        RealDisk.make_folder(folder).map_err(|error| IndexError(format!("{}: {error}", folder.display())))?;
        let patience = Instant::now() + RELEASE_PATIENCE;
        loop {
            let opened = guarded(|| Self::open_once(folder));
            match opened {
                Err(error) if error.0.contains("lock") && Instant::now() < patience => {
                    thread::sleep(Duration::from_millis(20));
                }
                opened => return opened,
            }
        }
    }

    fn open_once(folder: &Path) -> sled::Result<Self> {
        let db = Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .segment_size(STEP_BYTES)
            .mode(Mode::LowSpace)
            .flush_every_ms(None)
            .open()?;
        let [events, stats, node_rooms] = Stream::ALL.map(|stream| db.open_tree(stream.as_str()));
        let meta = db.open_tree("meta")?;
        Ok(Self { streams: [events?, stats?, node_rooms?], meta, db, folder: folder.to_owned() })
    }

    fn save_caught(&self, changes: &Changes) -> sled::Result<()> {
        for (stream, key, run) in &changes.runs {
            self.streams[*stream as usize].insert(key.to_be_bytes(), encode(run))?;
        }
        for (tree, head) in self.streams.iter().zip(changes.heads) {
            while let Some((key, value)) = tree.first()? {
                let done = match (key_ordinal(&key), decode::<Run>(&value)) {
                    (Some(ordinal), Some(run)) => ordinal + run.records <= head,
                    _ => true,
                };
                if !done {
                    break;
                }
                tree.remove(&key)?;
            }
        }
        self.meta.insert(CHECKPOINT, encode(&changes.checkpoint))?;
        self.meta.insert(TIMES, encode(&changes.times))?;
        failpoint::reach("queue_flush");
        self.db.flush()?;
        Ok(())
    }
}

impl Index for SledIndex {
    fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        let bytes = guarded(|| self.meta.get(CHECKPOINT))?;
        bytes.map(|bytes| decode(&bytes).ok_or_else(|| IndexError("the checkpoint cannot be read".into()))).transpose()
    }

    fn times(&self) -> Option<Times> {
        // Without it, ages begin with what the journal says.
        guarded(|| self.meta.get(TIMES)).ok().flatten().and_then(|bytes| decode(&bytes))
    }

    fn rewind(&self, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        let next = checkpoint.state.first_ordinals();
        for (i, tree) in self.streams.iter().enumerate() {
            let from = checkpoint.tails[i].map_or(next[i], |(key, _)| key);
            guarded(|| {
                while let Some((key, _)) = tree.last()? {
                    if key_ordinal(&key).is_some_and(|ordinal| ordinal < from) {
                        break;
                    }
                    tree.remove(&key)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn run_at(&self, stream: Stream, ordinal: u64) -> Result<Option<(u64, Run)>, IndexError> {
        let tree = &self.streams[stream as usize];
        let entry = guarded(|| tree.get_lt(ordinal.saturating_add(1).to_be_bytes()))?;
        Ok(entry.and_then(|(key, value)| {
            let (key, run) = (key_ordinal(&key)?, decode::<Run>(&value)?);
            (ordinal < key.saturating_add(run.records)).then_some((key, run))
        }))
    }

    fn runs_from(&self, stream: Stream, ordinal: u64, limit: usize) -> Result<Vec<(u64, Run)>, IndexError> {
        let entries = guarded(|| {
            self.streams[stream as usize].range(ordinal.to_be_bytes()..).take(limit).collect::<sled::Result<Vec<_>>>()
        })?;
        let unreadable = || IndexError(format!("an entry of {stream} cannot be read"));
        entries
            .into_iter()
            .map(|(key, value)| key_ordinal(&key).zip(decode::<Run>(&value)).ok_or_else(unreadable))
            .collect()
    }

    fn save(&self, changes: &Changes) -> Result<(), IndexError> {
        guarded(|| self.save_caught(changes))
    }
}

fn key_ordinal(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// A crash while sled writes a snapshot leaves one that it cannot open (sled issues 1527, 1533); it does not need it.
fn remove_half_snapshots(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            // If it cannot be removed, sled does not open, and the queue is made anew.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Runs a call into sled; a panic becomes an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexError> {
    match caught(call) {
        Ok(result) => result.map_err(|error| IndexError(error.to_string())),
        Err(panic) => Err(IndexError(format!("sled panicked: {panic}"))),
    }
}
