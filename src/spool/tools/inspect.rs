//! Looks at a spool that is not open; changes no byte of it.
//!
//! sled writes when it opens: the queue is looked at through a copy. Where it cannot be copied or opened, what the journal tells has
//! to do, as a start without a queue would: more may be shown than is still to be delivered.

use std::{fs, io, path::Path, sync::Arc};

use crate::{
    record::Stream,
    spool::{
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
        store::recovery::{Findings, Place},
    },
};

use super::queue_copy::{NoCopy, copy_of_queue};

/// The status of a spool that no process has open.
///
/// # Errors
/// When the directory cannot be read or was written by another version.
pub fn inspect(home: &Path, options: SpoolOptions) -> Result<SpoolStatus, OpenError> {
    StoppedSpool::look(home, options).map(|spool| spool.status())
}

/// What would keep the spool from being opened for work, besides another process that has it open.
///
/// # Errors
/// As [`Spool::open`](crate::spool::Spool::open); a directory that is missing is none, it is made.
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
    open::check_key(&StoppedSpool::look(home, options)?.shared)
}

/// A spool that no process has open, as it lies on disk. Nothing of it is changed, and no lock is taken.
#[derive(Debug)]
pub struct StoppedSpool {
    pub(super) shared: Arc<Shared>,
    /// Whether the queues lie there, and can be read.
    has_queues: bool,
}

/// What one look at a store has met.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) findings: Findings,
    /// The queue as it lies there; `None` where there is none.
    pub(super) queue: Result<Option<MemoryQueue>, NoCopy>,
}

impl StoppedSpool {
    /// Reads what the spool holds. Blocking.
    ///
    /// # Errors
    /// When the directory cannot be read or was written by another version.
    pub fn look(home: &Path, options: SpoolOptions) -> Result<Self, OpenError> {
        Self::look_closely(home, options).map(|(spool, _)| spool)
    }

    /// The same; tells also what was met, of the journal and of the dead letters.
    pub(super) fn look_closely(home: &Path, options: SpoolOptions) -> Result<(Self, [Met; 2]), OpenError> {
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
        let met = [Met { findings: found.0, queue }, Met { findings: found.1, queue: dead_queue }];
        let has_queues = met.iter().all(|met| matches!(met.queue, Ok(Some(_))));
        Ok((Self { shared: Arc::new(shared), has_queues }, met))
    }

    /// What the spool holds.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let mut status = status::of(&self.shared);
        status.writer = WriterState::Stopped;
        // What was looked at is a copy.
        (status.queue_on_disk, status.queue_failures) = (self.has_queues, 0);
        status
    }

    /// The records of a stream that are still to be delivered. Blocking.
    ///
    /// # Errors
    /// When no reader can be made for it.
    pub fn peek(&self, stream: Stream, from: PeekFrom) -> Result<Peek, QueueError> {
        Peek::new(Arc::clone(&self.shared), stream, from)
    }

    /// The dead letters that a filter means, oldest first: at most so many behind the first ones (`range`: how many are passed over,
    /// how many are meant), until `each` answers false, or `is_over` true. Blocking.
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
        self.shared.each_dead_letter(filter, range, is_over, each)
    }
}

/// A queue for a start that changes it in memory.
fn own(home: &Path, queue: &Result<Option<MemoryQueue>, NoCopy>) -> Option<Arc<dyn QueueStore>> {
    match queue {
        Ok(queue) => queue.as_ref().map(|queue| Arc::new(queue.duplicate()) as Arc<dyn QueueStore>),
        Err(error) => {
            tracing::warn!(spool = %home.display(), %error, "the queue cannot be looked at: more may be shown than is still to be delivered");
            None
        }
    }
}
