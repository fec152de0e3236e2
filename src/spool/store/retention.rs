//! Retention: which segments are deleted, and how.
//!
//! A segment is deleted only by a [`Proof`]: it is sealed, all of it was entered, and as many of its records are done
//! as it holds. Absence, emptiness, a damaged front and other segments' numbers prove nothing.
//!
//! The newest front says which earlier segments are missing because they are done. Its segment stays while one of them
//! is left: otherwise a start without a queue would take the missing ones for lost.
//!
//! Refused bytes that could not be cut off the previous segment are cut off first: only the front of this segment says
//! where that one ends.
//!
//! Deletion takes several steps. The segment is renamed to `.done`, and the directory is synced. The file is truncated,
//! which frees its space even while others hold it open, and needs none itself. It is unlinked when a newer synced
//! front says that it is no longer needed. A start that finds a `.done` knows that all of it is done; a start that
//! finds nothing knows it from that front.

use std::{io, path::Path};

use super::{
    Store,
    state::{Segment, State},
};
use crate::spool::{disk::Disk, failpoint, journal::segment, queue::Change};

/// Proof that a segment is no longer needed. Only [`Proof::of`] creates it.
#[derive(Debug)]
struct Proof {
    segment: u64,
}

impl Proof {
    fn of(segment: u64, known: &Segment) -> Option<Self> {
        let Segment { end, held, sealed, progress, unread, .. } = known;
        let entered = unread.is_none() && progress.entered_to >= *end && progress.entered == *held;
        (*sealed && entered && progress.done == *held).then_some(Self { segment })
    }
}

impl State {
    /// True if only this segment's front records the disposition of earlier segments, some of which are left.
    fn remembers_others(&self, segment: u64) -> bool {
        segment == self.newest_front && self.segments.range(..segment).next().is_some()
    }
}

impl Store {
    /// Deletes segments that are proven to be no longer needed; returns how many bytes that freed.
    pub(crate) fn retain(&self) -> u64 {
        let proofs: Vec<Proof> = {
            let state = self.state.lock();
            state.segments.iter().filter_map(|(&segment, known)| Proof::of(segment, known)).collect()
        };
        let mut freed = 0;
        for proof in proofs {
            let segment = proof.segment;
            if self.state.lock().remembers_others(segment) {
                continue;
            }
            match self.delete(proof) {
                Ok(bytes) => freed += bytes,
                Err(error) => {
                    let path = segment::path(&self.journal(), segment);
                    self.reports.error(format!("spool {}: could not delete the segment: {error}", path.display()));
                    break;
                }
            }
        }
        self.delete_done();
        freed
    }

    fn delete(&self, proof: Proof) -> io::Result<u64> {
        let Proof { segment } = proof;
        let journal = self.journal();
        let (path, done) = (segment::path(&journal, segment), segment::done_path(&journal, segment));
        self.trim_before(segment)?;
        failpoint::reach("segment_delete");
        match self.disk.rename(&path, &done) {
            // Somebody removed it: all of it was done.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.disk.sync_directory(&journal)?;
        truncate(self.disk.as_ref(), &done)?;
        failpoint::reach("segment_deleted");
        self.with_queue(|queue| queue.apply(&Change { segments: vec![(segment, None)], ..Change::default() }));
        self.mark_changed();
        let mut state = self.state.lock();
        state.done.insert(segment, ());
        Ok(state.segments.remove(&segment).map_or(0, |known| known.allocated))
    }

    /// Cuts refused bytes off the segment before one that is deleted: only the latter's front says where the former
    /// ends.
    fn trim_before(&self, segment: u64) -> io::Result<()> {
        let before = {
            let state = self.state.lock();
            state.segments.range(..segment).next_back().map(|(&before, known)| (before, known.end))
        };
        let Some((before, end)) = before else { return Ok(()) };
        let path = segment::path(&self.journal(), before);
        let len = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?.len()?,
        };
        if len <= end {
            return Ok(());
        }
        let file = self.disk.open_writable(&path)?;
        file.set_len(end)?;
        file.sync()
    }

    /// Unlinks segments that a synced front records as done.
    pub(super) fn delete_done(&self) {
        let deletable: Vec<u64> = {
            let state = self.state.lock();
            state.done.range(..state.needed_from).map(|(&segment, ())| segment).collect()
        };
        for segment in deletable {
            if let Err(error) = self.disk.remove(&segment::done_path(&self.journal(), segment)) {
                self.reports.error(format!("spool {}: could not unlink a segment: {error}", self.journal().display()));
                return;
            }
            self.state.lock().done.remove(&segment);
        }
    }
}

/// Frees a file's space.
pub(super) fn truncate(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.open_writable(path) {
        Ok(file) => file.set_len(0),
        // A second name of the file keeps its bytes; this name is unlinked.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::TooManyLinks) => Ok(()),
        Err(error) => Err(error),
    }
}
