//! A record's whole document: `_id`, the record's fields, what is added at the end.

use prost_reflect::MessageDescriptor;

use super::{
    encode::Encoding,
    error::{DocumentError, WireType},
    options::{DocumentContext, DocumentOptions},
    pool,
    schema::Schema,
    wire,
    writer::{Header, Writer, kind},
};
use crate::record::{RecordId, Stream, UnixMillis};

/// About how many bytes of BSON come of one byte of protobuf; more is made room for when it is needed.
const EXPANSION: usize = 4;

/// Makes documents. Built once; sharing it (in an `Arc`) is cheap, and it has no state.
#[derive(Debug)]
pub struct Encoder {
    options: DocumentOptions,
    schema: Schema,
    id: Header,
    time: Header,
    expire_at: Header,
}

impl Encoder {
    /// Builds the tables from the descriptors (milliseconds).
    #[must_use]
    pub fn new(options: DocumentOptions) -> Self {
        Self::of(options, &Stream::ALL.map(pool::record))
    }

    /// An encoder of these messages as the records of each stream.
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
    /// When the record's bytes are not what the schema says, or the document would be larger than
    /// [`DocumentOptions::max_bytes`]; `out` is then as it was.
    pub fn encode(
        &self,
        stream: Stream,
        record: &[u8],
        context: &DocumentContext<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DocumentError> {
        let start = out.len();
        let mut encoding = Encoding {
            schema: &self.schema,
            writer: Writer::append_to(std::mem::take(out), record.len() * EXPANSION + 512),
            pii_key: self.options.pii_key.as_ref(),
            start,
            max_bytes: self.options.max_bytes,
        };
        let result = self.document(&mut encoding, stream, record, context);
        if result.is_err() {
            encoding.writer.rewind(start);
        }
        *out = encoding.writer.finish();
        result
    }

    fn document(
        &self,
        encoding: &mut Encoding<'_>,
        stream: Stream,
        record: &[u8],
        context: &DocumentContext<'_>,
    ) -> Result<(), DocumentError> {
        let start = encoding.writer.begin();
        encoding.writer.header(kind::STRING, &self.id);
        encoding.writer.string(RecordId::of(stream, record).as_str());

        encoding.message(self.schema.record(stream), record, 1)?;

        let writer = &mut encoding.writer;
        if self.options.time
            && let Some(time) = timestamp(stream, record)?
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

/// The record's own time: the field is called `timestamp`, in stats `time_stamp`.
fn timestamp(stream: Stream, record: &[u8]) -> Result<Option<UnixMillis>, DocumentError> {
    let number = match stream {
        Stream::Events => 2,
        Stream::Stats | Stream::NodeRooms => 3,
    };
    let (mut seconds, mut nanos, mut there) = (0_i64, 0_i32, false);
    let mut input = record;
    while !input.is_empty() {
        let tag = wire::tag(&mut input)?;
        if tag != number << 3 | WireType::Length as u32 {
            wire::skip(&mut input, tag)?;
            continue;
        }
        there = true;
        let mut message = wire::length_delimited(&mut input)?;
        while !message.is_empty() {
            let tag = wire::tag(&mut message)?;
            match (tag >> 3, WireType::from_tag(tag)) {
                (1, Some(WireType::Varint)) => seconds = wire::varint(&mut message)?.cast_signed(),
                #[expect(clippy::cast_possible_truncation, reason = "protobuf takes the low 32 bits for an int32")]
                (2, Some(WireType::Varint)) => nanos = (wire::varint(&mut message)? as u32).cast_signed(),
                _ => wire::skip(&mut message, tag)?,
            }
        }
    }
    let millis = i128::from(seconds) * 1000 + i128::from(nanos).div_euclid(1_000_000);
    Ok(there.then(|| i64::try_from(millis).ok()).flatten())
}
