//! Protobuf's own messages that have a JSON form of their own: `Timestamp`, `Duration`, `Any`. The wrappers
//! (`Int32Value` and the like) are written as their only field. `Struct`, `Value`, `ListValue` and `FieldMask` do not
//! occur in LiveKit's schema (a test holds this).

use std::vec;

use prost_types::{Duration, Timestamp};
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess};
use serde_json::value::RawValue;

use super::{JsonError, parts::Order, scalar::Problem, schema::Message, writer::Writer};
use crate::record::wire::{self, WireType};

/// Field numbers of `google.protobuf.Any`.
const TYPE_URL: u32 = 1;
pub(super) const PAYLOAD: u32 = 2;
/// A payload without bytes: the field is implicit, so it is left out.
const EMPTY_PAYLOAD: [u8; 2] = [(PAYLOAD << 3) as u8 | WireType::Length as u8, 0];
/// The key for the message's name in the JSON of an `Any`.
const TYPE_KEY: &str = "@type";
/// The key of a message in an `Any` whose JSON is not an object with its fields.
pub(super) const VALUE_KEY: &str = "value";

const MAX_DURATION_SECONDS: u64 = 315_576_000_000;
/// The years 1 to 9999.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Seconds since 1970 and nanoseconds of an RFC 3339 time, with the upper-case letters that protobuf asks for.
pub(super) fn timestamp(text: &str) -> Result<(i64, i32), Problem> {
    let problem = || Problem::from("not an RFC 3339 time, such as \"2026-11-22T00:00:01.5Z\"");
    if !is_rfc3339(text) {
        return Err(problem());
    }
    let Timestamp { seconds, nanos } = text.parse().map_err(|_| problem())?;
    if !TIMESTAMP_SECONDS.contains(&seconds) {
        return Err("a time has to be in the years 1 to 9999".into());
    }
    Ok((seconds, nanos))
}

/// Tells whether a text has the form `0000-00-00T00:00:00[.0…](Z|±00:00)`; prost-types accepts more.
fn is_rfc3339(text: &str) -> bool {
    let shape = |text: &[u8], shape: &[u8]| {
        text.len() == shape.len()
            && text
                .iter()
                .zip(shape)
                .all(|(byte, like)| if *like == b'0' { byte.is_ascii_digit() } else { byte == like })
    };
    let Some((seconds, mut rest)) = text.as_bytes().split_at_checked("0000-00-00T00:00:00".len()) else { return false };
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    shape(seconds, b"0000-00-00T00:00:00") && (rest == b"Z" || shape(rest, b"+00:00") || shape(rest, b"-00:00"))
}

/// Seconds and nanoseconds of a text such as `1.5s`.
pub(super) fn duration(text: &str) -> Result<(i64, i32), Problem> {
    let Duration { seconds, nanos } =
        text.parse().map_err(|_| Problem::from("not a duration in seconds, such as \"1.5s\""))?;
    if seconds.unsigned_abs() > MAX_DURATION_SECONDS {
        return Err("a duration has to be within 10,000 years".into());
    }
    Ok((seconds, nanos))
}

impl<'s> Writer<'s> {
    /// Writes the fields of an `Any`: the name of a message, and the message that the other keys are of.
    pub(super) fn any<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        // The name may come after some of them.
        let mut before = Vec::new();
        let url: String = loop {
            match map.next_key::<String>()? {
                Some(key) if key == TYPE_KEY => break map.next_value()?,
                Some(key) => before.push((key, map.next_value::<&RawValue>()?)),
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
