//! Walks a segment and enters its blocks: at a start, if the queue does not know them, and when a queue is rebuilt.

use std::{io, path::Path, sync::Arc, time::Instant};

use super::entering::Entries;
use crate::{
    record::{PerStream, Stream, UnixMillis, instant},
    spool::{
        disk::{Disk, DiskFile},
        journal::{
            block::Header,
            position::UNSEEN,
            scan::{self, Extent, Item, ScanError},
            segment::{self, Damage},
        },
        queue::{Progress, ranges::RangeSet},
    },
};

/// The start of a walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) extent: Extent,
    pub(super) progress: Progress,
    /// Records before these are done.
    pub(super) floor: PerStream<u64>,
    /// The lowest possible sequence numbers of the streams' next records.
    pub(super) expected: PerStream<u64>,
    /// The sequence numbers after the segment's last records, if a front records them.
    pub(super) next: Option<PerStream<u64>>,
}

/// The result of a walk.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) progress: Progress,
    /// Bytes that were synced and are damaged.
    pub(super) damage: Vec<Damage>,
    /// What a torn write left.
    pub(super) torn: Option<Damage>,
    /// Records that were done before: they are below the ack floor.
    pub(super) done_before: PerStream<u64>,
    /// Records that were entered and are to be delivered, and those in damaged bytes, whether they were done or not.
    pending: PerStream<u64>,
    damaged: PerStream<u64>,
    /// Records that were counted as lost before.
    pub(super) counted: PerStream<u64>,
    /// Sequence numbers of records in damaged bytes.
    pub(super) lost: PerStream<RangeSet>,
    /// The lowest possible sequence numbers of the streams' next records.
    pub(super) next: PerStream<u64>,
    /// When the first of the entered records was received, and the last block.
    pub(super) oldest: Option<UnixMillis>,
    pub(super) newest: Option<UnixMillis>,
}

/// Walks a segment and enters what is not done.
///
/// # Errors
/// When it cannot be read, or is of another version.
pub(super) fn walk(disk: &dyn Disk, journal: &Path, start: Start, entries: &mut Entries) -> Result<Walked, ScanError> {
    let file = disk.open(&segment::path(journal, start.extent.segment))?;
    walk_file(file, start, entries)
}

/// The same for a segment that can be walked again: if some of it cannot be read now, it fails and reports since when
/// that is so.
pub(super) fn walk_whole(
    disk: &dyn Disk,
    journal: &Path,
    start: Start,
    entries: &mut Entries,
) -> Result<Walked, (ScanError, Option<Instant>)> {
    match walk(disk, journal, start, entries) {
        Ok(walked) if walked.damage.iter().any(|damage| damage.unreadable) => {
            Err((ScanError::Io(io::Error::other("some of it cannot be read")), Some(instant())))
        }
        walked => walked.map_err(|error| (error, None)),
    }
}

fn walk_file(file: Arc<dyn DiskFile>, start: Start, entries: &mut Entries) -> Result<Walked, ScanError> {
    let len = file.len()?;
    let Start { extent, floor, .. } = start;
    let cut = extent.end > len;
    let extent = Extent { end: extent.end.min(len), ..extent };
    let walked = Walked {
        progress: start.progress,
        damage: Vec::new(),
        torn: None,
        done_before: PerStream::default(),
        pending: PerStream::default(),
        damaged: PerStream::default(),
        counted: start.progress.lost,
        lost: PerStream::default(),
        next: start.expected,
        oldest: None,
        newest: None,
    };
    let mut walk = Walk { segment: extent.segment, floor, walked, entries };
    walk.walked.torn = scan::scan(file, extent, &mut |item| walk.take(item))?;
    let mut walked = walk.walked;
    if !walked.damage.is_empty() || cut {
        match (start.next, walked.damage.last().and_then(|damage| damage.header)) {
            (Some(next), _) => Stream::ALL.into_iter().for_each(|stream| {
                walked.lose(stream, next[stream as usize], floor[stream as usize]);
            }),
            // The last block of all, according to its header.
            (None, Some(header)) => walked.lose(header.stream, header.seqs().end, floor[header.stream as usize]),
            (None, None) => {}
        }
    }
    walked.progress.lost = std::array::from_fn(|i| {
        let (lost, counted) = (walked.lost[i].len(), walked.counted[i]);
        // If the walk does not continue an earlier one but repeats it, the same is found again, and what was missing
        // may be back.
        let back = counted.saturating_sub(walked.damaged[i]).min(walked.pending[i]);
        if start.extent.from > 0 { counted + lost } else { lost.max(counted - back) }
    });
    walked.progress.entered_to = walked.torn.as_ref().map_or(extent.end, |torn| torn.bytes.start);
    Ok(walked)
}

struct Walk<'a> {
    segment: u64,
    floor: PerStream<u64>,
    walked: Walked,
    entries: &'a mut Entries,
}

impl Walked {
    /// Records that were entered and are to be delivered.
    pub(super) fn entered(&self) -> u64 {
        self.pending.iter().sum()
    }

    /// True if records that were counted as lost are intact and recorded as done: fronts were written while they were
    /// missing.
    pub(super) fn holds_lost_as_done(&self) -> bool {
        let found = self.pending.iter().zip(self.damaged).map(|(pending, damaged)| pending + damaged);
        self.counted.iter().zip(found).any(|(counted, found)| *counted > found)
    }
}

impl Walk<'_> {
    fn take(&mut self, item: Item<'_>) {
        match item {
            Item::Damage(damage) => self.walked.damage.push(damage.clone()),
            Item::Block(offset, header) => self.enter(offset, header),
        }
    }

    fn enter(&mut self, offset: u64, header: &Header) {
        let (stream, seqs) = (header.stream, header.seqs());
        let floor = self.floor[stream as usize];
        if !self.walked.damage.is_empty() {
            self.walked.lose(stream, seqs.start, floor);
        }
        let done = seqs.end.min(floor).saturating_sub(seqs.start);
        self.walked.progress.entered += u64::from(header.count);
        self.walked.progress.done += done;
        self.walked.done_before[stream as usize] += done;
        self.walked.pending[stream as usize] += u64::from(header.count) - done;
        self.entries.add(self.segment, offset, header, floor);
        if seqs.end > floor {
            self.walked.oldest = [self.walked.oldest, Some(header.received_at)].into_iter().flatten().min();
        }
        self.walked.newest = self.walked.newest.max(Some(header.received_at));
        let next = &mut self.walked.next[stream as usize];
        *next = (*next).max(seqs.end);
    }
}

impl Walked {
    /// The progress of a segment that held this many records: those that are no longer in its blocks were counted as
    /// lost before.
    pub(super) fn progress_of(&self, held: u64) -> Progress {
        let missing = held.saturating_sub(self.progress.entered);
        let (entered, done) = (self.progress.entered + missing, self.progress.done + missing);
        Progress { entered, done, ..self.progress }
    }

    /// Records of a stream up to `end` were in damaged bytes.
    fn lose(&mut self, stream: Stream, end: u64, floor: u64) {
        let next = &mut self.next[stream as usize];
        // Skipped sequence numbers, of segments that could not be found, were never used.
        let missing = end - end.saturating_sub(*next) % UNSEEN..end;
        let missing = missing.start.max(*next)..missing.end.max(*next);
        *next = missing.end;
        let records = missing.end - missing.start;
        self.progress.entered += records;
        self.progress.done += records;
        self.damaged[stream as usize] += records;
        self.lost[stream as usize].insert(missing.start.max(floor)..missing.end);
    }
}

impl From<ScanError> for io::Error {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Io(error) => error,
            ScanError::OtherVersion { version } => Self::other(format!("it has format version {version}")),
        }
    }
}
