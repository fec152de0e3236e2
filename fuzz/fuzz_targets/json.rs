//! JSON of records and webhooks: the first byte chooses the message and what becomes of unknown fields, the rest is the
//! text. What prost-reflect reads is read, and has the same content; what it refuses is refused. The bytes are the same
//! each time.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use livekit_spool::record::{
    json::{UnknownFields, protobuf_from_json},
    schema::DESCRIPTORS,
};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};

const NAMES: [&str; 4] =
    ["livekit.AnalyticsEvent", "livekit.AnalyticsStat", "livekit.AnalyticsNodeRooms", "livekit.WebhookEvent"];

static MESSAGES: LazyLock<Vec<MessageDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("LiveKit's schema");
    NAMES.iter().map(|name| pool.get_message_by_name(name).expect("a message of LiveKit")).collect()
});

/// In JSON NaN equals NaN, and maps, which the model keeps in random order, are in order.
fn json_of(message: &DynamicMessage) -> Result<serde_json::Value, String> {
    serde_json::to_value(message).map_err(|error| error.to_string())
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, text)) = input.split_first() else { return };
    let message = &MESSAGES[usize::from(choice) % NAMES.len()];
    let unknown = if choice < 128 { UnknownFields::Refuse } else { UnknownFields::Ignore };

    let written = protobuf_from_json(message.full_name(), unknown, text);
    assert_eq!(written, protobuf_from_json(message.full_name(), unknown, text));
    // The model keeps one of several fields before `@type`, and reads what it ignores even if it is not UTF-8.
    let Ok(valid) = str::from_utf8(text) else { return assert!(written.is_err()) };
    if valid.contains("@type") {
        return;
    }
    let options = DeserializeOptions::new().deny_unknown_fields(unknown == UnknownFields::Refuse);
    let mut json = serde_json::Deserializer::from_str(valid);
    let expected = DynamicMessage::deserialize_with_options(message.clone(), &mut json, &options)
        .and_then(|expected| json.end().map(|()| expected));
    match (written, expected) {
        (Ok(written), Ok(expected)) => {
            let content = DynamicMessage::decode(message.clone(), &written[..]).expect("protobuf");
            assert_eq!(json_of(&content), json_of(&expected));
        }
        (Err(_), Err(_)) => {}
        (Err(error), Ok(_)) if error.is_too_large => {}
        // The model makes infinity of a number in a string that is too large, and refuses one that rounds to the largest float.
        (Err(error), Ok(_)) if error.problem.starts_with("out of range: infinity") => {}
        (Ok(_), Err(error)) if error.to_string().starts_with("float value out of range") => {}
        (written, expected) => panic!("{written:?}, expected {expected:?}"),
    }
});
