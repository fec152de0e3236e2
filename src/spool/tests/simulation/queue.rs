//! Simulated queues: a change is there as a whole or not at all, and outlasts the process from the next flush on.
//!
//! - A kill leaves the flushed changes and any number of those behind them.
//! - sled is not to be believed: after a power cut a flushed change may be missing, all may be, or the queue does not open.
//! - A queue that failed once fails forever, until the next start.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::disk::{Kind, Machine};
use crate::{
    record::Stream,
    spool::queue::{Change, Entry, QueueFailed, QueueStore, Queues, Recorded, memory::MemoryQueue},
};

/// What becomes of the queues at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remembers {
    /// Every change.
    All,
    /// What was flushed.
    Flushed,
    /// Of what came behind the flush, so many sixteenths.
    Some(u8),
    /// What was there at the flush before the last one.
    Older,
    Nothing,
    /// It does not open.
    Broken,
}

/// A queue on the medium.
#[derive(Debug, Clone, Default)]
pub(super) struct QueueImage {
    start: Arc<MemoryQueue>,
    changes: Vec<Arc<Change>>,
    flushed: usize,
    flushed_before: usize,
    broken: bool,
    /// Tells a handle to a queue that was here before.
    handle: u64,
}

impl QueueImage {
    /// What is left of it.
    pub(super) fn after(&self, remembers: Remembers) -> Self {
        let behind = self.changes.len() - self.flushed;
        let kept = match remembers {
            Remembers::All => self.changes.len(),
            Remembers::Flushed => self.flushed,
            Remembers::Some(part) => self.flushed + behind * usize::from(part) / 16,
            Remembers::Older => self.flushed_before,
            Remembers::Nothing => return Self { handle: self.handle, ..Self::default() },
            Remembers::Broken => return Self { broken: true, ..self.clone() },
        };
        let start = if kept == 0 { Arc::clone(&self.start) } else { self.first(kept) };
        Self { start, broken: self.broken, handle: self.handle, ..Self::default() }
    }

    fn first(&self, kept: usize) -> Arc<MemoryQueue> {
        let queue = copy(&self.start);
        for change in &self.changes[..kept] {
            // Memory takes every change.
            let _ = queue.apply(change);
        }
        Arc::new(queue)
    }

    pub(super) fn recorded(&self) -> Recorded {
        self.first(self.changes.len()).recorded().unwrap_or_default()
    }
}

fn copy(queue: &MemoryQueue) -> MemoryQueue {
    MemoryQueue::copy_of(queue).unwrap_or_default()
}

impl Queues for Machine {
    fn open(&self, directory: &Path) -> Result<Arc<dyn QueueStore>, QueueFailed> {
        let mut state = self.state();
        state.begin(Kind::Queue, || format!("open {}", directory.display())).map_err(failed)?;
        let image = state.medium.queues.entry(directory.to_owned()).or_default();
        if image.broken {
            return Err(QueueFailed("it does not open".to_owned()));
        }
        image.handle += 1;
        let (handle, now) = (image.handle, copy(&image.first(image.changes.len())));
        let (machine, directory) = (self.clone(), directory.to_owned());
        Ok(Arc::new(SimulatedQueue { machine, directory, handle, now, failed: AtomicBool::new(false) }))
    }
}

fn failed(error: std::io::Error) -> QueueFailed {
    QueueFailed(error.to_string())
}

#[derive(Debug)]
struct SimulatedQueue {
    machine: Machine,
    directory: PathBuf,
    handle: u64,
    now: MemoryQueue,
    failed: AtomicBool,
}

impl SimulatedQueue {
    fn change(&self, what: &str, make: impl FnOnce(&mut QueueImage)) -> Result<(), QueueFailed> {
        self.check()?;
        let mut state = self.machine.state();
        if let Err(error) = state.begin(Kind::Queue, || format!("{what} {}", self.directory.display())) {
            self.failed.store(true, Ordering::Relaxed);
            return Err(failed(error));
        }
        if let Some(image) = state.medium.queues.get_mut(&self.directory).filter(|image| image.handle == self.handle) {
            make(image);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), QueueFailed> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(QueueFailed("it failed before".to_owned()));
        }
        Ok(())
    }
}

impl QueueStore for SimulatedQueue {
    fn recorded(&self) -> Result<Recorded, QueueFailed> {
        self.check()?;
        self.now.recorded()
    }

    fn entry_from(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        self.check()?;
        self.now.entry_from(stream, seq)
    }

    fn entry_before(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        self.check()?;
        self.now.entry_before(stream, seq)
    }

    fn apply(&self, change: &Change) -> Result<(), QueueFailed> {
        self.change("change", |image| image.changes.push(Arc::new(change.clone())))?;
        self.now.apply(change)
    }

    fn flush(&self) -> Result<(), QueueFailed> {
        self.machine.let_others_go_on();
        self.change("flush", |image| {
            image.flushed_before = image.flushed;
            image.flushed = image.changes.len();
        })
    }

    fn is_durable(&self) -> bool {
        true
    }
}
