//! The operating system calls of the file sink, small enough to be replaced by failing ones in tests.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::files;

/// The permissions of the directory if it has to be created; less the umask.
pub(super) const DIRECTORY_MODE: u32 = 0o777;

/// A file that lines are appended to.
pub(super) trait Output: Send {
    /// Appends bytes; after an error any part of them may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the appended bytes durable.
    fn sync(&mut self) -> io::Result<()>;
    /// How long the file is.
    fn len(&self) -> io::Result<u64>;
    /// Truncates the file to so many bytes; a shorter one is not changed.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
    /// False if the file was removed by someone else: bytes written to it would be lost.
    fn is_linked(&self) -> bool;
}

/// Opens files for appending.
pub(super) trait Disk: Send + Sync {
    /// Creates a new file with a durable name; fails if the name is in use.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>>;
    /// Opens a file to continue it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Output>>;
}

/// The real disk.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        let file = files::open(path, OpenOptions::new().append(true).create_new(true))?;
        if let Err(error) = sync_directory_of(path) {
            // The next attempt creates another one.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(files::open(path, OpenOptions::new().append(true))?))
    }
}

impl Output for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        // Extending it would add NULs.
        if self.metadata()?.len() > bytes { self.set_len(bytes) } else { Ok(()) }
    }

    fn is_linked(&self) -> bool {
        self.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }
}

/// Makes a name in a directory durable.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
