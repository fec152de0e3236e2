//! The files of dead letters: blocks of letters and of removals, appended and synced, in segments.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use super::{
    DeadError, DeadLetter, io_error,
    removal::Removal,
    tally::{Counts, tell},
};
use crate::{
    record::{Stream, now_millis},
    spool::{
        block::{Header, Kind},
        codec::{BadPayload, Packer, Unpacker},
        failpoint,
        io::{Disk, DiskFile},
        recovery,
        segment::{self, Damage, Found, Walker},
        state::decode,
    },
};

/// A block that tells the counts and nothing else is shorter, encrypted or not.
const FRONT_BYTES: u64 = 1 << 10;

/// A block on its way: its kind, how many letters or keys, what it says, and how many letters there are then.
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) count: usize,
    pub(super) raw: Vec<u8>,
    pub(super) then: Counts,
}

impl Draft {
    /// Tells the counts and nothing else; in front of a segment also where the one before it ends.
    fn counts(then: Counts, end_before: Option<(u64, u64)>) -> Self {
        Self { kind: Kind::DeadRemoved, count: 0, raw: Removal::write_counts(end_before), then }
    }

    fn header(&self) -> Header {
        Header {
            kind: self.kind,
            stream: Stream::Events,
            codec: 0,
            ordinal: tell(self.then),
            count: self.count as u32,
            raw_len: 0,
            stored_len: 0,
            received_at: now_millis(),
        }
    }
}

/// A block that is durable: its segment, offset, length.
pub(super) type Placed = (u64, u32, u64);

/// Packed blocks for one segment.
struct Piece {
    segment: u64,
    bytes: Vec<u8>,
    lengths: Vec<u64>,
}

/// The segments.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// A segment that is at least this long gets no more blocks.
    segment_bytes: u64,
    /// How long each is, as far as it is synced.
    segments: BTreeMap<u64, u64>,
    active: Option<(u64, Arc<dyn DiskFile>)>,
    packer: Packer,
    unpacker: Unpacker,
    /// The files tell other counts than there are, until these are written: in front of anything else, so that a loss
    /// that was counted is not counted again.
    pub(super) unsettled: bool,
    /// A segment and where it ends: a write behind that failed, and may be there all the same. Until it is written in
    /// front of the next segment.
    refused: Option<(u64, u64)>,
    /// A segment was deleted, and its folder not synced since: it may come back.
    deleted: bool,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("segments", &self.segments).finish_non_exhaustive()
    }
}

impl Log {
    /// Looks at the folder.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        segment_bytes: u64,
        packer: Packer,
        unpacker: Unpacker,
    ) -> io::Result<Self> {
        let segments = segment::list(disk.as_ref(), &folder)?.into_iter().collect();
        let mut log = Self {
            disk,
            folder,
            segment_bytes,
            segments,
            active: None,
            packer,
            unpacker,
            unsettled: false,
            refused: None,
            deleted: false,
        };
        log.leave_out_refused()?;
        Ok(log)
    }

    /// Ends each segment where the front of the next one says that it ends.
    fn leave_out_refused(&mut self) -> io::Result<()> {
        for segment in self.segments.clone().into_keys() {
            let mut front = Walker::new(self.file(segment)?, 0, self.end(segment).min(FRONT_BYTES));
            let Some(Found::Block { header, payload, .. }) = front.next()? else { continue };
            if Removal::is_counts(&header)
                && let Ok(raw) = self.unpacker.unpack(segment, &header, &payload)
                && let Some(Removal::Counts { end_before: Some((before, end)) }) = Removal::read(&header, &raw)
                && let Some(len) = self.segments.get_mut(&before)
            {
                *len = end.min(*len);
            }
        }
        Ok(())
    }

    /// The file of a segment.
    pub(super) fn path(&self, segment: u64) -> PathBuf {
        segment::path(&self.folder, segment)
    }

    /// Begins a new segment with the next block.
    pub(super) fn seal(&mut self) {
        self.active = None;
    }

    /// The segments and how long they are, oldest first.
    pub(super) const fn segments(&self) -> &BTreeMap<u64, u64> {
        &self.segments
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Walks over a segment.
    pub(super) fn walk(&self, segment: u64) -> io::Result<Walker> {
        Ok(Walker::new(self.file(segment)?, 0, self.end(segment)))
    }

    /// How long a segment is, as far as it is synced.
    fn end(&self, segment: u64) -> u64 {
        self.segments.get(&segment).copied().unwrap_or(0)
    }

    /// Whether damage in a segment is a write that was cut off: nothing whole lies behind but the rest of the same write,
    /// which counts alone end.
    pub(super) fn is_torn(&self, segment: u64, damage: &Damage) -> io::Result<bool> {
        let file = self.file(segment)?;
        let end = file.len()?;
        let mut rest = Walker::new(Arc::clone(&file), damage.bytes.end, end);
        while let Some(found) = rest.next()? {
            if let Found::Block { header, offset, .. } = found
                && Removal::is_counts(&header)
                && offset + header.block_len() < end
            {
                return Ok(false);
            }
        }
        recovery::is_torn(file, damage)
    }

    /// The file of a segment.
    pub(super) fn file(&self, segment: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.path(segment))
    }

    /// What a block takes that tells the counts and nothing else.
    pub(super) fn least_block_len(&mut self) -> io::Result<u64> {
        let draft = Draft::counts(Counts::default(), None);
        Ok(self.packer.write(&mut Vec::new(), 0, draft.header(), &draft.raw)?.block_len())
    }

    /// What a payload says.
    pub(super) fn unpack(&mut self, segment: u64, header: &Header, payload: &[u8]) -> Result<Vec<u8>, BadPayload> {
        self.unpacker.unpack(segment, header, payload)
    }

    /// Appends blocks to those that tell `now`, and syncs them, all or none where they do not fit below `limit`; `placed`
    /// hears of each that is durable.
    pub(super) fn append(
        &mut self,
        now: Counts,
        drafts: &[Draft],
        limit: u64,
        mut placed: impl FnMut(usize, Placed),
    ) -> Result<(), DeadError> {
        let front = (self.unsettled || self.refused.is_some()).then(|| Draft::counts(now, self.refused));
        let end = drafts.last().map(|last| Draft::counts(last.then, None));
        let skipped = usize::from(front.is_some());
        let all: Vec<&Draft> = front.iter().chain(drafts).chain(&end).collect();
        let pieces = self.pack(&all)?;
        let needed = self.bytes() + pieces.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>();
        if needed > limit {
            return Err(DeadError::Full { over: needed - limit });
        }
        let mut nth = 0;
        for piece in pieces {
            let mut offset = self.write(piece.segment, &piece.bytes)?;
            (self.unsettled, self.refused) = (false, None);
            for length in piece.lengths {
                if (skipped..skipped + drafts.len()).contains(&nth) {
                    placed(nth - skipped, (piece.segment, offset as u32, length));
                }
                offset += length;
                nth += 1;
            }
        }
        Ok(())
    }

    fn pack(&mut self, drafts: &[&Draft]) -> Result<Vec<Piece>, DeadError> {
        let newest = self.segments.last_key_value().map_or(0, |(newest, _)| *newest);
        let (mut segment, mut len) = match &self.active {
            Some((segment, _)) => (*segment, self.end(*segment)),
            None => (newest + 1, 0),
        };
        let mut pieces: Vec<Piece> = Vec::new();
        for draft in drafts {
            // Counts alone stay with their block.
            if len >= self.segment_bytes && draft.count > 0 {
                (segment, len) = (segment + 1, 0);
            }
            if pieces.last().is_none_or(|piece| piece.segment != segment) {
                pieces.push(Piece { segment, bytes: Vec::new(), lengths: Vec::new() });
            }
            let Some(piece) = pieces.last_mut() else { continue };
            let written = self.packer.write(&mut piece.bytes, segment, draft.header(), &draft.raw);
            let length = written.map_err(io_error(self.path(segment)))?.block_len();
            piece.lengths.push(length);
            len += length;
        }
        Ok(pieces)
    }

    /// Appends bytes to a segment, which is made where it is a new one, and syncs them; answers where they begin.
    fn write(&mut self, segment: u64, bytes: &[u8]) -> Result<u64, DeadError> {
        let path = self.path(segment);
        let (file, begins) = match self.active.take() {
            Some((active, file)) if active == segment => (file, false),
            _ => {
                // Whatever lies there is from an attempt that failed.
                self.disk.remove(&path).map_err(io_error(path.clone()))?;
                (self.disk.create(&path).map_err(io_error(path.clone()))?, true)
            }
        };
        let end = self.end(segment);
        failpoint::reach("dead_write");
        let written = file.write_at(bytes, end);
        failpoint::reach("dead_written");
        let synced = written
            .and_then(|()| file.sync())
            .and_then(|()| if begins { self.disk.sync_folder(&self.folder) } else { Ok(()) });
        if let Err(error) = synced {
            // Nothing is known of the file now: no more is written to it, and a new one is made anew, so that a number
            // that is missing is a file that someone deleted. The cut may work; nothing depends on it.
            let _ = file.set_len(end);
            if !begins {
                self.refused = Some((segment, end));
            }
            return Err(io_error(path)(error));
        }
        failpoint::reach("dead_synced");
        self.segments.insert(segment, end + bytes.len() as u64);
        self.active = Some((segment, file));
        Ok(end)
    }

    /// Syncs all segments, and cuts off what was refused.
    pub(super) fn sync(&self) -> Result<(), DeadError> {
        for (&segment, &end) in &self.segments {
            let path = self.path(segment);
            let sync = |file: Arc<dyn DiskFile>| {
                if file.len()? > end {
                    file.set_len(end)?;
                }
                file.sync()
            };
            self.disk.open_writable(&path).and_then(sync).map_err(io_error(path))?;
        }
        self.disk.sync_folder(&self.folder).map_err(io_error(self.folder.clone()))
    }

    /// Deletes a segment, once the deletion before is durable, and does not return before this one is: a removal's note
    /// goes after the letter it is of.
    pub(super) fn delete(&mut self, segment: u64) -> Result<(), DeadError> {
        self.sync_deletion()?;
        if self.active.as_ref().is_some_and(|(active, _)| *active == segment) {
            self.active = None;
        }
        failpoint::reach("dead_delete");
        let path = self.path(segment);
        self.disk.remove(&path).map_err(io_error(path))?;
        self.segments.remove(&segment);
        self.deleted = true;
        self.sync_deletion()
    }

    fn sync_deletion(&mut self) -> Result<(), DeadError> {
        if self.deleted {
            self.disk.sync_folder(&self.folder).map_err(io_error(self.folder.clone()))?;
            self.deleted = false;
        }
        Ok(())
    }

    /// The letters of a block; `None` where it is damaged.
    pub(super) fn read(&mut self, segment: u64, offset: u32) -> Result<Option<Vec<DeadLetter>>, DeadError> {
        let path = self.path(segment);
        let file = self.disk.open(&path).map_err(io_error(path.clone()))?;
        let len = file.len().map_err(io_error(path.clone()))?;
        let Some(Found::Block { header, payload, .. }) =
            Walker::new(file, u64::from(offset), len).next().map_err(io_error(path))?
        else {
            return Ok(None);
        };
        let raw = self.unpacker.unpack(segment, &header, &payload).ok();
        Ok(raw.and_then(|raw| decode(&raw)))
    }
}
