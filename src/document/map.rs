//! Protobuf maps: documents whose keys come from the record.
//!
//! Keys are kept unchanged, including `.`, `$` and the empty key (MongoDB stores them since 3.6; queries reach them with
//! `$getField`). Integer and boolean keys become text. A NUL, which a BSON key cannot contain, becomes U+2400 (␀). If
//! several entries have the same key, the last counts.

use super::{
    encoding::{Encoding, Key, Stop, Way},
    error::{DocumentError, DocumentErrorReason},
    key_index::KeyIndex,
    parts::Span,
    schema::{Field, Table, Value},
    value::mismatch,
    writer::{Writer, decimal, kind},
};
use crate::record::wire::{self, WireType};

/// Field numbers of a map's entry.
const KEY: u32 = 1;
const VALUE: u32 = 2;
/// Up to this many keys, a key is found by comparing with each.
const FEW: usize = 16;

/// An entry, without its bytes.
struct Entry {
    /// In the record; or in [`Entries::texts`], if the record has it in other bytes.
    key: Span,
    key_is_made: bool,
    value_is_in_pieces: bool,
    /// In the record, with its tag; none if it is absent. For a message in pieces: the whole entry.
    value: Span,
}

/// A key in the bytes of the record, or another text that replaces it.
enum Name<'a> {
    Text(&'a [u8]),
    WithNul(&'a [u8]),
    Made(&'static [u8]),
    Unsigned(u64),
    Signed(i64),
}

impl Name<'_> {
    /// Appends the text that is written, if it differs from the record.
    fn make(&self, out: &mut Vec<u8>) {
        match *self {
            Name::Text(text) | Name::Made(text) => out.extend_from_slice(text),
            Name::WithNul(text) => {
                for part in text.split_inclusive(|&byte| byte == 0) {
                    match part {
                        [text @ .., 0] => {
                            out.extend_from_slice(text);
                            out.extend_from_slice("\u{2400}".as_bytes());
                        }
                        text => out.extend_from_slice(text),
                    }
                }
            }
            Name::Unsigned(number) => out.extend_from_slice(decimal(number, &mut [0; 20])),
            Name::Signed(number) => {
                if number < 0 {
                    out.push(b'-');
                }
                out.extend_from_slice(decimal(number.unsigned_abs(), &mut [0; 20]));
            }
        }
    }
}

impl Key for &[u8] {
    #[inline]
    fn write(&self, writer: &mut Writer, kind: u8) {
        writer.key_header(kind, self);
    }
}

impl<'a> Encoding<'a> {
    /// A map in one extent, as a document.
    pub(super) fn map(
        &mut self,
        field: &Field,
        entry_table: usize,
        tag: u32,
        input: &mut &'a [u8],
        depth: usize,
    ) -> Result<(), Stop> {
        if field.value == Value::Removed {
            return Ok(wire::skip(input, tag)?);
        }
        let mut entries = Entries::default();
        entries.add_run(self, field, entry_table, tag, input)?;
        entries.write(self, field, entry_table, depth)
    }
}

/// Entries of a map, in the order of their keys' first occurrences.
#[derive(Default)]
pub(super) struct Entries {
    entries: Vec<Entry>,
    /// Keys that are written differently from the record.
    texts: Vec<u8>,
    key_index: KeyIndex,
}

impl Entries {
    /// Adds an extent of entries.
    pub(super) fn add_run<'a>(
        &mut self,
        encoding: &mut Encoding<'a>,
        field: &Field,
        entry_table: usize,
        mut tag: u32,
        input: &mut &'a [u8],
    ) -> Result<(), Stop> {
        let table = encoding.schema.table(entry_table);
        loop {
            if WireType::from_tag(tag) != Some(WireType::Length) {
                return Err(mismatch(field, tag).into());
            }
            let message = wire::length_delimited(input)?;
            // The entry counts its bytes itself: here, and where its value is written.
            encoding.work -= message.len();
            let (name, entry) = entry(encoding, table, message)?;
            self.add(encoding, &name, entry)?;
            match wire::again(input, tag) {
                Some((next_tag, next)) => (tag, *input) = (next_tag, next),
                None => return Ok(()),
            }
        }
    }

    #[inline]
    fn add<'a>(&mut self, encoding: &Encoding<'a>, name: &Name<'a>, mut entry: Entry) -> Result<(), Stop> {
        let made = self.texts.len();
        if let Name::Text(text) = *name {
            entry.key = Span::of(encoding.record, text);
        } else {
            name.make(&mut self.texts);
            entry.key = Span::of(&self.texts, &self.texts[made..]);
            entry.key_is_made = true;
        }
        if let Some(known) = self.known(&entry, encoding.record) {
            // The key of the first one stays: it is the same text.
            let known = &mut self.entries[known];
            *known = Entry { key: known.key, key_is_made: known.key_is_made, ..entry };
            self.texts.truncate(made);
            return Ok(());
        }
        encoding.check_parts(self.entries.len() + 1)?;
        self.entries.push(entry);
        Ok(())
    }

    /// The index of the entry with the same key; if there is none, this one is the next.
    #[inline]
    fn known(&mut self, entry: &Entry, record: &[u8]) -> Option<usize> {
        let (entries, texts) = (&self.entries, &self.texts);
        let key_of = |index: usize| entries[index].key(record, texts);
        let key = entry.key(record, texts);
        if entries.len() < FEW {
            return (0..entries.len()).find(|&index| key_of(index) == key);
        }
        if self.key_index.is_empty() {
            self.key_index.rebuild(FEW * 4, entries.len(), key_of);
        }
        self.key_index.find_or_insert(key, entries.len(), key_of)
    }

    /// Writes them as a document.
    pub(super) fn write(
        self,
        encoding: &mut Encoding<'_>,
        field: &Field,
        entry_table: usize,
        depth: usize,
    ) -> Result<(), Stop> {
        let table = encoding.schema.table(entry_table);
        encoding.writer.header(kind::DOCUMENT, &field.header);
        let start = encoding.writer.begin();
        for entry in &self.entries {
            let key = entry.key(encoding.record, &self.texts);
            value(encoding, table, key, entry, depth).map_err(|stop| stop.within("[value]"))?;
            encoding.check_size()?;
        }
        encoding.writer.end(start);
        Ok(())
    }
}

impl Entry {
    #[inline]
    fn key<'a>(&self, record: &'a [u8], texts: &'a [u8]) -> &'a [u8] {
        self.key.within(if self.key_is_made { texts } else { record })
    }
}

/// An entry without its key, which may not be a part of the record.
#[inline]
fn entry<'a>(
    encoding: &mut Encoding<'a>,
    table: &Table,
    message: &'a [u8],
) -> Result<(Name<'a>, Entry), DocumentError> {
    let (mut key, mut value, mut value_is_in_pieces) = (None, None, false);
    let merges = table.field(VALUE).is_some_and(|field| matches!(field.value, Value::Message(_)));
    let mut input = message;
    while !input.is_empty() {
        let before = input;
        let tag = wire::tag(&mut input)?;
        let contents = wire::contents(&mut input, tag)?.len();
        let whole = &before[..before.len() - input.len()];
        encoding.work += whole.len();
        match tag >> 3 {
            KEY => key = Some(whole),
            VALUE => {
                encoding.work -= contents;
                value_is_in_pieces = merges && value.is_some();
                value = Some(whole);
            }
            _ => encoding.work -= contents,
        }
    }
    let name = key_text(table, key)?;
    let value = if value_is_in_pieces { Some(message) } else { value };
    let value = value.map_or(Span::default(), |value| Span::of(encoding.record, value));
    Ok((name, Entry { key: Span::default(), key_is_made: false, value_is_in_pieces, value }))
}

/// A map's key as text; `input` begins at its tag. An absent key is the type's zero.
fn key_text<'a>(table: &Table, input: Option<&'a [u8]>) -> Result<Name<'a>, DocumentError> {
    let Some(field) = table.field(KEY) else { return Ok(Name::Made(b"")) };
    let raw = match input {
        Some(mut input) => {
            let tag = wire::tag(&mut input)?;
            if WireType::from_tag(tag) != Some(field.wire) {
                return Err(mismatch(field, tag).within("[key]"));
            }
            Some(wire::value(&mut input, tag)?)
        }
        None => None,
    };
    let bits = match raw {
        Some(wire::Value::Length(bytes)) => {
            if !bytes.is_ascii() && std::str::from_utf8(bytes).is_err() {
                return Err(DocumentError::from(DocumentErrorReason::NotUtf8).within("[key]"));
            }
            return Ok(if bytes.contains(&0) { Name::WithNul(bytes) } else { Name::Text(bytes) });
        }
        Some(wire::Value::Varint(value)) => value,
        Some(wire::Value::Fixed64(bytes)) => u64::from_le_bytes(bytes),
        Some(wire::Value::Fixed32(bytes)) => u64::from(u32::from_le_bytes(bytes)),
        Some(wire::Value::Group { .. }) | None => 0,
    };
    #[expect(clippy::cast_possible_truncation, reason = "protobuf takes the low 32 bits for its 32-bit types")]
    let low = bits as u32;
    Ok(match field.value {
        Value::Bool => Name::Made(if bits == 0 { b"false" } else { b"true" }),
        Value::Int32 | Value::Sfixed32 => Name::Signed(low.cast_signed().into()),
        Value::Uint32 | Value::Fixed32 => Name::Unsigned(low.into()),
        Value::Sint32 => Name::Signed(wire::unzigzag(u64::from(low))),
        Value::Sint64 => Name::Signed(wire::unzigzag(bits)),
        Value::Int64 | Value::Sfixed64 => Name::Signed(bits.cast_signed()),
        Value::Uint64 | Value::Fixed64 => Name::Unsigned(bits),
        _ => Name::Made(b""),
    })
}

/// Writes an entry's value.
fn value(encoding: &mut Encoding<'_>, table: &Table, key: &[u8], entry: &Entry, depth: usize) -> Result<(), Stop> {
    let Some(field) = table.field(VALUE) else { return Ok(()) };
    let mut input = entry.value.within(encoding.record);
    if entry.value_is_in_pieces {
        if encoding.way == Way::Quick {
            return Err(Stop::OutOfOrder);
        }
        return encoding.exact_value(key, table, VALUE, input, depth);
    }
    if input.is_empty() {
        // An absent value is the type's zero, which these bytes are for every wire type.
        return encoding.value(key, field, field.wire as u32, &mut &[0; 8][..], depth, true);
    }
    encoding.work += input.len();
    let tag = wire::tag(&mut input)?;
    encoding.value(key, field, tag, &mut input, depth, true)
}
