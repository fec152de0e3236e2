//! Records in JSON, by the protobuf JSON mapping (names in lowerCamelCase or snake_case, 64-bit integers as
//! numbers or strings, enums by name or number, timestamps as RFC 3339, bytes as base64). As in
//! prost-reflect, an integer in a string has no exponent and no decimal point: `1e3` and `1.0` have to be numbers. A number
//! beyond the range of a `float` or `double` is refused, never stored as infinite.
//!
//! Ingest converts them to protobuf bytes, in one pass over the text (`message`). The same content always gives the
//! same bytes (`parts`): a resend has the same id, and everything after ingest knows one format only. A field that the
//! schema does not know is refused: it could not be kept.
//!
//! Of protobuf's own messages with a JSON form of their own, `Struct`, `Value`, `ListValue` and `FieldMask` are not
//! implemented: they do not occur in LiveKit's schema (a test holds this).

mod any;
mod error;
mod halves;
mod message;
mod parts;
mod scalar;
mod schema;
#[cfg(test)]
mod tests;
mod time;
mod writer;

use std::{borrow::Cow, fmt, sync::LazyLock};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use self::{
    error::shown,
    message::Record,
    schema::{Message, Schema},
    writer::{Segment, Writer},
};
pub use self::{
    error::{JsonError, UnknownFields},
    halves::{halves_of_json, halves_of_ndjson},
};
use super::{RecordBatchBuilder, Stream, schema as livekit};

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new(livekit::pool()));

/// The records in a JSON text: one record, an array of records, or LiveKit's wrapper (`{"events": […]}`, `{"stats": […]}`).
///
/// # Errors
/// When any part of the text is not JSON, or does not match the schema.
pub fn records_from_json(stream: Stream, text: &[u8]) -> Result<RecordBatchBuilder, JsonError> {
    let mut records = Records::new(stream);
    records.push(utf8(text)?)?;
    Ok(records.batch)
}

/// The records in a text with one JSON value per line (each as for [`records_from_json`]); empty lines are skipped.
///
/// # Errors
/// As for [`records_from_json`], with the line's number in the whole text.
pub fn records_from_ndjson(stream: Stream, text: &[u8]) -> Result<RecordBatchBuilder, JsonError> {
    let mut records = Records::new(stream);
    let text = utf8(text)?;
    let (mut rest, mut line) = (text, 0);
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        let (one, after) = rest.split_at(end);
        (rest, line) = (after.get(1..).unwrap_or_default(), line + 1);
        if !one.trim_ascii().is_empty() {
            records.push(one).map_err(|error| JsonError { line, ..error })?;
        }
    }
    Ok(records.batch)
}

/// Protobuf bytes of one message, by its full name (`livekit.WebhookEvent`), from its JSON.
///
/// # Errors
/// When the text is not JSON, or does not match the schema.
///
/// # Panics
/// When livekit-protocol has no message of that name.
pub fn protobuf_from_json(full_name: &str, unknown: UnknownFields, text: &[u8]) -> Result<Vec<u8>, JsonError> {
    message_from_json(&SCHEMA, message_named(full_name), unknown, text)
}

fn message_from_json(
    schema: &'static Schema,
    message: &'static Message,
    unknown: UnknownFields,
    text: &[u8],
) -> Result<Vec<u8>, JsonError> {
    let mut writer = Writer::new(schema, unknown);
    let mut json = serde_json::Deserializer::from_str(utf8(text)?);
    let read = Record { writer: &mut writer, message }.deserialize(&mut json);
    read.and_then(|()| json.end()).map_err(|error| located(&error, &writer))?;
    Ok(writer.out)
}

/// A message by its full name; callers ask only for names of the schema that this was built with.
fn message_named(full_name: &str) -> &'static Message {
    SCHEMA.message_named(full_name).unwrap_or_else(|| panic!("livekit-protocol has no message {full_name}"))
}

/// The error, with the place that the writer knows.
fn located(error: &serde_json::Error, writer: &Writer<'_>) -> JsonError {
    JsonError {
        line: error.line(),
        column: error.column(),
        path: if error.is_data() { shown(writer.path()) } else { String::new() },
        problem: JsonError::problem_of(error),
        is_too_large: writer.is_too_large,
    }
}

/// Checked at once, so that no string has to be.
fn utf8(text: &[u8]) -> Result<&str, JsonError> {
    str::from_utf8(text).map_err(|error| {
        let before = &text[..error.valid_up_to()];
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        JsonError {
            line: memchr::memchr_iter(b'\n', before).count() + 1,
            column: before.len() - line_start + 1,
            problem: "not UTF-8".to_owned(),
            ..JsonError::default()
        }
    })
}

/// The records of a text so far.
struct Records {
    stream: Stream,
    record: &'static Message,
    writer: Writer<'static>,
    batch: RecordBatchBuilder,
}

impl Records {
    fn new(stream: Stream) -> Self {
        let writer = Writer::new(&SCHEMA, UnknownFields::Refuse);
        Self { stream, record: message_named(stream.message_name()), writer, batch: RecordBatchBuilder::new(stream) }
    }

    /// Adds those in a JSON value.
    fn push(&mut self, text: &str) -> Result<(), JsonError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let mut is_one = false;
        let read = if text.trim_ascii_start().starts_with('[') {
            List(self).deserialize(&mut json)
        } else if let Some(list) = wrapper(self.stream, text) {
            Wrapper { list, records: self }.deserialize(&mut json)
        } else {
            is_one = true;
            Record { writer: &mut self.writer, message: self.record }.deserialize(&mut json)
        };
        read.and_then(|()| json.end()).map_err(|error| located(&error, &self.writer))?;
        if is_one {
            if self.writer.out.is_empty() {
                return Err(JsonError {
                    problem: "an object without fields is neither a record nor a batch of records".to_owned(),
                    ..JsonError::default()
                });
            }
            self.batch.push(&self.writer.out);
        }
        Ok(())
    }
}

/// The field with the records in LiveKit's message around several records, if the text is such a message.
fn wrapper(stream: Stream, text: &str) -> Option<&'static str> {
    let list = match stream {
        Stream::Events => "events",
        Stream::Stats => "stats",
        Stream::NodeRooms => return None,
    };
    (first_key(text)? == list).then_some(list)
}

/// The first key of an object, if it has no escapes: the wrapper's only field is its first.
fn first_key(text: &str) -> Option<&str> {
    let rest = text.trim_ascii_start().strip_prefix('{')?.trim_ascii_start().strip_prefix('"')?;
    rest.split_once('"').map(|(key, _)| key)
}

/// An array of records, each converted into bytes as it is read.
struct List<'a>(&'a mut Records);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Self(Records { record: message, writer, batch, .. }) = self;
        for index in 0.. {
            let next = elements.next_element_seed(Record { writer, message });
            if writer.within(next, |_| Segment::Index(index))?.is_none() {
                break;
            }
            batch.push(&writer.out);
        }
        Ok(())
    }
}

/// LiveKit's message around several records.
struct Wrapper<'a> {
    list: &'static str,
    records: &'a mut Records,
}

impl<'de> DeserializeSeed<'de> for Wrapper<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wrapper<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with only {:?}", self.list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self { list, records } = self;
        while let Some(key) = fields.next_key::<Cow<'_, str>>()? {
            if key != list {
                return Err(serde::de::Error::custom(format!("only {list:?} belongs here")));
            }
            let read = fields.next_value_seed(List(records));
            records.writer.within(read, |_| Segment::Field(list))?;
        }
        Ok(())
    }
}
