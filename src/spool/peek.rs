//! Looks at the records of a queue without taking them: on an open spool beside its flusher, and on a stopped one.
//! A block at a time is held; records that are acknowledged meanwhile are left out from there on.

use std::{fmt, ops::Range, sync::Arc};

use super::{
    core::Core,
    delivery::{QueueError, QueuedRecord},
    reader::{Glance, Reader},
};
use crate::record::Stream;

/// Where a look at a queue begins, and which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeekFrom {
    /// From the first record to be delivered on.
    Oldest,
    /// From this ordinal on, towards newer records.
    Ordinal(u64),
    /// From the last record on, backwards.
    Newest,
    /// From this ordinal on, backwards.
    OrdinalBackwards(u64),
}

/// The records of a stream that are still to be delivered, handed-out ones included. Blocking (reads, decompresses).
///
/// Ends after the last record, or after an error.
pub struct Peek {
    core: Arc<Core>,
    reader: Reader,
    stream: Stream,
    backwards: bool,
    /// Forwards: the next ordinal. Backwards: the one before it is next.
    at: u64,
    block: std::vec::IntoIter<QueuedRecord>,
    done: bool,
}

impl Peek {
    pub(crate) fn new(core: Arc<Core>, stream: Stream, from: PeekFrom) -> Result<Self, QueueError> {
        let unpacker = core.unpacker()?;
        let (backwards, at) = match from {
            PeekFrom::Oldest => (false, 0),
            PeekFrom::Ordinal(ordinal) => (false, ordinal),
            PeekFrom::Newest => (true, u64::MAX),
            PeekFrom::OrdinalBackwards(ordinal) => (true, ordinal.saturating_add(1)),
        };
        let reader = Reader::new(stream, unpacker);
        Ok(Self { core, reader, stream, backwards, at, block: Vec::new().into_iter(), done: false })
    }

    /// Reads the next block; false at the end.
    fn advance(&mut self) -> Result<bool, QueueError> {
        loop {
            let Some(open) = self.next_open() else { return Ok(false) };
            let wanted = if self.backwards { open.end - 1 } else { open.start };
            let records = match self.reader.glance(&self.core, &open, wanted)? {
                Glance::Missing(range) if self.backwards => {
                    self.at = range.start.min(wanted);
                    continue;
                }
                Glance::Missing(range) => {
                    self.at = range.end.max(wanted + 1);
                    continue;
                }
                Glance::Records(records) => records,
            };
            self.at = if self.backwards {
                records.first().map_or(wanted, |record| record.seq)
            } else {
                records.last().map_or(wanted, |record| record.seq) + 1
            };
            if !records.is_empty() {
                self.block = records.into_iter();
                return Ok(true);
            }
        }
    }

    fn next_open(&self) -> Option<Range<u64>> {
        let books = self.core.books.lock();
        let live = &books.streams[self.stream as usize].live;
        if self.backwards { live.last_open(self.at) } else { live.first_open(self.at) }
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
