//! The operating system's part of the file sink, small enough to be failed in tests.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::files;

/// The permissions of the directory, where it has to be made; less the umask.
pub(super) const DIRECTORY_MODE: u32 = 0o777;

/// A file that lines are appended to.
pub(super) trait Output: Send {
    /// Appends bytes; after an error any part of them may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes durable what was appended.
    fn sync(&mut self) -> io::Result<()>;
    /// How long the file is.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file to so many bytes; one that is shorter stays as it is.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
    /// False where the file was removed by someone else: what is written to it would be gone.
    fn is_linked(&self) -> bool;
}

/// Opens files for appending.
pub(super) trait Disk: Send + Sync {
    /// Makes a new file, durably named; fails where the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>>;
    /// Opens a file to go on with it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Output>>;
}

/// The real disk.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        let file = files::open(path, OpenOptions::new().append(true).create_new(true))?;
        if let Err(error) = sync_directory_of(path) {
            // The next attempt makes another one.
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
        // Made longer it would be NULs.
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
