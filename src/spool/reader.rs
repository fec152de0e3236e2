//! Reads records for delivery: finds the run in the queue, the block in the journal, the records in the block.
//!
//! What the queue says is checked against the blocks; where it is wrong or says nothing, the segment is walked. Only
//! what the segment does not hold either is lost, counted, and stepped over.

use std::{collections::BTreeMap, io, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    Lease, LeaseLimit, QueueError, QueuedRecord,
    block::{HEADER_BYTES, Header, Kind, check_block},
    books::BlockPlace,
    codec::{BadPayload, Unpacker},
    core::Core,
    quarantine,
    segment::{self, ChunkReader, Found, Walker},
    state::{DropReason, Fate},
};
use crate::record::{Records, Stream, UnixMillis};

/// One stream's reader.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Stream,
    unpacker: Unpacker,
    file: Option<(u64, ChunkReader)>,
    /// Where the next block is expected.
    place: Option<Place>,
    block: Option<OpenBlock>,
    /// Blocks found by walking a segment, because the queue did not know them.
    walked: BTreeMap<u64, BlockPlace>,
}

/// A place within a run.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u64,
    offset: u64,
    /// Offset of the run's end.
    end: u64,
    /// Ordinals that the run still holds.
    from: u64,
    to: u64,
}

/// An unpacked block, and how far its records were taken.
#[derive(Debug)]
struct OpenBlock {
    place: BlockPlace,
    payload: Bytes,
    ordinal: u64,
    at: usize,
}

/// What a look at an ordinal finds.
#[derive(Debug)]
pub(crate) enum Glance {
    /// Records of the block that holds it.
    Records(Vec<QueuedRecord>),
    /// These ordinals are nowhere.
    Missing(Range<u64>),
}

/// What stands at an ordinal.
enum Sought {
    Block,
    /// These ordinals are nowhere.
    Missing(Range<u64>),
}

impl Reader {
    pub(crate) fn new(stream: Stream, unpacker: Unpacker) -> Self {
        Self { stream, unpacker, file: None, place: None, block: None, walked: BTreeMap::new() }
    }

    /// Takes the next records, in order, and notes that they are handed out.
    pub(crate) fn lease(&mut self, core: &Core, limit: LeaseLimit) -> Result<Option<Lease>, QueueError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        while records.len() < limit.records.max(1) && (records.is_empty() || bytes < limit.bytes) {
            let Some(open) = core.books.lock().stream(self.stream).next_open() else { break };
            let sought = match self.seek(core, open.start) {
                Ok(sought) => sought,
                // What was read so far goes out; the error comes again.
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(error),
            };
            match sought {
                Sought::Missing(range) => self.give_up(core, range.start..range.end.min(open.end)),
                Sought::Block => {
                    let (before, bytes_before) = (records.len(), bytes);
                    let full = self.take(&open, limit, &mut records, &mut bytes);
                    self.hand_out(core, &records[before..], (bytes - bytes_before) as u64);
                    if full {
                        break;
                    }
                    if records.len() == before {
                        // The block holds fewer records than its header says.
                        let end = self.block.take().map_or(open.end, |block| block.place.header.ordinals().end);
                        self.give_up(core, open.start..end.min(open.end));
                    }
                }
            }
        }
        Ok((!records.is_empty()).then_some(Lease { stream: self.stream, records }))
    }

    /// Takes records of the open block; true if the limit is reached.
    fn take(
        &mut self,
        open: &Range<u64>,
        limit: LeaseLimit,
        records: &mut Vec<QueuedRecord>,
        bytes: &mut usize,
    ) -> bool {
        let Some(block) = &mut self.block else { return false };
        block.skip_to(open.start);
        let received_at = block.place.header.received_at;
        while block.ordinal < open.end.min(block.place.header.ordinals().end) {
            let Some((record, next)) = block.peek() else { break };
            let over = records.len() >= limit.records.max(1) || *bytes + record.len() > limit.bytes;
            if over && !records.is_empty() {
                return true;
            }
            *bytes += record.len();
            records.push(QueuedRecord { seq: block.ordinal, received_at, bytes: record });
            (block.ordinal, block.at) = (block.ordinal + 1, next);
        }
        false
    }

    fn hand_out(&self, core: &Core, records: &[QueuedRecord], bytes: u64) {
        let (Some(first), Some(last), Some(block)) = (records.first(), records.last(), &self.block) else { return };
        let framing = 3 * records.len() as u64;
        let mut books = core.books.lock();
        let stream = books.stream(self.stream);
        stream.hand_out(&(first.seq..last.seq + 1), bytes + framing);
        stream.in_flight.entry(block.place.header.ordinal).or_insert(block.place);
    }

    /// Makes the block that holds `ordinal` the open one.
    fn seek(&mut self, core: &Core, ordinal: u64) -> Result<Sought, QueueError> {
        if self.block.as_ref().is_some_and(|block| block.place.header.ordinals().contains(&ordinal)) {
            return Ok(Sought::Block);
        }
        let known = {
            let books = core.books.lock();
            let in_flight = &books.streams[self.stream as usize].in_flight;
            in_flight.range(..=ordinal).next_back().map(|(_, place)| *place)
        };
        let known = known.or_else(|| self.walked.range(..=ordinal).next_back().map(|(_, place)| *place));
        if let Some(place) = known.filter(|place| place.header.ordinals().contains(&ordinal))
            && let Some(found) =
                self.open(core, place.segment, place.offset, place.offset + place.header.block_len())?
            && found.header.ordinals().contains(&ordinal)
        {
            return Ok(Sought::Block);
        }
        if let Some(sought) = self.seek_in_run(core, ordinal)? {
            return Ok(sought);
        }
        self.walk_for(core, ordinal)
    }

    /// Follows the run that should hold `ordinal`; `None` if it does not.
    fn seek_in_run(&mut self, core: &Core, ordinal: u64) -> Result<Option<Sought>, QueueError> {
        if !self.place.is_some_and(|place| (place.from..place.to).contains(&ordinal)) {
            let run = core.books.lock().stream(self.stream).run_at(ordinal);
            let run = run.or_else(|| {
                let index = core.index.read().clone()?;
                index.run_at(self.stream, ordinal).unwrap_or_else(|error| {
                    core.report(error.to_string());
                    None
                })
            });
            let Some((key, run)) = run else { return Ok(None) };
            self.place = Some(Place {
                segment: run.segment,
                offset: run.offset,
                end: run.end(),
                from: key,
                to: key + run.records,
            });
        }
        while let Some(place) = self.place
            && place.offset < place.end
        {
            let Some(found) = self.open_if(core, place, ordinal)? else { break };
            let ordinals = found.ordinals();
            let from =
                if found.kind == Kind::Records && found.stream == self.stream { ordinals.end } else { place.from };
            self.place = Some(Place { offset: place.offset + found.block_len(), from, ..place });
            if from == ordinals.end && ordinals.contains(&ordinal) {
                return Ok(Some(Sought::Block));
            }
            if from == ordinals.end && ordinals.start > ordinal {
                break;
            }
        }
        self.place = None;
        Ok(None)
    }

    /// Reads the block at a place of a run, and opens it if it holds `ordinal`; `None` if it is no whole block.
    fn open_if(&mut self, core: &Core, place: Place, ordinal: u64) -> Result<Option<Header>, QueueError> {
        let Some(reader) = self.file(core, place.segment)? else { return Ok(None) };
        let io = |source| io_error(core, place.segment, source);
        let bytes = reader.slice(place.offset, HEADER_BYTES, place.end).map_err(io)?;
        let Ok(header) = Header::parse(bytes) else { return Ok(None) };
        let wanted =
            header.kind == Kind::Records && header.stream == self.stream && header.ordinals().contains(&ordinal);
        if wanted && self.open(core, place.segment, place.offset, place.end)?.is_none() {
            return Ok(None);
        }
        Ok(Some(header))
    }

    /// Opens the block at this place; `None` if it is no whole block of records of this stream.
    fn open(&mut self, core: &Core, segment: u64, offset: u64, end: u64) -> Result<Option<BlockPlace>, QueueError> {
        let io = |source| io_error(core, segment, source);
        let stream = self.stream;
        let Some(reader) = self.file(core, segment)? else { return Ok(None) };
        let Ok(header) = Header::parse(reader.slice(offset, HEADER_BYTES, end).map_err(io)?) else { return Ok(None) };
        if header.kind != Kind::Records || header.stream != stream {
            return Ok(None);
        }
        let block = reader.slice(offset, header.block_len() as usize, end).map_err(io)?;
        let Ok(packed) = check_block(&header, block).map(<[u8]>::to_vec) else { return Ok(None) };
        let place = BlockPlace { segment, offset, header };
        match self.unpacker.unpack(segment, &header, &packed) {
            Ok(raw) => {
                self.block = Some(OpenBlock { place, payload: raw.into(), ordinal: header.ordinal, at: 0 });
                Ok(Some(place))
            }
            Err(BadPayload::NoKey { key }) => {
                let path = segment::path(&core.journal_folder(), segment).display().to_string();
                Err(QueueError::NoKey { path, key })
            }
            Err(_) => Ok(None),
        }
    }

    /// Walks the segment in which `ordinal` should lie. What it holds of this stream is remembered; what is damaged is
    /// copied to the quarantine.
    fn walk_for(&mut self, core: &Core, ordinal: u64) -> Result<Sought, QueueError> {
        let (segment, ordinals) = {
            let books = core.books.lock();
            let Some(segment) = books.segment_of(self.stream, ordinal) else {
                let end = books.segments.values().next().map(|first| first.first[self.stream as usize]);
                let end = end.unwrap_or(books.streams[self.stream as usize].live.next);
                return Ok(Sought::Missing(ordinal..end.max(ordinal + 1)));
            };
            (segment, books.ordinals_of(segment, self.stream))
        };
        let io = |source| io_error(core, segment, source);
        self.walked.clear();
        let missing = ordinal..ordinals.end.max(ordinal + 1);
        let path = segment::path(&core.journal_folder(), segment);
        let file = match core.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sought::Missing(missing)),
            Err(error) => return Err(io(error)),
        };
        let synced = core.books.lock().written_end(segment);
        let len = file.len().map_err(io)?;
        let end = synced.map_or(len, |synced| synced.min(len));
        let mut walker = Walker::new(Arc::clone(&file), 0, end);
        while let Some(found) = walker.next().map_err(io)? {
            match found {
                Found::Block { header, offset, .. } if header.kind == Kind::Records && header.stream == self.stream => {
                    if header.ordinals().end > ordinal {
                        self.walked.insert(header.ordinal, BlockPlace { segment, offset, header });
                    }
                }
                Found::Block { .. } => {}
                Found::Damage(damage) => quarantine::keep(core, segment, file.as_ref(), &damage),
            }
        }
        let holding = self.walked.first_key_value().map(|(_, place)| *place);
        match holding {
            Some(place) if place.header.ordinal <= ordinal => {
                match self.open(core, segment, place.offset, place.offset + place.header.block_len())? {
                    Some(_) => Ok(Sought::Block),
                    // Its checksum holds and yet it cannot be unpacked: forged, or packed by something else.
                    None => {
                        quarantine::keep_block(core, segment, file.as_ref(), &place);
                        self.walked.remove(&place.header.ordinal);
                        Ok(Sought::Missing(ordinal..place.header.ordinals().end))
                    }
                }
            }
            Some(place) => Ok(Sought::Missing(ordinal..place.header.ordinal)),
            None => Ok(Sought::Missing(missing)),
        }
    }

    fn file(&mut self, core: &Core, segment: u64) -> Result<Option<&mut ChunkReader>, QueueError> {
        if self.file.as_ref().is_none_or(|(open, _)| *open != segment) {
            let path = segment::path(&core.journal_folder(), segment);
            match core.disk.open(&path) {
                Ok(file) => self.file = Some((segment, ChunkReader::new(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(io_error(core, segment, error)),
            }
        }
        Ok(self.file.as_mut().map(|(_, reader)| reader))
    }

    fn give_up(&self, core: &Core, lost: Range<u64>) {
        let records = lost.end - lost.start;
        core.report(format!(
            "spool {}: {records} {} are lost (ordinals {} to {}): the journal no longer holds them; see quarantine/",
            core.folder.display(),
            self.stream,
            lost.start,
            lost.end - 1,
        ));
        core.finish(self.stream, &[lost], Fate::Dropped(DropReason::Damaged));
    }

    /// The records of the block that holds `ordinal`, as far as they are in `open`; nothing is handed out.
    pub(crate) fn glance(&mut self, core: &Core, open: &Range<u64>, ordinal: u64) -> Result<Glance, QueueError> {
        if let Sought::Missing(range) = self.seek(core, ordinal)? {
            return Ok(Glance::Missing(range));
        }
        let begin = self.block.as_ref().map_or(open.start, |block| block.place.header.ordinal.max(open.start));
        let all = LeaseLimit { records: usize::MAX, bytes: usize::MAX };
        let mut records = Vec::new();
        self.take(&(begin..open.end), all, &mut records, &mut 0);
        Ok(Glance::Records(records))
    }

    /// When the record at `ordinal` was received; `None` if it is nowhere.
    pub(crate) fn look(&mut self, core: &Core, ordinal: u64) -> Result<Option<UnixMillis>, QueueError> {
        Ok(self.place(core, ordinal)?.map(|place| place.header.received_at))
    }

    /// Where the block with the record at `ordinal` lies; `None` if it is nowhere.
    pub(crate) fn place(&mut self, core: &Core, ordinal: u64) -> Result<Option<BlockPlace>, QueueError> {
        Ok(match self.seek(core, ordinal)? {
            Sought::Block => self.block.as_ref().map(|block| block.place),
            Sought::Missing(_) => None,
        })
    }
}

impl OpenBlock {
    fn peek(&self) -> Option<(Bytes, usize)> {
        let record = Records::new(&self.payload[self.at..]).next()?;
        let start = record.as_ptr().addr() - self.payload.as_ptr().addr();
        Some((self.payload.slice(start..start + record.len()), start + record.len()))
    }

    fn skip_to(&mut self, ordinal: u64) {
        if ordinal < self.ordinal {
            (self.ordinal, self.at) = (self.place.header.ordinal, 0);
        }
        while self.ordinal < ordinal
            && let Some((_, next)) = self.peek()
        {
            (self.ordinal, self.at) = (self.ordinal + 1, next);
        }
    }
}

fn io_error(core: &Core, segment: u64, source: io::Error) -> QueueError {
    let path: PathBuf = segment::path(&core.journal_folder(), segment);
    QueueError::Io { path: path.display().to_string(), source }
}
