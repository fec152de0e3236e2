//! Looks at a spool that is not open; changes no byte of it.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::{
    core::Core,
    dead::{DeadFilter, DeadLetter},
    delivery::QueueError,
    error::OpenError,
    io::{Disk, RealDisk},
    options::SpoolOptions,
    peek::{Peek, PeekFrom},
    recovery,
    segment::Damage,
    status::{self, SpoolStatus, WriterState},
};
use crate::record::Stream;

/// The status of a spool that no process has open. It reads the journal's newest segment and the heads of the queues,
/// and needs no sled: the journal alone tells the state.
///
/// # Errors
/// When the folder cannot be read or was written by a newer version.
pub fn inspect(folder: &Path, options: SpoolOptions) -> Result<SpoolStatus, OpenError> {
    StoppedSpool::look(folder, options).map(|spool| spool.status())
}

/// A spool that no process has open, as it lies on disk. Nothing of it is changed, and no lock is taken.
#[derive(Debug)]
pub struct StoppedSpool {
    pub(super) core: Arc<Core>,
    /// What a cut-off write left at the end of the journal.
    pub(super) torn: Option<(u64, Damage)>,
}

impl StoppedSpool {
    /// Reads the spool's books. Blocking.
    ///
    /// # Errors
    /// When the folder cannot be read or was written by a newer version.
    pub fn look(folder: &Path, options: SpoolOptions) -> Result<Self, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let recovered = recovery::read(disk.as_ref(), &folder.join("journal"), None)?;
        let core = Core::new(folder, options, disk, recovered.books, true).map_err(OpenError::io(folder))?;
        Ok(Self { core: Arc::new(core), torn: recovered.torn })
    }

    /// What the spool holds.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let mut status = status::of(&self.core);
        status.writer = WriterState::Stopped;
        status
    }

    /// The records of a stream that are still to be delivered. Blocking.
    ///
    /// # Errors
    /// When no reader can be made for it.
    pub fn peek(&self, stream: Stream, from: PeekFrom) -> Result<Peek, QueueError> {
        Peek::new(Arc::clone(&self.core), stream, from)
    }

    /// The dead letters that a filter means, oldest first: at most `limit` of them behind the first `skip`. Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn dead_letters(&self, filter: &DeadFilter, skip: usize, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.core.dead.list(filter, &HashSet::new(), skip, limit).map_err(|error| self.core.dead_error(error))
    }
}
