//! A simulated machine: the spool's disk over a [`Medium`], its operations numbered, and what goes wrong at which of them.
//!
//! Every operation that changes something (create, write, sync, rename, remove, cut, reserve, each of a queue) has a number; the
//! process ends at one of them by a panic that carries [`Crash`]. Each is watched: no record that someone still needs may lose
//! its last durable copy, and nothing may grow beyond `max_bytes`.

use std::{
    io,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    ledger::Ledger,
    medium::{BLOCK, End, Medium, PAGE, QUEUE_BYTES, is_segment},
};
use crate::spool::disk::{Disk, DiskFile, Identity, Listed};

/// What the process ends with.
pub(super) struct Crash;

/// What kind of operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    /// Create, write, reserve.
    Write,
    /// Sync of a file or directory.
    Sync,
    /// Rename, remove, cut.
    Change,
    /// All of the queues: open, change, flush.
    Queue,
}

/// Operations of a kind fail: after some that succeed, so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) after: u16,
    pub(super) times: u16,
    pub(super) no_space: bool,
}

/// What another thread does in the middle of what this one does: after so many of its operations that change no journal.
pub(super) struct Meanwhile {
    pub(super) after: u64,
    pub(super) work: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meanwhile").field("after", &self.after).finish_non_exhaustive()
    }
}

/// Shared by the disk, the queues and the world around them.
#[derive(Debug, Clone)]
pub(super) struct Machine(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) medium: Medium,
    pub(super) ledger: Ledger,
    pub(super) faults: Vec<Fault>,
    /// So many operations until the process ends, and whether that tears a write.
    pub(super) crash: Option<(u64, bool)>,
    pub(super) operations: u64,
    pub(super) meanwhile: Option<Meanwhile>,
    /// What the running spool may take.
    pub(super) max_bytes: u64,
    /// The operations, if they are to be told.
    pub(super) trace: Option<Vec<String>>,
    crashed: bool,
}

impl Machine {
    pub(super) fn new(medium: Medium, ledger: Ledger) -> Self {
        Self(Arc::new(Mutex::new(State {
            medium,
            ledger,
            faults: Vec::new(),
            crash: None,
            operations: 0,
            meanwhile: None,
            max_bytes: u64::MAX,
            trace: None,
            crashed: false,
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    pub(super) fn take_meanwhile(&self) -> Option<Meanwhile> {
        self.state().meanwhile.take()
    }

    /// Lets another thread continue, where it is time for that.
    pub(super) fn let_others_go_on(&self) {
        let mut state = self.state();
        let due = state.meanwhile.as_mut().is_some_and(|meanwhile| {
            let due = meanwhile.after == 0;
            meanwhile.after = meanwhile.after.saturating_sub(1);
            due
        });
        let meanwhile = state.meanwhile.take_if(|_| due);
        drop(state);
        if let Some(meanwhile) = meanwhile {
            (meanwhile.work)();
        }
    }
}

impl State {
    /// The process is over; what it leaves.
    pub(super) fn end(&mut self, end: End) {
        self.medium = self.medium.after(end);
        (self.crashed, self.crash) = (false, None);
        self.ledger.forgetful = true;
    }

    /// Numbers an operation; true where it is to be done by half, and the process ends with it.
    pub(super) fn begin(&mut self, kind: Kind, what: impl FnOnce() -> String) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("the process is over"));
        }
        self.operations += 1;
        let mut half = false;
        let crashes = self.crash.as_mut().is_some_and(|(left, torn)| {
            *left = left.saturating_sub(1);
            half = *torn && kind == Kind::Write;
            *left == 0
        });
        if let Some(trace) = &mut self.trace {
            let end = if crashes { "  <- the process ends here" } else { "" };
            trace.push(format!("{:>5} {}{end}", self.operations, what()));
        }
        if crashes && !half {
            self.die();
        }
        if !crashes {
            self.fail(kind)?;
        }
        Ok(crashes && half)
    }

    pub(super) fn die(&mut self) {
        self.crashed = true;
        resume_unwind(Box::new(Crash));
    }

    fn fail(&mut self, kind: Kind) -> io::Result<()> {
        for fault in self.faults.iter_mut().filter(|fault| fault.kind == kind) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= u16::from(fault.times < u16::MAX);
                self.ledger.faulted = true;
                self.ledger.forgetful |= kind == Kind::Queue;
                return Err(if fault.no_space { no_space() } else { io::Error::from_raw_os_error(5) });
            }
        }
        Ok(())
    }

    /// A file changes: it may not grow beyond the limits, nor lose what is needed.
    fn resize(&mut self, inode: u64, path: &Path, len: usize, reserved: usize) -> io::Result<()> {
        let Some(file) = self.medium.files.get(&inode) else { return Ok(()) };
        let grown = len.max(reserved).next_multiple_of(BLOCK) as u64;
        let more = grown.saturating_sub(file.allocated());
        if more == 0 {
            return Ok(());
        }
        if more > self.medium.free() {
            return Err(no_space());
        }
        let home = Path::new("/spool");
        let quarantine =
            self.medium.allocated(&home.join("quarantine")) + self.medium.allocated(&home.join("dead/quarantine"));
        let used = self.medium.allocated(home) - quarantine + more;
        if used > self.max_bytes && !path.to_string_lossy().contains("quarantine") {
            let max = self.max_bytes;
            self.ledger.fail(format!("{}: {used} bytes of {max} are used then", path.display()));
        }
        Ok(())
    }

    fn frees(&mut self, path: &Path, from: usize, how: &str) {
        let journal = path.parent().is_some_and(|parent| parent.ends_with("journal"));
        let Some(inode) = self.medium.names.get(path).copied().filter(|_| journal) else { return };
        let Some(file) = self.medium.files.get(&inode) else { return };
        let freed: Vec<_> = file.records.iter().filter(|(at, _)| *at >= from).map(|(_, id)| *id).collect();
        for id in freed {
            if self.ledger.needs(id) && !self.medium.has_durable_copy(id, inode) {
                self.ledger.fail(format!("{}: {how}, and with it {id}, which is needed", path.display()));
            }
        }
    }
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn queue_file(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| parent.ends_with("queue"))
}

impl Machine {
    fn file(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        let inode = match queue_file(path) {
            Some(queue) => state.medium.queues.contains_key(queue).then_some(0),
            None => state.medium.names.get(path).copied(),
        };
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Open { machine: self.clone(), path: path.to_owned(), inode }))
    }
}

impl Disk for Machine {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.begin(Kind::Write, || format!("create {}", path.display()))?;
        if state.medium.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.medium.create(path);
        Ok(Arc::new(Open { machine: self.clone(), path: path.to_owned(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path)
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Listed>> {
        let state = self.state();
        if state.medium.queues.contains_key(directory) {
            return Ok(vec![Listed { name: "db".to_owned(), len: QUEUE_BYTES, allocated: QUEUE_BYTES }]);
        }
        let inside = state.medium.names.iter().filter(|(path, _)| path.parent() == Some(directory));
        Ok(inside
            .filter_map(|(path, inode)| {
                let file = state.medium.files.get(inode)?;
                let name = path.file_name()?.to_str()?.to_owned();
                Some(Listed { name, len: file.now.len() as u64, allocated: file.allocated() })
            })
            .collect())
    }

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.state().medium.make_directory(directory);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.let_others_go_on();
        let mut state = self.state();
        state.begin(Kind::Change, || format!("remove {}", path.display()))?;
        if let Some(queue) = queue_file(path) {
            state.medium.queues.remove(queue);
            return Ok(());
        }
        state.frees(path, 0, "it is removed");
        if state.medium.names.contains_key(path) {
            state.medium.remove(path);
        }
        Ok(())
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Kind::Change, || format!("remove {}/", directory.display()))?;
        state.medium.queues.remove(directory);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.let_others_go_on();
        let mut state = self.state();
        state.begin(Kind::Change, || format!("rename {} to {}", from.display(), to.display()))?;
        if let Some(queue) = state.medium.queues.remove(from) {
            state.medium.queues.insert(to.to_owned(), queue);
            return Ok(());
        }
        if !state.medium.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !is_segment(to) {
            state.frees(from, 0, "it is marked as done");
        }
        state.medium.rename(from, to);
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Kind::Sync, || format!("sync {}/", directory.display()))?;
        state.medium.sync_directory(directory);
        Ok(())
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        let state = self.state();
        let inode = state.medium.names.get(path).or_else(|| state.medium.directories.get(path));
        inode.map(|inode| Identity(1, *inode)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.state().medium.free())
    }

    fn directory_bytes(&self, directory: &Path) -> io::Result<u64> {
        Ok(self.state().medium.allocated(directory))
    }
}

/// An open file; of a queue, its inode is 0.
#[derive(Debug)]
struct Open {
    machine: Machine,
    path: PathBuf,
    inode: u64,
}

impl DiskFile for Open {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.machine.let_others_go_on();
        let mut state = self.machine.state();
        state.fail(Kind::Read)?;
        let Some(file) = state.medium.files.get(&self.inode) else { return Ok(0) };
        let rest = file.now.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        let pages = offset as usize / PAGE..(offset as usize + read).div_ceil(PAGE);
        let is_bad = |page: &usize| file.bad.contains(page) || file.failing.contains(page);
        if pages.clone().any(|page| is_bad(&page)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.machine.state();
        let what = || format!("write {} bytes at {offset} of {}", bytes.len(), self.path.display());
        let begun = state.begin(Kind::Write, what);
        if state.crashed {
            return begun.map(drop);
        }
        let (offset, half, dies) = (offset as usize, bytes.len() / 2, matches!(begun, Ok(true)));
        let written = begun.and_then(|_| state.resize(self.inode, &self.path, offset + bytes.len(), 0));
        let file = state.medium.files.entry(self.inode).or_default();
        let fits = (file.allocated() as usize).saturating_sub(offset);
        let part = match &written {
            Ok(()) if dies => half,
            Ok(()) => bytes.len(),
            // As far as there is space for it.
            Err(_) => half.min(fits),
        };
        file.write(&bytes[..part], offset);
        if dies {
            state.die();
        }
        written
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.machine.state();
        let begun = state.begin(Kind::Sync, || format!("sync {}", self.path.display()));
        if state.crashed {
            return begun.map(drop);
        }
        if let Some(file) = state.medium.files.get_mut(&self.inode) {
            if begun.is_ok() { file.sync() } else { file.fail_sync() }
        }
        begun.map(drop)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.machine.state();
        state.begin(Kind::Change, || format!("cut {} to {len}", self.path.display()))?;
        state.frees(&self.path, len as usize, "it is cut");
        state.resize(self.inode, &self.path, len as usize, 0)?;
        if let Some(file) = state.medium.files.get_mut(&self.inode) {
            file.set_len(len as usize);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.machine.state();
        Ok(state.medium.files.get(&self.inode).map_or(0, |file| file.now.len() as u64))
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity(1, self.inode))
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.machine.state();
        state.begin(Kind::Write, || format!("reserve {len} bytes at {offset} of {}", self.path.display()))?;
        let end = (offset + len) as usize;
        state.resize(self.inode, &self.path, 0, end)?;
        if let Some(file) = state.medium.files.get_mut(&self.inode) {
            file.reserved = file.reserved.max(end);
        }
        Ok(())
    }
}
