//! Values: read one at a time from the wire, written with their keys into the document.

use super::{
    encoding::{Encoding, Key, Stop},
    error::{DocumentError, DocumentErrorReason},
    number::{int32, int64, low_i32, widen},
    schema::{Field, Table, Value},
    writer::kind,
};
use crate::record::wire::{self, BadWire, WireType};

impl<'a> Encoding<'a> {
    /// Writes the enums that are always present although the message has none.
    #[inline]
    pub(super) fn absent(&mut self, table: &Table, is_absent: impl Fn(&Field) -> bool) {
        for &index in &table.always {
            let field = table.field_at(index);
            if is_absent(field) {
                self.enumeration(&&field.header, field.value, 0);
            }
        }
    }

    /// One value with its key. `present` keeps the values that would mean "absent": zero, false, empty.
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
                // Most are ASCII, which is quicker to check.
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

    /// BSON has no unsigned integers: a value that does not fit becomes a double.
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
        None => BadWire::BadTag.into(),
    }
    .into()
}

#[inline]
fn text<'a>(input: &mut &'a [u8]) -> Result<&'a str, DocumentError> {
    std::str::from_utf8(wire::length_delimited(input)?).map_err(|_| DocumentErrorReason::NotUtf8.into())
}
