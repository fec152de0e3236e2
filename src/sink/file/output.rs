//! The operating system's part of the file sink, small enough to be failed in tests.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// A file that lines are appended to.
pub(super) trait Output: Send {
    /// Appends bytes; after an error any part of them may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes durable what was appended.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to so many bytes.
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
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        sync_folder_of(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }
}

impl Output for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn is_linked(&self) -> bool {
        self.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }
}

/// Makes a name in a folder durable.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
