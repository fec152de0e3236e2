//! The body of a webhook in the event that it became: the bytes that LiveKit sent and signed, so that a sink can send the
//! same. They are a field that LiveKit's schema does not have: documents leave it out, as every such field.

use super::wire::{self, Value};

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
