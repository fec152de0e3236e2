//! Lists: arrays whose elements come one by one, packed, or (on the exact path) in several extents.

use super::{
    encoding::{Encoding, Stop},
    number::low_i32,
    schema::{Field, Value},
    writer::{Index, kind},
};
use crate::record::wire::{self, WireType};

/// Why an element's encoding ended, seen from its list.
#[cold]
fn at(index: &Index, stop: Stop) -> Stop {
    stop.within(index.segment())
}

impl<'a> Encoding<'a> {
    /// A list in one extent.
    pub(super) fn list(&mut self, field: &Field, tag: u32, input: &mut &'a [u8], depth: usize) -> Result<(), Stop> {
        if field.value == Value::Removed {
            return Ok(wire::skip(input, tag)?);
        }
        let before = self.writer.position();
        self.writer.header(kind::ARRAY, &field.header);
        let start = self.writer.begin();
        let mut index = Index::default();
        self.run(field, tag, input, &mut index, depth)?;
        if index.is_first() {
            self.writer.rewind(before);
        } else {
            self.writer.end(start);
        }
        Ok(())
    }

    /// An extent of a list's elements, one by one or packed; the first has this index.
    pub(super) fn run(
        &mut self,
        field: &Field,
        mut tag: u32,
        input: &mut &'a [u8],
        index: &mut Index,
        depth: usize,
    ) -> Result<(), Stop> {
        let messages = match field.value {
            Value::Message(table) => Some(self.schema.table(table)),
            _ => None,
        };
        loop {
            if let Some(table) = messages
                && tag & 7 == WireType::Length as u32
            {
                if input.first() == Some(&0) && table.always.is_empty() {
                    *input = &input[1..];
                    self.check_depth(depth + 1).map_err(|stop| at(index, stop))?;
                    self.empty_messages(tag, input, index)?;
                } else {
                    self.inner(&*index, table, input, depth).map_err(|stop| at(index, stop))?;
                    index.advance();
                }
            } else if field.wire != WireType::Length && WireType::from_tag(tag) == Some(WireType::Length) {
                let mut packed = wire::length_delimited(input)?;
                let element = tag & !7 | field.wire as u32;
                if matches!(field.value, Value::Enum | Value::Int32) {
                    self.packed_int32(&mut packed, index)?;
                }
                while !packed.is_empty() {
                    self.value(&*index, field, element, &mut packed, depth, true).map_err(|stop| at(index, stop))?;
                    index.advance();
                    self.check_size()?;
                }
            } else {
                self.value(&*index, field, tag, input, depth, true).map_err(|stop| at(index, stop))?;
                index.advance();
            }
            self.check_size()?;
            match wire::again(input, tag) {
                Some((next_tag, next)) => (tag, *input) = (next_tag, next),
                None => return Ok(()),
            }
        }
    }

    /// The elements of a packed list of numbers, each of which may be a single byte.
    fn packed_int32(&mut self, packed: &mut &[u8], index: &mut Index) -> Result<(), Stop> {
        while !packed.is_empty() {
            let value = wire::varint(packed).map_err(|error| at(index, error.into()))?;
            self.writer.int32_element(index, low_i32(value));
            index.advance();
            self.check_size()?;
        }
        Ok(())
    }

    /// The elements of a list of empty messages, two bytes each; both bytes of the first are already read.
    fn empty_messages(&mut self, tag: u32, input: &mut &'a [u8], index: &mut Index) -> Result<(), Stop> {
        loop {
            self.writer.empty_element(index);
            index.advance();
            self.check_size()?;
            match input {
                [next @ ..0x80, 0, rest @ ..] if u32::from(*next) == tag => *input = rest,
                _ => return Ok(()),
            }
        }
    }
}
