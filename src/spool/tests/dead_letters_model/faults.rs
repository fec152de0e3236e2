//! A disk and a queue that fail on demand, and that know what of them a power cut may take.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    record::Stream,
    spool::{
        disk::{Disk, DiskFile, Identity, Listed, RealDisk},
        queue::{Change, Entry, QueueFailed, QueueStore, Recorded, memory::MemoryQueue},
    },
};

/// How many operations of a kind go well before one fails, once.
pub(super) type Countdown = Mutex<Option<u64>>;

fn due(countdown: &Countdown) -> bool {
    let mut countdown = countdown.lock();
    let left = countdown.take();
    *countdown = left.and_then(|left| left.checked_sub(1));
    left == Some(0)
}

fn fail_if_due(countdown: &Countdown) -> io::Result<()> {
    if due(countdown) { Err(io::Error::other("a fault of these tests")) } else { Ok(()) }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) write: Countdown,
    pub(super) set_len: Countdown,
    pub(super) sync: Countdown,
    pub(super) rename: Countdown,
    /// Up to where the files that were written are synced.
    pub(super) synced: Mutex<BTreeMap<PathBuf, u64>>,
}

/// Real files that fail, and that know what of them a power cut may take.
#[derive(Debug, Clone, Default)]
pub(super) struct FaultyDisk(pub(super) Arc<Faults>);

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    faults: Arc<Faults>,
}

impl FaultyDisk {
    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { file, path: path.to_owned(), faults: Arc::clone(&self.0) })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.synced.lock().insert(path.to_owned(), 0);
        RealDisk.create(path).map(|file| self.wrap(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path).map(|file| self.wrap(path, file))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open_writable(path).map(|file| self.wrap(path, file))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Listed>> {
        RealDisk.list(directory)
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        RealDisk.make_directory(directory)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        RealDisk.remove_directory(directory)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fail_if_due(&self.0.rename)?;
        RealDisk.rename(from, to)?;
        let mut synced = self.0.synced.lock();
        if let Some(len) = synced.remove(from) {
            synced.insert(to.to_owned(), len);
        }
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        fail_if_due(&self.0.sync)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        RealDisk.identity(path)
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn directory_bytes(&self, directory: &Path) -> io::Result<u64> {
        RealDisk.directory_bytes(directory)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if due(&self.faults.write) {
            // All of it may be there, and yet it failed.
            self.file.write_at(bytes, offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        fail_if_due(&self.faults.sync)?;
        self.faults.synced.lock().insert(self.path.clone(), self.file.len()?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fail_if_due(&self.faults.set_len)?;
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn identity(&self) -> io::Result<Identity> {
        self.file.identity()
    }

    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A queue that fails for good on demand, and that a power cut takes back to what was flushed.
#[derive(Debug, Default)]
pub(super) struct FakeQueue {
    pub(super) now: MemoryQueue,
    pub(super) flushed: Mutex<MemoryQueue>,
    pub(super) fail_apply: Countdown,
    pub(super) fail_flush: Countdown,
    failed: std::sync::atomic::AtomicBool,
}

impl FakeQueue {
    pub(super) fn over(now: &dyn QueueStore) -> Arc<Self> {
        let copy = || MemoryQueue::copy_of(now).expect("memory does not fail");
        Arc::new(Self { now: copy(), flushed: Mutex::new(copy()), ..Self::default() })
    }

    fn check(&self, countdown: &Countdown) -> Result<(), QueueFailed> {
        use std::sync::atomic::Ordering::Relaxed;
        if due(countdown) {
            self.failed.store(true, Relaxed);
        }
        if self.failed.load(Relaxed) { Err(QueueFailed("a fault of these tests".to_owned())) } else { Ok(()) }
    }
}

impl QueueStore for FakeQueue {
    fn recorded(&self) -> Result<Recorded, QueueFailed> {
        self.now.recorded()
    }

    fn entry_from(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        self.now.entry_from(stream, seq)
    }

    fn entry_before(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        self.now.entry_before(stream, seq)
    }

    fn apply(&self, change: &Change) -> Result<(), QueueFailed> {
        self.check(&self.fail_apply)?;
        self.now.apply(change)
    }

    fn flush(&self) -> Result<(), QueueFailed> {
        self.check(&self.fail_flush)?;
        *self.flushed.lock() = MemoryQueue::copy_of(&self.now)?;
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }
}
