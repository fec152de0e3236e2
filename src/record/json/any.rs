//! `google.protobuf.Any`: an object with the name of a message and the fields of that message.

use std::vec;

use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess};
use serde_json::value::RawValue;

use super::{
    error::JsonError,
    parts::Order,
    schema::{Message, PAYLOAD},
    writer::Writer,
};
use crate::record::wire::{self, WireType};

/// The number of the field with the message's name.
const TYPE_URL: u32 = 1;
/// A payload without bytes: the field is implicit, so it is left out.
const EMPTY_PAYLOAD: [u8; 2] = [(PAYLOAD << 3) as u8 | WireType::Length as u8, 0];
/// The key for the message's name.
const TYPE_KEY: &str = "@type";

impl<'s> Writer<'s> {
    /// Writes the fields of an `Any`: the name of a message, and the message that the other keys are of.
    pub(super) fn any<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        // The name may come after some of them.
        let mut before = Vec::new();
        let url: String = loop {
            match map.next_key::<String>()? {
                Some(key) if key == TYPE_KEY => break map.next_value()?,
                Some(key) => {
                    self.keep_key().map_err(A::Error::custom)?;
                    before.push((key, map.next_value::<&RawValue>()?));
                }
                None => return Err(A::Error::custom("expected the field \"@type\"")),
            }
        };
        let Some((_, name)) = url.rsplit_once('/') else {
            return Err(A::Error::custom("\"@type\" has to be a URL that ends with \"/\" and the name of a message"));
        };
        let Some(message) = self.schema.message_named(name) else {
            return Err(A::Error::custom("LiveKit's schema has no message with the name in \"@type\""));
        };
        wire::write_length_delimited(&mut self.out, TYPE_URL, url.as_bytes());
        let kept = before.len();
        let mut before = Before { entries: before.into_iter(), value: None };
        let start = self.out.len();
        match &message.in_any {
            None => {
                let contents = self.begin(PAYLOAD);
                self.fields_of_any(message, &mut before, map)?;
                self.end(contents);
            }
            // Its only field has the number of the payload: the bytes are the same.
            Some(value) => self.fields_of_any(value, &mut before, map)?,
        }
        self.forget_keys(kept);
        if self.out.len() == start {
            return Err(A::Error::custom("expected the field \"value\""));
        }
        if self.out[start..] == EMPTY_PAYLOAD {
            self.out.truncate(start);
        }
        Ok(())
    }

    fn fields_of_any<'de, A: MapAccess<'de>>(
        &mut self,
        message: &'s Message,
        before: &mut Before<'de>,
        after: &mut A,
    ) -> Result<(), A::Error> {
        self.in_order(Order::Number, A::Error::custom, |writer, first| {
            writer.fields(message, first, before).map_err(|error| A::Error::custom(JsonError::problem_of(&error)))?;
            writer.fields(message, first, after)
        })
    }
}

/// The keys of an object that came before `@type`, with the text of their values.
struct Before<'de> {
    entries: vec::IntoIter<(String, &'de RawValue)>,
    value: Option<&'de RawValue>,
}

impl<'de> MapAccess<'de> for Before<'de> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, serde_json::Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, serde_json::Error> {
        let text = self.value.take().map_or("null", RawValue::get);
        seed.deserialize(&mut serde_json::Deserializer::from_str(text))
    }
}
