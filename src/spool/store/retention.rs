//! Which segments go, and how.
//!
//! A segment goes by a [`Proof`] only: it gets no more, all of it was entered, and as many of its records are done as it holds.
//! Absence, emptiness, a damaged front, another segment's numbers prove nothing.
//!
//! The newest front says which segments before it are gone because they are done. It stays while one of them is left, or a start
//! without a queue takes those that are gone for lost.
//!
//! What was refused and could not be cut off the segment before it is cut off first: its front alone says where that one ends.
//!
//! How: renamed to `.done`, the directory synced, cut to nothing (which gives its space back, whoever holds it open, and needs none
//! itself), unlinked when a newer front that is synced says that it is needed no more. A start that finds a `.done` knows that
//! all of it is done; one that finds nothing knows it by that front.

use std::{io, path::Path};

use super::{
    Store,
    state::{Segment, State},
};
use crate::spool::{disk::Disk, failpoint, journal::segment, queue::Change};

/// That a segment is needed no more. Made by [`Proof::of`] alone.
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
    /// Whether a segment's front is the only one that knows what became of segments before it, some of which are left.
    fn remembers_others(&self, segment: u64) -> bool {
        segment == self.newest_front && self.segments.range(..segment).next().is_some()
    }
}

impl Store {
    /// Lets segments go that are proven to be needed no more; answers how many bytes that gave back.
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
            match self.let_go(proof) {
                Ok(bytes) => freed += bytes,
                Err(error) => {
                    let path = segment::path(&self.journal(), segment);
                    self.reports.error(format!("spool {}: letting it go: {error}", path.display()));
                    break;
                }
            }
        }
        self.delete_done();
        freed
    }

    fn let_go(&self, proof: Proof) -> io::Result<u64> {
        let Proof { segment } = proof;
        let journal = self.journal();
        let (path, done) = (segment::path(&journal, segment), segment::done_path(&journal, segment));
        self.trim_before(segment)?;
        failpoint::reach("segment_delete");
        match self.disk.rename(&path, &done) {
            // Somebody has removed it: all of it was done.
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

    /// Cuts what was refused off the segment before one that goes: the front of that one alone says where it ends.
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

    /// Unlinks what a synced front remembers as done.
    pub(super) fn delete_done(&self) {
        let deletable: Vec<u64> = {
            let state = self.state.lock();
            state.done.range(..state.needed_from).map(|(&segment, ())| segment).collect()
        };
        for segment in deletable {
            if let Err(error) = self.disk.remove(&segment::done_path(&self.journal(), segment)) {
                self.reports.error(format!("spool {}: unlinking a segment: {error}", self.journal().display()));
                return;
            }
            self.state.lock().done.remove(&segment);
        }
    }
}

/// Gives back a file's space.
pub(super) fn truncate(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.open_writable(path) {
        Ok(file) => file.set_len(0),
        // Whoever gave the file a second name keeps its bytes; it is unlinked under this one.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::TooManyLinks) => Ok(()),
        Err(error) => Err(error),
    }
}
