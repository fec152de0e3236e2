//! Messages: wire bytes in, raw BSON out, field by field, by the tables of [`super::schema`].
//!
//! The quick way expects each field once and lists in one run, as every encoder writes them. Of a long message that is found
//! out first, by a look at its tags; where it is not so, the message goes the exact way ([`super::exact`]). A short one is tried
//! the quick way at once. Where that fails, what is short around it is encoded again, the exact way, and from then on every
//! message is looked at first, unless the one before was out of order too. So each byte is read a fixed number of times, however
//! deep and in whatever order its fields are: encoding is linear in the record. [`Encoding::work`] counts what was read, and ends
//! a record that takes more than [`WORK_PER_BYTE`](super::encoding::WORK_PER_BYTE) allows.

use super::{
    encoding::{Encoding, Stop, Way},
    error::{DocumentError, DocumentErrorReason},
    schema::{Field, Shape, Table, Value},
    writer::{Header, kind},
};
use crate::record::wire;

/// What protobuf says that a message has at most: 2 GiB. Places in a record are counted in 32 bits ([`Span`](super::parts::Span)).
const MAX_RECORD: usize = i32::MAX as usize;

/// Messages up to this length are tried the quick way without a look: to encode one again costs little.
const SHORT: usize = 512;

impl<'a> Encoding<'a> {
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
            Way::TryShort | Way::Exact | Way::Inspect => self.looked_at(table, message, depth)?,
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
            self.way = Way::Inspect;
            return Ok(());
        }
        tried
    }

    /// Writes the fields of a message the quick way where they are in order, else the exact way.
    pub(super) fn looked_at(&mut self, table: &Table, message: &'a [u8], depth: usize) -> Result<(), Stop> {
        let exact = match self.way {
            Way::Exact => true,
            // Only here is what comes of a message the same either way, errors too: all in it is looked at as well.
            Way::Inspect if self.out_of_order => true,
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
                Shape::Map(entry) => self.map(field, entry, tag, &mut input, depth),
            }
            .map_err(|stop| stop.within_field(table, field))?;
        }
        self.absent(table, |field| seen & field.bit == 0);
        Ok(())
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
}
