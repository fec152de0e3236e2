//! A medium in memory for tests with threads: it fails writes and syncs on demand, hangs, panics.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use parking_lot::{Condvar, Mutex};

use super::options;
use crate::spool::{
    Compression, Spool, SpoolOptions,
    disk::{Disk, DiskFile, Identity, Listed},
    open,
    quarantine::Quarantine,
    queue::{QueueFailed, QueueStore, Queues},
    reports::Reports,
    store::Place,
};

/// What goes wrong, and how many operations of the kind go well before.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// A write fails half-way with this error.
    pub(super) write: Mutex<Option<(u64, ErrorKind)>>,
    /// A sync fails; what it should have synced stays unsynced.
    pub(super) sync: Mutex<Option<(u64, ErrorKind)>>,
    /// Cutting a file to length fails too.
    pub(super) set_len: Mutex<Option<(u64, ErrorKind)>>,
    /// The next write of a thread that appends panics at its end.
    pub(super) panic_in_write: AtomicBool,
    /// What happens in the middle of the next read of a file.
    pub(super) meanwhile: Meanwhile,
    /// The next renaming of a file panics.
    pub(super) panic_in_rename: AtomicBool,
    pub(super) free: AtomicU64,
    /// Syncs of this directory do not return while it is named here.
    pub(super) held: Mutex<Option<PathBuf>>,
    /// A sync is blocked right now.
    pub(super) holding: AtomicBool,
    released: Condvar,
}

/// Something that happens once.
#[derive(Default)]
pub(super) struct Meanwhile(pub(super) Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Faults {
    /// Continues what is blocked.
    pub(super) fn release(&self) {
        *self.held.lock() = None;
        self.released.notify_all();
    }

    fn hold_up(&self, directory: &Path) {
        let mut held = self.held.lock();
        while held.as_deref() == Some(directory) {
            self.holding.store(true, Ordering::Relaxed);
            self.released.wait(&mut held);
        }
    }
}

/// Panics (once).
fn panic_if(fault: &AtomicBool) {
    assert!(!fault.swap(false, Ordering::Relaxed), "a bug of these tests");
}

/// True (once) when the countdown is over.
fn due(fault: &Mutex<Option<(u64, ErrorKind)>>) -> Option<io::Error> {
    let mut fault = fault.lock();
    match &mut *fault {
        Some((0, kind)) => {
            let error = io::Error::from(*kind);
            *fault = None;
            Some(error)
        }
        Some((left, _)) => {
            *left -= 1;
            None
        }
        None => None,
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<PathBuf, MemoryFile>>>,
    directories: Arc<Mutex<BTreeSet<PathBuf>>>,
    pub(super) faults: Arc<Faults>,
}

#[derive(Debug, Clone)]
struct MemoryFile {
    contents: Arc<Mutex<Vec<u8>>>,
    faults: Arc<Faults>,
}

impl MemoryDisk {
    pub(super) fn new() -> Self {
        let disk = Self::default();
        disk.faults.free.store(u64::MAX / 2, Ordering::Relaxed);
        disk
    }

    /// What is there after the process was killed: everything that was written.
    pub(super) fn after_kill(&self) -> Self {
        let after = Self::new();
        for (path, file) in &*self.files.lock() {
            let contents = Arc::new(Mutex::new(file.contents.lock().clone()));
            let file = MemoryFile { contents, faults: Arc::clone(&after.faults) };
            after.files.lock().insert(path.clone(), file);
        }
        after
    }

    /// What a file holds.
    pub(super) fn contents(&self, path: &Path) -> Vec<u8> {
        self.files.lock()[path].contents.lock().clone()
    }

    /// Changes what a file holds.
    pub(super) fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.files.lock()[path].contents.lock());
    }

    fn get(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.files.lock().get(path).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(file))
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(error) = due(&self.faults.write) {
            return Err(error);
        }
        let mut files = self.files.lock();
        if files.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = MemoryFile { contents: Arc::default(), faults: Arc::clone(&self.faults) };
        files.insert(path.to_owned(), file.clone());
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.get(path)
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.get(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Listed>> {
        let files = self.files.lock();
        let inside = files.iter().filter(|(path, _)| path.parent() == Some(directory));
        let listed = inside.filter_map(|(path, file)| {
            let len = file.contents.lock().len() as u64;
            Some(Listed { name: path.file_name()?.to_str()?.to_owned(), len, allocated: len.next_multiple_of(4096) })
        });
        Ok(listed.collect())
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.directories.lock().insert(directory.to_owned());
        Ok(())
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        match self.files.lock().get(path) {
            Some(file) => Ok(file.identity()),
            None => Ok(Identity(0, 0)),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.lock().remove(path);
        Ok(())
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.files.lock().retain(|path, _| !path.starts_with(directory));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        panic_if(&self.faults.panic_in_rename);
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or(ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.faults.hold_up(directory);
        if let Some(error) = due(&self.faults.sync) {
            return Err(error);
        }
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.faults.free.load(Ordering::Relaxed))
    }

    fn directory_bytes(&self, directory: &Path) -> io::Result<u64> {
        let files = self.files.lock();
        let inside = files.iter().filter(|(path, _)| path.starts_with(directory));
        Ok(inside.map(|(_, file)| file.contents.lock().len() as u64).sum())
    }
}

impl MemoryFile {
    fn identity(&self) -> Identity {
        Identity(1, Arc::as_ptr(&self.contents).addr() as u64)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let meanwhile = self.faults.meanwhile.0.lock().take();
        meanwhile.into_iter().for_each(|happens| happens());
        let contents = self.contents.lock();
        let rest = contents.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fault = due(&self.faults.write);
        let written = if fault.is_some() { bytes.len() / 2 } else { bytes.len() };
        let mut contents = self.contents.lock();
        let end = offset as usize + written;
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[offset as usize..end].copy_from_slice(&bytes[..written]);
        drop(contents);
        if thread::current().name() == Some("spool-append") {
            panic_if(&self.faults.panic_in_write);
        }
        fault.map_or(Ok(()), Err)
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(error) = due(&self.faults.sync) {
            return Err(error);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if let Some(error) = due(&self.faults.set_len) {
            return Err(error);
        }
        self.contents.lock().resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.lock().len() as u64)
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Self::identity(self))
    }

    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Opens no queue: a spool on this medium continues in memory.
#[derive(Debug)]
pub(super) struct NoQueues;

impl Queues for NoQueues {
    fn open(&self, _: &Path) -> Result<Arc<dyn QueueStore>, QueueFailed> {
        Err(QueueFailed("none is to be had".into()))
    }
}

/// Opens one queue, once.
#[derive(Debug)]
struct OneQueue(Mutex<Option<Arc<dyn QueueStore>>>);

impl Queues for OneQueue {
    fn open(&self, directory: &Path) -> Result<Arc<dyn QueueStore>, QueueFailed> {
        let of_spool = !directory.starts_with("/spool/dead");
        self.0.lock().take_if(|_| of_spool).map_or_else(|| NoQueues.open(directory), Ok)
    }
}

/// A spool on this medium, in small segments; without a queue, it continues in memory.
pub(super) fn over(disk: &MemoryDisk, queue: Option<Arc<dyn QueueStore>>) -> Spool {
    over_with(disk, queue, SpoolOptions { segment_bytes: 256 << 10, compression: Compression::NONE, ..options() })
}

pub(super) fn over_with(disk: &MemoryDisk, queue: Option<Arc<dyn QueueStore>>, options: SpoolOptions) -> Spool {
    let (disk, home): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), PathBuf::from("/spool"));
    let reports = Arc::new(Reports::new(options.name.clone()));
    let quarantine = Arc::new(Quarantine::new(Arc::clone(&disk), home.clone(), Arc::clone(&reports), false));
    let queues = Arc::new(OneQueue(Mutex::new(queue)));
    let place = Place { home, disk, queues, reports, quarantine, read_only: false };
    let (shared, maintenance) = open::open_at(place, options).expect("opens");
    Spool::start(shared, maintenance, None).expect("starts")
}
