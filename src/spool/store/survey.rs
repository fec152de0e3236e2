//! What lies in a journal's directory, by its names and by the fronts of its segments. Nothing else is read.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::spool::{
    disk::{Disk, Listed},
    error::OpenError,
    journal::{
        block::FORMAT_VERSION,
        codec::Unpacker,
        front::{Ending, Front},
        scan::{self, FrontFound},
        segment,
    },
};

/// Refuses a journal that another build wrote; reads the segments' fronts only.
///
/// # Errors
/// When it is of another version, or cannot be listed.
pub(crate) fn check_version(disk: &dyn Disk, journal: &Path) -> Result<(), OpenError> {
    Survey::of(disk, journal).map(drop)
}

/// What lies in a journal's directory.
pub(super) struct Survey {
    pub(super) segments: Vec<(u64, Listed, Option<Front>)>,
    pub(super) done: BTreeSet<u64>,
}

impl Survey {
    pub(super) fn of(disk: &dyn Disk, journal: &Path) -> Result<Self, OpenError> {
        let mut unpacker = Unpacker::new(None).map_err(OpenError::io(journal))?;
        let mut segments = Vec::new();
        let files = segment::list(disk, journal).map_err(OpenError::io(journal))?;
        let newest = files.last().map(|(number, _)| *number);
        for (number, listed) in files {
            let path = segment::path(journal, number);
            let front = match scan::front(disk, journal, number, &mut unpacker) {
                Ok(FrontFound::Whole(front)) => Some(*front),
                Ok(FrontFound::None) => None,
                Ok(FrontFound::OtherVersion { version }) => return Err(other_version(path, version)),
                // Nothing of it can be read; the others do without it. How the newest one ends is known by itself alone.
                Err(error) if segment::is_bad_sector(&error) && newest != Some(number) => None,
                Err(error) => return Err(OpenError::io(path)(error)),
            };
            segments.push((number, listed, front));
        }
        let done = segment::list_done(disk, journal).map_err(OpenError::io(journal))?;
        Ok(Self { segments, done: done.into_iter().map(|(segment, _)| segment).collect() })
    }

    pub(super) fn fronts(&self) -> impl DoubleEndedIterator<Item = &Front> {
        self.segments.iter().filter_map(|(_, _, front)| front.as_ref())
    }

    pub(super) fn ending_of(&self, segment: u64) -> Option<Ending> {
        self.fronts().filter_map(|front| front.previous).find(|ending| ending.segment == segment)
    }

    /// No segment behind it has begun to hold anything, as far as fronts tell.
    pub(super) fn is_last(&self, segment: u64) -> bool {
        self.fronts().next_back().is_none_or(|newest| newest.segment <= segment)
    }
}

pub(super) fn other_version(path: PathBuf, found: u8) -> OpenError {
    OpenError::OtherFormat { path, found, known: FORMAT_VERSION }
}
