//! Looks at a spool that is not open; changes no byte of it.

use std::{path::Path, sync::Arc};

use super::{
    core::Core,
    error::OpenError,
    io::{Disk, RealDisk},
    options::SpoolOptions,
    recovery,
    status::{self, SpoolStatus, WriterState},
};

/// The status of a spool that no process has open. It reads the journal's newest segment and the heads of the queues,
/// and needs no sled: the journal alone tells the state.
///
/// # Errors
/// When the folder cannot be read or was written by a newer version.
pub fn inspect(folder: &Path, options: SpoolOptions) -> Result<SpoolStatus, OpenError> {
    let mut status = status::of(&look(folder, options)?);
    status.writer = WriterState::Stopped;
    Ok(status)
}

/// Reads a spool's books without opening it.
pub(super) fn look(folder: &Path, options: SpoolOptions) -> Result<Core, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let recovered = recovery::read(disk.as_ref(), &folder.join("journal"), None)?;
    Core::new(folder, options, disk, recovered.books, true).map_err(OpenError::io(folder))
}
