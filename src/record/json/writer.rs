//! The bytes of a record, as they are written.

use super::{
    error::UnknownFields,
    parts::{self, MAX_PARTS, Order, Part},
    schema::Schema,
};
use crate::record::wire::{self, MAX_DEPTH, WireType};

/// Writes messages. Reused from record to record.
#[derive(Debug)]
pub(super) struct Writer<'s> {
    pub(super) schema: &'s Schema,
    pub(super) unknown: UnknownFields,
    pub(super) out: Vec<u8>,
    /// The parts of all messages and maps that have begun but not ended.
    parts: Vec<Part>,
    /// Keys that came before the `@type` of an `Any` that has begun but not ended: they count like parts.
    kept_keys: usize,
    pub(super) scratch: Vec<u8>,
    depth: usize,
    /// Where the value is that cannot be written, innermost first.
    path: Vec<Segment<'s>>,
    /// The text has more than is allowed, rather than anything wrong.
    pub(super) is_too_large: bool,
}

/// A step on the way to a value.
#[derive(Debug)]
pub(super) enum Segment<'s> {
    Field(&'s str),
    Index(usize),
    Key(String),
}

/// Why a message or a map cannot begin, or not go on.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum TooMuch {
    #[error("messages are nested deeper than {MAX_DEPTH} levels")]
    Depth,
    #[error("more than {MAX_PARTS} fields or map entries")]
    Parts,
}

impl<'s> Writer<'s> {
    pub(super) fn new(schema: &'s Schema, unknown: UnknownFields) -> Self {
        Self {
            schema,
            unknown,
            out: Vec::new(),
            parts: Vec::new(),
            kept_keys: 0,
            scratch: Vec::new(),
            depth: 0,
            path: Vec::new(),
            is_too_large: false,
        }
    }

    /// Forgets the record before.
    pub(super) fn clear(&mut self) {
        self.out.clear();
        self.parts.clear();
        self.kept_keys = 0;
        self.depth = 0;
    }

    /// Begins a length-delimited value. Returns where its contents begin, for [`end`](Self::end).
    #[inline]
    pub(super) fn begin(&mut self, number: u32) -> usize {
        wire::write_tag(&mut self.out, number, WireType::Length);
        // Most lengths take one byte.
        self.out.push(0);
        self.out.len()
    }

    /// Ends a length-delimited value. Returns by how many bytes its contents were moved, because its length takes more
    /// than one.
    #[inline]
    pub(super) fn end(&mut self, contents: usize) -> usize {
        let length = self.out.len() - contents;
        if length < 0x80 {
            self.out[contents - 1] = length as u8;
            return 0;
        }
        self.end_long(contents, length)
    }

    fn end_long(&mut self, contents: usize, length: usize) -> usize {
        let mut prefix = [0; 10];
        let mut rest = &mut prefix[..];
        wire::write_varint(&mut rest, length as u64);
        let size = 10 - rest.len();
        self.out.resize(contents + length + size - 1, 0);
        self.out.copy_within(contents..contents + length, contents + size - 1);
        self.out[contents - 1..][..size].copy_from_slice(&prefix[..size]);
        size - 1
    }

    /// Writes a message's fields, or a map's entries, in their order; `write` writes them as they come, and
    /// gets the index of the first part.
    #[inline]
    pub(super) fn in_order<E>(
        &mut self,
        order: Order,
        too_much: impl FnOnce(TooMuch) -> E,
        write: impl FnOnce(&mut Self, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.depth == MAX_DEPTH {
            return Err(too_much(TooMuch::Depth));
        }
        self.depth += 1;
        let (start, first) = (self.out.len(), self.parts.len());
        write(self, first)?;
        parts::settle(&mut self.out, start, &mut self.parts[first..], order, &mut self.scratch);
        self.parts.truncate(first);
        self.depth -= 1;
        Ok(())
    }

    /// Notes a field or an entry that was written from `start` on.
    #[inline]
    pub(super) fn part(&mut self, place: u64, start: usize) -> Result<(), TooMuch> {
        self.one_more()?;
        self.parts.push(Part { place, start, end: self.out.len() });
        Ok(())
    }

    /// Notes a key that has to wait for the name of its message.
    pub(super) fn keep_key(&mut self) -> Result<(), TooMuch> {
        self.one_more()?;
        self.kept_keys += 1;
        Ok(())
    }

    /// Forgets as many of these.
    pub(super) const fn forget_keys(&mut self, count: usize) {
        self.kept_keys -= count;
    }

    #[inline]
    fn one_more(&mut self) -> Result<(), TooMuch> {
        if self.parts.len() + self.kept_keys >= MAX_PARTS {
            self.is_too_large = true;
            return Err(TooMuch::Parts);
        }
        Ok(())
    }

    /// True if one of these fields was written since part `first`.
    pub(super) fn has_any(&self, first: usize, numbers: &[u32]) -> bool {
        self.parts[first..].iter().any(|part| numbers.iter().any(|&number| part.place == u64::from(number)))
    }

    /// On an error adds the step to its place.
    #[inline]
    pub(super) fn within<T, E>(
        &mut self,
        result: Result<T, E>,
        segment: impl FnOnce(&Self) -> Segment<'s>,
    ) -> Result<T, E> {
        if result.is_err() {
            let segment = segment(self);
            self.path.push(segment);
        }
        result
    }

    /// The place of the error: `events[1].room.sid`.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for segment in self.path.iter().rev() {
            let name = match segment {
                Segment::Index(index) => {
                    path.push_str(&format!("[{index}]"));
                    continue;
                }
                Segment::Field(name) => name,
                Segment::Key(key) => key.as_str(),
            };
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        }
        path
    }
}
