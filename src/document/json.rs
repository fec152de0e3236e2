//! Records in JSON, by the protobuf JSON mapping (names in lowerCamelCase or snake_case, 64-bit integers as
//! numbers or strings, enums by name or number, timestamps as RFC 3339, bytes as base64).
//!
//! Ingest converts them to protobuf bytes. The same content always gives the same bytes: a resend has the same id, and
//! everything after ingest knows one format only. A field that the schema does not know is refused: it could not be kept.

use std::{borrow::Cow, fmt};

use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{pool, protobuf};
use crate::record::{RecordBatchBuilder, Stream};

/// JSON that is not a record. Names the place, never a value: values may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", self.place(), self.at())]
pub struct JsonError {
    /// The line in the text, from 1; 0 if unknown.
    pub line: usize,
    /// The column in that line, from 1; 0 if unknown.
    pub column: usize,
    /// The field, such as `events[2].room.sid`; empty if the text itself is malformed.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl JsonError {
    fn place(&self) -> String {
        match self.line {
            0 => "JSON".to_owned(),
            line => format!("JSON line {line} column {}", self.column),
        }
    }

    fn at(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(", at {}", self.path) }
    }

    fn new(error: &serde_json::Error, path: String) -> Self {
        let whole = error.to_string();
        let text = whole.rsplit_once(" at line ").map_or(&*whole, |(text, _)| text);
        Self { line: error.line(), column: error.column(), path, problem: without_values(text) }
    }
}

/// serde quotes the offending value in its messages: ``invalid type: integer `7`, expected a string``.
fn without_values(text: &str) -> String {
    for (open, close) in [(" \"", "\", expected"), (" `", "`, expected")] {
        if let (Some(from), Some(to)) = (text.find(open), text.rfind(close))
            && from < to
        {
            return format!("{}{}", &text[..from], &text[to + 1..]);
        }
    }
    if text.starts_with("unrecognized enum value") {
        return "no such value in this enum".to_owned();
    }
    if text.starts_with("invalid base64") {
        return "not valid base64".to_owned();
    }
    text.to_owned()
}

/// Tells whether a field that the schema does not know is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// An error: its value would be lost.
    Refuse,
    /// Not an error: the text has a foreign format, of which only a part is used.
    Ignore,
}

/// The records in a JSON text: one record, an array of records, or LiveKit's wrapper (`{"events": […]}`, `{"stats": […]}`).
///
/// # Errors
/// When any part of the text is not JSON, or does not match the schema.
pub fn records_from_json(stream: Stream, text: &[u8]) -> Result<RecordBatchBuilder, JsonError> {
    let mut batch = RecordBatchBuilder::new(stream);
    push_text(&mut batch, stream, text)?;
    Ok(batch)
}

/// The records in a text with one JSON value per line (each as for [`records_from_json`]); empty lines are skipped.
///
/// # Errors
/// As for [`records_from_json`], with the line's number in the whole text.
pub fn records_from_ndjson(stream: Stream, text: &[u8]) -> Result<RecordBatchBuilder, JsonError> {
    let mut batch = RecordBatchBuilder::new(stream);
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            push_text(&mut batch, stream, line).map_err(|error| JsonError { line: index + 1, ..error })?;
        }
    }
    Ok(batch)
}

/// Protobuf bytes of one message, by its full name (`livekit.WebhookEvent`), from its JSON.
///
/// # Errors
/// When the text is not JSON, or does not match the schema.
///
/// # Panics
/// When livekit-protocol has no message of that name.
pub fn protobuf_from_json(full_name: &str, unknown: UnknownFields, text: &[u8]) -> Result<Vec<u8>, JsonError> {
    let seed = MessageSeed { descriptor: pool::message(full_name), unknown };
    let message = parse(text, seed)?;
    let mut out = Vec::new();
    protobuf::encode(&message, &mut out);
    Ok(out)
}

fn push_text(batch: &mut RecordBatchBuilder, stream: Stream, text: &[u8]) -> Result<(), JsonError> {
    let record = MessageSeed { descriptor: pool::record(stream), unknown: UnknownFields::Refuse };
    if text.trim_ascii_start().starts_with(b"[") {
        return parse(text, RecordsSeed { record, batch });
    }
    if let Some(list) = wrapper(stream, text) {
        return parse(text, WrapperSeed { list, records: RecordsSeed { record, batch } });
    }
    let message = parse(text, record)?;
    if message.fields().next().is_none() {
        let problem = "an object without fields is neither a record nor a batch of records".to_owned();
        return Err(JsonError { line: 0, column: 0, path: String::new(), problem });
    }
    push(batch, &message);
    Ok(())
}

fn push(batch: &mut RecordBatchBuilder, record: &DynamicMessage) {
    let mut bytes = Vec::new();
    protobuf::encode(record, &mut bytes);
    batch.push(&bytes);
}

/// The field with the records in LiveKit's message around several records, if the text is such a message.
pub fn wrapper(stream: Stream, text: &[u8]) -> Option<&'static str> {
    let list = match stream {
        Stream::Events => "events",
        Stream::Stats => "stats",
        Stream::NodeRooms => return None,
    };
    (first_key(text)? == list).then_some(list)
}

/// The first key of an object, if it has no escapes: the wrapper's only field is its first.
fn first_key(text: &[u8]) -> Option<&str> {
    let rest = text.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = rest.iter().position(|&byte| byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

fn parse<'de, S: DeserializeSeed<'de>>(text: &'de [u8], seed: S) -> Result<S::Value, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let mut track = serde_path_to_error::Track::new();
    let value =
        seed.deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track)).map_err(|error| {
            let path = if error.is_data() { track.path().to_string() } else { String::new() };
            JsonError::new(&error, if path == "." { String::new() } else { path })
        })?;
    deserializer.end().map_err(|error| JsonError::new(&error, String::new()))?;
    Ok(value)
}

/// One message.
#[derive(Clone)]
struct MessageSeed {
    descriptor: MessageDescriptor,
    unknown: UnknownFields,
}

impl<'de> DeserializeSeed<'de> for MessageSeed {
    type Value = DynamicMessage;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<DynamicMessage, D::Error> {
        let options = DeserializeOptions::new().deny_unknown_fields(self.unknown == UnknownFields::Refuse);
        DynamicMessage::deserialize_with_options(self.descriptor, deserializer, &options)
    }
}

/// An array of records, each converted into bytes as it is read.
struct RecordsSeed<'a> {
    record: MessageSeed,
    batch: &'a mut RecordBatchBuilder,
}

impl<'de> DeserializeSeed<'de> for RecordsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RecordsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        while let Some(record) = records.next_element_seed(self.record.clone())? {
            push(self.batch, &record);
        }
        Ok(())
    }
}

/// LiveKit's message around several records. It is read record by record, since all of them as messages would need many
/// times the memory of the text.
struct WrapperSeed<'a> {
    list: &'static str,
    records: RecordsSeed<'a>,
}

impl<'de> DeserializeSeed<'de> for WrapperSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WrapperSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with only {:?}", self.list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self { list, records: RecordsSeed { record, batch } } = self;
        while let Some(key) = fields.next_key::<Cow<'_, str>>()? {
            if key != list {
                return Err(serde::de::Error::custom(format!("only {list:?} belongs here")));
            }
            fields.next_value_seed(RecordsSeed { record: record.clone(), batch: &mut *batch })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use livekit_protocol::{AnalyticsEvent, AnalyticsStat, ParticipantInfo, Room};
    use prost::Message;

    use super::*;

    fn records(stream: Stream, text: &str) -> Vec<Vec<u8>> {
        let batch = records_from_json(stream, text.as_bytes()).unwrap().build(0);
        batch.iter().map(<[u8]>::to_vec).collect()
    }

    fn refused(stream: Stream, text: &str) -> String {
        records_from_json(stream, text.as_bytes()).unwrap_err().to_string()
    }

    const EVENT: &str = r#"{"id": "AE_1", "type": "PARTICIPANT_JOINED", "roomId": "RM_1",
        "timestamp": "2026-11-22T00:00:01.5Z", "room": {"creation_time_ms": "1795301026746"}}"#;

    #[test]
    fn a_record_an_array_and_the_wrapper_give_the_same_records() {
        let one = records(Stream::Events, EVENT);
        let event = AnalyticsEvent::decode(&*one[0]).unwrap();
        assert_eq!((event.id.as_str(), event.r#type, event.room_id.as_str()), ("AE_1", 2, "RM_1"));
        assert_eq!(event.timestamp.unwrap().nanos, 500_000_000);
        assert_eq!(event.room.unwrap().creation_time_ms, 1_795_301_026_746);
        assert_eq!(records(Stream::Events, &format!("[{EVENT}]")), one);
        assert_eq!(records(Stream::Events, &format!(r#"{{"events": [{EVENT}, {EVENT}]}}"#)), [&*one[0], &*one[0]]);
        let stat = records(Stream::Stats, r#"{"stats": [{"score": 4.5}]}"#);
        assert_eq!(AnalyticsStat::decode(&*stat[0]).unwrap().score, 4.5);
        assert_eq!(records(Stream::NodeRooms, r#"[{"nodeId": "ND_1", "sequenceNumber": "7"}]"#).len(), 1);
    }

    #[test]
    fn the_same_content_gives_the_same_bytes_whatever_the_order() {
        let one = r#"{"participant": {"attributes": {"a": "1", "b": "2", "c": "3", "d": "4"}}, "id": "AE_1"}"#;
        let other = r#"{"id": "AE_1", "participant": {"attributes": {"d": "4", "c": "3", "b": "2", "a": "1"}}}"#;
        let bytes = records(Stream::Events, one);
        for _ in 0..20 {
            assert_eq!(records(Stream::Events, other), bytes);
        }
        let event = AnalyticsEvent::decode(&*bytes[0]).unwrap();
        assert_eq!(event.participant.unwrap().attributes.len(), 4);
    }

    #[test]
    fn bytes_from_json_are_what_prost_reads_back() {
        let event = AnalyticsEvent {
            id: "AE_1".into(),
            video_layer: -3,
            room: Some(Room { active_recording: true, num_participants: u32::MAX, ..Default::default() }),
            participant: Some(ParticipantInfo { joined_at: i64::MIN, kind_details: vec![0, 1], ..Default::default() }),
            ..Default::default()
        };
        let text = r#"{"id": "AE_1", "videoLayer": -3, "room": {"activeRecording": true, "numParticipants": 4294967295},
            "participant": {"joinedAt": "-9223372036854775808", "kindDetails": [0, "FORWARDED"]}}"#;
        assert_eq!(records(Stream::Events, text), [event.encode_to_vec()]);
    }

    #[test]
    fn an_error_names_the_line_and_the_path() {
        let text = "{\"events\": [{\"id\": \"AE_1\"},\n {\"room\": {\"sid\": 7}}]}";
        let error = records_from_json(Stream::Events, text.as_bytes()).unwrap_err();
        assert_eq!((error.line, error.path.as_str()), (2, "events[1].room.sid"));
        let text = "{\"id\": \"AE_1\"}\n\n{\"id\": \"AE_2\", \"rooom\": {}}\n";
        let error = records_from_ndjson(Stream::Events, text.as_bytes()).unwrap_err();
        assert_eq!(error.line, 3);
        assert!(error.to_string().contains("unrecognized field name 'rooom'"), "{error}");
        assert_eq!(records_from_json(Stream::Events, b"[{\"id\": \"AE_1\"},").unwrap_err().line, 1);
    }

    #[test]
    fn an_error_holds_no_value() {
        for text in [
            r#"{"room": {"activeRecording": "pass\"word\", of mine"}}"#,
            r#"{"type": "password"}"#,
            r#"{"room": {"maxParticipants": "password"}}"#,
            r#"{"apiCall": {"request": {"sendDataRequest": {"data": "pass word"}}}}"#,
            r#"{"timestamp": "password"}"#,
            r#"{"sipDispatchRule": {"rule": {"dispatchRuleDirect": {"pin": 7355608, "roomName": "password"}}}}"#,
        ] {
            let error = refused(Stream::Events, text);
            assert!(!error.contains("word") && !error.contains("7355608"), "{error}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in ["", "7", "{}", "{\"events\": 7}", "[[]]", "{\"id\": \"AE_1\"} x", "null"] {
            refused(Stream::Events, text);
        }
        assert_eq!(records_from_json(Stream::Events, b"[]").unwrap().count(), 0);
    }

    #[test]
    fn deeply_nested_text_is_refused() {
        let text = format!("{}{}", "{\"room\":".repeat(10_000), "}".repeat(10_000));
        refused(Stream::Events, &text);
        refused(Stream::Events, &"[".repeat(100_000));
    }

    #[test]
    fn a_field_unknown_to_the_schema_can_be_ignored() {
        let text = br#"{"event": "room_started", "newer": {"x": [1]}}"#;
        let bytes = protobuf_from_json("livekit.WebhookEvent", UnknownFields::Ignore, text).unwrap();
        assert_eq!(livekit_protocol::WebhookEvent::decode(&*bytes).unwrap().event, "room_started");
        protobuf_from_json("livekit.WebhookEvent", UnknownFields::Refuse, text).unwrap_err();
    }
}
