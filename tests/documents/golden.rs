//! Every record of tests/data equals its golden document, less the differences listed in [`Comparison`], and no others.

use bson::{Bson, Document, RawDocument};
use livekit_spool::{
    document::{DocumentContext, DocumentOptions, Encoder, PiiKey, Redact},
    record::{RecordId, Stream, wire::delimited},
};

/// Ends of the paths that protobuf has as float or double; all other numbers are integers.
const FLOATS: [&str; 21] = [
    "drift.duration",
    "drift.drift_ms",
    "drift.clock_rate",
    "rtp_stats.duration",
    "rtp_stats.packet_rate",
    "rtp_stats.bitrate",
    "rtp_stats.packet_loss_rate",
    "rtp_stats.packet_loss_percentage",
    "rtp_stats.packet_duplicate_rate",
    "rtp_stats.bitrate_duplicate",
    "rtp_stats.packet_padding_rate",
    "rtp_stats.bitrate_padding",
    "rtp_stats.frame_rate",
    "rtp_stats.jitter_current",
    "rtp_stats.jitter_max",
    "Advanced.key_frame_interval",
    "state.video.framerate",
    "EncodingOptions.Options.frame_rate",
    ".score",
    ".min_score",
    ".median_score",
];

/// Ends of the paths that redaction removes.
const SECRETS: [&str; 14] = [
    ".turn_password",
    ".stream_key",
    ".analytics_key",
    ".access_key",
    ".secret",
    ".session_token",
    ".assume_role_external_id",
    ".credentials",
    ".account_key",
    ".password",
    ".auth_password",
    ".signing_key",
    ".pin",
    ".call_context.value",
];

/// Ends of the paths whose URLs lose their credentials.
const URLS: [&str; 8] =
    [".url", ".urls", ".custom_base_url", ".websocket_url", ".endpoint", "_location", ".location", ".pcap_file_link"];

/// Ends of the paths that go under `pii`.
const PERSONAL: [&str; 14] = [
    ".metadata",
    ".attributes",
    ".participant_attributes",
    ".participant_metadata",
    ".participant_name",
    ".participant.name",
    ".publisher.name",
    ".UpdateParticipantRequest.name",
    ".headers",
    ".tags",
    ".geo_hash",
    ".SendDataRequest.data",
    ".S3.tagging",
    ".S3.content_disposition",
];

/// Ends of the paths that are hashed under `pii`.
const IDENTIFIERS: [&str; 18] = [
    ".identity",
    ".participant_identity",
    ".client_info.address",
    ".client_addr",
    ".ip",
    ".user",
    ".transfer_to",
    ".numbers",
    ".inbound_numbers",
    ".allowed_numbers",
    ".auth_username",
    ".proxy.username",
    ".assume_role_arn",
    ".account_name",
    ".track.name",
    ".tracks.name",
    ".data_tracks.name",
    ".destination_identities",
];

struct Comparison {
    redact: Redact,
}

impl Comparison {
    /// Panics, naming the field, at the first difference that is not allowed.
    fn record(&self, line: usize, stream: Stream, record: &[u8], mut golden: Document, mut ours: Document) {
        // `_id` is the record's own id, not the fork's hash; it comes first.
        golden.remove("_id");
        assert_eq!(ours.keys().next().map(String::as_str), Some("_id"));
        let id = ours.remove("_id");
        assert_eq!(id, Some(Bson::String(RecordId::of(stream, record).to_string())), "line {line}");
        assert_eq!(id.as_ref(), ours.get("id"), "line {line}: these records all bring an id");

        // `time` is added.
        let timestamp = golden.get_document(if stream == Stream::Stats { "time_stamp" } else { "timestamp" }).unwrap();
        let part = |name| timestamp.get_f64(name).unwrap_or(0.0) as i64;
        let time = part("seconds") * 1000 + part("nanos").div_euclid(1_000_000);
        assert_eq!(ours.remove("time"), Some(Bson::DateTime(bson::DateTime::from_millis(time))), "line {line}");

        // livekit-protocol 0.8.2 knows this field, the fork's older schema does not.
        if let Ok(client) = ours.get_document_mut("client_info") {
            client.remove("capabilities");
        }
        self.document(&format!("line {line}"), &golden, &ours);
    }

    fn document(&self, path: &str, golden: &Document, ours: &Document) {
        for (key, golden) in golden {
            let path = format!("{path}.{key}");
            match ours.get(key) {
                Some(ours) => self.value(&path, golden, ours),
                // An unset oneof is absent, not null.
                None if *golden == Bson::Null && key.starts_with(char::is_uppercase) => {}
                None => assert!(self.may_go(&path), "{path} is missing: {golden}"),
            }
        }
        for (key, ours) in ours {
            assert!(golden.contains_key(key), "{path}.{key} is not in the golden document: {ours}");
        }
    }

    /// Redaction removes secrets, and under `pii` also what nobody joins on; a oneof goes with its member.
    fn may_go(&self, path: &str) -> bool {
        let ends = |ends: &[&str]| ends.iter().any(|end| without_indexes(path).ends_with(end));
        match self.redact {
            Redact::None => false,
            Redact::Secrets => ends(&SECRETS),
            Redact::Pii => ends(&SECRETS) || ends(&PERSONAL),
        }
    }

    /// Redaction changes URLs, texts with URLs, and under `pii` identifiers.
    fn may_change(&self, path: &str, golden: &str, ours: &str) -> bool {
        let ends = |ends: &[&str]| ends.iter().any(|end| without_indexes(path).ends_with(end));
        match self.redact {
            Redact::None => false,
            Redact::Pii if ends(&IDENTIFIERS) => ours == pii_key().hash(golden),
            Redact::Secrets | Redact::Pii => ends(&URLS) && ours.contains("***"),
        }
    }

    fn value(&self, path: &str, golden: &Bson, ours: &Bson) {
        let float = FLOATS.iter().any(|end| path.ends_with(end));
        match (golden, ours) {
            (Bson::Document(golden), Bson::Document(ours)) => self.document(path, golden, ours),
            (Bson::Array(golden), Bson::Array(ours)) => {
                assert_eq!(golden.len(), ours.len(), "{path}");
                for (i, (golden, ours)) in golden.iter().zip(ours).enumerate() {
                    self.value(&format!("{path}[{i}]"), golden, ours);
                }
            }
            // Integers are BSON integers, not doubles.
            (Bson::Double(golden), Bson::Int32(ours)) if !float => {
                assert_eq!(*golden, f64::from(*ours), "{path}");
            }
            (Bson::Double(golden), Bson::Int64(ours)) if !float => {
                assert_eq!(*golden, *ours as f64, "{path}");
            }
            // Unsigned values above i64::MAX are doubles.
            (Bson::Double(golden), Bson::Double(ours)) if float || *ours > i64::MAX as f64 => {
                assert_eq!(golden, ours, "{path}");
            }
            (Bson::String(golden), Bson::String(ours)) => {
                assert!(golden == ours || self.may_change(path, golden, ours), "{path}: {golden:?} became {ours:?}");
            }
            (Bson::Boolean(_), Bson::Boolean(_)) => assert_eq!(golden, ours, "{path}"),
            _ => panic!("{path}: {golden:?} became {ours:?}"),
        }
    }
}

fn without_indexes(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|&c| {
            inside = (inside || c == '[') && c != ']';
            !inside && c != ']'
        })
        .collect()
}

fn pii_key() -> PiiKey {
    PiiKey::from_secret("of these tests")
}

/// Canonical Extended JSON, as far as the golden documents use it.
fn extended(json: serde_json::Value) -> Bson {
    use serde_json::Value;
    match json {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(value),
        Value::String(value) => Bson::String(value),
        Value::Array(values) => Bson::Array(values.into_iter().map(extended).collect()),
        Value::Object(fields) => match fields.get("$numberDouble") {
            Some(Value::String(value)) => Bson::Double(value.parse().unwrap()),
            _ => Bson::Document(fields.into_iter().map(|(key, value)| (key, extended(value))).collect()),
        },
        Value::Number(value) => panic!("a bare number: {value}"),
    }
}

fn compare(set: &str, stream: Stream, redact: Redact) -> usize {
    let read = |ending: &str| {
        std::fs::read(format!("{}/tests/data/{set}/{stream}.{ending}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let bytes = read("pb");
    let golden = String::from_utf8(read("extjson")).unwrap();
    let encoder = Encoder::new(DocumentOptions { redact, pii_key: Some(pii_key()), ..Default::default() });
    let records: Vec<&[u8]> = delimited(&bytes).collect();
    assert_eq!(records.len(), golden.lines().count());
    for (line, (record, golden)) in records.iter().zip(golden.lines()).enumerate() {
        let Bson::Document(golden) = extended(serde_json::from_str(golden).unwrap()) else { panic!("no document") };
        let mut out = Vec::new();
        encoder.encode(stream, record, &DocumentContext::default(), &mut out).unwrap();
        let ours = Document::try_from(RawDocument::from_bytes(&out).unwrap()).unwrap();
        Comparison { redact }.record(line + 1, stream, record, golden, ours);
    }
    records.len()
}

#[test]
fn documents_of_real_records_are_those_of_the_fork() {
    assert_eq!(compare("livekit-1.11", Stream::Events, Redact::None), 763);
    assert_eq!(compare("livekit-1.11", Stream::Stats, Redact::None), 482);
}

#[test]
fn documents_with_every_field_filled_are_those_of_the_fork() {
    assert_eq!(compare("every-field", Stream::Events, Redact::None), 400);
    assert_eq!(compare("every-field", Stream::Stats, Redact::None), 400);
}

#[test]
fn redaction_removes_what_it_names_and_nothing_else() {
    for redact in [Redact::Secrets, Redact::Pii] {
        for set in ["livekit-1.11", "every-field"] {
            compare(set, Stream::Events, redact);
            compare(set, Stream::Stats, redact);
        }
    }
}
