//! Reads records: finds the block of an entry, and the record in the block.
//!
//! The queue's data is checked against the blocks. If the block is not at its place, the segment is walked; a record
//! that the segment does not hold, although it was read, is lost. A file that cannot be opened or read is an error that
//! can be retried; if the error lasts, the reader reports that the segment is to be skipped meanwhile.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::Store;
use crate::{
    record::{Records, Stream, UnixMillis, instant},
    spool::{
        delivery::QueueError,
        journal::{
            block::{BadBlock, HEADER_BYTES, Header, check_block},
            codec::{BadPayload, Unpacker},
            segment::{self, ChunkReader, Damage, Found, Walker},
        },
        queue::Entry,
    },
};

/// A segment that cannot be read for this long is skipped, and its unreadable sectors are marked lost: until then the
/// order is kept …
pub(super) const UNREADABLE_TIME: Duration = Duration::from_secs(10);
/// … and the segment is tried again after this pause.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A reader's position in a journal.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Stream,
    unpacker: Unpacker,
    file: Option<(u64, ChunkReader)>,
    block: Option<OpenBlock>,
    /// Where the block after the open one begins.
    behind: Option<(u64, u64)>,
    /// Segments that could not be read: since when, and the last attempt.
    unreadable: BTreeMap<u64, (Instant, Instant)>,
    /// How long a sector that cannot be read is retried.
    timeout: Duration,
    /// The segment of the sector that was last marked lost, and when: its other sectors are not retried meanwhile.
    marked_lost: Option<(u64, Instant)>,
}

/// An unpacked block, and the position of its next record.
#[derive(Debug)]
struct OpenBlock {
    segment: u64,
    header: Header,
    payload: Bytes,
    seq: u64,
    at: usize,
}

/// The result of looking up a sequence number.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// A block that holds it is open.
    Block,
    /// These sequence numbers are nowhere.
    Lost(Range<u64>),
}

/// A record that was read.
#[derive(Debug)]
pub(crate) struct ReadRecord {
    pub(crate) seq: u64,
    pub(crate) received_at: UnixMillis,
    pub(crate) bytes: Bytes,
}

impl Reader {
    pub(crate) fn new(store: &Store, stream: Stream) -> io::Result<Self> {
        let unpacker = Unpacker::new(store.options.keys.as_ref())?;
        let (unreadable, timeout) = (BTreeMap::new(), Duration::ZERO);
        Ok(Self { stream, unpacker, file: None, block: None, behind: None, unreadable, timeout, marked_lost: None })
    }

    /// Retries bad sectors for a while before their records are lost: they may become readable.
    pub(crate) fn retrying(self) -> Self {
        Self { timeout: UNREADABLE_TIME, ..self }
    }

    /// Takes the open block's next record at or after `seq` and before `end`.
    pub(crate) fn take(&mut self, seq: u64, end: u64) -> Option<ReadRecord> {
        let block = self.block.as_mut()?;
        block.skip_to(seq);
        if block.seq >= end || block.seq < seq {
            return None;
        }
        let (bytes, next) = block.peek()?;
        let record = ReadRecord { seq: block.seq, received_at: block.header.received_at, bytes };
        (block.seq, block.at) = (block.seq + 1, next);
        Some(record)
    }

    /// Steps back before the record that was taken last.
    pub(crate) fn put_back(&mut self, seq: u64) {
        if let Some(block) = &mut self.block {
            block.skip_to(seq);
        }
    }

    /// The sequence numbers of the open block.
    pub(crate) fn block_seqs(&self) -> Option<Range<u64>> {
        self.block.as_ref().map(|block| block.header.seqs())
    }

    /// Opens the block that holds `seq`, for an entry with this key.
    ///
    /// # Errors
    /// When the segment cannot be opened or read now, or its key is missing.
    pub(crate) fn seek(&mut self, store: &Store, key: u64, entry: &Entry, seq: u64) -> Result<Lookup, QueueError> {
        let lookup = self.lookup(store, key, entry, seq);
        if let Err(QueueError::Io { .. }) = lookup {
            let now = instant();
            self.unreadable.entry(entry.segment).or_insert((now, now)).1 = now;
        } else if !self.unreadable.is_empty() {
            self.unreadable.remove(&entry.segment);
            // Segments that were deleted or dropped do not occur again.
            let segments = &store.state.lock().segments;
            self.unreadable.retain(|segment, _| segments.contains_key(segment));
        }
        lookup
    }

    /// True if a segment could not be read for so long that others are read before it.
    pub(crate) fn passes_over(&self, segment: u64) -> bool {
        let unreadable = self.unreadable.get(&segment);
        unreadable.is_some_and(|&(since, tried)| {
            instant().duration_since(since) >= UNREADABLE_TIME && instant().duration_since(tried) < RETRY_PAUSE
        })
    }

    /// True if there is such a segment.
    pub(crate) fn passes_over_some(&self) -> bool {
        self.unreadable.keys().any(|&segment| self.passes_over(segment))
    }

    fn lookup(&mut self, store: &Store, key: u64, entry: &Entry, seq: u64) -> Result<Lookup, QueueError> {
        let open = self.block.as_ref().filter(|block| block.segment == entry.segment);
        if open.is_some_and(|block| block.header.seqs().contains(&seq)) {
            return Ok(Lookup::Block);
        }
        let place = self.behind.filter(|(segment, at)| {
            let is_before = open.is_some_and(|block| block.header.seqs().end <= seq);
            *segment == entry.segment && is_before && (entry.offset..entry.end()).contains(at)
        });
        let mut at = place.map_or(entry.offset, |(_, at)| at);
        while at < entry.end() {
            let Some(header) = self.header_at(store, entry, at)? else { break };
            let is_ours = header.kind == store.options.kind && header.stream == self.stream;
            if is_ours && header.seqs().contains(&seq) {
                if self.open(store, entry.segment, at, &header)? {
                    return Ok(Lookup::Block);
                }
                break;
            }
            if is_ours && header.seq > seq {
                break;
            }
            at += header.block_len();
        }
        self.search(store, key, entry, seq)
    }

    fn header_at(&mut self, store: &Store, entry: &Entry, at: u64) -> Result<Option<Header>, QueueError> {
        let end = entry.end();
        let reader = self.file(store, entry.segment)?;
        let bytes = reader.slice(at, HEADER_BYTES, end).map_err(|error| io_error(store, entry.segment, error))?;
        Ok(Header::parse(bytes).ok())
    }

    /// Opens a block; false if it is damaged.
    fn open(&mut self, store: &Store, segment: u64, offset: u64, header: &Header) -> Result<bool, QueueError> {
        let end = offset + header.block_len();
        let reader = self.file(store, segment)?;
        let block =
            reader.slice(offset, header.block_len() as usize, end).map_err(|error| io_error(store, segment, error))?;
        let Ok(packed) = check_block(header, block).map(<[u8]>::to_vec) else { return Ok(false) };
        match self.unpacker.unpack(segment, header, &packed) {
            Ok(payload) => {
                let (seq, payload) = (header.seq, payload.into());
                self.block = Some(OpenBlock { segment, header: *header, payload, seq, at: 0 });
                self.behind = Some((segment, end));
                Ok(true)
            }
            Err(BadPayload::NoKey { key }) => {
                let path = segment::path(&store.journal(), segment).display().to_string();
                Err(QueueError::NoKey { path, key })
            }
            Err(_) => Ok(false),
        }
    }

    /// Walks the segment that should hold `seq`. Damage is copied to the quarantine.
    fn search(&mut self, store: &Store, key: u64, entry: &Entry, seq: u64) -> Result<Lookup, QueueError> {
        let segment = entry.segment;
        let io = |error| io_error(store, segment, error);
        self.file = None;
        let path = segment::path(&store.journal(), segment);
        let file = store.disk.open(&path).map_err(io)?;
        let len = file.len().map_err(io)?;
        let synced = store.state.lock().segments.get(&segment).map_or(0, |known| known.end);
        let mut walker = Walker::new(Arc::clone(&file), 0, len.min(synced));
        let mut next = entry.seqs(key).end;
        while let Some(found) = walker.next().map_err(io)? {
            let (header, offset) = match found {
                Found::Block { header, offset, .. } => (header, offset),
                Found::Damage(damage) => {
                    if damage.unreadable && !self.has_tried(segment) {
                        return Err(io(rustix::io::Errno::IO.into()));
                    }
                    if damage.unreadable {
                        self.marked_lost = Some((segment, instant()));
                    }
                    store.quarantine.keep(&path, segment, file.as_ref(), &damage);
                    continue;
                }
            };
            if header.kind != store.options.kind || header.stream != self.stream || header.seqs().end <= seq {
                continue;
            }
            if header.seq > seq {
                next = next.min(header.seq);
                break;
            }
            if self.open(store, segment, offset, &header)? {
                return Ok(Lookup::Block);
            }
            // Its checksum matches, yet it cannot be unpacked: it was forged, or packed by something else.
            let bytes = offset..offset + header.block_len();
            let damage = Damage { bytes, reason: BadBlock::Unknown, header: Some(header), unreadable: false };
            store.quarantine.keep(&path, segment, file.as_ref(), &damage);
            next = next.min(header.seqs().end);
            break;
        }
        Ok(Lookup::Lost(seq..next.max(seq + 1)))
    }

    /// True if a segment was tried for long enough: each of many bad sectors would delay the stream as long as the
    /// first one.
    fn has_tried(&self, segment: u64) -> bool {
        let recent = |at: Instant| instant().duration_since(at) < UNREADABLE_TIME;
        if self.marked_lost.is_some_and(|(known, at)| known == segment && recent(at)) {
            return true;
        }
        let tried = self.unreadable.get(&segment).map(|(since, _)| instant().duration_since(*since));
        tried.unwrap_or_default() >= self.timeout
    }

    fn file(&mut self, store: &Store, segment: u64) -> Result<&mut ChunkReader, QueueError> {
        if self.file.as_ref().is_none_or(|(open, _)| *open != segment) {
            let path = segment::path(&store.journal(), segment);
            let file = store.disk.open(&path).map_err(|error| io_error(store, segment, error))?;
            self.file = Some((segment, ChunkReader::new(file)));
        }
        match &mut self.file {
            Some((_, reader)) => Ok(reader),
            None => unreachable!("it was opened just now"),
        }
    }
}

impl OpenBlock {
    fn peek(&self) -> Option<(Bytes, usize)> {
        let record = Records::new(&self.payload[self.at..]).next()?;
        let start = record.as_ptr().addr() - self.payload.as_ptr().addr();
        Some((self.payload.slice(start..start + record.len()), start + record.len()))
    }

    fn skip_to(&mut self, seq: u64) {
        if seq < self.seq {
            (self.seq, self.at) = (self.header.seq, 0);
        }
        while self.seq < seq
            && let Some((_, next)) = self.peek()
        {
            (self.seq, self.at) = (self.seq + 1, next);
        }
    }
}

fn io_error(store: &Store, segment: u64, source: io::Error) -> QueueError {
    let path = segment::path(&store.journal(), segment);
    QueueError::Io { path: path.display().to_string(), source }
}
