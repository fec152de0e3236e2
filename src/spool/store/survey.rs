//! Surveys a journal's directory: file names, and the fronts of its segments. It reads nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    queue::Recorded,
};

/// Refuses a journal that another build wrote; reads only the segments' fronts.
///
/// # Errors
/// When it is of another version, or cannot be listed.
pub(crate) fn check_version(disk: &dyn Disk, journal: &Path) -> Result<(), OpenError> {
    Survey::of(disk, journal).map(drop)
}

/// The contents of a journal's directory.
pub(super) struct Survey {
    pub(super) segments: Vec<(u64, Listed, Option<Front>)>,
    pub(super) done: BTreeSet<u64>,
    /// The checksums of the intact fronts.
    checksums: BTreeMap<u64, u32>,
}

impl Survey {
    pub(super) fn of(disk: &dyn Disk, journal: &Path) -> Result<Self, OpenError> {
        let mut unpacker = Unpacker::new(None).map_err(OpenError::io(journal))?;
        let (mut segments, mut checksums) = (Vec::new(), BTreeMap::new());
        let files = segment::list(disk, journal).map_err(OpenError::io(journal))?;
        for (number, listed) in files {
            let path = segment::path(journal, number);
            let front = match scan::front(disk, journal, number, &mut unpacker) {
                Ok(FrontFound::Whole(front, checksum)) => {
                    checksums.insert(number, checksum);
                    Some(*front)
                }
                Ok(FrontFound::None) => None,
                Ok(FrontFound::OtherVersion { version }) => return Err(other_version(path, version)),
                // It cannot be read; the others work without it.
                Err(error) if segment::is_bad_sector(&error) => None,
                Err(error) => return Err(OpenError::io(path)(error)),
            };
            segments.push((number, listed, front));
        }
        let done = segment::list_done(disk, journal).map_err(OpenError::io(journal))?;
        Ok(Self { segments, done: done.into_iter().map(|(segment, _)| segment).collect(), checksums })
    }

    pub(super) fn fronts(&self) -> impl DoubleEndedIterator<Item = &Front> {
        self.segments.iter().filter_map(|(_, _, front)| front.as_ref())
    }

    /// The checksum of a segment's front, if the front is intact.
    pub(super) fn checksum_of(&self, segment: u64) -> Option<u32> {
        self.checksums.get(&segment).copied()
    }

    /// True if a queue knows a segment with a different front: it belonged to another journal.
    pub(super) fn is_of_another_history(&self, recorded: &Recorded) -> bool {
        let known = recorded.segments.iter().filter_map(|(segment, progress)| Some((*segment, progress.front?)));
        known.into_iter().any(|(segment, front)| self.checksum_of(segment).is_some_and(|found| found != front))
    }

    pub(super) fn ending_of(&self, segment: u64) -> Option<Ending> {
        self.fronts().filter_map(|front| front.previous).find(|ending| ending.segment == segment)
    }

    /// The front after it does not know how it ended, or there is none: its last group may be torn.
    pub(super) fn is_last(&self, segment: u64) -> bool {
        let behind = self.fronts().find(|front| front.segment > segment);
        behind.and_then(|front| front.previous).is_none_or(|ending| ending.segment < segment)
    }
}

pub(super) fn other_version(path: PathBuf, found: u8) -> OpenError {
    OpenError::OtherFormat { path, found, known: FORMAT_VERSION }
}
