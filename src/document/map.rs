//! Protobuf maps: documents whose keys come from the record.
//!
//! Keys are kept as they are, `.`, `$` and the empty key too (MongoDB stores them since 3.6; queries reach them with
//! `$getField`). Integer and boolean keys become text. A NUL, which BSON cannot have in a key, becomes U+2400 (␀).
//! Of several entries with one key the last counts.

use std::{borrow::Cow, collections::HashMap};

use super::{
    encode::{Encoding, Key},
    error::{DocumentError, DocumentErrorReason, WireType},
    merge,
    schema::{Field, Table, Value},
    wire,
    writer::{Writer, kind},
};

/// Field numbers of a map's entry.
const KEY: u32 = 1;
const VALUE: u32 = 2;

struct Entry<'a> {
    key: Cow<'a, str>,
    message: Cow<'a, [u8]>,
    /// Where in `message` the value's tag is.
    value_at: Option<usize>,
}

struct Text<'a>(&'a str);

impl Key for Text<'_> {
    fn write(&self, writer: &mut Writer, kind: u8) {
        writer.key_header(kind, self.0);
    }
}

/// Writes a run of a map's entries as a document.
pub(super) fn write(
    encoding: &mut Encoding<'_>,
    field: &Field,
    entry_table: usize,
    tag: u32,
    input: &mut &[u8],
    depth: usize,
) -> Result<(), DocumentError> {
    if field.value == Value::Removed {
        return wire::skip(input, tag);
    }
    let table = encoding.schema.table(entry_table);
    let entries = entries(table, field, tag, input)?;
    encoding.writer.header(kind::DOCUMENT, &field.header);
    let start = encoding.writer.begin();
    for entry in entries {
        value(encoding, table, &entry, depth).map_err(|error| error.within("[value]"))?;
        encoding.check_size()?;
    }
    encoding.writer.end(start);
    Ok(())
}

/// The entries of a run, in the order of their keys' first occurrences.
fn entries<'a>(
    table: &Table,
    field: &Field,
    mut tag: u32,
    input: &mut &'a [u8],
) -> Result<Vec<Entry<'a>>, DocumentError> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut by_key: HashMap<String, usize> = HashMap::new();
    loop {
        if WireType::from_tag(tag) != Some(WireType::Length) {
            return Err(super::encode::mismatch(field, tag));
        }
        let entry = entry(table, wire::length_delimited(input)?)?;
        // Few keys are found by looking; many by hash, so that a hostile record costs no more than its length.
        let known = if entries.len() < 16 {
            entries.iter().position(|other| other.key == entry.key)
        } else {
            if by_key.is_empty() {
                by_key.extend(entries.iter().enumerate().map(|(i, entry)| (entry.key.to_string(), i)));
            }
            by_key.get(&*entry.key).copied()
        };
        if let Some(known) = known {
            entries[known] = entry;
        } else {
            if !by_key.is_empty() {
                by_key.insert(entry.key.to_string(), entries.len());
            }
            entries.push(entry);
        }
        let mut next = *input;
        match wire::tag(&mut next) {
            Ok(next_tag) if next_tag >> 3 == tag >> 3 => (tag, *input) = (next_tag, next),
            _ => return Ok(entries),
        }
    }
}

fn entry<'a>(table: &Table, message: &'a [u8]) -> Result<Entry<'a>, DocumentError> {
    let (mut key, mut value, mut again) = (None, None, false);
    let mut input = message;
    while !input.is_empty() {
        let at = message.len() - input.len();
        let tag = wire::tag(&mut input)?;
        let place = match tag >> 3 {
            KEY => &mut key,
            VALUE => &mut value,
            _ => &mut None,
        };
        again |= place.replace(at).is_some();
        wire::skip(&mut input, tag)?;
    }
    let message = if again { Cow::Owned(merge::merged(table, message)?) } else { Cow::Borrowed(message) };
    if again {
        // In order now: at most one of each.
        let once = entry(table, &message)?;
        let (key, value_at) = (Cow::Owned(once.key.into_owned()), once.value_at);
        return Ok(Entry { key, value_at, message });
    }
    let key = match message {
        Cow::Borrowed(message) => key_text(table, key.map(|at| &message[at..]))?,
        Cow::Owned(_) => Cow::Borrowed(""),
    };
    Ok(Entry { key, message, value_at: value })
}

/// A map's key as text; `input` begins at its tag. An absent key is the type's zero.
fn key_text<'a>(table: &Table, input: Option<&'a [u8]>) -> Result<Cow<'a, str>, DocumentError> {
    let Some(field) = table.field(KEY) else { return Ok(Cow::Borrowed("")) };
    let raw = match input {
        Some(mut input) => {
            let tag = wire::tag(&mut input)?;
            if WireType::from_tag(tag) != Some(field.wire) {
                return Err(super::encode::mismatch(field, tag).within("[key]"));
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

fn value(encoding: &mut Encoding<'_>, table: &Table, entry: &Entry<'_>, depth: usize) -> Result<(), DocumentError> {
    let Some(field) = table.field(VALUE) else { return Ok(()) };
    let key = Text(&entry.key);
    if let Some(at) = entry.value_at {
        let mut input = &entry.message[at..];
        let tag = wire::tag(&mut input)?;
        return encoding.value(key, field, tag, &mut input, depth, true);
    }
    // An absent value is the type's zero, which these bytes are for each way of lying on the wire.
    encoding.value(key, field, field.wire as u32, &mut &[0; 8][..], depth, true)
}
