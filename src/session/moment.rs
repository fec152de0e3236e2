//! The events of a room as moments on its timeline.

use livekit_protocol::{DisconnectReason, ReconnectReason, VideoQuality};
use serde_json::Value;

use super::{
    field::Fields,
    model::Moment,
    record::{Event, Records},
};

/// Every event, in the order of their times. `identity_of`: who has a connection.
pub(super) fn moments<'a>(records: &Records<'a>, identity_of: impl Fn(&str) -> Option<&'a str>) -> Vec<Moment> {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let moment = |event: &Event<'a>| Moment {
        at: event.at,
        kind: event.kind.clone(),
        identity: identity_of(event.connection).and_then(text),
        connection_sid: text(event.connection),
        track_sid: text(event.track),
        detail: detail(event),
    };
    records.events.iter().map(moment).collect()
}

fn detail(event: &Event<'_>) -> String {
    let document = event.document;
    let (track, meta) = (document.field("track"), document.field("client_meta"));
    let parts = match event.kind.as_str() {
        "PARTICIPANT_JOINED" => {
            let client = document.field("client_info");
            vec![client.text("browser").to_owned(), client.text("os").to_owned()]
        }
        "PARTICIPANT_ACTIVE" => {
            let millis = meta.count("client_connect_time");
            let took = if millis > 0 { format!("after {millis} ms") } else { String::new() };
            vec![meta.text("connection_type").to_owned(), took]
        }
        "PARTICIPANT_RESUMED" | "RECONNECTED" => vec![named(meta, "reconnect_reason", "RR_UNKNOWN", |n| {
            ReconnectReason::try_from(n).ok().map(|reason| reason.as_str_name())
        })],
        "PARTICIPANT_LEFT" | "PARTICIPANT_CONNECTION_ABORTED" => {
            vec![named(document.field("participant"), "disconnect_reason", "UNKNOWN_REASON", |n| {
                DisconnectReason::try_from(n).ok().map(|reason| reason.as_str_name())
            })]
        }
        "TRACK_MAX_SUBSCRIBED_VIDEO_QUALITY" => {
            vec![document.word("max_subscribed_video_quality", |n| {
                VideoQuality::try_from(n).ok().map(|quality| quality.as_str_name())
            })]
        }
        "TRACK_SUBSCRIBE_FAILED" => vec![document.text("error").to_owned()],
        "WEBHOOK" => vec![document.field("webhook").text("event").to_owned()],
        "API_CALL" => vec![document.field("api_call").text("method").to_owned()],
        kind if kind.starts_with("TRACK_") => {
            vec![track.text("name").to_owned(), track.text("mime_type").to_owned()]
        }
        kind if kind.starts_with("SIP_TRANSFER_") => vec![document.field("sip_transfer").text("error").to_owned()],
        _ => vec![document.text("error").to_owned()],
    };
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

/// An enum's name, except for the one that says nothing.
fn named(document: &Value, key: &str, nothing: &str, name: fn(i32) -> Option<&'static str>) -> String {
    Some(document.word(key, name)).filter(|word| word != nothing).unwrap_or_default()
}
