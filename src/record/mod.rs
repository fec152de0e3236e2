//! What travels: streams, records as the bytes that came, batches of them, ids.
//!
//! A batch's bytes are the protobuf wire format of the stream's wrapper message (`AnalyticsEvents`,
//! `AnalyticsStats`): field 1, length-delimited, once a record:
//!
//! ```text
//! 0x0A  varint length  record bytes   0x0A  varint length  record bytes  …
//! ```
//!
//! Node room states have no wrapper in LiveKit's schema; they are framed the same way. The same bytes lie in the
//! journal's blocks, so any protobuf library reads a block's payload.

use std::{borrow::Borrow, fmt, str::FromStr};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

mod clock;
mod id;
mod time;

#[cfg(test)]
pub(crate) use clock::simulated;
pub(crate) use clock::{instant, pause, was_noted};
pub use clock::{now_millis, trust_wall_clock, wall_millis};
pub use id::RecordId;
pub use time::time_of;

/// Milliseconds since the Unix epoch, UTC.
pub type UnixMillis = i64;

/// The tag byte before each record of a batch: field 1, wire type 2.
pub const RECORD_TAG: u8 = 0x0A;

/// The kinds of records LiveKit sends, each a queue of its own in every spool.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    bincode::Encode,
    bincode::Decode,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Stream {
    /// `livekit.AnalyticsEvent`
    Events = 0,
    /// `livekit.AnalyticsStat`
    Stats = 1,
    /// `livekit.AnalyticsNodeRooms`
    NodeRooms = 2,
}

impl Stream {
    /// All streams, by their number.
    pub const ALL: [Self; 3] = [Self::Events, Self::Stats, Self::NodeRooms];

    /// The stream's name: of its queue, its collection, its key in JSON output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Stats => "stats",
            Self::NodeRooms => "node_rooms",
        }
    }

    /// The stream of this number, as the on-disk format and the export format store it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Events),
            1 => Some(Self::Stats),
            2 => Some(Self::NodeRooms),
            _ => None,
        }
    }

    /// Full protobuf name of the stream's record message.
    #[must_use]
    pub const fn message_name(self) -> &'static str {
        match self {
            Self::Events => "livekit.AnalyticsEvent",
            Self::Stats => "livekit.AnalyticsStat",
            Self::NodeRooms => "livekit.AnalyticsNodeRooms",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Stream {
    type Err = UnknownStream;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|stream| stream.as_str() == s).ok_or_else(|| UnknownStream(s.to_owned()))
    }
}

/// A stream name that is none of `events`, `stats`, `node_rooms`.
#[derive(Debug, thiserror::Error)]
#[error("unknown stream {0:?}: use events, stats or node_rooms")]
pub struct UnknownStream(String);

/// A sink's name, its identity: lower-case letters, digits, `-` and `_`, at most 64 of them. It names the folder too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SinkName(String);

impl SinkName {
    /// Checks the name.
    ///
    /// # Errors
    /// When it is empty, longer than 64 bytes, or holds anything but `a-z`, `0-9`, `-`, `_`.
    pub fn new(name: impl Into<String>) -> Result<Self, BadSinkName> {
        let name = name.into();
        let fits = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if fits { Ok(Self(name)) } else { Err(BadSinkName(name)) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Borrow<str> for SinkName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SinkName {
    type Err = BadSinkName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl<'de> Deserialize<'de> for SinkName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A sink name that cannot name a folder safely.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no sink name: use 1 to 64 lower-case letters, digits, '-' or '_'")]
pub struct BadSinkName(String);

/// Records of one stream that arrived together, as the bytes that came (see the module's header).
///
/// Cloning shares the bytes: every sink's spool gets the same ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    /// Which queue they belong to.
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

/// Bytes that are no sequence of framed records.
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
    /// Reads framed bytes that were checked before (a [`RecordBatch`], or a block whose checksum held).
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

/// Takes one framed record off the front; `None` (and `rest` untouched) where there is none.
fn next_record<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&RECORD_TAG, mut tail) = rest.split_first()? else { return None };
    let length = usize::try_from(read_varint(&mut tail)?).ok()?;
    let (record, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(record)
}

/// Takes a base-128 varint off the front; `None` where it is cut off or longer than 64 bits.
pub fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7F);
        if i == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}

/// Appends a base-128 varint.
pub fn write_varint(out: &mut impl Extend<u8>, mut value: u64) {
    while value >= 0x80 {
        out.extend([(value as u8 & 0x7F) | 0x80]);
        value >>= 7;
    }
    out.extend([value as u8]);
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
        self.bytes.extend_from_slice(&[RECORD_TAG]);
        write_varint(&mut self.bytes, record.len() as u64);
        self.bytes.extend_from_slice(record);
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
