//! A message in protobuf's own JSON, as LiveKit writes its webhooks: names in lowerCamelCase, 64-bit integers as strings,
//! enums by name, timestamps as RFC 3339, bytes as base64, defaults omitted. `redact` applies as in documents.
//!
//! For single messages: it builds them in memory. Of protobuf's messages with a JSON form of their own, those in LiveKit's
//! schema are written: `Timestamp`, `Duration`; an `Any` is left out, its content cannot be checked.

use base64::{Engine, prelude::BASE64_STANDARD};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use serde_json::{Map, Value as Json};

use super::{
    encoder::Encoder,
    redact::{Treatment, treatment},
};
use crate::record::schema;

impl Encoder {
    /// The JSON of a message's bytes, by its full name (`livekit.WebhookEvent`).
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn protobuf_json(&self, full_name: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let message = schema::pool().get_message_by_name(full_name).ok_or_else(|| format!("no message {full_name}"))?;
        let message = DynamicMessage::decode(message, bytes).map_err(|error| error.to_string())?;
        Ok(self.message(&message).to_string().into_bytes())
    }

    fn message(&self, message: &DynamicMessage) -> Json {
        let mut object = Map::new();
        for (field, value) in message.fields() {
            if let Some(json) = self.field(&field, value) {
                object.insert(field.json_name().to_owned(), json);
            }
        }
        Json::Object(object)
    }

    /// The value of a field; `None` if it is left out.
    fn field(&self, field: &FieldDescriptor, value: &Value) -> Option<Json> {
        let treatment = treatment(self.options.redact, field);
        if treatment == Treatment::Remove {
            return None;
        }
        match value {
            Value::List(items) => items.iter().map(|item| self.value(&field.kind(), item, treatment)).collect(),
            Value::Map(entries) => {
                let Kind::Message(entry) = field.kind() else { return None };
                let kind = entry.map_entry_value_field().kind();
                let entries =
                    entries.iter().map(|(key, value)| Some((key_of(key), self.value(&kind, value, treatment)?)));
                entries.collect::<Option<Map<_, _>>>().map(Json::Object)
            }
            value => self.value(&field.kind(), value, treatment),
        }
    }

    fn value(&self, kind: &Kind, value: &Value, treatment: Treatment) -> Option<Json> {
        Some(match value {
            Value::Message(message) => return self.inner(message),
            Value::String(text) => match treatment {
                Treatment::Keep => text.as_str().into(),
                Treatment::Scrub(scrub) => scrub.apply(text).into(),
                Treatment::Hash => self.options.pii_key.as_ref()?.hash(text).into(),
                Treatment::Remove => return None,
            },
            // What is redacted is text; anything else that is marked is left out.
            _ if treatment != Treatment::Keep => return None,
            Value::Bool(value) => (*value).into(),
            Value::I32(value) => (*value).into(),
            Value::U32(value) => (*value).into(),
            Value::I64(value) => value.to_string().into(),
            Value::U64(value) => value.to_string().into(),
            // Not widened: 0.1 is not 0.10000000149011612.
            Value::F32(value) => number(value.to_string().parse().unwrap_or(f64::from(*value))),
            Value::F64(value) => number(*value),
            Value::Bytes(bytes) => BASE64_STANDARD.encode(bytes).into(),
            Value::EnumNumber(number) => match kind {
                Kind::Enum(names) => names.get_value(*number).map_or((*number).into(), |value| value.name().into()),
                _ => (*number).into(),
            },
            Value::List(_) | Value::Map(_) => return None,
        })
    }

    fn inner(&self, message: &DynamicMessage) -> Option<Json> {
        let part = |name: &str| match &*message.get_field_by_name(name)? {
            Value::I64(value) => Some(*value),
            Value::I32(value) => Some((*value).into()),
            _ => None,
        };
        Some(match message.descriptor().full_name() {
            "google.protobuf.Timestamp" => {
                let (seconds, nanos) = (part("seconds")?, i32::try_from(part("nanos")?).ok()?);
                prost_types::Timestamp { seconds, nanos }.to_string().into()
            }
            "google.protobuf.Duration" => {
                let (seconds, nanos) = (part("seconds")?, i32::try_from(part("nanos")?).ok()?);
                prost_types::Duration { seconds, nanos }.to_string().into()
            }
            "google.protobuf.Any" => return None,
            _ => self.message(message),
        })
    }
}

fn key_of(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// What is no number in JSON is text.
fn number(value: f64) -> Json {
    match serde_json::Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

#[cfg(test)]
mod tests {
    use livekit_protocol::{
        EgressInfo, ParticipantInfo, Room, RoomCompositeEgressRequest, StreamInfo, WebhookEvent, egress_info::Request,
    };
    use prost::Message;
    use serde_json::json;

    use super::*;
    use crate::{
        document::{DocumentOptions, PiiKey, Redact},
        record::wire::delimited,
    };

    const EVENTS: &[u8] = include_bytes!("../../tests/data/livekit-1.11/events.pb");
    const FULL_EVENTS: &[u8] = include_bytes!("../../tests/data/every-field/events.pb");

    fn json(encoder: &Encoder, webhook: &WebhookEvent) -> Json {
        let json = encoder.protobuf_json("livekit.WebhookEvent", &webhook.encode_to_vec()).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    fn webhook() -> WebhookEvent {
        WebhookEvent {
            event: "participant_joined".to_owned(),
            id: "EV_1".to_owned(),
            created_at: 1_795_301_026,
            room: Some(Room { sid: "RM_1".to_owned(), turn_password: "hunter2".to_owned(), ..Room::default() }),
            participant: Some(ParticipantInfo {
                identity: "me".to_owned(),
                state: 2,
                kind: 99,
                attributes: [("a".to_owned(), "b".to_owned())].into(),
                ..ParticipantInfo::default()
            }),
            egress_info: Some(EgressInfo {
                request: Some(Request::RoomComposite(RoomCompositeEgressRequest::default())),
                stream_results: vec![StreamInfo { url: "rtmp://host/app/key".to_owned(), ..StreamInfo::default() }],
                ..EgressInfo::default()
            }),
            ..WebhookEvent::default()
        }
    }

    #[test]
    fn names_numbers_enums_and_defaults_are_as_protobuf_writes_them() {
        let encoder = Encoder::new(DocumentOptions { redact: Redact::None, ..DocumentOptions::default() });
        let expected = json!({
            "event": "participant_joined", "id": "EV_1", "createdAt": "1795301026",
            "room": { "sid": "RM_1", "turnPassword": "hunter2" },
            "participant": { "identity": "me", "state": "ACTIVE", "kind": 99, "attributes": { "a": "b" } },
            "egressInfo": { "roomComposite": {}, "streamResults": [{ "url": "rtmp://host/app/key" }] },
        });
        assert_eq!(json(&encoder, &webhook()), expected);
    }

    #[test]
    fn every_field_of_the_schema_is_as_another_encoder_writes_it() {
        let encoder = Encoder::new(DocumentOptions { redact: Redact::None, ..DocumentOptions::default() });
        let (mut compared, mut odd) = (0, 0);
        for record in delimited(EVENTS).chain(delimited(FULL_EVENTS)) {
            let event = schema::pool().get_message_by_name("livekit.AnalyticsEvent").unwrap();
            let other = DynamicMessage::decode(event, record).unwrap();
            let ours = encoder.protobuf_json("livekit.AnalyticsEvent", record).unwrap();
            // It does not write an `Any` of a message that nobody knows.
            let Ok(other) = serde_json::to_value(&other) else {
                odd += 1;
                continue;
            };
            // As text: reading floats is not exact.
            assert_eq!(String::from_utf8(ours).unwrap(), other.to_string());
            compared += 1;
        }
        assert!(compared > 763 && odd < 400, "{compared} compared, {odd} not");
    }

    #[test]
    fn what_documents_do_not_have_is_not_there_either() {
        let shown = |options| json(&Encoder::new(options), &webhook()).to_string();
        let secrets = shown(DocumentOptions::default());
        assert!(!secrets.contains("hunter2") && !secrets.contains("key\"") && secrets.contains("\"me\""), "{secrets}");
        let pii = DocumentOptions { redact: Redact::Pii, ..DocumentOptions::default() };
        assert!(!shown(pii.clone()).contains("\"me\""));
        let hashed = shown(DocumentOptions { pii_key: Some(PiiKey::from_secret("k")), ..pii });
        assert!(!hashed.contains("\"me\"") && hashed.contains("pii:"), "{hashed}");
    }

    #[test]
    fn numbers_that_json_does_not_have_are_text() {
        assert_eq!(number(1.5), json!(1.5));
        assert_eq!(number(f64::NAN), json!("NaN"));
        assert_eq!(number(f64::NEG_INFINITY), json!("-Infinity"));
        assert_eq!(number(f64::INFINITY), json!("Infinity"));
    }
}
