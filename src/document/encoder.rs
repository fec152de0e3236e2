//! The whole document of a record: `_id`, the fields of the record, and the fields added at the end.

use prost_reflect::MessageDescriptor;

use super::{
    encoding::Encoding,
    error::DocumentError,
    options::{DocumentContext, DocumentOptions},
    schema::Schema,
    writer::{Header, Writer, kind},
};
use crate::record::{
    RecordId, Stream, UnixMillis, schema as livekit,
    wire::{self, BadWire, WireType},
};

/// The estimated bytes of BSON per byte of protobuf; the buffer grows if more are needed.
const EXPANSION: usize = 4;

/// Encodes documents. Build it once; sharing it (in an `Arc`) is cheap, and it has no state.
#[derive(Debug)]
pub struct Encoder {
    pub(super) options: DocumentOptions,
    pub(super) schema: Schema,
    id: Header,
    time: Header,
    expire_at: Header,
}

impl Encoder {
    /// Builds the tables from the descriptors (milliseconds).
    #[must_use]
    pub fn new(options: DocumentOptions) -> Self {
        Self::of(options, &Stream::ALL.map(livekit::record))
    }

    /// An encoder that uses these messages as the records of each stream.
    pub(super) fn of(options: DocumentOptions, records: &[MessageDescriptor; Stream::ALL.len()]) -> Self {
        Self {
            schema: Schema::new(&options, records),
            id: Header::new("_id"),
            time: Header::new("time"),
            expire_at: Header::new("openvidu_expire_at"),
            options,
        }
    }

    /// Appends the record's document, raw BSON, to `out`.
    ///
    /// # Errors
    /// When the record's bytes do not match the schema, or the document would be larger than
    /// [`DocumentOptions::max_bytes`]; `out` is then as it was.
    pub fn encode(
        &self,
        stream: Stream,
        record: &[u8],
        context: &DocumentContext<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DocumentError> {
        let start = out.len();
        let expected = (record.len() * EXPANSION).min(self.options.max_bytes) + 512;
        let writer = Writer::append_to(std::mem::take(out), expected);
        let mut encoding = Encoding::new(&self.schema, writer, &self.options, record);
        let result = self.document(&mut encoding, stream, record, context);
        if result.is_err() {
            encoding.writer.rewind(start);
        }
        *out = encoding.writer.finish();
        result
    }

    fn document<'a>(
        &self,
        encoding: &mut Encoding<'a>,
        stream: Stream,
        record: &'a [u8],
        context: &DocumentContext<'_>,
    ) -> Result<(), DocumentError> {
        let start = encoding.writer.begin();
        encoding.writer.header(kind::STRING, &self.id);
        let mut own = Own::default();
        // If the record is malformed, encoding its fields fails too, and that error knows the path.
        let _ = own.find(stream, record);
        match own.id {
            Some(id) => encoding.writer.string(id),
            None => encoding.writer.string(RecordId::of(stream, record).as_str().as_bytes()),
        }

        encoding.record(self.schema.record(stream))?;

        let writer = &mut encoding.writer;
        if self.options.time
            && let Some(time) = own.time
        {
            writer.header(kind::DATE, &self.time);
            writer.int64(time);
        }
        if let Some(at) = context.expire_at {
            writer.header(kind::DATE, &self.expire_at);
            writer.int64(at);
        }
        writer.bytes(&context.labels.element);
        writer.end(start);
        encoding.check_size()
    }
}

/// What is needed before (`_id`) and after (`time`) the fields of a record, found in one pass over its top level.
#[derive(Default)]
struct Own<'a> {
    /// LiveKit's id, as in [`RecordId`]. Not checked to be UTF-8: if it is not, encoding its field fails.
    id: Option<&'a [u8]>,
    time: Option<UnixMillis>,
}

impl<'a> Own<'a> {
    fn find(&mut self, stream: Stream, record: &'a [u8]) -> Result<(), BadWire> {
        const LENGTH: u32 = WireType::Length as u32;
        // For ids that are built from several fields: 0 is not a tag.
        let id_tag = stream.id_field().map_or(0, |field| field << 3 | LENGTH);
        let time_tag = stream.time_field() << 3 | LENGTH;
        let mut id: Option<&[u8]> = None;
        let mut timestamp = None;
        let mut input = record;
        while !input.is_empty() {
            let tag = wire::tag(&mut input)?;
            if tag == id_tag {
                id = Some(wire::length_delimited(&mut input)?);
            } else if tag == time_tag {
                let message = wire::length_delimited(&mut input)?;
                timestamp.get_or_insert_with(Timestamp::default).merge(message)?;
            } else {
                wire::skip(&mut input, tag)?;
            }
        }
        self.id = id.filter(|id| !id.is_empty());
        self.time = timestamp.and_then(|at| at.millis());
        Ok(())
    }
}

/// A `google.protobuf.Timestamp`.
#[derive(Default)]
struct Timestamp {
    seconds: i64,
    nanos: i32,
}

impl Timestamp {
    fn merge(&mut self, mut message: &[u8]) -> Result<(), BadWire> {
        while !message.is_empty() {
            let tag = wire::tag(&mut message)?;
            match (tag >> 3, WireType::from_tag(tag)) {
                (1, Some(WireType::Varint)) => self.seconds = wire::varint(&mut message)?.cast_signed(),
                #[expect(clippy::cast_possible_truncation, reason = "protobuf takes the low 32 bits for an int32")]
                (2, Some(WireType::Varint)) => self.nanos = (wire::varint(&mut message)? as u32).cast_signed(),
                _ => wire::skip(&mut message, tag)?,
            }
        }
        Ok(())
    }

    /// Rounded down; `None` if a BSON date cannot hold it.
    fn millis(&self) -> Option<UnixMillis> {
        let millis = i128::from(self.seconds) * 1000 + i128::from(self.nanos).div_euclid(1_000_000);
        i64::try_from(millis).ok()
    }
}
