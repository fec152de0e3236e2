//! Messages, lists and maps: JSON in, wire bytes out, in one pass over the text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

use super::{
    error::UnknownFields,
    parts::{self, Order},
    scalar::{self, Number},
    schema::{Field, Form, Kind, Message, Shape},
    time,
    writer::{Segment, Writer},
};
use crate::record::wire::{self, WireType};

/// The fields of a map's entry, by their index in its message.
const KEY: usize = 0;
const VALUE: usize = 1;

/// A message alone: a record.
pub(super) struct Record<'w, 's> {
    pub(super) writer: &'w mut Writer<'s>,
    pub(super) message: &'s Message,
}

impl<'de> DeserializeSeed<'de> for Record<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.writer.clear();
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Record<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { writer, message } = self;
        writer.in_order(Order::Number, A::Error::custom, |writer, first| writer.fields(message, first, &mut map))
    }
}

impl<'s> Writer<'s> {
    /// Writes the fields of a message as they come; `first` is its first part.
    pub(super) fn fields<'de, A: MapAccess<'de>>(
        &mut self,
        message: &'s Message,
        first: usize,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let mut expected = 0;
        while let Some(name) = map.next_key_seed(FieldName { message, expected })? {
            let (index, name) = match name {
                Found::Known(index, name) => (index, name),
                Found::Unknown(_) if self.unknown == UnknownFields::Ignore => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                Found::Unknown(name) => return Err(A::Error::custom(format!("unrecognized field name '{name}'"))),
            };
            expected = index + 1;
            let field = message.field(index);
            let start = self.out.len();
            let set = map.next_value_seed(Value { writer: self, field, role: Role::Field, nullable: true });
            if !self.within(set, |_| Segment::Field(name))? {
                continue;
            }
            if let Some(oneof) = &field.oneof
                && self.has_any(first, &oneof.members)
            {
                return Err(A::Error::custom(format!("several fields of the oneof '{}'", oneof.name)));
            }
            self.part(field.number.into(), start).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Looks a field up by its name.
struct FieldName<'s> {
    message: &'s Message,
    /// The index of the field that probably comes next.
    expected: usize,
}

enum Found<'s> {
    /// A field's index, and its name as the text has it.
    Known(usize, &'s str),
    Unknown(String),
}

impl<'de, 's> DeserializeSeed<'de> for FieldName<'s> {
    type Value = Found<'s>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found<'s>, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'s> Visitor<'_> for FieldName<'s> {
    type Value = Found<'s>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    #[inline]
    fn visit_str<E: Error>(self, name: &str) -> Result<Found<'s>, E> {
        Ok(match self.message.find(name, self.expected) {
            Some((index, name)) => Found::Known(index, name),
            None => Found::Unknown(name.to_owned()),
        })
    }
}

/// What a value is to what is around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The value of a field, which has the field's shape.
    Field,
    /// An element of a list or the value of a map's entry: with a tag, whatever its value.
    Element,
    /// An element of a packed list: without a tag.
    Packed,
}

/// Writes a value; tells whether there is one (`null` is none).
pub(super) struct Value<'w, 's> {
    pub(super) writer: &'w mut Writer<'s>,
    pub(super) field: &'w Field,
    pub(super) role: Role,
    pub(super) nullable: bool,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = bool;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        let Some(wrapper) = self.message_of(Form::Wrapper) else { return deserializer.deserialize_any(self) };
        let Self { writer, field, nullable, .. } = self;
        let start = writer.out.len();
        let contents = writer.begin(field.number);
        let set = Value { writer, field: wrapper.field(0), role: Role::Field, nullable }.deserialize(deserializer)?;
        if set {
            writer.end(contents);
        } else {
            writer.out.truncate(start);
        }
        Ok(set)
    }
}

impl<'s> Value<'_, 's> {
    /// True for one value; false for a list or a map.
    #[inline]
    fn is_single(&self) -> bool {
        self.role != Role::Field || matches!(self.field.shape, Shape::Implicit | Shape::Explicit)
    }

    /// The message, if the value is one that has this form in JSON.
    #[inline]
    fn message_of(&self, form: Form) -> Option<&'s Message> {
        match self.field.kind {
            Kind::Message(index, its_form) if its_form == form && self.is_single() => {
                Some(self.writer.schema.message(index))
            }
            _ => None,
        }
    }

    /// True for a value that is not written, since its absence means the same.
    #[inline]
    fn is_implied(&self, is_default: bool) -> bool {
        is_default && self.role == Role::Field && self.field.shape == Shape::Implicit
    }

    /// Writes the tag, if there is one, and a varint or a fixed-width value.
    #[inline]
    fn bits(self, bits: u64, is_default: bool) -> bool {
        if self.is_implied(is_default) {
            return true;
        }
        let wire_type = self.field.wire;
        let out = &mut self.writer.out;
        if self.role != Role::Packed {
            wire::write_tag(out, self.field.number, wire_type);
        }
        match wire_type {
            WireType::Fixed32 => out.extend_from_slice(&(bits as u32).to_le_bytes()),
            WireType::Fixed64 => out.extend_from_slice(&bits.to_le_bytes()),
            _ => wire::write_varint(out, bits),
        }
        true
    }

    #[inline]
    fn bytes(self, bytes: &[u8]) -> bool {
        if !self.is_implied(bytes.is_empty()) {
            wire::write_length_delimited(&mut self.writer.out, self.field.number, bytes);
        }
        true
    }

    /// Writes a `Timestamp` or a `Duration`: both are seconds and nanoseconds.
    fn time(self, (seconds, nanos): (i64, i32)) -> bool {
        let contents = self.writer.begin(self.field.number);
        for (number, value) in [(1, seconds), (2, nanos.into())] {
            if value != 0 {
                wire::write_varint_field(&mut self.writer.out, number, value.cast_unsigned());
            }
        }
        self.writer.end(contents);
        true
    }

    #[inline]
    fn number<E: Error>(self, number: Number<'_>, unexpected: Unexpected<'_>) -> Result<bool, E> {
        if !self.is_single() {
            return Err(E::invalid_type(unexpected, &self));
        }
        match (self.field.kind, number) {
            (Kind::Integer(integer), number) => {
                let value = integer.read(number).map_err(E::custom)?;
                Ok(self.bits(integer.coding.bits(value), value == 0))
            }
            (Kind::Enum(_), Number::Unsigned(_) | Number::Signed(_)) => {
                let value = scalar::ENUM.read(number).map_err(E::custom)?;
                Ok(self.bits(scalar::ENUM.coding.bits(value), value == 0))
            }
            (Kind::Float, number) => {
                let value = scalar::float(number).map_err(E::custom)?;
                Ok(self.bits(value.to_bits().into(), value == 0.0))
            }
            (Kind::Double, number) => {
                let value = scalar::double(number).map_err(E::custom)?;
                Ok(self.bits(value.to_bits(), value == 0.0))
            }
            _ => Err(E::invalid_type(unexpected, &self)),
        }
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_single(), self.field.shape, self.field.kind) {
            (false, Shape::Map, _) => "a map",
            (false, ..) => "a list",
            (true, _, kind) => match kind {
                Kind::Bool => "a boolean",
                Kind::Integer(_) => "an integer, or a string with one",
                Kind::Float | Kind::Double => "a number, or a string with one",
                Kind::String => "a string",
                Kind::Bytes => "a string in base64",
                Kind::Enum(_) => "the name or the number of an enum's value",
                Kind::Message(_, Form::Timestamp) => "a string with an RFC 3339 time",
                Kind::Message(_, Form::Duration) => "a string with a duration in seconds",
                Kind::Message(..) => "an object",
            },
        })
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        if self.nullable { Ok(false) } else { Err(E::invalid_type(Unexpected::Unit, &self)) }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        if self.is_single() && self.field.kind == Kind::Bool {
            return Ok(self.bits(value.into(), !value));
        }
        Err(E::invalid_type(Unexpected::Bool(value), &self))
    }

    #[inline]
    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        self.number(Number::Unsigned(value), Unexpected::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        self.number(Number::Signed(value), Unexpected::Signed(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        self.number(Number::Float(value), Unexpected::Float(value))
    }

    #[inline]
    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        if !self.is_single() {
            return Err(E::invalid_type(Unexpected::Str(text), &self));
        }
        match self.field.kind {
            Kind::String => Ok(self.bytes(text.as_bytes())),
            Kind::Enum(index) => match self.writer.schema.enum_value(index, text) {
                Some(value) => Ok(self.bits(scalar::ENUM.coding.bits(value.into()), value == 0)),
                None if self.writer.unknown == UnknownFields::Ignore => Ok(false),
                None => Err(E::custom("no such value in this enum")),
            },
            Kind::Bytes => {
                let mut bytes = std::mem::take(&mut self.writer.scratch);
                scalar::bytes(text, &mut bytes).map_err(E::custom)?;
                let writer = &mut *self.writer;
                Value { writer, ..self }.bytes(&bytes);
                self.writer.scratch = bytes;
                Ok(true)
            }
            Kind::Integer(_) | Kind::Float | Kind::Double => self.number(Number::Text(text), Unexpected::Str(text)),
            Kind::Message(_, Form::Timestamp) => Ok(self.time(time::timestamp(text).map_err(E::custom)?)),
            Kind::Message(_, Form::Duration) => Ok(self.time(time::duration(text).map_err(E::custom)?)),
            Kind::Bool | Kind::Message(..) => Err(E::invalid_type(Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<bool, A::Error> {
        if self.is_single() || self.field.shape == Shape::Map {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        let Self { writer, field, .. } = self;
        let packed = (field.shape == Shape::Packed).then(|| (writer.out.len(), writer.begin(field.number)));
        let role = if packed.is_some() { Role::Packed } else { Role::Element };
        for index in 0.. {
            let next = elements.next_element_seed(Value { writer, field, role, nullable: false });
            if writer.within(next, |_| Segment::Index(index))?.is_none() {
                break;
            }
        }
        if let Some((start, contents)) = packed {
            if contents == writer.out.len() {
                writer.out.truncate(start);
            } else {
                writer.end(contents);
            }
        }
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Self { field, .. } = self;
        if !self.is_single() && field.shape == Shape::Map {
            self.writer.entries(field, &mut map)?;
            return Ok(true);
        }
        if let Some(message) = self.message_of(Form::Object) {
            let contents = self.writer.begin(field.number);
            self.writer
                .in_order(Order::Number, A::Error::custom, |writer, first| writer.fields(message, first, &mut map))?;
            self.writer.end(contents);
            return Ok(true);
        }
        if self.message_of(Form::Any).is_some() {
            let contents = self.writer.begin(field.number);
            self.writer.any(&mut map)?;
            self.writer.end(contents);
            return Ok(true);
        }
        Err(A::Error::invalid_type(Unexpected::Map, &self))
    }
}

impl Writer<'_> {
    /// Writes the entries of a map.
    fn entries<'de, A: MapAccess<'de>>(&mut self, field: &Field, map: &mut A) -> Result<(), A::Error> {
        let Kind::Message(index, _) = field.kind else { return Ok(()) };
        let entry = self.schema.message(index);
        let key = entry.field(KEY);
        let order = if key.kind == Kind::String { Order::Text } else { Order::Number };
        self.in_order(order, A::Error::custom, |writer, _| {
            loop {
                let start = writer.out.len();
                let contents = writer.begin(field.number);
                let Some(place) = map.next_key_seed(MapKey { writer, field: key, start })? else {
                    writer.out.truncate(start);
                    return Ok(());
                };
                let value = Value { writer, field: entry.field(VALUE), role: Role::Element, nullable: false };
                let set = map.next_value_seed(value);
                if !writer.within(set, |writer| Segment::Key(key_name(key, place, &writer.out[start..])))? {
                    writer.out.truncate(start);
                    continue;
                }
                let shift = writer.end(contents);
                let place = if order == Order::Text { parts::moved(place, shift) } else { place };
                writer.part(place, start).map_err(A::Error::custom)?;
            }
        })
    }
}

/// A map's key, for people; `part` is its entry.
fn key_name(key: &Field, place: u64, part: &[u8]) -> String {
    match key.kind {
        Kind::Integer(integer) => (i128::from(place) + integer.min).to_string(),
        Kind::Bool => (place != 0).to_string(),
        _ => String::from_utf8_lossy(parts::text(place, part)).into_owned(),
    }
}

/// Writes the key of a map's entry; returns its place.
struct MapKey<'w, 's> {
    writer: &'w mut Writer<'s>,
    field: &'w Field,
    /// Where the entry begins.
    start: usize,
}

impl<'de> DeserializeSeed<'de> for MapKey<'_, '_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for MapKey<'_, '_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map's key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<u64, E> {
        let Self { writer, field, start } = self;
        let value = Value { writer, field, role: Role::Element, nullable: false };
        match field.kind {
            Kind::Integer(integer) => {
                let number = integer.read(Number::Text(key)).map_err(E::custom)?;
                value.bits(integer.coding.bits(number), false);
                #[expect(clippy::cast_possible_truncation, reason = "a range of 64 bits")]
                Ok((number - integer.min) as u64)
            }
            Kind::Bool => {
                let key: bool = key.parse().map_err(|_| E::custom("a key that is neither true nor false"))?;
                value.bits(key.into(), false);
                Ok(key.into())
            }
            _ => {
                value.bytes(key.as_bytes());
                Ok(parts::text_place(writer.out.len() - key.len() - start, key.len()))
            }
        }
    }
}
