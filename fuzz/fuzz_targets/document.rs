//! The encoder: the first byte chooses stream and options, the rest is a record. A document is BSON and JSON, the same each
//! time and within its limit; where there is none, prost cannot read the record either, or a limit was met that says so.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use livekit_protocol::{AnalyticsEvent, AnalyticsNodeRooms, AnalyticsStat};
use livekit_spool::{
    document::{
        DocumentContext, DocumentErrorReason, DocumentOptions, Encoder, Enums, JsonStyle, Labels, PiiKey, Redact,
        write_json,
    },
    record::{Stream, wire::BadWire},
};
use prost::Message;

/// Small, so that it is met.
const MAX_BYTES: usize = 64 << 10;

static ENCODERS: LazyLock<Vec<Encoder>> = LazyLock::new(|| {
    let mut encoders = Vec::new();
    for redact in [Redact::None, Redact::Secrets, Redact::Pii] {
        for (enums, pii_key) in [(Enums::Compatible, None), (Enums::Names, Some(PiiKey::from_secret("fuzz")))] {
            let options =
                DocumentOptions { redact, enums, time: true, pii_key, max_bytes: MAX_BYTES, ..Default::default() };
            encoders.push(Encoder::new(options));
        }
    }
    encoders
});

static LABELS: LazyLock<Labels> = LazyLock::new(|| Labels::new([("node", "a")]).expect("labels"));

fuzz_target!(|input: &[u8]| {
    let Some((&choice, record)) = input.split_first() else { return };
    let stream = Stream::ALL[usize::from(choice) % Stream::ALL.len()];
    let encoder = &ENCODERS[usize::from(choice) / Stream::ALL.len() % ENCODERS.len()];
    let context = DocumentContext { expire_at: Some(1), labels: &LABELS };

    let mut document = b"before".to_vec();
    let made = encoder.encode(stream, record, &context, &mut document);
    let mut again = b"before".to_vec();
    assert_eq!(made, encoder.encode(stream, record, &context, &mut again));
    assert_eq!(document, again);
    assert_eq!(&document[..6], b"before");

    if let Err(error) = made {
        assert_eq!(document.len(), 6, "an error leaves the buffer as it was");
        match error.reason() {
            DocumentErrorReason::TooMuchWork => panic!("the work is not linear: {error}"),
            DocumentErrorReason::TooLarge { .. }
            | DocumentErrorReason::TooManyParts { .. }
            | DocumentErrorReason::Wire(BadWire::TooDeep) => {}
            reason => assert!(!prost_reads(stream, record), "prost reads it: {reason}"),
        }
        return;
    }
    let document = &document[6..];
    assert!(document.len() <= MAX_BYTES, "{} bytes", document.len());
    let raw = bson::RawDocument::from_bytes(document).expect("BSON");
    bson::Document::try_from(raw).expect("BSON throughout");
    for style in [JsonStyle::Canonical, JsonStyle::Relaxed, JsonStyle::Plain] {
        let mut json = Vec::new();
        if write_json(document, style, &mut json).is_ok() {
            serde_json::from_slice::<&serde_json::value::RawValue>(&json).expect("JSON");
        }
    }
});

fn prost_reads(stream: Stream, record: &[u8]) -> bool {
    match stream {
        Stream::Events => AnalyticsEvent::decode(record).is_ok(),
        Stream::Stats => AnalyticsStat::decode(record).is_ok(),
        Stream::NodeRooms => AnalyticsNodeRooms::decode(record).is_ok(),
    }
}
