//! The journal's writer: packs a group, writes it, syncs it.
//!
//! Two steps, so that one thread can pack the next group while another syncs the last one. [`Writer::pack`] makes a
//! group's bytes for its place ([`packing`](super::packing)). [`Writer::commit`] writes and syncs it in its turn. A
//! group packed for a place that a failure made void is refused as [`Refusal::Stale`], and packed again.
//!
//! **Order.** Check the limits, create the segment's file if the group begins one, write, `fdatasync`, sync the
//! directory of a new file, check that the file is still in its place. Only then is the group published, and the next
//! group's turn begins.
//!
//! A failed write is undone, or its file is abandoned. After a failed sync nothing is known about a file: it is
//! abandoned, and the sequence numbers that it should have held are not used again. The same applies if a file is no
//! longer in its place.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    block::{Header, Kind},
    builder,
    codec::Packer,
    front::Ending,
    packing::{FrontFacts, Packed, Packing},
    position::{ActivePosition, Position, beyond_unseen},
    segment,
};
use crate::{
    record::{PerStream, RecordBatch},
    spool::{
        disk::{Disk, DiskFile, Identity},
        error::FullLimit,
        failpoint,
    },
};

/// Space on the medium is reserved in steps: as much as the segment already takes, at most this …
const RESERVE_BYTES: u64 = 4 << 20;
/// … and at least this. A spool with few records takes little space.
const FIRST_RESERVE_BYTES: u64 = 64 << 10;

/// A group that is durable.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) segment: u64,
    /// Its blocks of records, with their offsets.
    pub(crate) blocks: Vec<(u64, Header)>,
    /// The checksum of its front, if it begins the segment.
    pub(crate) front: Option<u32>,
    /// The length up to which the segment is durable.
    pub(crate) end: u64,
    /// Bytes that the segment takes on the medium.
    pub(crate) allocated: u64,
    /// The next sequence number of each stream.
    pub(crate) next: PerStream<u64>,
    /// The segment before it, if this group begins a new one: it is sealed.
    pub(crate) sealed: Option<Ending>,
    /// How long the sync took.
    pub(crate) sync_time: Duration,
}

/// Why a group was not made durable.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It does not fit.
    Full(FullLimit),
    /// Its segment could not be created, written or synced.
    Io(io::Error),
    /// The directory, or the segment in it, was moved or removed.
    Moved,
    /// A group packed before it failed: pack it again.
    Stale,
}

impl Refusal {
    /// True if the medium is full.
    pub(crate) fn is_no_space(&self) -> bool {
        match self {
            Self::Full(_) => true,
            Self::Io(error) => is_no_space(error),
            Self::Moved | Self::Stale => false,
        }
    }
}

pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Appends groups to a journal.
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// The directory that contains it, with its identity at the start.
    home: (PathBuf, Option<Identity>),
    segment_bytes: u64,
    packing: Mutex<Packing>,
    writing: Mutex<Writing>,
    turn: Condvar,
}

struct Writing {
    position: Position,
    file: Option<Active>,
    /// A file that should have become a segment, contains refused bytes, and could not be removed.
    leftover: Option<PathBuf>,
    ticket: u64,
    generation: u64,
}

/// The file that is being written.
struct Active {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// The identity that the file at `path` must have.
    identity: Option<Identity>,
    reserved: u64,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Writer {
    /// A writer into `directory`, which is in `home`. If `home` cannot be read now, it never writes there.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        home: &Path,
        directory: PathBuf,
        kind: Kind,
        segment_bytes: u64,
        packer: Packer,
        position: Position,
    ) -> Self {
        let home = (home.to_owned(), disk.identity(home).ok());
        let packing = Packing::new(kind, segment_bytes, packer, position);
        let writing = Writing { position, file: None, leftover: None, ticket: 0, generation: 0 };
        Self {
            disk,
            directory,
            home,
            segment_bytes,
            packing: Mutex::new(packing),
            writing: Mutex::new(writing),
            turn: Condvar::new(),
        }
    }

    /// True if the directory around it is missing or was replaced since the start.
    pub(crate) fn is_moved(&self) -> bool {
        let (home, identity) = &self.home;
        identity.is_none() || self.disk.identity(home).ok() != *identity
    }

    /// Packs batches into a group, which has to be committed. `roll` begins a new segment with it.
    ///
    /// # Errors
    /// When compression or encryption fails.
    pub(crate) fn pack<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a RecordBatch>,
        roll: bool,
        facts: impl FnOnce() -> FrontFacts,
    ) -> io::Result<Packed> {
        let builders = builder::blocks(batches);
        self.packing.lock().pack(&builders, roll, facts)
    }

    /// Writes and syncs a group, once those packed before it are committed. `admit` gets the space that it needs beyond
    /// what is reserved, and returns how much more may be reserved.
    ///
    /// # Errors
    /// See [`Refusal`]: nothing of the group is kept then. `published` is called when it is durable, before the next
    /// group's turn.
    pub(crate) fn commit<T>(
        &self,
        packed: Packed,
        admit: impl FnOnce(u64) -> Result<u64, FullLimit>,
        published: impl FnOnce(Committed) -> T,
    ) -> Result<T, Refusal> {
        let mut turn = Turn::wait(self, packed.ticket);
        if packed.generation != turn.writing.generation {
            return Err(Refusal::Stale);
        }
        turn.under_way = Some((packed.after.next, packed.after.next_segment));
        let result = self.write_group(&mut turn.writing, &packed, admit);
        turn.under_way = None;
        turn.failed = result.is_err();
        let sync_time = result?;
        let Packed { before, after, mut bytes, blocks, front, .. } = packed;
        let Some(active) = after.active else { unreachable!("a packed group is in a segment") };
        turn.writing.position = after;
        bytes.clear();
        let allocated = turn.writing.file.as_ref().map_or(active.end, |file| file.reserved.max(active.end));
        let sealed = after.ended.filter(|_| before.active.map(|before| before.segment) != Some(active.segment));
        let ActivePosition { segment, end, .. } = active;
        let committed = Committed { segment, blocks, front, end, allocated, next: after.next, sealed, sync_time };
        let answer = published(committed);
        drop(turn);
        self.packing.lock().spare.push(bytes);
        Ok(answer)
    }

    /// The segment that is being written, if there is one.
    pub(crate) fn active_segment(&self) -> Option<u64> {
        self.writing.lock().position.active.map(|active| active.segment)
    }

    /// Seals the segment that is being written: the next group begins a new one. Returns how the last one ended.
    pub(crate) fn leave_segment(&self) -> Option<Ending> {
        let mut writing = self.writing.lock();
        // A failure may have sealed it already.
        let Some(ActivePosition { end, .. }) = writing.position.active else { return writing.position.ended };
        if let Some(file) = writing.file.take() {
            // Release reserved space; where that fails, the next start does it.
            let _ = file.file.set_len(end);
        }
        writing.position.leave_active();
        // Groups packed for a place in it are packed again.
        let mut packing = self.packing.lock();
        packing.generation += 1;
        writing.generation = packing.generation;
        packing.position = writing.position;
        writing.position.ended
    }

    /// Releases reserved space for good: no more groups follow.
    pub(crate) fn close(&self) -> io::Result<()> {
        let mut writing = self.writing.lock();
        let end = writing.position.active.map(|active| active.end);
        match (writing.file.take(), end) {
            (Some(active), Some(end)) if active.reserved > end => active.file.set_len(end),
            _ => Ok(()),
        }
    }

    fn write_group(
        &self,
        writing: &mut Writing,
        packed: &Packed,
        admit: impl FnOnce(u64) -> Result<u64, FullLimit>,
    ) -> Result<Duration, Refusal> {
        let Some(active) = packed.after.active else { unreachable!("a packed group is in a segment") };
        let begins = packed.before.active.map(|before| before.segment) != Some(active.segment);
        let start = active.end - packed.bytes.len() as u64;
        let left = writing.file.as_ref().filter(|_| !begins).map_or(0, |file| file.reserved - start);
        let spare = admit((packed.bytes.len() as u64).saturating_sub(left)).map_err(Refusal::Full)?;
        if begins {
            self.begin(writing, active.segment)?;
        }
        let Some(file) = &mut writing.file else { return Err(Refusal::Moved) };
        let step = RESERVE_BYTES.min(start.max(FIRST_RESERVE_BYTES)).min(self.segment_bytes / 4).min(spare);
        if let Err(error) = file.write(&packed.bytes, start, step) {
            self.undo(writing, packed, start);
            return Err(Refusal::Io(error));
        }
        failpoint::reach("block_written");
        let syncing = Instant::now();
        let synced = file.file.sync().map_err(Refusal::Io).and_then(|()| {
            if begins {
                self.disk.sync_directory(&self.directory).map_err(Refusal::Io)?;
            }
            let there = self.disk.identity(&file.path).ok();
            if there.is_some() && there == file.identity { Ok(()) } else { Err(Refusal::Moved) }
        });
        if let Err(refusal) = synced {
            self.abandon(writing, packed, start);
            return Err(refusal);
        }
        failpoint::reach("block_synced");
        Ok(syncing.elapsed())
    }

    /// Creates the next segment's file.
    fn begin(&self, writing: &mut Writing, number: u64) -> Result<(), Refusal> {
        if self.is_moved() {
            return Err(Refusal::Moved);
        }
        if let (Some(before), Some(active)) = (writing.file.take(), writing.position.active) {
            // Release reserved space; where that fails, the next start does it.
            let _ = before.file.set_len(active.end);
        }
        writing.position.leave_active();
        if let Some(leftover) = &writing.leftover {
            // Before a later segment, it would be mistaken for one that was kept and is damaged.
            self.disk.remove(leftover).map_err(Refusal::Io)?;
            writing.leftover = None;
        }
        let path = segment::path(&self.directory, number);
        failpoint::reach("segment_roll");
        // It may have been removed with everything in it; the directory around it is the locked one.
        self.disk.make_directory(&self.directory).map_err(Refusal::Io)?;
        let file = match self.disk.create(&path) {
            // A segment that was not visible at the start: its number is taken, and its sequence numbers may be.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                writing.position.next_segment = number + 1;
                writing.position.next.iter_mut().for_each(|next| *next = beyond_unseen(*next, number + 1));
                return Err(Refusal::Stale);
            }
            file => file.map_err(Refusal::Io)?,
        };
        let identity = file.identity().ok();
        writing.file = Some(Active { path, file, identity, reserved: 0 });
        Ok(())
    }

    /// After a failed write: cuts the file to its earlier end. Where even that fails, the file is abandoned.
    fn undo(&self, writing: &mut Writing, packed: &Packed, start: u64) {
        let undone = match &mut writing.file {
            Some(file) if start == 0 => self.disk.remove(&file.path),
            Some(file) => file.file.set_len(start).map(|()| file.reserved = start),
            None => return,
        };
        match undone {
            Ok(()) if start == 0 => writing.file = None,
            Ok(()) => {}
            Err(_) => self.abandon(writing, packed, start),
        }
    }

    /// The file may or may not contain the group: it is abandoned, and the group's sequence numbers are not used again.
    fn abandon(&self, writing: &mut Writing, packed: &Packed, start: u64) {
        let Some(file) = writing.file.take() else { return };
        if start > 0 {
            // The cut may succeed; nothing depends on it.
            let _ = file.file.set_len(start);
        } else if self.disk.remove(&file.path).is_err() {
            writing.leftover = Some(file.path);
        }
        writing.position.leave_active();
        writing.position.next = packed.after.next;
        writing.position.next_segment = packed.after.next_segment;
    }
}

/// A group's turn to be written. If it fails, all groups packed for a later place are void.
struct Turn<'a> {
    writer: &'a Writer,
    writing: MutexGuard<'a, Writing>,
    failed: bool,
    /// What is void if this ends in a panic: sequence numbers before these, segments before this one.
    under_way: Option<(PerStream<u64>, u64)>,
}

impl<'a> Turn<'a> {
    fn wait(writer: &'a Writer, ticket: u64) -> Self {
        let mut writing = writer.writing.lock();
        while writing.ticket != ticket {
            writer.turn.wait(&mut writing);
        }
        Self { writer, writing, failed: false, under_way: None }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.writing.ticket += 1;
        if let Some((next, next_segment)) = self.under_way.take() {
            let file = self.writing.file.take();
            if self.writing.position.active.is_none() {
                self.writing.leftover = file.map(|file| file.path);
            }
            self.writing.position.leave_active();
            self.writing.position.next = next;
            self.writing.position.next_segment = next_segment;
            self.failed = true;
        }
        if self.failed {
            // Packing is never locked while a turn is waited for.
            let mut packing = self.writer.packing.lock();
            packing.generation += 1;
            self.writing.generation = packing.generation;
            packing.position = self.writing.position;
        }
        self.writer.turn.notify_all();
    }
}

impl Active {
    fn write(&mut self, bytes: &[u8], start: u64, step: u64) -> io::Result<()> {
        let end = start + bytes.len() as u64;
        if end > self.reserved {
            let reserve = step.max(end - self.reserved);
            match self.file.reserve(self.reserved, reserve) {
                Ok(()) => self.reserved += reserve,
                // A smaller step may fit.
                Err(_) => self.reserved = end,
            }
        }
        self.file.write_at(bytes, start)
    }
}
