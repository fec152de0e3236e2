//! Reads a stopped spool's queue through a copy, because sled writes when it opens.
//!
//! The copy is made in the first of several temporary directories that works, because the usual one may be full or
//! read-only. It contains no records, and is removed before this returns.

use std::{fmt, path::Path, sync::mpsc, thread, time::Duration};

use crate::spool::{
    disk::TemporaryDirectory,
    queue::{memory::MemoryQueue, sled::SledQueue},
    store::queue_directory,
};

/// Where a copy may be made besides the usual directory: mostly in memory.
const OTHER_DIRECTORIES: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];
/// sled may hang when the handle of a copy on a full disk is dropped.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a queue cannot be inspected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoCopy {
    /// It could not be copied; nothing is known of it.
    NotCopied(String),
    /// Its copy cannot be opened or read: the queue is damaged.
    NotReadable(String),
}

impl fmt::Display for NoCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCopied(error) => write!(f, "could not copy the queue to inspect it: {error}"),
            Self::NotReadable(error) => f.write_str(error),
        }
    }
}

/// The contents of a store's queue, in memory; `None` if there is no queue.
pub(crate) fn copy_of_queue(home: &Path) -> Result<Option<MemoryQueue>, NoCopy> {
    let usual = std::env::temp_dir();
    let mut failed: Option<NoCopy> = None;
    for directory in [usual.as_path()].into_iter().chain(OTHER_DIRECTORIES.map(Path::new)) {
        match copy_in(directory, home) {
            // A copy that does not open says more than one that could not be made.
            Err(error @ NoCopy::NotReadable(_)) if !matches!(failed, Some(NoCopy::NotReadable(_))) => {
                failed = Some(error)
            }
            Err(error) => _ = failed.get_or_insert(error),
            copied => return copied,
        }
    }
    Err(failed.unwrap_or_else(|| NoCopy::NotCopied("there is no temporary directory".to_owned())))
}

fn copy_in(directory: &Path, home: &Path) -> Result<Option<MemoryQueue>, NoCopy> {
    let not_copied = |error: std::io::Error| NoCopy::NotCopied(format!("{}: {error}", directory.display()));
    let copy = TemporaryDirectory::new_in(directory, "livekit-spool-queue").map_err(not_copied)?;
    if !copy.fill(&queue_directory(home)).map_err(not_copied)? {
        return Ok(None);
    }
    let queue = SledQueue::open(copy.path()).map_err(|error| NoCopy::NotReadable(error.to_string()))?;
    let contents = MemoryQueue::copy_of(&queue).map_err(|error| NoCopy::NotReadable(error.to_string()));
    drop_in_time(queue);
    contents.map(Some)
}

fn drop_in_time(queue: SledQueue) {
    let (done, dropped) = mpsc::channel();
    let drop_it = move || {
        drop(queue);
        // The caller may have stopped waiting.
        let _ = done.send(());
    };
    if thread::Builder::new().name("spool-queue".to_owned()).spawn(drop_it).is_ok() {
        let _ = dropped.recv_timeout(DROP_TIMEOUT);
    }
}
