//! What webhooks have to do with events: the event that says the same, and the body.
//!
//! The body of a webhook is in the event that it became: the bytes that LiveKit sent and signed, so that a sink can send the
//! same. They are a field that LiveKit's schema does not have: documents leave it out, as every such field.

use livekit_protocol::AnalyticsEventType;

use super::wire::{self, Value};

/// The webhooks that LiveKit sends together with an event (livekit-server, pkg/telemetry/events.go). A participant has joined
/// when it is active, not when it requests to join.
const WEBHOOKS: [(&str, AnalyticsEventType); 12] = [
    ("room_started", AnalyticsEventType::RoomCreated),
    ("room_finished", AnalyticsEventType::RoomEnded),
    ("participant_joined", AnalyticsEventType::ParticipantActive),
    ("participant_left", AnalyticsEventType::ParticipantLeft),
    ("participant_connection_aborted", AnalyticsEventType::ParticipantConnectionAborted),
    ("track_published", AnalyticsEventType::TrackPublished),
    ("track_unpublished", AnalyticsEventType::TrackUnpublished),
    ("egress_started", AnalyticsEventType::EgressStarted),
    ("egress_updated", AnalyticsEventType::EgressUpdated),
    ("egress_ended", AnalyticsEventType::EgressEnded),
    ("ingress_started", AnalyticsEventType::IngressStarted),
    ("ingress_ended", AnalyticsEventType::IngressEnded),
];

/// The type of the event that says the same as a webhook of this name.
pub(crate) fn event_of_webhook(name: &str) -> Option<AnalyticsEventType> {
    WEBHOOKS.iter().find(|(webhook, _)| *webhook == name).map(|(_, event)| *event)
}

/// The name of the webhook that says the same as an event of this type.
pub(crate) fn webhook_of_event(event: AnalyticsEventType) -> Option<&'static str> {
    WEBHOOKS.iter().find(|(_, of)| *of == event).map(|(webhook, _)| *webhook)
}

/// Far beyond LiveKit's own numbers, which are below 100.
const BODY_FIELD: u32 = 100_000;

/// Adds the body to an encoded event.
pub(crate) fn add_webhook_body(event: &mut Vec<u8>, body: &[u8]) {
    wire::write_length_delimited(event, BODY_FIELD, body);
}

/// The body of the webhook that an event came from, if it came from one.
pub(crate) fn webhook_body(mut event: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    while !event.is_empty() {
        if let (BODY_FIELD, Value::Length(body)) = wire::field(&mut event).ok()? {
            found = Some(body);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use livekit_protocol::AnalyticsEvent;
    use prost::Message;

    use super::*;

    #[test]
    fn an_event_keeps_its_webhook_and_is_the_same_event() {
        let event = AnalyticsEvent { id: "EV_1".to_owned(), ..AnalyticsEvent::default() };
        let mut bytes = event.encode_to_vec();
        assert_eq!(webhook_body(&bytes), None);
        add_webhook_body(&mut bytes, b"{ \"event\": 1 }");
        assert_eq!(webhook_body(&bytes), Some(&b"{ \"event\": 1 }"[..]));
        assert_eq!(AnalyticsEvent::decode(&bytes[..]).unwrap(), event);
        assert_eq!(webhook_body(&bytes[..bytes.len() - 1]), None, "cut off");
    }
}
