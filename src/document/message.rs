//! Messages: wire bytes in, raw BSON out, field by field, by the tables of [`super::schema`].
//!
//! The quick path expects each field once and lists in one extent, as every encoder writes them. A long message is checked
//! first, by a pass over its tags; if it does not meet this condition, it takes the exact path ([`super::exact`]). A short
//! message is tried on the quick path at once. If that fails, the short messages around it are encoded again on the exact
//! path. From then on every message is checked first, unless the one before was out of order too. So each byte is read a
//! fixed number of times, whatever the depth and order of the fields: encoding is linear in the size of the record.
//! [`Encoding::work`] counts what was read, and ends a record that takes more than
//! [`WORK_PER_BYTE`](super::encoding::WORK_PER_BYTE) allows.

use super::{
    encoding::{Encoding, Stop, Way},
    error::{DocumentError, DocumentErrorReason},
    schema::{Field, Shape, Table, Value},
    writer::{Header, kind},
};
use crate::record::wire;

/// Protobuf's maximum size of a message: 2 GiB. Places in a record are counted in 32 bits ([`Span`](super::parts::Span)).
const MAX_RECORD: usize = i32::MAX as usize;

/// Messages up to this length are tried on the quick path without a check: encoding one again costs little.
const SHORT: usize = 512;

impl<'a> Encoding<'a> {
    /// Writes the fields of the record, without the document's length and end.
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
            Way::TryShort | Way::Exact | Way::Inspect => self.checked(table, message, depth)?,
        }
        self.check_size().map_err(Stop::from)
    }

    /// Writes the fields of a short message on the quick path, and if that fails on the exact path.
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

    /// Writes the fields of a message on the quick path if they are in order, else on the exact path.
    pub(super) fn checked(&mut self, table: &Table, message: &'a [u8], depth: usize) -> Result<(), Stop> {
        let exact = match self.way {
            Way::Exact => true,
            // Only here both paths give the same result, including errors: everything in it is checked as well.
            Way::Inspect if self.out_of_order => true,
            _ => !self.is_in_order(table, message)?,
        };
        if !exact { self.fields(table, message, depth) } else { self.exact_message(table, message, depth) }
    }

    /// Tells whether each field of a message occurs once, and lists and maps in one extent. Nested messages are skipped.
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

    /// A oneof is a document of its own with the member as its only field, as in Go's structs.
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
