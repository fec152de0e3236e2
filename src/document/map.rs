//! Protobuf maps: documents whose keys come from the record.
//!
//! Keys are kept as they are, `.`, `$` and the empty key too (MongoDB stores them since 3.6; queries reach them with
//! `$getField`). Integer and boolean keys become text. A NUL, which BSON cannot have in a key, becomes U+2400 (␀).
//! Of several entries with one key the last counts.

use std::{borrow::Cow, hash::BuildHasher};

use foldhash::fast::RandomState;

use super::{
    encode::{Encoding, Key, Stop, Way, mismatch},
    error::{DocumentError, DocumentErrorReason, WireType},
    schema::{Field, Table, Value},
    wire,
    writer::{Writer, decimal, kind},
};

/// Field numbers of a map's entry.
const KEY: u32 = 1;
const VALUE: u32 = 2;
/// So few keys are found by looking at all of them.
const FEW: usize = 16;

struct Entry<'a> {
    key: Name<'a>,
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

/// A key as text.
enum Name<'a> {
    Text(Cow<'a, [u8]>),
    /// Of a number: the digits from an index on.
    Digits([u8; 20], u8),
}

impl Name<'_> {
    fn unsigned(number: u64) -> Self {
        let mut digits = [0; 20];
        let len = decimal(number, &mut digits).len();
        #[expect(clippy::cast_possible_truncation, reason = "at most 20")]
        Self::Digits(digits, (20 - len) as u8)
    }

    fn signed(number: i64) -> Self {
        match Self::unsigned(number.unsigned_abs()) {
            Self::Digits(mut digits, first) if number < 0 => {
                // 2^63 has 19 digits: there is room for the sign.
                let first = first.saturating_sub(1);
                digits[usize::from(first)] = b'-';
                Self::Digits(digits, first)
            }
            name => name,
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text,
            Self::Digits(digits, first) => &digits[usize::from(*first)..],
        }
    }
}

impl Key for &Name<'_> {
    #[inline]
    fn write(&self, writer: &mut Writer, kind: u8) {
        writer.key_header(kind, self.as_bytes());
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
    places: Places,
}

/// Finds many keys by hash, so that a hostile record costs no more than its length: the hash has a secret of its own. Open
/// addressing, at most half full; a slot holds a part of the hash and the entry's place plus one.
#[derive(Default)]
struct Places {
    slots: Vec<(u32, u32)>,
    used: usize,
    hash: RandomState,
}

impl Places {
    const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The place of a key, else the new one, which is taken.
    #[inline]
    fn place_or_take(&mut self, key: &[u8], new: usize, is_key_of: impl Fn(usize) -> bool) -> Option<usize> {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let hash = self.hash_of(key);
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                (_, 0) => break,
                (other, place) if other == hash && is_key_of(place as usize - 1) => return Some(place as usize - 1),
                _ => at = (at + 1) & mask,
            }
        }
        self.slots[at] = (hash, u32::try_from(new + 1).unwrap_or(u32::MAX));
        self.used += 1;
        None
    }

    #[expect(clippy::cast_possible_truncation, reason = "a part of the hash")]
    fn hash_of(&self, key: &[u8]) -> u32 {
        self.hash.hash_one(key) as u32
    }

    fn grow(&mut self) {
        let len = (self.slots.len() * 2).max(FEW * 4);
        for (hash, place) in std::mem::replace(&mut self.slots, vec![(0, 0); len]) {
            if place != 0 {
                let mut at = hash as usize & (len - 1);
                while self.slots[at].1 != 0 {
                    at = (at + 1) & (len - 1);
                }
                self.slots[at] = (hash, place);
            }
        }
    }
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
            match self.known(entry.key.as_bytes()) {
                Some(known) => self.entries[known] = entry,
                None => {
                    encoding.check_parts(self.entries.len() + 1)?;
                    self.entries.push(entry);
                }
            }
            match wire::again(input, tag) {
                Some((next_tag, next)) => (tag, *input) = (next_tag, next),
                None => return Ok(()),
            }
        }
    }

    /// The place of the entry that has this key; where there is none, the next entry's key is this.
    #[inline]
    fn known(&mut self, key: &[u8]) -> Option<usize> {
        let entries = &self.entries;
        if entries.len() < FEW {
            return entries.iter().position(|other| other.key.as_bytes() == key);
        }
        if self.places.is_empty() {
            for (place, entry) in entries.iter().enumerate() {
                self.places.place_or_take(entry.key.as_bytes(), place, |_| false);
            }
        }
        self.places.place_or_take(key, entries.len(), |place| entries[place].key.as_bytes() == key)
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
fn key_text<'a>(table: &Table, input: Option<&'a [u8]>) -> Result<Name<'a>, DocumentError> {
    let Some(field) = table.field(KEY) else { return Ok(Name::Text(Cow::Borrowed(b""))) };
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
            if !bytes.is_ascii() && std::str::from_utf8(bytes).is_err() {
                return Err(DocumentError::from(DocumentErrorReason::NotUtf8).within("[key]"));
            }
            return Ok(Name::Text(if bytes.contains(&0) { without_nul(bytes).into() } else { bytes.into() }));
        }
        Some(wire::Raw::Varint(value)) => value,
        Some(wire::Raw::Fixed64(bytes)) => u64::from_le_bytes(bytes),
        Some(wire::Raw::Fixed32(bytes)) => u64::from(u32::from_le_bytes(bytes)),
        None => 0,
    };
    #[expect(clippy::cast_possible_truncation, reason = "protobuf takes the low 32 bits for its 32-bit types")]
    let low = bits as u32;
    Ok(match field.value {
        Value::Bool => Name::Text(Cow::Borrowed(if bits == 0 { b"false" } else { b"true" })),
        Value::Int32 | Value::Sfixed32 => Name::signed(low.cast_signed().into()),
        Value::Uint32 | Value::Fixed32 => Name::unsigned(low.into()),
        Value::Sint32 => Name::signed(wire::unzigzag(u64::from(low))),
        Value::Sint64 => Name::signed(wire::unzigzag(bits)),
        Value::Int64 | Value::Sfixed64 => Name::signed(bits.cast_signed()),
        Value::Uint64 | Value::Fixed64 => Name::unsigned(bits),
        _ => Name::Text(Cow::Borrowed(b"")),
    })
}

fn without_nul(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    for &byte in text {
        if byte == 0 {
            out.extend_from_slice("\u{2400}".as_bytes());
        } else {
            out.push(byte);
        }
    }
    out
}

fn value<'a>(encoding: &mut Encoding<'a>, table: &Table, entry: &Entry<'a>, depth: usize) -> Result<(), Stop> {
    let Some(field) = table.field(VALUE) else { return Ok(()) };
    let key = &entry.key;
    match entry.value {
        // An absent value is the type's zero, which these bytes are for each way of lying on the wire.
        EntryValue::Absent => encoding.value(key, field, field.wire as u32, &mut &[0; 8][..], depth, true),
        EntryValue::Once(mut input) => {
            encoding.work += input.len();
            let tag = wire::tag(&mut input)?;
            encoding.value(key, field, tag, &mut input, depth, true)
        }
        EntryValue::Pieces(message) if encoding.way != Way::Quick => {
            encoding.exact_value(key, table, VALUE, message, depth)
        }
        EntryValue::Pieces(_) => Err(Stop::OutOfOrder),
    }
}
