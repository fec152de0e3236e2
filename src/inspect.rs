//! Reads the records of a spool, open or not, as documents or raw, without leasing or removing any.
//!
//! `peek`, `export`, the status page and the API all use this module, so that what is redacted in one is redacted in all.
//! The encoder decides what a document leaves out; only `raw` returns records as received.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::{
    document::{DocumentContext, Encoder, JsonStyle, write_json},
    record::{QueuedRecord, Stream, UnixMillis},
    spool::{Contents, DeadLetter, PeekFrom, QueueError, Spool},
};

/// Held while a document is made.
static MAKING: Mutex<()> = Mutex::new(());

/// A spool to inspect.
#[derive(Debug)]
pub enum Source {
    /// One that this process has open.
    Open(Arc<Spool>),
    /// One that no process has open.
    Stopped(Contents),
}

impl Source {
    /// What it holds: the same for both.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        match self {
            Self::Open(spool) => spool,
            Self::Stopped(contents) => contents,
        }
    }
}

/// Which records to read, and how.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The streams to read, one after another.
    pub streams: Vec<Stream>,
    /// The first sequence number, by stream.
    pub from: BTreeMap<Stream, u64>,
    /// The newest records first.
    pub newest: bool,
    /// The maximum number of records.
    pub limit: Option<usize>,
    /// Only records whose document has these values at these paths.
    pub filters: Vec<Condition>,
    /// The records as received, instead of documents.
    pub raw: bool,
}

/// `room.name=lobby`: a field's path in the document, and its value as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    path: Vec<String>,
    value: String,
}

impl std::str::FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text
            .split_once('=')
            .filter(|(path, _)| !path.is_empty())
            .ok_or("write FIELD=VALUE, such as room.name=lobby")?;
        Ok(Self { path: path.split('.').map(str::to_owned).collect(), value: value.to_owned() })
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.path.join("."), self.value)
    }
}

impl Condition {
    /// Whether the path has the value; in a list, any of its elements. The document is parsed without building it: it may be
    /// large.
    fn holds(&self, document: &str) -> bool {
        let mut reader = serde_json::Deserializer::from_str(document);
        Lookup { path: &self.path, value: &self.value }.deserialize(&mut reader).unwrap_or(false)
    }
}

/// The condition for a part of a document; deserialises to whether it holds.
#[derive(Clone, Copy)]
struct Lookup<'a> {
    path: &'a [String],
    value: &'a str,
}

impl Lookup<'_> {
    fn is(self, value: impl ToString) -> bool {
        self.path.is_empty() && value.to_string() == self.value
    }
}

impl<'de> DeserializeSeed<'de> for Lookup<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lookup<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(name) = fields.next_key::<Cow<'de, str>>()? {
            match self.path {
                [first, rest @ ..] if *first == name => {
                    found |= fields.next_value_seed(Lookup { path: rest, ..self })?;
                }
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(is_there) = items.next_element_seed(self)? {
            found |= is_there;
        }
        Ok(found)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.is(text))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<bool, E> {
        Ok(self.is(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<bool, E> {
        Ok(self.is(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
        Ok(self.is(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<bool, E> {
        Ok(self.is(Value::from(number)))
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(self.is("null"))
    }
}

/// A record that was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inspected {
    /// Its stream.
    pub stream: Stream,
    /// Its sequence number in the stream.
    pub seq: u64,
    /// When it was received, milliseconds since the Unix epoch.
    pub received_at: UnixMillis,
    /// What a sink would store, redacted the same way; Extended JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Box<RawValue>>,
    /// Why no document can be made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The record as received, in Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

/// Reads records one after another until `each` returns false or `is_over` returns true. `is_over` is called before each
/// record, selected or not. Blocking.
///
/// # Errors
/// When the spool cannot be read.
pub fn inspect(
    source: &Source,
    encoder: &Encoder,
    query: &Query,
    is_over: &dyn Fn() -> bool,
    each: &mut dyn FnMut(Inspected) -> bool,
) -> Result<(), QueueError> {
    let mut left = query.limit.unwrap_or(usize::MAX);
    for &stream in &query.streams {
        let from = match (query.from.get(&stream), query.newest) {
            (Some(&seq), false) => PeekFrom::Seq(seq),
            (Some(&seq), true) => PeekFrom::SeqBackwards(seq),
            (None, false) => PeekFrom::Oldest,
            (None, true) => PeekFrom::Newest,
        };
        if left == 0 {
            return Ok(());
        }
        for record in source.contents().peek(stream, from)? {
            if is_over() {
                return Ok(());
            }
            let inspected = of_record(stream, &record?, encoder, query.raw);
            if !query.filters.is_empty() && !matches(&inspected, query, encoder) {
                continue;
            }
            if !each(inspected) {
                return Ok(());
            }
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn of_record(stream: Stream, record: &QueuedRecord, encoder: &Encoder, raw: bool) -> Inspected {
    let (document, error, bytes) = if raw {
        (None, None, Some(STANDARD.encode(&record.bytes)))
    } else {
        match document(stream, &record.bytes, encoder) {
            Ok(document) => (Some(document), None, None),
            Err(error) => (None, Some(error), None),
        }
    };
    Inspected { stream, seq: record.seq, received_at: record.received_at, document, error, record: bytes }
}

/// A record's document as relaxed Extended JSON, redacted as the encoder's options say.
///
/// # Errors
/// Why no document can be made of it.
pub fn document(stream: Stream, record: &[u8], encoder: &Encoder) -> Result<Box<RawValue>, String> {
    // However many requests there are, they use one processor and the memory of one document: ingest has priority.
    let _making = MAKING.lock();
    let (mut bson, mut json) = (Vec::new(), Vec::new());
    encoder.encode(stream, record, &DocumentContext::default(), &mut bson).map_err(|error| error.to_string())?;
    write_json(&bson, JsonStyle::Relaxed, &mut json).map_err(|error| error.to_string())?;
    drop(bson);
    let text = String::from_utf8(json).map_err(|error| error.to_string())?;
    RawValue::from_string(text).map_err(|error| error.to_string())
}

/// A dead letter with its document.
#[derive(Debug, Serialize)]
pub struct LookedLetter {
    #[serde(flatten)]
    dead_letter: DeadLetter,
    /// What a sink would store, redacted the same way; Extended JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Box<RawValue>>,
    /// Why no document can be made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    document_error: Option<String>,
}

/// A dead letter as the API and the command line show it.
#[must_use]
pub fn dead_letter(dead_letter: DeadLetter, encoder: &Encoder) -> LookedLetter {
    match document(dead_letter.stream, &dead_letter.record, encoder) {
        Ok(document) => LookedLetter { dead_letter, document: Some(document), document_error: None },
        Err(error) => LookedLetter { dead_letter, document: None, document_error: Some(error) },
    }
}

fn matches(inspected: &Inspected, query: &Query, encoder: &Encoder) -> bool {
    let decoded;
    let document = match (&inspected.document, &inspected.record) {
        (Some(document), _) => document,
        (None, Some(record)) => {
            let bytes = STANDARD.decode(record).unwrap_or_default();
            let Ok(document) = self::document(inspected.stream, &bytes, encoder) else { return false };
            decoded = document;
            &decoded
        }
        (None, None) => return false,
    };
    query.filters.iter().all(|condition| condition.holds(document.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str, document: &Value) -> bool {
        condition.parse::<Condition>().unwrap().holds(&document.to_string())
    }

    #[test]
    fn conditions_compare_values_at_a_path_as_text() {
        let document = serde_json::json!({
            "type": "A",
            "room": {"n": 3, "ok": true, "score": 4.5, "whole": 1.0, "name": "a \"b\" \u{1F600}\n"},
            "list": [{"x": "1"}, {"x": "2"}],
            "none": null,
            "deep": [[{"y": -7}]],
        });
        for (condition, expected) in [
            ("type=A", true),
            ("type=B", false),
            ("room.n=3", true),
            ("room.ok=true", true),
            ("room=3", false),
            ("list.x=2", true),
            ("list.x=3", false),
            ("nowhere.at.all=1", false),
            ("type=", false),
            ("room.score=4.5", true),
            ("room.whole=1.0", true),
            ("room.name=a \"b\" \u{1F600}\n", true),
            ("room.name.x=a", false),
            ("room=", false),
            ("none=null", true),
            ("none=", false),
            ("deep.y=-7", true),
        ] {
            assert_eq!(holds(condition, &document), expected, "{condition}");
        }
        assert!("no condition".parse::<Condition>().is_err() && "=x".parse::<Condition>().is_err());
    }
}
