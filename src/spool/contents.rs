//! What a spool holds, read without changing it: of an open spool during its work, or of one that no process has open.
//!
//! A spool that is not open is assembled as at a start, but over a copy of its queue, because sled writes when it
//! opens. No byte of the spool is changed, and no lock is taken. If the queue cannot be copied or opened, the journal
//! alone is used: more records may then be shown than are still to be delivered.

use std::{collections::HashSet, fs, io, path::Path, sync::Arc};

use super::{
    dead_letters::{DeadFilter, DeadLetter},
    delivery::QueueError,
    disk::{Disk, RealDisk, check_writable},
    error::OpenError,
    open,
    options::SpoolOptions,
    peek::{Peek, PeekFrom},
    quarantine::Quarantine,
    queue::{QueueStore, memory::MemoryQueue, sled::SledQueues},
    reports::Reports,
    shared::Shared,
    status::{self, SpoolStatus, WriterState},
    store::Place,
    tools::{
        queue_copy::{NoCopy, copy_of_queue},
        verify::{self, StoppedStore, VerifyReport},
    },
};
use crate::record::Stream;

/// What a spool holds: an open one, or one on disk that no process has open.
#[derive(Debug)]
pub struct Contents {
    pub(super) shared: Arc<Shared>,
    /// What was found in the journal and the dead letters, if no process has the spool open.
    stopped: Option<Box<[StoppedStore; 2]>>,
}

impl Contents {
    pub(super) const fn of_open(shared: Arc<Shared>) -> Self {
        Self { shared, stopped: None }
    }

    /// Reads a spool that no process has open. Blocking.
    ///
    /// # Errors
    /// When the directory cannot be read or was written by another version.
    pub fn of_stopped(home: &Path, options: SpoolOptions) -> Result<Self, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        open::refuse_other_versions(disk.as_ref(), home)?;
        let reports = Arc::new(Reports::new(options.name.clone()));
        let quarantine = Arc::new(Quarantine::new(Arc::clone(&disk), home.to_owned(), Arc::clone(&reports), true));
        let place =
            Place { home: home.to_owned(), disk, queues: Arc::new(SledQueues), reports, quarantine, read_only: true };
        let (queue, dead_queue) = (copy_of_queue(home), copy_of_queue(&home.join("dead")));
        let (shared, found) = open::assemble(place, options, own(home, &queue), own(&home.join("dead"), &dead_queue))?;
        if let Some(gone) = shared.dead_letters_gone() {
            shared.reports.error(gone);
        }
        let stores = [StoppedStore { findings: found.0, queue }, StoppedStore { findings: found.1, queue: dead_queue }];
        Ok(Self { shared: Arc::new(shared), stopped: Some(Box::new(stores)) })
    }

    /// Its figures and state. Cheap: counters, and at most one block read per stream.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let mut status = status::of(&self.shared);
        if let Some(stores) = &self.stopped {
            status.writer = WriterState::Stopped;
            // The queue that was opened is a copy.
            status.queue_on_disk = stores.iter().all(|store| matches!(store.queue, Ok(Some(_))));
            status.queue_failures = 0;
        }
        status
    }

    /// The records of a stream that are still to be delivered, without leasing them. Blocking.
    ///
    /// # Errors
    /// When its reader cannot be created.
    pub fn peek(&self, stream: Stream, from: PeekFrom) -> Result<Peek, QueueError> {
        Peek::new(Arc::clone(&self.shared), stream, from)
    }

    /// The dead letters that match a filter, those with the oldest last attempt first. `range` is how many of the first
    /// matches to skip, and how many to return at most. Stops when `each` returns false or `is_over` returns true;
    /// `each` may be slow. Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn each_dead_letter(
        &self,
        filter: &DeadFilter,
        range: (usize, usize),
        is_over: &dyn Fn() -> bool,
        each: &mut dyn FnMut(DeadLetter) -> bool,
    ) -> Result<(), QueueError> {
        let listed = self.shared.dead.each_listed(filter, &HashSet::new(), range, is_over, each);
        listed.map_err(|error| self.shared.dead_error(error))
    }

    /// Checks everything on disk, of an open spool during its work. Blocking, for as long as reading all of it takes.
    ///
    /// # Errors
    /// When a file cannot be read; damage is no error.
    pub fn verify(&self) -> Result<VerifyReport, QueueError> {
        self.verified().map_err(|error| self.shared.io_error(error))
    }

    fn verified(&self) -> io::Result<VerifyReport> {
        verify::verify(&self.shared, self.stopped.as_deref())
    }
}

/// The status of a spool that no process has open.
///
/// # Errors
/// As [`Contents::of_stopped`].
pub fn inspect(home: &Path, options: SpoolOptions) -> Result<SpoolStatus, OpenError> {
    Contents::of_stopped(home, options).map(|contents| contents.status())
}

/// Checks a spool that no process has open. Blocking.
///
/// # Errors
/// As [`Contents::of_stopped`], and when a file cannot be read; damage is no error.
pub fn verify(home: &Path, options: SpoolOptions) -> Result<VerifyReport, OpenError> {
    Contents::of_stopped(home, options)?.verified().map_err(OpenError::io(home))
}

/// Reports what would prevent the spool from being opened for work, except that another process has it open.
///
/// # Errors
/// As [`Spool::open`](super::Spool::open). A missing directory is no error: opening creates it.
pub fn check(home: &Path, options: SpoolOptions) -> Result<(), OpenError> {
    let dead = home.join("dead");
    for directory in [home.to_owned(), home.join("journal"), dead.join("journal"), dead] {
        let usable = match fs::metadata(&directory) {
            Ok(metadata) if !metadata.is_dir() => Err(rustix::io::Errno::NOTDIR.into()),
            _ => check_writable(&directory),
        };
        match usable {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(OpenError::io(directory)(error)),
            _ => {}
        }
    }
    open::check_key(&Contents::of_stopped(home, options)?.shared)
}

/// A queue in memory, so that recovery can change it.
fn own(home: &Path, queue: &Result<Option<MemoryQueue>, NoCopy>) -> Option<Arc<dyn QueueStore>> {
    match queue {
        Ok(queue) => queue.as_ref().map(|queue| Arc::new(queue.duplicate()) as Arc<dyn QueueStore>),
        Err(error) => {
            tracing::warn!(
                spool = %home.display(),
                %error,
                "could not inspect the queue: more records may be shown than are still to be delivered"
            );
            None
        }
    }
}
