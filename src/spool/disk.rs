//! File I/O, behind a trait: the real one, and in tests a fake that fails, tears and loses unsynced writes.
//!
//! Every file is created with mode 0600 and every directory with 0700: records are private. [`files`] decides what may
//! be opened.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
};

use crate::files;

/// A directory tree on some medium.
pub(crate) trait Disk: Send + Sync + std::fmt::Debug + 'static {
    /// Creates a new, empty file for reading and writing; fails if it exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading only.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory; empty where there is no such directory. Names that are not files cannot be opened.
    fn list(&self, directory: &Path) -> io::Result<Vec<Listed>>;
    /// Creates a directory and its parents; it may exist.
    fn make_directory(&self, directory: &Path) -> io::Result<()>;
    /// Removes a file; it may be missing.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything below it; it may be missing.
    fn remove_directory(&self, directory: &Path) -> io::Result<()>;
    /// Renames a file or directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// The file or directory at a path: device and inode.
    fn identity(&self, path: &Path) -> io::Result<Identity>;
    /// Free bytes of this directory's medium that this user can write.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;
    /// Bytes that a directory's files take on the medium, subdirectories included.
    fn directory_bytes(&self, directory: &Path) -> io::Result<u64>;
}

/// A name in a directory, usually of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// Its length.
    pub(crate) len: u64,
    /// Bytes that it takes on the medium, including reserved ones.
    pub(crate) allocated: u64,
}

/// Identifies a file or directory, whatever its path: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) u64, pub(crate) u64);

/// An open file.
pub(crate) trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Reads until `buffer` is full or the file ends; returns how many bytes were read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file's contents and length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Cuts or extends the file; releases space that was reserved after its new end.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
    /// Identifies this file.
    fn identity(&self) -> io::Result<Identity>;
    /// Reserves space on the medium without changing the length; does nothing if the file system cannot.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = files::open_private(path, options.read(true).write(true).create_new(true))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(files::open(path, OpenOptions::new().read(true))?)))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(files::open_private(path, OpenOptions::new().read(true).write(true))?)))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Listed>> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if let Ok(name) = entry.file_name().into_string() {
                files.push(Listed { name, len: metadata.len(), allocated: metadata.blocks() * BLOCK_BYTES });
            }
        }
        Ok(files)
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        fs::metadata(path).map(|metadata| Identity(metadata.dev(), metadata.ino()))
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(directory)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn directory_bytes(&self, directory: &Path) -> io::Result<u64> {
        let mut bytes = 0;
        let mut directories = vec![PathBuf::from(directory)];
        while let Some(directory) = directories.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                    Ok(metadata) => bytes += metadata.blocks() * BLOCK_BYTES,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(bytes)
    }
}

/// The unit in which the kernel counts a file's size on the medium.
const BLOCK_BYTES: u64 = 512;

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn identity(&self) -> io::Result<Identity> {
        self.0.metadata().map(|metadata| Identity(metadata.dev(), metadata.ino()))
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::{
            fs::{FallocateFlags, fallocate},
            io::Errno,
        };
        match fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Fails when the directory exists but no file can be created in it.
pub(crate) fn check_writable(directory: &Path) -> io::Result<()> {
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    match accessat(CWD, directory, access, AtFlags::EACCESS) {
        // Older container runtimes return this for a system call that they do not know (faccessat2). The older call
        // checks the real user, which is the effective one here.
        Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => Ok(accessat(CWD, directory, access, AtFlags::empty())?),
        answer => Ok(answer?),
    }
}

/// All files below a directory, in the order of their paths; the file itself if it is one.
pub(crate) fn files_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    if fs::metadata(path)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            // Symbolic links are not followed: they may lead anywhere, or form a loop.
            match entry.file_type()? {
                kind if kind.is_dir() => directories.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// A private directory for temporary files, removed when this value is dropped.
#[derive(Debug)]
pub(crate) struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    pub(crate) fn new_in(directory: &Path, prefix: &str) -> io::Result<Self> {
        let path = directory.join(format!("{prefix}-{}-{:016x}", std::process::id(), rand::random::<u64>()));
        // Not recursive: a directory that someone else created there is an error.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Copies all files below a directory into this one; false if there are none.
    pub(crate) fn fill(&self, from: &Path) -> io::Result<bool> {
        let files = match files_below(from) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for file in &files {
            let Ok(place) = file.strip_prefix(from) else { continue };
            let copy = self.0.join(place);
            if let Some(directory) = copy.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            }
            let (mut from, mut to) = (
                files::open(file, OpenOptions::new().read(true))?,
                files::open_private(&copy, OpenOptions::new().write(true).create_new(true))?,
            );
            io::copy(&mut from, &mut to)?;
        }
        Ok(!files.is_empty())
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "could not remove a temporary directory");
        }
    }
}

/// The lock on a spool's directory. The operating system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock(#[expect(dead_code, reason = "held, not used: closing it unlocks")] File);

impl DirectoryLock {
    /// Locks the directory, or returns `None` if another process (or another spool of this one) holds the lock.
    pub(crate) fn take(directory: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = files::open_private(&lock_path(directory), file)?;
        Ok(files::lock(&file)?.then_some(Self(file)))
    }
}

/// The file whose lock a spool's process holds.
pub(crate) fn lock_path(directory: &Path) -> PathBuf {
    directory.join("lock")
}
