//! Protobuf maps: documents whose keys come from the record.
//!
//! Keys are kept as they are, `.`, `$` and the empty key too (MongoDB stores them since 3.6; queries reach them with
//! `$getField`). Integer and boolean keys become text. A NUL, which BSON cannot have in a key, becomes U+2400 (␀).
//! Of several entries with one key the last counts.

use std::{borrow::Cow, collections::HashMap};

use super::{
    encode::{Encoding, Key, Stop, mismatch},
    error::{DocumentError, DocumentErrorReason, WireType},
    schema::{Field, Table, Value},
    wire,
    writer::{Writer, kind},
};

/// Field numbers of a map's entry.
const KEY: u32 = 1;
const VALUE: u32 = 2;
/// So few keys are found by looking at all of them.
const FEW: usize = 16;

struct Entry<'a> {
    key: Cow<'a, str>,
    value: EntryValue<'a>,
}

/// Where an entry's value is.
enum EntryValue<'a> {
    Absent,
    /// With its tag.
    Once(&'a [u8]),
    /// A message in pieces, somewhere in the entry.
    Pieces(&'a [u8]),
}

struct Text<'a>(&'a str);

impl Key for Text<'_> {
    fn write(&self, writer: &mut Writer, kind: u8) {
        writer.key_header(kind, self.0);
    }
}

/// Writes a map that lies in one run as a document.
pub(super) fn write<'a>(
    encoding: &mut Encoding<'a>,
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
    entries.add_run(encoding, field, entry_table, tag, input)?;
    entries.write(encoding, field, entry_table, depth)
}

/// Entries of a map, in the order of their keys' first occurrences.
#[derive(Default)]
pub(super) struct Entries<'a> {
    entries: Vec<Entry<'a>>,
    /// Many keys are found by hash, so that a hostile record costs no more than its length.
    by_key: HashMap<Cow<'a, str>, u32>,
}

impl<'a> Entries<'a> {
    /// Takes up a run of entries.
    pub(super) fn add_run(
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
            let entry = entry(encoding, table, message)?;
            match self.place_of(&entry.key) {
                Some(known) => self.entries[known] = entry,
                None => {
                    encoding.check_parts(self.entries.len() + 1)?;
                    self.push(entry);
                }
            }
            match wire::again(input, tag) {
                Some((next_tag, next)) => (tag, *input) = (next_tag, next),
                None => return Ok(()),
            }
        }
    }

    fn place_of(&self, key: &str) -> Option<usize> {
        if self.by_key.is_empty() {
            return self.entries.iter().position(|other| other.key == key);
        }
        self.by_key.get(key).map(|&place| place as usize)
    }

    fn push(&mut self, entry: Entry<'a>) {
        let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        if !self.by_key.is_empty() {
            self.by_key.insert(entry.key.clone(), place(self.entries.len()));
        }
        self.entries.push(entry);
        if self.by_key.is_empty() && self.entries.len() == FEW {
            self.by_key.extend(self.entries.iter().enumerate().map(|(i, entry)| (entry.key.clone(), place(i))));
        }
    }

    /// Writes them as a document.
    pub(super) fn write(
        self,
        encoding: &mut Encoding<'a>,
        field: &Field,
        entry_table: usize,
        depth: usize,
    ) -> Result<(), Stop> {
        let table = encoding.schema.table(entry_table);
        encoding.writer.header(kind::DOCUMENT, &field.header);
        let start = encoding.writer.begin();
        for entry in self.entries {
            value(encoding, table, &entry, depth).map_err(|stop| stop.within("[value]"))?;
            encoding.check_size()?;
        }
        encoding.writer.end(start);
        Ok(())
    }
}

fn entry<'a>(encoding: &mut Encoding<'a>, table: &Table, message: &'a [u8]) -> Result<Entry<'a>, DocumentError> {
    let (mut key, mut value) = (None, EntryValue::Absent);
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
                value = match value {
                    EntryValue::Once(_) | EntryValue::Pieces(_) if merges => EntryValue::Pieces(message),
                    _ => EntryValue::Once(whole),
                }
            }
            _ => encoding.work -= contents,
        }
    }
    Ok(Entry { key: key_text(table, key)?, value })
}

/// A map's key as text; `input` begins at its tag. An absent key is the type's zero.
fn key_text<'a>(table: &Table, input: Option<&'a [u8]>) -> Result<Cow<'a, str>, DocumentError> {
    let Some(field) = table.field(KEY) else { return Ok(Cow::Borrowed("")) };
    let raw = match input {
        Some(mut input) => {
            let tag = wire::tag(&mut input)?;
            if WireType::from_tag(tag) != Some(field.wire) {
                return Err(mismatch(field, tag).within("[key]"));
            }
            Some(wire::raw(&mut input, tag)?)
        }
        None => None,
    };
    let bits = match raw {
        Some(wire::Raw::Length(bytes)) => {
            let text = std::str::from_utf8(bytes)
                .map_err(|_| DocumentError::from(DocumentErrorReason::NotUtf8).within("[key]"))?;
            return Ok(if text.contains('\0') { text.replace('\0', "\u{2400}").into() } else { text.into() });
        }
        Some(wire::Raw::Varint(value)) => value,
        Some(wire::Raw::Fixed64(bytes)) => u64::from_le_bytes(bytes),
        Some(wire::Raw::Fixed32(bytes)) => u64::from(u32::from_le_bytes(bytes)),
        None => 0,
    };
    #[expect(clippy::cast_possible_truncation, reason = "protobuf takes the low 32 bits for its 32-bit types")]
    let low = bits as u32;
    Ok(Cow::Owned(match field.value {
        Value::Bool => (bits != 0).to_string(),
        Value::Int32 | Value::Sfixed32 => low.cast_signed().to_string(),
        Value::Uint32 | Value::Fixed32 => low.to_string(),
        Value::Sint32 => wire::unzigzag(u64::from(low)).to_string(),
        Value::Sint64 => wire::unzigzag(bits).to_string(),
        Value::Int64 | Value::Sfixed64 => bits.cast_signed().to_string(),
        Value::Uint64 | Value::Fixed64 => bits.to_string(),
        _ => String::new(),
    }))
}

fn value<'a>(encoding: &mut Encoding<'a>, table: &Table, entry: &Entry<'a>, depth: usize) -> Result<(), Stop> {
    let Some(field) = table.field(VALUE) else { return Ok(()) };
    let key = Text(&entry.key);
    match entry.value {
        // An absent value is the type's zero, which these bytes are for each way of lying on the wire.
        EntryValue::Absent => encoding.value(key, field, field.wire as u32, &mut &[0; 8][..], depth, true),
        EntryValue::Once(mut input) => {
            encoding.work += input.len();
            let tag = wire::tag(&mut input)?;
            encoding.value(key, field, tag, &mut input, depth, true)
        }
        EntryValue::Pieces(message) if encoding.exact => encoding.exact_value(key, table, VALUE, message, depth),
        EntryValue::Pieces(_) => Err(Stop::OutOfOrder),
    }
}
