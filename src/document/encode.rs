//! Wire bytes in, raw BSON out, field by field, by the tables of [`super::schema`].
//!
//! The quick way expects each field once and lists in one run, as every encoder writes them. Of a long message that is found
//! out first, by a look at its tags; where it is not so, the message goes the exact way ([`super::exact`]). A short one is tried
//! the quick way at once. Where that fails, what is short around it is encoded again, the exact way, and from then on every
//! message is looked at first, unless the one before was out of order too. So each byte is read a fixed number of times, however
//! deep and in whatever order its fields are: encoding is linear in the record. [`Encoding::work`] counts what was read, and ends
//! a record that takes more than [`WORK_PER_BYTE`] allows.

use super::{
    error::{DocumentError, DocumentErrorReason, WireType},
    exact::{Part, Slot},
    map,
    number::{int32, int64, low_i32, widen},
    options::{DocumentOptions, PiiKey},
    schema::{Field, Schema, Shape, Table, Value},
    wire,
    writer::{Header, Index, Writer, kind},
};

/// Messages may be nested this deep, as protobuf's own implementations have it. LiveKit's records reach 9 levels.
pub const MAX_DEPTH: usize = 100;

/// How often each byte of a record may be read. Three times is the most that was found: once by the quick way, once where
/// the exact way gathers, once where it writes.
pub(super) const WORK_PER_BYTE: usize = 4;

/// What protobuf says that a message has at most: 2 GiB. Places in a record are counted in 32 bits ([`Span`](super::span::Span)).
const MAX_RECORD: usize = i32::MAX as usize;

/// Messages up to this length are tried the quick way without a look: to encode one again costs little.
const SHORT: usize = 512;

/// What is needed on the way through one record.
pub(super) struct Encoding<'a> {
    pub(super) schema: &'a Schema,
    pub(super) record: &'a [u8],
    pub(super) writer: Writer,
    pub(super) pii_key: Option<&'a PiiKey>,
    /// Where the document begins.
    pub(super) start: usize,
    pub(super) max_bytes: usize,
    /// Bytes of the record that were read: each as often as a walker came by. What is stepped over does not count.
    pub(super) work: usize,
    pub(super) max_work: usize,
    pub(super) way: Way,
    /// The message that was looked at last was out of order: the next one, which is often like it, is taken for that too.
    pub(super) out_of_order: bool,
    /// What the exact way has gathered of the messages that are being written, the outermost first.
    pub(super) parts: Vec<Part>,
    pub(super) slots: Vec<Slot>,
}

/// How the messages that come next are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Long ones are looked at, short ones are tried.
    TryShort,
    /// They are in a short one that is tried the quick way.
    Quick,
    /// They are in a short one that was tried in vain.
    Exact,
    /// All are looked at: one was tried in vain before.
    Look,
}

/// Why the encoding of a message ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its fields are repeated or interleaved, and the quick way was tried.
    OutOfOrder,
    Failed(DocumentError),
}

impl Stop {
    /// The same, seen from the message around it.
    #[cold]
    pub(super) fn within(self, segment: impl Into<String>) -> Self {
        match self {
            Self::OutOfOrder => self,
            Self::Failed(error) => Self::Failed(error.within(segment)),
        }
    }
}

impl From<DocumentError> for Stop {
    #[cold]
    fn from(error: DocumentError) -> Self {
        Self::Failed(error)
    }
}

impl From<DocumentErrorReason> for Stop {
    #[cold]
    fn from(reason: DocumentErrorReason) -> Self {
        Self::Failed(reason.into())
    }
}

/// What an element is called.
pub(super) trait Key {
    fn write(&self, writer: &mut Writer, kind: u8);
}

impl Key for &Header {
    #[inline]
    fn write(&self, writer: &mut Writer, kind: u8) {
        writer.header(kind, self);
    }
}

impl Key for &Index {
    #[inline]
    fn write(&self, writer: &mut Writer, kind: u8) {
        writer.index_header(kind, self);
    }
}

impl<'a> Encoding<'a> {
    /// An encoding of one record, which begins where `writer` stands.
    pub(super) fn new(schema: &'a Schema, writer: Writer, options: &'a DocumentOptions, record: &'a [u8]) -> Self {
        Self {
            schema,
            record,
            start: writer.position(),
            writer,
            pii_key: options.pii_key.as_ref(),
            max_bytes: options.max_bytes,
            work: 0,
            max_work: record.len().saturating_mul(WORK_PER_BYTE),
            way: Way::TryShort,
            out_of_order: false,
            parts: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// Writes the record's fields, without the document's length and end.
    pub(super) fn record(&mut self, table: &Table) -> Result<(), DocumentError> {
        let bytes = self.record.len();
        if bytes > MAX_RECORD {
            return Err(DocumentErrorReason::TooLarge { bytes, limit: MAX_RECORD }.into());
        }
        match self.message(table, self.record, 1) {
            Ok(()) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::OutOfOrder) => Err(DocumentErrorReason::TooMuchWork.into()),
        }
    }

    /// Writes a message's fields.
    pub(super) fn message(&mut self, table: &Table, message: &'a [u8], depth: usize) -> Result<(), Stop> {
        self.check_depth(depth)?;
        match self.way {
            Way::TryShort if message.len() <= SHORT => self.tried(table, message, depth)?,
            Way::Quick => self.fields(table, message, depth)?,
            Way::TryShort | Way::Exact | Way::Look => self.looked_at(table, message, depth)?,
        }
        self.check_size().map_err(Stop::from)
    }

    /// Writes the fields of a short message the quick way, and where that fails the exact way.
    fn tried(&mut self, table: &Table, message: &'a [u8], depth: usize) -> Result<(), Stop> {
        let start = self.writer.position();
        self.way = Way::Quick;
        let tried = self.fields(table, message, depth);
        self.way = Way::TryShort;
        if matches!(tried, Err(Stop::OutOfOrder)) {
            self.writer.rewind(start);
            self.way = Way::Exact;
            self.exact_message(table, message, depth)?;
            self.way = Way::Look;
            return Ok(());
        }
        tried
    }

    /// Writes the fields of a message the quick way where they are in order, else the exact way.
    pub(super) fn looked_at(&mut self, table: &Table, message: &'a [u8], depth: usize) -> Result<(), Stop> {
        let exact = match self.way {
            Way::Exact => true,
            // Only here is what comes of a message the same either way, errors too: all in it is looked at as well.
            Way::Look if self.out_of_order => true,
            _ => !self.is_in_order(table, message)?,
        };
        if !exact { self.fields(table, message, depth) } else { self.exact_message(table, message, depth) }
    }

    /// Whether each field of a message comes once, lists and maps in one run. Messages in it are stepped over.
    fn is_in_order(&mut self, table: &Table, message: &[u8]) -> Result<bool, Stop> {
        if table.wide {
            return Ok(false);
        }
        let (mut seen, mut last) = (0, 0);
        let mut input = message;
        while !input.is_empty() {
            let before = input.len();
            let tag = wire::tag(&mut input)?;
            let skipped = wire::contents(&mut input, tag)?.len();
            self.work += before - input.len() - skipped;
            let number = tag >> 3;
            let Some(field) = table.field(number) else {
                last = number;
                continue;
            };
            let run = matches!(field.shape, Shape::List | Shape::Map(_)) && field.value != Value::Removed;
            if seen & field.bit != 0 && !(run && number == last) {
                return Ok(false);
            }
            seen |= field.bit;
            last = number;
            if run {
                while let Some((next_tag, next)) = wire::again(input, tag) {
                    let before = input.len();
                    input = next;
                    let skipped = wire::contents(&mut input, next_tag)?.len();
                    self.work += before - input.len() - skipped;
                }
            }
        }
        Ok(true)
    }

    /// Checked before each message, with the work so far.
    #[inline]
    pub(super) fn check_depth(&self, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(DocumentErrorReason::TooDeep.into());
        }
        if self.work > self.max_work {
            return Err(DocumentErrorReason::TooMuchWork.into());
        }
        Ok(())
    }

    /// Checked after each message, so that a document that is much too large is not made to its end.
    #[inline]
    pub(super) fn check_size(&self) -> Result<(), DocumentError> {
        let bytes = self.writer.position() - self.start;
        if bytes <= self.max_bytes {
            return Ok(());
        }
        Err(DocumentErrorReason::TooLarge { bytes, limit: self.max_bytes }.into())
    }

    fn fields(&mut self, table: &Table, message: &'a [u8], depth: usize) -> Result<(), Stop> {
        if table.wide {
            return Err(Stop::OutOfOrder);
        }
        self.work += message.len();
        let mut seen = 0;
        let mut input = message;
        while !input.is_empty() {
            let tag = wire::tag(&mut input)?;
            let Some(field) = table.field(tag >> 3) else {
                wire::skip(&mut input, tag)?;
                continue;
            };
            if seen & field.bit != 0 {
                return Err(Stop::OutOfOrder);
            }
            seen |= field.bit;
            match field.shape {
                Shape::Implicit | Shape::Explicit => {
                    let present = field.shape == Shape::Explicit;
                    self.value(&field.header, field, tag, &mut input, depth, present)
                }
                Shape::List => self.list(field, tag, &mut input, depth),
                Shape::Oneof(index) => self.oneof(&table.oneofs[index], field, tag, &mut input, depth),
                Shape::Map(entry) => map::write(self, field, entry, tag, &mut input, depth),
            }
            .map_err(|stop| table.within(field, stop))?;
        }
        self.absent(table, |field| seen & field.bit == 0);
        Ok(())
    }

    /// Writes the enums that are there although the message has none.
    #[inline]
    pub(super) fn absent(&mut self, table: &Table, is_absent: impl Fn(&Field) -> bool) {
        for &index in &table.always {
            let field = table.field_at(index);
            if is_absent(field) {
                self.enumeration(&&field.header, field.value, 0);
            }
        }
    }

    /// A oneof is a document of its own with the member as its only field, as Go's structs have it.
    fn oneof(
        &mut self,
        oneof: &Header,
        field: &Field,
        tag: u32,
        input: &mut &'a [u8],
        depth: usize,
    ) -> Result<(), Stop> {
        if field.value == Value::Removed {
            return Ok(wire::skip(input, tag)?);
        }
        self.writer.header(kind::DOCUMENT, oneof);
        let start = self.writer.begin();
        self.value(&field.header, field, tag, input, depth, true)?;
        self.writer.end(start);
        Ok(())
    }

    /// One value with its key. `present` keeps what would mean "absent": zero, false, empty.
    #[inline]
    pub(super) fn value<K: Key>(
        &mut self,
        key: K,
        field: &Field,
        tag: u32,
        input: &mut &'a [u8],
        depth: usize,
        present: bool,
    ) -> Result<(), Stop> {
        if field.value == Value::Removed {
            return Ok(wire::skip(input, tag)?);
        }
        if tag & 7 != field.wire as u32 {
            return Err(mismatch(field, tag).into());
        }
        match field.value {
            Value::Bool => {
                let value = wire::varint(input)? != 0;
                if value || present {
                    key.write(&mut self.writer, kind::BOOL);
                    self.writer.bool(value);
                }
            }
            Value::Int32 | Value::Sint32 | Value::Sfixed32 => {
                let value = int32(field.value, input)?;
                if value != 0 || present {
                    key.write(&mut self.writer, kind::INT32);
                    self.writer.int32(value);
                }
            }
            Value::Uint32 | Value::Fixed32 | Value::Int64 | Value::Sint64 | Value::Sfixed64 => {
                let value = int64(field.value, input)?;
                if value != 0 || present {
                    key.write(&mut self.writer, kind::INT64);
                    self.writer.int64(value);
                }
            }
            Value::Uint64 | Value::Fixed64 => {
                let value = if field.value == Value::Uint64 {
                    wire::varint(input)?
                } else {
                    u64::from_le_bytes(wire::fixed(input)?)
                };
                if value != 0 || present {
                    self.unsigned(&key, value);
                }
            }
            Value::Float | Value::Double => {
                let value = if field.value == Value::Float {
                    widen(f32::from_le_bytes(wire::fixed(input)?))
                } else {
                    f64::from_le_bytes(wire::fixed(input)?)
                };
                if value.to_bits() != 0 || present {
                    key.write(&mut self.writer, kind::DOUBLE);
                    self.writer.double(value);
                }
            }
            Value::Enum | Value::NamedEnum(_) => {
                let number = low_i32(wire::varint(input)?);
                if number != 0 || present {
                    self.enumeration(&key, field.value, number);
                }
            }
            Value::String => {
                let text = wire::length_delimited(input)?;
                // Most are ASCII, which takes less to find out.
                if !text.is_ascii() && std::str::from_utf8(text).is_err() {
                    return Err(DocumentErrorReason::NotUtf8.into());
                }
                if !text.is_empty() || present {
                    key.write(&mut self.writer, kind::STRING);
                    self.writer.string(text);
                }
            }
            Value::Hashed => {
                let text = text(input)?;
                if let Some(pii_key) = self.pii_key
                    && (!text.is_empty() || present)
                {
                    key.write(&mut self.writer, kind::STRING);
                    self.writer.string(pii_key.hash(text).as_bytes());
                }
            }
            Value::Scrubbed(scrub) => {
                let text = text(input)?;
                if !text.is_empty() || present {
                    key.write(&mut self.writer, kind::STRING);
                    self.writer.string(scrub.apply(text).as_bytes());
                }
            }
            Value::Bytes => {
                let bytes = wire::length_delimited(input)?;
                if !bytes.is_empty() || present {
                    key.write(&mut self.writer, kind::STRING);
                    self.writer.base64(bytes);
                }
            }
            Value::Message(table) => {
                let table = self.schema.table(table);
                self.inner(key, table, input, depth)?;
            }
            Value::Removed => {}
        }
        Ok(())
    }

    /// A message in another, with its key.
    #[inline]
    pub(super) fn inner<K: Key>(
        &mut self,
        key: K,
        table: &Table,
        input: &mut &'a [u8],
        depth: usize,
    ) -> Result<(), Stop> {
        let message = wire::length_delimited(input)?;
        // The message counts its bytes itself.
        self.work -= message.len();
        key.write(&mut self.writer, kind::DOCUMENT);
        if message.is_empty() && table.always.is_empty() {
            self.check_depth(depth + 1)?;
            self.writer.empty();
            return Ok(());
        }
        let start = self.writer.begin();
        self.message(table, message, depth + 1)?;
        self.writer.end(start);
        Ok(())
    }

    /// BSON has no unsigned integers: what does not fit becomes a double.
    fn unsigned<K: Key>(&mut self, key: &K, value: u64) {
        if let Ok(value) = i64::try_from(value) {
            key.write(&mut self.writer, kind::INT64);
            self.writer.int64(value);
        } else {
            key.write(&mut self.writer, kind::DOUBLE);
            #[expect(clippy::cast_precision_loss, reason = "nearest double, by the design")]
            self.writer.double(value as f64);
        }
    }

    fn enumeration<K: Key>(&mut self, key: &K, value: Value, number: i32) {
        let name = match value {
            Value::NamedEnum(names) => self.schema.names(names).name(number),
            _ => None,
        };
        if let Some(name) = name {
            key.write(&mut self.writer, kind::STRING);
            self.writer.string(name.as_bytes());
        } else {
            key.write(&mut self.writer, kind::INT32);
            self.writer.int32(number);
        }
    }
}

#[cold]
pub(super) fn mismatch(field: &Field, tag: u32) -> DocumentError {
    match WireType::from_tag(tag) {
        Some(found) => DocumentErrorReason::WireType { expected: field.wire, found },
        None => DocumentErrorReason::BadTag,
    }
    .into()
}

#[inline]
fn text<'a>(input: &mut &'a [u8]) -> Result<&'a str, DocumentError> {
    std::str::from_utf8(wire::length_delimited(input)?).map_err(|_| DocumentErrorReason::NotUtf8.into())
}
