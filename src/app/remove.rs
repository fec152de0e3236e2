//! Removes the directory of an orphaned spool: only the files that a spool creates, recognised by their names. Any other
//! file there stays and is reported.
//!
//! ```text
//! <directory>/lock, losses
//!         /journal/<number>.journal, <number>.done
//!         /queue/                        sled's: conf, db, snap.*, blobs/<number>
//!         /dead/                         as journal/; or a journal/ and a queue/ of its own
//!         /quarantine/report.ndjson, *.bad, queue/
//! ```
//!
//! The spool's own lock is held during the removal, so that no open spool is removed.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::spool::DirectoryLock;

/// Why a spool's directory was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The spool is open.
    #[error("{} is in use: nothing was removed; try again in a moment", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory cannot be removed.
    #[error("could not remove {}: {source}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl RemoveError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Removes what a spool created in `directory`, and the directory itself if nothing else is in it. Returns what was left.
/// Blocking.
///
/// # Errors
/// When the spool is open, or something cannot be removed.
pub(super) fn remove_spool(directory: &Path) -> Result<Vec<PathBuf>, RemoveError> {
    let lock = DirectoryLock::take(directory).map_err(RemoveError::io(directory))?;
    let Some(lock) = lock else { return Err(RemoveError::InUse { path: directory.to_owned() }) };
    let mut left = Vec::new();
    Place::Spool.empty(directory, &mut left)?;
    // Last: as long as the directory exists, it is locked.
    let name = directory.join(LOCK);
    fs::remove_file(&name).map_err(RemoveError::io(&name))?;
    drop(lock);
    remove_if_empty(directory)?;
    if let Some(parent) = directory.parent() {
        // It makes the removal durable; if it fails, a power cut can bring back files of an orphaned spool.
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
    }
    left.sort();
    Ok(left)
}

const LOCK: &str = "lock";

/// The kinds of directories in a spool.
#[derive(Debug, Clone, Copy)]
enum Place {
    Spool,
    Journal,
    Dead,
    Queue,
    Blobs,
    Quarantine,
}

/// What a spool creates.
enum Made {
    File,
    Directory(Place),
}

impl Place {
    /// What a spool creates here under this name, if anything.
    fn makes(self, name: &str) -> Option<Made> {
        let directory = |place| Some(Made::Directory(place));
        match (self, name) {
            (Self::Spool, "journal") | (Self::Dead, "journal") => directory(Self::Journal),
            (Self::Spool, "queue") | (Self::Dead, "queue") => directory(Self::Queue),
            (Self::Spool, "dead") => directory(Self::Dead),
            (Self::Spool | Self::Dead, "quarantine") => directory(Self::Quarantine),
            (Self::Queue, "blobs") => directory(Self::Blobs),
            (Self::Quarantine, "queue") => directory(Self::Queue),
            (Self::Queue, "conf" | "db") | (Self::Quarantine, "report.ndjson") => Some(Made::File),
            (Self::Journal | Self::Dead, name) => is_segment(name).then_some(Made::File),
            (Self::Queue, name) => name.starts_with("snap.").then_some(Made::File),
            (Self::Blobs, name) => is_number(name).then_some(Made::File),
            (Self::Quarantine, name) => (name.ends_with(".bad") || is_segment(name)).then_some(Made::File),
            (Self::Spool, name) => (name == "losses").then_some(Made::File),
        }
    }

    /// Removes what a spool created here and adds everything else to `left`. Links are not followed.
    fn empty(self, directory: &Path, left: &mut Vec<PathBuf>) -> Result<(), RemoveError> {
        let failed = || RemoveError::io(directory);
        for entry in fs::read_dir(directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(failed())?);
            let name = entry.file_name();
            match name.to_str().and_then(|name| self.makes(name)) {
                Some(Made::File) if kind.is_file() => fs::remove_file(&path).map_err(RemoveError::io(&path))?,
                Some(Made::Directory(place)) if kind.is_dir() => {
                    place.empty(&path, left)?;
                    remove_if_empty(&path)?;
                }
                _ if matches!(self, Self::Spool) && name == LOCK => {}
                _ => left.push(path),
            }
        }
        Ok(())
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_segment(name: &str) -> bool {
    let stem = name.strip_suffix(".done").unwrap_or(name);
    let stem = stem.strip_suffix(".journal").unwrap_or(stem);
    stem.len() < name.len() && is_number(stem)
}

fn remove_if_empty(directory: &Path) -> Result<(), RemoveError> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(RemoveError::io(directory)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{
        record::{RecordBatchBuilder, Stream},
        spool::{Spool, SpoolOptions},
    };

    fn options() -> SpoolOptions {
        SpoolOptions { min_free_bytes: 0, ..SpoolOptions::default() }
    }

    /// A spool with a record, closed.
    async fn spool(directory: &Path) {
        let spool = Spool::open(directory, options()).unwrap();
        let mut batch = RecordBatchBuilder::new(Stream::Events);
        batch.push(b"record");
        spool.append(batch.build(0)).await.unwrap();
        spool.close().await;
    }

    #[tokio::test]
    async fn everything_that_a_spool_created_is_removed_and_its_directory_too() {
        let data = tempfile::tempdir().unwrap();
        let directory = data.path().join("gone");
        spool(&directory).await;
        for (place, files) in [
            ("journal", &["000000000007.done", "000000000008.journal.done"][..]),
            ("dead", &["000000000003.journal"]),
            ("dead/journal", &["000000000001.journal"]),
            ("dead/queue", &["db"]),
            ("queue", &["snap.0000000000000001.generating"]),
            ("queue/blobs", &["7"]),
            ("quarantine", &["report.ndjson", "000000000001-0000000000-dead.bad", "000000000002.journal"]),
            ("dead/quarantine", &["000000000001.journal"]),
            ("quarantine/queue", &["conf", "db"]),
        ] {
            fs::create_dir_all(directory.join(place)).unwrap();
            files.iter().for_each(|file| fs::write(directory.join(place).join(file), "").unwrap());
        }
        assert_eq!(remove_spool(&directory).unwrap(), Vec::<PathBuf>::new());
        assert!(!directory.exists());
    }

    #[tokio::test]
    async fn files_that_the_spool_did_not_create_stay_and_are_reported() {
        let data = tempfile::tempdir().unwrap();
        let (directory, elsewhere) = (data.path().join("mixed"), data.path().join("elsewhere"));
        spool(&directory).await;
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(elsewhere.join("000000000001.journal"), "precious").unwrap();
        fs::create_dir_all(directory.join("out/journal")).unwrap();
        let foreign = [
            "events-20261122T010203.456Z.ndjson",
            "journal/events-20261122T010203.456Z.ndjson",
            "out/journal/000000000001.journal",
            "queue/notes.txt",
        ];
        foreign.iter().for_each(|file| fs::write(directory.join(file), "precious").unwrap());
        symlink(&elsewhere, directory.join("quarantine")).unwrap();
        symlink(elsewhere.join("000000000001.journal"), directory.join("journal/000000000099.journal")).unwrap();

        let left = remove_spool(&directory).unwrap();
        let expected = [
            "events-20261122T010203.456Z.ndjson",
            "journal/000000000099.journal",
            "journal/events-20261122T010203.456Z.ndjson",
            "out",
            "quarantine",
            "queue/notes.txt",
        ];
        assert_eq!(left, expected.map(|path| directory.join(path)));
        assert!(foreign.iter().all(|file| fs::read(directory.join(file)).unwrap() == b"precious"));
        assert_eq!(fs::read(elsewhere.join("000000000001.journal")).unwrap(), b"precious");
        assert!(
            !directory.join("lock").exists()
                && !directory.join("queue/db").exists()
                && !directory.join("dead").exists()
        );
        let segments = fs::read_dir(directory.join("journal")).unwrap().count();
        assert_eq!(segments, 2, "the link and the foreign file");
    }

    #[tokio::test]
    async fn an_open_spool_is_not_touched() {
        let data = tempfile::tempdir().unwrap();
        let directory = data.path().join("open");
        let spool = Spool::open(&directory, options()).unwrap();
        let files =
            || fs::read_dir(directory.join("journal")).unwrap().count() + fs::read_dir(&directory).unwrap().count();
        let before = files();
        let error = remove_spool(&directory).unwrap_err();
        assert!(matches!(error, RemoveError::InUse { .. }), "{error}");
        assert_eq!(files(), before);
        spool.close().await;
        remove_spool(&directory).unwrap();
    }
}
