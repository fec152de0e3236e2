//! A medium in memory: it fails writes and syncs on demand, tears what was under way, and forgets what was not synced.

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
use rand::{Rng, rngs::StdRng};

use super::options;
use crate::{
    record::Stream,
    spool::{
        Compression, Spool, SpoolOptions,
        ages::Times,
        io::{Disk, DiskFile},
        open,
        queue::{Changes, Index, IndexError},
        recovery,
        state::{Checkpoint, Run},
    },
};

const PAGE: usize = 4096;

/// What goes wrong, and how many operations of the kind go well before.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// A write fails half-way with this error.
    pub(super) write: Mutex<Option<(u64, ErrorKind)>>,
    /// A sync fails; what it should have synced stays unsynced.
    pub(super) sync: Mutex<Option<(u64, ErrorKind)>>,
    /// Cutting a file to length fails too.
    pub(super) set_len: Mutex<Option<(u64, ErrorKind)>>,
    /// Removing a file fails.
    pub(super) remove: Mutex<Option<(u64, ErrorKind)>>,
    /// The next write of the journal's writer panics at its end.
    pub(super) panic_in_write: AtomicBool,
    /// The next removal of a file panics.
    pub(super) panic_in_remove: AtomicBool,
    pub(super) free: AtomicU64,
    /// Syncs of this folder do not return while it is named here.
    pub(super) held: Mutex<Option<PathBuf>>,
    /// A sync is held up right now.
    pub(super) holding: AtomicBool,
    released: Condvar,
}

impl Faults {
    /// Lets go of what is held up.
    pub(super) fn release(&self) {
        *self.held.lock() = None;
        self.released.notify_all();
    }

    fn hold_up(&self, folder: &Path) {
        let mut held = self.held.lock();
        while held.as_deref() == Some(folder) {
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
    /// The folder entries that are durable.
    entries: Arc<Mutex<BTreeMap<PathBuf, MemoryFile>>>,
    pub(super) faults: Arc<Faults>,
}

#[derive(Debug, Clone)]
struct MemoryFile {
    contents: Arc<Mutex<Contents>>,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
}

impl MemoryDisk {
    pub(super) fn new() -> Self {
        let disk = Self::default();
        disk.faults.free.store(u64::MAX / 2, Ordering::Relaxed);
        disk
    }

    /// What lies on the medium after the power went: what was synced, and any part of what was not.
    pub(super) fn after_power_loss(&self, random: &mut StdRng) -> Self {
        let after = Self::new();
        let (live, durable) = (self.files.lock(), self.entries.lock());
        let paths: BTreeSet<&PathBuf> = live.keys().chain(durable.keys()).collect();
        for path in paths {
            let file = match (live.get(path), durable.get(path)) {
                // Made or replaced, and the folder not synced since: either may be there.
                (Some(now), Some(then)) => [now, then][random.random_range(0..2)],
                (Some(only), None) | (None, Some(only)) if random.random() => only,
                _ => continue,
            };
            let contents = file.contents.lock().torn(random);
            let contents = Arc::new(Mutex::new(Contents { now: contents.clone(), synced: contents }));
            let file = MemoryFile { contents, faults: Arc::clone(&after.faults) };
            after.files.lock().insert(path.clone(), file.clone());
            after.entries.lock().insert(path.clone(), file);
        }
        after
    }

    /// What lies there after the process was killed: everything that was written.
    pub(super) fn after_kill(&self) -> Self {
        let after = Self::new();
        for (path, file) in &*self.files.lock() {
            let contents = file.contents.lock();
            let contents = Contents { now: contents.now.clone(), synced: contents.synced.clone() };
            let file = MemoryFile { contents: Arc::new(Mutex::new(contents)), faults: Arc::clone(&after.faults) };
            after.files.lock().insert(path.clone(), file);
        }
        for path in self.entries.lock().keys() {
            if let Some(file) = after.files.lock().get(path) {
                after.entries.lock().insert(path.clone(), file.clone());
            }
        }
        after
    }

    /// Whether a file is there with all it holds synced.
    pub(super) fn is_synced(&self, path: &Path) -> bool {
        self.files.lock().get(path).is_some_and(|file| {
            let contents = file.contents.lock();
            !contents.now.is_empty() && contents.now == contents.synced
        })
    }

    fn get(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.files.lock().get(path).cloned().ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(file))
    }
}

impl Contents {
    /// The synced image with some of the later pages over it, perhaps longer or shorter.
    fn torn(&self, random: &mut StdRng) -> Vec<u8> {
        let mut image = self.synced.clone();
        if self.now == self.synced {
            return image;
        }
        let (a, b) = (self.synced.len(), self.now.len());
        let len = if random.random() { random.random_range(a.min(b)..=a.max(b)) } else { a.max(b) };
        image.resize(len, 0);
        for start in (0..b.min(len)).step_by(PAGE) {
            if random.random() {
                let end = (start + PAGE).min(b).min(len);
                image[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        image
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

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let files = self.files.lock();
        let inside = files.iter().filter(|(path, _)| path.parent() == Some(folder));
        Ok(inside
            .filter_map(|(path, file)| {
                let name = path.file_name()?.to_str()?.to_owned();
                Some((name, file.contents.lock().now.len() as u64))
            })
            .collect())
    }

    fn make_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        panic_if(&self.faults.panic_in_remove);
        if let Some(error) = due(&self.faults.remove) {
            return Err(error);
        }
        self.files.lock().remove(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or(ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.faults.hold_up(folder);
        if let Some(error) = due(&self.faults.sync) {
            return Err(error);
        }
        // In this order, as everywhere.
        let (files, mut entries) = (self.files.lock(), self.entries.lock());
        entries.retain(|path, _| path.parent() != Some(folder));
        let inside = files.iter().filter(|(path, _)| path.parent() == Some(folder));
        entries.extend(inside.map(|(path, file)| (path.clone(), file.clone())));
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.faults.free.load(Ordering::Relaxed))
    }

    fn has_queue(&self) -> bool {
        // sled writes real files.
        false
    }

    fn folder_bytes(&self, folder: &Path) -> io::Result<u64> {
        let files = self.files.lock();
        let inside = files.iter().filter(|(path, _)| path.starts_with(folder));
        Ok(inside.map(|(_, file)| file.contents.lock().now.len() as u64).sum())
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let contents = self.contents.lock();
        let rest = contents.now.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fault = due(&self.faults.write);
        let written = if fault.is_some() { bytes.len() / 2 } else { bytes.len() };
        let mut contents = self.contents.lock();
        let end = offset as usize + written;
        if contents.now.len() < end {
            contents.now.resize(end, 0);
        }
        contents.now[offset as usize..end].copy_from_slice(&bytes[..written]);
        if thread::current().name() == Some("spool-write") {
            panic_if(&self.faults.panic_in_write);
        }
        fault.map_or(Ok(()), Err)
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(error) = due(&self.faults.sync) {
            return Err(error);
        }
        let mut contents = self.contents.lock();
        contents.synced = contents.now.clone();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if let Some(error) = due(&self.faults.set_len) {
            return Err(error);
        }
        self.contents.lock().now.resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.lock().now.len() as u64)
    }

    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// The queues in memory; a crash takes them back to an earlier checkpoint.
#[derive(Debug, Default)]
pub(super) struct MemoryIndex {
    now: Mutex<Queues>,
    earlier: Mutex<Queues>,
}

#[derive(Debug, Clone, Default)]
struct Queues {
    streams: [BTreeMap<u64, Run>; Stream::ALL.len()],
    checkpoint: Option<Checkpoint>,
}

impl MemoryIndex {
    /// The queues as the last but one save left them, or as they are.
    pub(super) fn after_crash(&self, lost: bool) -> Self {
        let queues = if lost { &self.earlier } else { &self.now }.lock().clone();
        Self { now: Mutex::new(queues.clone()), earlier: Mutex::new(queues) }
    }
}

impl Index for MemoryIndex {
    fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        Ok(self.now.lock().checkpoint.clone())
    }

    fn times(&self) -> Option<Times> {
        None
    }

    fn rewind(&self, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        let next = checkpoint.state.first_ordinals();
        for (i, stream) in self.now.lock().streams.iter_mut().enumerate() {
            let from = checkpoint.tails[i].map_or(next[i], |(key, _)| key);
            stream.retain(|key, _| *key < from);
        }
        Ok(())
    }

    fn run_at(&self, stream: Stream, ordinal: u64) -> Result<Option<(u64, Run)>, IndexError> {
        let queues = self.now.lock();
        let entry = queues.streams[stream as usize].range(..=ordinal).next_back();
        Ok(entry.map(|(&key, &run)| (key, run)).filter(|(key, run)| ordinal < key + run.records))
    }

    fn runs_from(&self, stream: Stream, ordinal: u64, limit: usize) -> Result<Vec<(u64, Run)>, IndexError> {
        let queues = self.now.lock();
        Ok(queues.streams[stream as usize].range(ordinal..).take(limit).map(|(&key, &run)| (key, run)).collect())
    }

    fn save(&self, changes: &Changes) -> Result<(), IndexError> {
        let mut queues = self.now.lock();
        *self.earlier.lock() = queues.clone();
        for (stream, key, run) in &changes.runs {
            queues.streams[*stream as usize].insert(*key, *run);
        }
        for (stream, head) in queues.streams.iter_mut().zip(changes.heads) {
            stream.retain(|key, run| key + run.records > head);
        }
        queues.checkpoint = Some(changes.checkpoint.clone());
        Ok(())
    }
}

/// A spool on this medium, in small segments.
pub(super) fn over(disk: &MemoryDisk, index: Option<Arc<dyn Index>>) -> Spool {
    over_with(disk, index, SpoolOptions { segment_bytes: 256 << 10, compression: Compression::None, ..options() })
}

pub(super) fn over_with(disk: &MemoryDisk, index: Option<Arc<dyn Index>>, options: SpoolOptions) -> Spool {
    let folder = Path::new("/spool");
    let recovered = recovery::read(disk, &folder.join("journal"), None).expect("readable");
    open::start(folder, options, Arc::new(disk.clone()), index, (None, None), recovered, None).expect("opens")
}
