//! Batches of records, as the received bytes.
//!
//! A batch's bytes are the protobuf wire format of the stream's wrapper message (`AnalyticsEvents`,
//! `AnalyticsStats`): field 1, length-delimited, once a record:
//!
//! ```text
//! 0x0A  varint length  record bytes   0x0A  varint length  record bytes  …
//! ```
//!
//! Node room states have no wrapper in LiveKit's schema; they are framed the same way. The journal's blocks contain the
//! same bytes, so any protobuf library can read a block's payload.

use bytes::{Bytes, BytesMut};

use super::{
    clock::UnixMillis,
    stream::Stream,
    wire::{self, WireType},
};

/// The field of a wrapper message that holds its records.
const RECORD_FIELD: u32 = 1;
/// The tag byte before each record of a batch: field 1, length-delimited.
pub const RECORD_TAG: u8 = (RECORD_FIELD << 3) as u8 | WireType::Length as u8;

/// Records of one stream that arrived together, as the received bytes (see this module's header).
///
/// Cloning shares the bytes: every sink's spool gets the same ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    /// Their stream.
    pub stream: Stream,
    /// When they were received, by the wall clock.
    pub received_at: UnixMillis,
    count: u32,
    bytes: Bytes,
}

impl RecordBatch {
    /// Takes bytes in the wrapper's wire format and counts the records.
    ///
    /// # Errors
    /// When the bytes are not a plain sequence of tag `0x0A`, varint length, record.
    pub fn from_wrapper(stream: Stream, received_at: UnixMillis, bytes: Bytes) -> Result<Self, BadFraming> {
        let mut count = 0;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            next_record(&mut rest).ok_or(BadFraming { at: bytes.len() - rest.len() })?;
            count += 1;
        }
        Ok(Self { stream, received_at, count, bytes })
    }

    /// How many records the batch holds.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// True for a batch without records.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The records, framed (the wrapper message).
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, one after another, without their framing.
    #[must_use]
    pub fn iter(&self) -> Records<'_> {
        Records { rest: &self.bytes }
    }
}

impl<'a> IntoIterator for &'a RecordBatch {
    type Item = &'a [u8];
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

/// Bytes that are not a sequence of framed records.
#[derive(Debug, thiserror::Error)]
#[error("the framing breaks at byte {at}: expected field 1, length-delimited")]
pub struct BadFraming {
    /// Offset of the first frame that cannot be read.
    pub at: usize,
}

/// Iterator over the records of framed bytes; ends at the first bad frame.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Reads framed bytes that were checked before (a [`RecordBatch`], or a block with a matching checksum).
    #[must_use]
    pub const fn new(framed: &'a [u8]) -> Self {
        Self { rest: framed }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        next_record(&mut self.rest)
    }
}

/// Takes one framed record from the front; `None` (and `rest` unchanged) if there is none.
fn next_record<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&RECORD_TAG, mut tail) = rest.split_first()? else { return None };
    let record = wire::length_delimited(&mut tail).ok()?;
    *rest = tail;
    Some(record)
}

/// Builds a [`RecordBatch`] record by record.
#[derive(Debug)]
pub struct RecordBatchBuilder {
    stream: Stream,
    count: u32,
    bytes: BytesMut,
}

impl RecordBatchBuilder {
    /// An empty batch of `stream`.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self { stream, count: 0, bytes: BytesMut::new() }
    }

    /// Adds one record.
    pub fn push(&mut self, record: &[u8]) {
        self.bytes.reserve(record.len() + 11);
        wire::write_length_delimited(&mut self.bytes, RECORD_FIELD, record);
        self.count += 1;
    }

    /// Adds all records of a batch of the same stream.
    pub fn extend(&mut self, batch: &RecordBatch) {
        debug_assert_eq!(self.stream, batch.stream);
        self.bytes.extend_from_slice(&batch.bytes);
        self.count += batch.count;
    }

    /// How many records were pushed.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, framing included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch, stamped with the time it was received.
    #[must_use]
    pub fn build(self, received_at: UnixMillis) -> RecordBatch {
        RecordBatch { stream: self.stream, received_at, count: self.count, bytes: self.bytes.freeze() }
    }
}
