//! An event as LiveKit's webhook, and its signature.
//!
//! An event that came from a webhook has that webhook's bytes, and goes out with the same. An event of the recorder becomes
//! the webhook that LiveKit sends at the same place in its code; one without such a webhook is filtered.

use base64::{Engine, prelude::BASE64_STANDARD};
use livekit_protocol::{AnalyticsEvent, AnalyticsEventType, ParticipantInfo, Room, WebhookEvent};
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    document::Encoder,
    hs256,
    record::{RecordId, Stream, wall_millis, webhook_body, webhook_of_event},
    secret::Secret,
};

/// How long LiveKit's signatures are valid.
const VALID_SECONDS: i64 = 300;

/// Signs bodies.
#[derive(Debug, Clone)]
pub(super) struct Signer {
    key: String,
    secret: Secret,
}

impl Signer {
    pub(super) const fn new(key: String, secret: Secret) -> Self {
        Self { key, secret }
    }

    /// The value of the `Authorization` header, without a scheme, as LiveKit sends it.
    ///
    /// # Errors
    /// When the API key cannot be written as JSON.
    pub(super) fn sign(&self, body: &[u8]) -> Result<String, String> {
        let now = wall_millis() / 1000;
        let hash = BASE64_STANDARD.encode(Sha256::digest(body));
        let claims = json!({ "iss": self.key, "nbf": now, "exp": now + VALID_SECONDS, "sha256": hash });
        hs256::sign(&claims, self.secret.expose().as_bytes()).map_err(|error| error.to_string())
    }
}

/// The webhook of an event; `None` if LiveKit has none that says the same.
///
/// # Errors
/// When the record is no event.
pub(super) fn json_of(record: &[u8], encoder: &Encoder) -> Result<Option<Vec<u8>>, String> {
    if let Some(body) = webhook_body(record) {
        return Ok(Some(body.to_vec()));
    }
    let event = AnalyticsEvent::decode(record).map_err(|error| error.to_string())?;
    let Some(webhook) = webhook(RecordId::of(Stream::Events, record), event) else { return Ok(None) };
    encoder.protobuf_json("livekit.WebhookEvent", &webhook.encode_to_vec()).map(Some)
}

fn webhook(id: RecordId, event: AnalyticsEvent) -> Option<WebhookEvent> {
    // An unknown number would read as the enum's first value.
    let name = webhook_of_event(AnalyticsEventType::try_from(event.r#type).ok()?)?;
    // Webhooks name the room and the participant in full, if only by their ids.
    let room = event.room.or_else(|| given(event.room_id).map(|sid| Room { sid, ..Room::default() }));
    let is_of_participant = name.starts_with("participant_") || name.starts_with("track_");
    let participant = event
        .participant
        .or_else(|| given(event.participant_id).map(|sid| ParticipantInfo { sid, ..ParticipantInfo::default() }));
    let is_of_room = !name.starts_with("egress_") && !name.starts_with("ingress_");
    Some(WebhookEvent {
        event: name.to_owned(),
        id: id.as_str().to_owned(),
        created_at: event.timestamp.map_or(0, |at| at.seconds),
        room: room.filter(|_| is_of_room),
        participant: participant.filter(|_| is_of_participant),
        track: event.track.filter(|_| name.starts_with("track_")),
        egress_info: event.egress,
        ingress_info: event.ingress,
        room_end_reason: event.room_end_reason,
        ..WebhookEvent::default()
    })
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, Validation};
    use serde_json::Value;

    use super::*;
    use crate::{document::DocumentOptions, record::add_webhook_body};

    fn json(record: &[u8]) -> Option<Value> {
        let encoder = Encoder::new(DocumentOptions::default());
        json_of(record, &encoder).unwrap().map(|json| serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn a_webhook_that_came_in_goes_out_with_the_same_bytes() {
        // Spaces as Go writes them, a field that nobody knows, the order of its own.
        let body = br#"{"event":"room_started", "new":[1], "room":{"sid":"RM_1"},  "numDropped":3}"#;
        let mut record = AnalyticsEvent { r#type: 1, ..AnalyticsEvent::default() }.encode_to_vec();
        add_webhook_body(&mut record, body);
        let encoder = Encoder::new(DocumentOptions::default());
        assert_eq!(json_of(&record, &encoder).unwrap().unwrap(), body);
    }

    #[test]
    fn every_event_with_a_webhook_becomes_it_and_the_others_are_filtered() {
        let mut names = Vec::new();
        for number in -1..100 {
            let event = AnalyticsEvent {
                id: "AE_1".to_owned(),
                r#type: number,
                room_id: "RM_1".to_owned(),
                participant_id: "PA_1".to_owned(),
                timestamp: Some(pbjson_types::Timestamp { seconds: 1_795_301_026, nanos: 5 }),
                ..AnalyticsEvent::default()
            };
            let Some(webhook) = json(&event.encode_to_vec()) else { continue };
            assert_eq!((&webhook["id"], &webhook["createdAt"]), (&json!("AE_1"), &json!("1795301026")));
            let name = webhook["event"].as_str().unwrap().to_owned();
            let has = |key: &str| webhook.get(key).is_some();
            assert_eq!(has("room"), !name.contains("gress"), "{webhook}");
            assert_eq!(has("participant"), name.starts_with("participant_") || name.starts_with("track_"), "{webhook}");
            names.push(name);
        }
        names.sort();
        let expected = [
            "egress_ended",
            "egress_started",
            "egress_updated",
            "ingress_ended",
            "ingress_started",
            "participant_connection_aborted",
            "participant_joined",
            "participant_left",
            "room_finished",
            "room_started",
            "track_published",
            "track_unpublished",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        json_of(&[0xFF, 0xFF], &Encoder::new(DocumentOptions::default())).unwrap_err();
    }

    #[test]
    fn the_signature_is_of_the_body_and_names_the_key() {
        let token = Signer::new("API1".to_owned(), Secret::new("secret")).sign(b"body").unwrap();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&["API1"]);
        let claims = hs256::verify::<Value>(&token, b"secret", &validation).unwrap().claims;
        assert_eq!(claims["sha256"], BASE64_STANDARD.encode(Sha256::digest(b"body")));
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), VALID_SECONDS);
        hs256::verify::<Value>(&token, b"other", &validation).unwrap_err();
    }
}
