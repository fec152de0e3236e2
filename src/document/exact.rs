//! The exact path, for a record whose fields are repeated or interleaved. By protobuf's rules the last occurrence of a
//! value counts, the pieces of a message are merged, and a list continues wherever its next element is.
//!
//! Nothing is copied: a message is gathered into *slots*, one per field (or oneof) in the order of their first occurrences.
//! A slot is a chain of *parts* of the record:
//!
//! | field | its parts |
//! |---|---|
//! | a value | the last occurrence, with its tag |
//! | a message | the contents of each piece; of a oneof, those since another member |
//! | a list, a map | its extents, with their tags |
//!
//! Then the slots are written, and messages in them in the same way from their pieces. So each byte is read once by the
//! message that it belongs to, and once where it is written, at any depth. Parts and slots are stacks, which a message
//! leaves as it found them.

use super::{
    encoding::{Encoding, Key, Stop},
    error::DocumentErrorReason,
    map,
    parts::{MAX_PARTS, NONE, Part, Slot, Span},
    schema::{Field, Shape, Table, Value},
    writer::{Index, kind},
};
use crate::record::wire::{self, WireType};

/// Slots of a message that are found by their number.
const INDEXED: usize = 64;

/// The slots of the message that is being gathered.
struct Gathering {
    /// The slot of each number, plus one, counted from `base`.
    index: [u8; INDEXED],
    /// The message's first slot.
    base: usize,
}

impl<'a> Encoding<'a> {
    /// Writes the fields of a message that is in one piece.
    pub(super) fn exact_message(&mut self, table: &Table, message: &'a [u8], depth: usize) -> Result<(), Stop> {
        let parts = self.parts.len();
        self.whole(table, depth, |encoding, gathering| {
            encoding.out_of_order = false;
            encoding.gather(table, message, gathering)
        })?;
        self.parts.truncate(parts);
        Ok(())
    }

    /// Writes the fields of a message from its pieces.
    fn merged(&mut self, table: &Table, first: u32, depth: usize) -> Result<(), Stop> {
        self.check_depth(depth)?;
        let (bytes, next) = self.bytes_and_next(first);
        if next == NONE {
            self.checked(table, bytes, depth)?;
            return Ok(self.check_size()?);
        }
        let parts = self.parts.len();
        self.whole(table, depth, |encoding, gathering| {
            let mut piece = first;
            while piece != NONE {
                let (bytes, next) = encoding.bytes_and_next(piece);
                encoding.gather(table, bytes, gathering)?;
                piece = next;
            }
            Ok(())
        })?;
        self.parts.truncate(parts);
        Ok(self.check_size()?)
    }

    fn whole(
        &mut self,
        table: &Table,
        depth: usize,
        gather: impl FnOnce(&mut Self, &mut Gathering) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let base = self.slots.len();
        gather(self, &mut Gathering { index: [0; INDEXED], base })?;
        let end = self.slots.len();
        let mut seen = 0;
        for at in base..end {
            let slot = self.slots[at];
            let Some(field) = table.field(slot.number) else { continue };
            seen |= field.bit;
            self.slot(table, field, slot, depth).map_err(|stop| stop.within_field(table, field))?;
        }
        self.slots.truncate(base);
        self.absent(table, |field| seen & field.bit == 0);
        Ok(())
    }

    /// Adds the fields of a piece of a message to its slots.
    fn gather(&mut self, table: &Table, piece: &'a [u8], gathering: &mut Gathering) -> Result<(), Stop> {
        let mut input = piece;
        while !input.is_empty() {
            let mut before = input;
            let tag = wire::tag(&mut input)?;
            let mut contents = wire::contents(&mut input, tag)?;
            let mut skipped = contents.len();
            let Some(field) = table.field(tag >> 3) else {
                self.work += before.len() - input.len() - skipped;
                continue;
            };
            let run = matches!(field.shape, Shape::List | Shape::Map(_));
            let message =
                !run && matches!(field.value, Value::Message(_)) && WireType::from_tag(tag) == Some(WireType::Length);
            if run {
                while let Some((next_tag, next)) = wire::again(input, tag) {
                    input = next;
                    skipped += wire::contents(&mut input, next_tag)?.len();
                }
            } else if !matches!(field.value, Value::Message(_)) {
                while let Some((next_tag, next)) = wire::again(input, tag) {
                    self.work += before.len() - input.len() - skipped;
                    (before, input) = (input, next);
                    skipped = wire::contents(&mut input, next_tag)?.len();
                    self.out_of_order = true;
                }
            }
            let whole = &before[..before.len() - input.len()];
            self.work += whole.len() - skipped;
            if field.value == Value::Removed && !matches!(field.shape, Shape::Oneof(_)) {
                continue;
            }
            if !message {
                contents = whole;
            }
            self.add(field, tag >> 3, message, run, contents, gathering)?;
        }
        Ok(())
    }

    #[inline]
    fn add(
        &mut self,
        field: &Field,
        number: u32,
        message: bool,
        run: bool,
        bytes: &'a [u8],
        gathering: &mut Gathering,
    ) -> Result<(), Stop> {
        let Some(at) = self.slot_of(field, gathering) else {
            let part = self.part(bytes)?;
            self.slots.push(Slot { number, slot: field.slot, message, first: part, last: part });
            if let Some(index) = gathering.index.get_mut(usize::from(field.slot)) {
                // At most as many slots as are indexed come before the first that is not.
                *index = u8::try_from(self.slots.len() - gathering.base).unwrap_or(0);
            }
            return Ok(());
        };
        self.out_of_order = true;
        // Field by field: reading as a whole what was just written in parts is slow.
        let known = &mut self.slots[at];
        if known.number == number && (run || (message && known.message)) {
            if !bytes.is_empty() {
                let last = known.last as usize;
                let part = self.part(bytes)?;
                self.parts[last].next = part;
                self.slots[at].last = part;
            }
        } else {
            // What came before is discarded.
            (known.number, known.message, known.last) = (number, message, known.first);
            self.parts[known.first as usize] = Part { span: Span::of(self.record, bytes), next: NONE };
        }
        Ok(())
    }

    #[inline]
    fn slot_of(&self, field: &Field, gathering: &Gathering) -> Option<usize> {
        match gathering.index.get(usize::from(field.slot)) {
            Some(0) => None,
            Some(&place) => Some(gathering.base + usize::from(place) - 1),
            // Few messages have more slots than are indexed, and those have few more.
            None => {
                let own = &self.slots[gathering.base..];
                own.iter().position(|slot| slot.slot == field.slot).map(|at| gathering.base + at)
            }
        }
    }

    #[inline]
    fn part(&mut self, bytes: &'a [u8]) -> Result<u32, Stop> {
        self.check_parts(1)?;
        self.parts.push(Part { span: Span::of(self.record, bytes), next: NONE });
        Ok(u32::try_from(self.parts.len() - 1).unwrap_or(NONE))
    }

    /// What a part is, and the part that continues after it.
    #[inline]
    fn bytes_and_next(&self, part: u32) -> (&'a [u8], u32) {
        let Part { span, next } = self.parts[part as usize];
        (span.within(self.record), next)
    }

    /// Refuses a record with too many parts; `more` are needed in addition to those gathered.
    #[inline]
    pub(super) fn check_parts(&self, more: usize) -> Result<(), Stop> {
        if self.parts.len() + more > MAX_PARTS {
            return Err(DocumentErrorReason::TooManyParts { limit: MAX_PARTS }.into());
        }
        Ok(())
    }

    /// Writes the gathered parts of a field.
    fn slot(&mut self, table: &Table, field: &Field, slot: Slot, depth: usize) -> Result<(), Stop> {
        match field.shape {
            Shape::Implicit | Shape::Explicit => {
                self.single(&field.header, field, slot, depth, field.shape == Shape::Explicit)
            }
            Shape::Oneof(_) if field.value == Value::Removed => Ok(()),
            Shape::Oneof(index) => {
                self.writer.header(kind::DOCUMENT, &table.oneofs[index]);
                let start = self.writer.begin();
                self.single(&field.header, field, slot, depth, true)?;
                self.writer.end(start);
                Ok(())
            }
            Shape::List => {
                let before = self.writer.position();
                self.writer.header(kind::ARRAY, &field.header);
                let start = self.writer.begin();
                let mut index = Index::default();
                self.each_run(slot, |encoding, tag, input| encoding.run(field, tag, input, &mut index, depth))?;
                if index.is_first() {
                    self.writer.rewind(before);
                } else {
                    self.writer.end(start);
                }
                Ok(())
            }
            Shape::Map(entry) => {
                let mut entries = map::Entries::default();
                self.each_run(slot, |encoding, tag, input| entries.add_run(encoding, field, entry, tag, input))?;
                entries.write(self, field, entry, depth)
            }
        }
    }

    fn each_run(
        &mut self,
        slot: Slot,
        mut each: impl FnMut(&mut Self, u32, &mut &'a [u8]) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut run = slot.first;
        while run != NONE {
            let (bytes, next) = self.bytes_and_next(run);
            let mut input = bytes;
            self.work += bytes.len();
            let tag = wire::tag(&mut input)?;
            each(self, tag, &mut input)?;
            run = next;
        }
        Ok(())
    }

    /// Writes the gathered parts of a field that occurs once.
    fn single<K: Key>(&mut self, key: K, field: &Field, slot: Slot, depth: usize, present: bool) -> Result<(), Stop> {
        if let (true, Value::Message(inner)) = (slot.message, field.value) {
            key.write(&mut self.writer, kind::DOCUMENT);
            let start = self.writer.begin();
            self.merged(self.schema.table(inner), slot.first, depth + 1)?;
            self.writer.end(start);
            return Ok(());
        }
        let (mut input, _) = self.bytes_and_next(slot.first);
        self.work += input.len();
        let tag = wire::tag(&mut input)?;
        self.value(key, field, tag, &mut input, depth, present)
    }

    /// Writes the value of a map's entry that is in pieces.
    pub(super) fn exact_value<K: Key>(
        &mut self,
        key: K,
        table: &Table,
        number: u32,
        message: &'a [u8],
        depth: usize,
    ) -> Result<(), Stop> {
        let (base, parts) = (self.slots.len(), self.parts.len());
        self.gather(table, message, &mut Gathering { index: [0; INDEXED], base })?;
        let slot = self.slots[base..].iter().find(|slot| slot.number == number).copied();
        if let (Some(slot), Some(field)) = (slot, table.field(number)) {
            self.single(key, field, slot, depth, true)?;
        }
        self.slots.truncate(base);
        self.parts.truncate(parts);
        Ok(())
    }
}
