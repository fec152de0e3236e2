//! Reads the records of a queue without leasing them: in an open spool during delivery, and in a stopped one. One block
//! at a time is held; records that are acknowledged meanwhile are skipped from there on.

use std::{fmt, ops::Range, sync::Arc};

use super::{
    delivery::QueueError,
    queue::Entry,
    shared::Shared,
    store::reader::{Lookup, Reader},
};
use crate::record::{QueuedRecord, Stream};

/// Where peeking begins, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeekFrom {
    /// Forwards from the first record to be delivered.
    Oldest,
    /// Forwards from this sequence number, towards newer records.
    Seq(u64),
    /// Backwards from the last record.
    Newest,
    /// Backwards from this sequence number.
    SeqBackwards(u64),
}

/// The records of a stream that are still to be delivered, leased ones included. Blocking (reads, decompresses).
///
/// Ends after the last record, or after an error.
pub struct Peek {
    shared: Arc<Shared>,
    reader: Reader,
    stream: Stream,
    backwards: bool,
    /// Forwards: the next sequence number. Backwards: the one before it is next.
    at: u64,
    block: std::vec::IntoIter<QueuedRecord>,
    done: bool,
}

impl Peek {
    pub(crate) fn new(shared: Arc<Shared>, stream: Stream, from: PeekFrom) -> Result<Self, QueueError> {
        let (backwards, at) = match from {
            PeekFrom::Oldest => (false, 0),
            PeekFrom::Seq(seq) => (false, seq),
            PeekFrom::Newest => (true, u64::MAX),
            PeekFrom::SeqBackwards(seq) => (true, seq.saturating_add(1)),
        };
        let reader = Reader::new(&shared.store, stream).map_err(|error| shared.io_error(error))?;
        Ok(Self { shared, reader, stream, backwards, at, block: Vec::new().into_iter(), done: false })
    }

    /// Reads the next block; false at the end.
    fn advance(&mut self) -> Result<bool, QueueError> {
        while let Some((key, entry, part)) = self.next_part() {
            let wanted = if self.backwards { part.end - 1 } else { part.start };
            // A block may claim billions of records more than it has: if it has none, all of it is skipped.
            let (records, none) = match self.reader.seek(&self.shared.store, key, &entry, wanted) {
                Ok(Lookup::Block) => (self.records_of_block(&part), self.reader.block_seqs()),
                Ok(Lookup::Lost(_)) => (Vec::new(), None),
                // It was delivered meanwhile.
                Err(_) if self.next_part().is_none_or(|(_, now, _)| now != entry) => continue,
                Err(error) => return Err(error),
            };
            let none = none.filter(|seqs| seqs.contains(&wanted)).unwrap_or(wanted..wanted + 1);
            self.at = if self.backwards {
                records.first().map_or(none.start.max(part.start), |record| record.seq)
            } else {
                records.last().map_or(none.end.min(part.end), |record| record.seq + 1)
            };
            if !records.is_empty() {
                self.block = records.into_iter();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next entry, and the part of it to show.
    fn next_part(&self) -> Option<(u64, Entry, Range<u64>)> {
        let store = &self.shared.store;
        if self.backwards {
            let (key, entry) = store.entry_before(self.stream, self.at)?;
            return Some((key, entry, key..entry.seqs(key).end.min(self.at)));
        }
        let (key, entry) = store.entry_from(self.stream, self.at)?;
        Some((key, entry, entry.seqs(key).start.max(self.at)..entry.seqs(key).end))
    }

    /// The records of the open block that are in a range.
    fn records_of_block(&mut self, part: &Range<u64>) -> Vec<QueuedRecord> {
        let begin = self.reader.block_seqs().map_or(part.start, |seqs| seqs.start.max(part.start));
        let (mut seq, mut records) = (begin, Vec::new());
        while let Some(record) = self.reader.take(seq, part.end) {
            seq = record.seq + 1;
            records.push(QueuedRecord { seq: record.seq, received_at: record.received_at, bytes: record.bytes });
        }
        records
    }
}

impl Iterator for Peek {
    type Item = Result<QueuedRecord, QueueError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            let record = if self.backwards { self.block.next_back() } else { self.block.next() };
            if let Some(record) = record {
                return Some(Ok(record));
            }
            match self.advance() {
                Ok(more) => self.done = !more,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl fmt::Debug for Peek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peek").field("stream", &self.stream).field("at", &self.at).finish_non_exhaustive()
    }
}
