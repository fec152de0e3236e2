//! The data directory: created private, locked for one process, and listed for spools.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    durable_fs::make_directories,
    files,
    record::SinkName,
    spool::{check_writable, remedy},
};

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be created, read or written.
    #[error("data directory {}: {source}: {}", path.display(), remedy(source))]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A command of root's, and the directory is not root's: its owner could not open the files that root creates in it.
    #[error(
        "data directory {} belongs to another user (uid {owner}), who could not open the files that root creates in it: run \
         the command as that user (`setpriv --reuid={owner} --regid={group} --clear-groups livekit-spool …`), or give the \
         directory to root (chown -R)", path.display()
    )]
    OfAnother {
        /// The directory.
        path: PathBuf,
        /// The user to whom it belongs.
        owner: u32,
        /// Its group.
        group: u32,
    },
    /// A command needs an existing directory, and there is none.
    #[error(
        "there is no data directory {} (from {}): run the command where `run` runs, or give data_dir an absolute path (the \
         first `run` creates it)", path.display(), working_directory()
    )]
    Missing {
        /// The directory as configured.
        path: PathBuf,
    },
    /// Another process uses it.
    #[error(
        "another livekit-spool{} uses the data directory {}: stop it, or choose another data_dir",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The id of the other process, if it wrote it.
        pid: Option<u32>,
    },
}

fn working_directory() -> String {
    std::env::current_dir().map_or_else(|error| error.to_string(), |directory| directory.display().to_string())
}

/// Checks of the lock (whether a process runs) are over within this time, however many there are.
const INSPECTIONS_OVER: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The data directory, locked until this is dropped or the process ends in any way.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

/// The socket over which the CLI talks to the running process.
#[must_use]
pub fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("livekit-spool.sock")
}

/// Calls `with` with a path of the socket that fits into the 107 bytes that the kernel allows.
///
/// # Errors
/// The error of `with`, or why the directory cannot be opened.
pub fn with_short_path<T>(socket: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    const LONGEST: usize = 107;
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else { return with(socket) };
    if socket.as_os_str().len() <= LONGEST {
        return with(socket);
    }
    let directory = File::open(directory)?;
    with(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

impl DataDirectory {
    /// Creates the directory durably if it is missing (0700), and locks it.
    ///
    /// # Errors
    /// When it cannot be created or written, or another process has locked it.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Io { path, source }
        };
        make_directories(path, 0o700).map_err(failed(path))?;
        Self::lock(path)
    }

    /// Locks the directory, which has to exist, for a command.
    ///
    /// # Errors
    /// When it does not exist, cannot be written, belongs to another user than root while this process is root's, or another
    /// process has locked it.
    pub fn open_existing(path: &Path) -> Result<Self, DirectoryError> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DirectoryError::Missing { path: path.to_owned() });
            }
            metadata => metadata.map_err(|source| DirectoryError::Io { path: path.to_owned(), source })?,
        };
        let (owner, group) = (metadata.uid(), metadata.gid());
        if rustix::process::geteuid().is_root() && owner != 0 {
            return Err(DirectoryError::OfAnother { path: path.to_owned(), owner, group });
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Io { path, source }
        };
        check_writable(path).map_err(failed(path))?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = files::open_private(&lock_path, &mut options).map_err(failed(&lock_path))?;
        if !take(&lock).map_err(failed(&lock_path))? {
            let mut pid = String::new();
            // Only for the error message.
            let _ = lock.read_to_string(&mut pid);
            return Err(DirectoryError::InUse { path: path.to_owned(), pid: pid.trim().parse().ok() });
        }
        // Only for error messages of other processes: a full disk may have no space for it.
        let _ = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the lock for this process; false if another process uses the directory. A command that only checks for a running
/// process holds a shared lock for a moment; this waits until it is released.
fn take(lock: &File) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        if files::lock(lock)? {
            return Ok(true);
        }
        if files::is_locked(lock)? || begun.elapsed() >= INSPECTIONS_OVER {
            return Ok(false);
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

/// The sinks that have a spool in the data directory, by name.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn spools_in(data_dir: &Path) -> io::Result<Vec<SinkName>> {
    let entries = match fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().join("journal").is_dir()
            && let Some(name) = entry.file_name().to_str().and_then(|name| SinkName::new(name).ok())
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A warning if the directory is on a volatile file system: in memory, or deleted with a container.
#[must_use]
pub(super) fn volatile(path: &Path) -> Option<String> {
    let why = why_volatile(rustix::fs::statfs(path).ok()?.f_type)?;
    Some(format!("data directory {} {why}", path.display()))
}

const TMPFS: rustix::fs::FsWord = 0x0102_1994;
const RAMFS: rustix::fs::FsWord = 0x8584_58f6;
const OVERLAY: rustix::fs::FsWord = 0x794c_7630;

/// Why a file system of this type (statfs) loses a backlog; `None` if it does not.
const fn why_volatile(file_system: rustix::fs::FsWord) -> Option<&'static str> {
    match file_system {
        TMPFS | RAMFS => Some("is in memory (tmpfs): a restart of the machine loses the backlog"),
        OVERLAY => Some(
            "is on the container's writable layer (overlay): removing the container loses the backlog; mount a volume",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_learns_which_process_uses_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let directory = DataDirectory::open(&path).unwrap();
        let error = DataDirectory::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(directory);
        DataDirectory::open(&path).unwrap();
    }

    #[test]
    fn a_check_of_the_lock_does_not_count_as_a_second_process() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        drop(DataDirectory::open(&path).unwrap());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let inspect = || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let lock = File::open(path.join("lock")).unwrap();
                    files::is_locked(&lock).unwrap();
                }
            };
            (0..3).for_each(|_| drop(scope.spawn(inspect)));
            for _ in 0..50 {
                DataDirectory::open(&path).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_missing_directory_is_not_created_for_a_command() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let error = DataDirectory::open_existing(&path).unwrap_err().to_string();
        assert!(error.contains("there is no data directory") && !path.exists(), "{error}");
        drop(DataDirectory::open(&path).unwrap());
        DataDirectory::open_existing(&path).unwrap();
    }

    #[test]
    fn a_command_of_root_creates_no_file_in_a_directory_of_another_user() {
        // Only root can give directories away, and only root could create files there.
        if rustix::process::geteuid().is_root() {
            let data = tempfile::tempdir().unwrap();
            std::os::unix::fs::chown(data.path(), Some(12_345), Some(54_321)).unwrap();
            let error = DataDirectory::open_existing(data.path()).unwrap_err().to_string();
            assert!(error.contains("(uid 12345)") && error.contains("--reuid=12345 --regid=54321"), "{error}");
            assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
            std::os::unix::fs::chown(data.path(), Some(0), None).unwrap();
            DataDirectory::open_existing(data.path()).unwrap();
        }
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let data = tempfile::tempdir().unwrap();
        let precious = data.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, data.path().join("lock")).unwrap();
        let error = DataDirectory::open(data.path()).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn a_backlog_in_memory_or_in_a_containers_layer_gets_a_warning() {
        assert!(why_volatile(TMPFS).unwrap().contains("tmpfs") && why_volatile(RAMFS).is_some());
        assert!(why_volatile(OVERLAY).unwrap().contains("mount a volume"));
        for lasting in [0xEF53, 0x5846_5342, 0x9123_683E, 0x6969] {
            assert_eq!(why_volatile(lasting), None, "ext4, xfs, btrfs, nfs");
        }
    }

    #[test]
    fn only_directories_with_a_journal_are_spools() {
        let data = tempfile::tempdir().unwrap();
        for directory in ["mongo/journal", "files/journal", "out", "Not A Sink/journal"] {
            fs::create_dir_all(data.path().join(directory)).unwrap();
        }
        let names = spools_in(data.path()).unwrap();
        assert_eq!(names.iter().map(SinkName::as_str).collect::<Vec<_>>(), ["files", "mongo"]);
        assert!(spools_in(&data.path().join("nowhere")).unwrap().is_empty());
    }
}
