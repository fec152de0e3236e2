//! The values of a row's columns, from a record's document.

use bson::{RawBsonRef, RawDocument};

use super::columns::{Kind, columns};
use crate::record::Stream;

/// The most bytes of a text in a column: an index entry can have some 2,700 with its key.
pub(super) const MAX_TEXT: usize = 1024;

/// PostgreSQL counts from 2000-01-01.
const EPOCH_SECONDS: i64 = 946_684_800;
/// The range of `timestamptz`, microseconds from 2000-01-01: from 4714-11-24 BC to the end of 294276.
const TIMES: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
/// 2000-01-01, in days from 1970-01-01.
pub(super) const EPOCH_DAY: i64 = EPOCH_SECONDS / 86_400;
/// The length of a field that is NULL.
pub(super) const NULL: i32 = -1;

/// What the columns have of a document, in the order of the columns.
#[derive(Debug)]
pub(super) struct Fields {
    /// Microseconds from 2000-01-01.
    pub(super) time: i64,
    id: Option<String>,
    text: Vec<Option<String>>,
    doubles: Vec<Option<f64>>,
    integers: Vec<Option<i64>>,
    times: Vec<Option<i64>>,
}

impl Fields {
    pub(super) fn of(stream: Stream, document: &RawDocument) -> bson::error::Result<Self> {
        let id = document.get_str("_id").ok().map(id_of);
        let timestamp = match stream {
            Stream::Events | Stream::NodeRooms => "timestamp",
            Stream::Stats => "time_stamp",
        };
        let time = document.get_document(timestamp).ok().and_then(micros).unwrap_or(-EPOCH_SECONDS * 1_000_000);
        let mut fields =
            Self { time, id, text: Vec::new(), doubles: Vec::new(), integers: Vec::new(), times: Vec::new() };
        match stream {
            Stream::Events => fields.text = of_event(document)?.into(),
            Stream::Stats => fields.add_stat(document)?,
            Stream::NodeRooms => fields.text = vec![document.get_str("node_id").ok().and_then(column_text)],
        }
        Ok(fields)
    }

    fn add_stat(&mut self, document: &RawDocument) -> bson::error::Result<()> {
        let mut stat = Stat::default();
        for element in document {
            let (key, value) = element?;
            match key.as_str() {
                "kind" => stat.text[0] = name(value),
                "room_id" => stat.text[1] = text(value),
                "room_name" => stat.text[2] = text(value),
                "participant_id" => stat.text[3] = text(value),
                "track_id" => stat.text[4] = text(value),
                "node" => stat.text[5] = text(value),
                "mime" => stat.text[6] = text(value),
                "score" => stat.scores[0] = double(value),
                "min_score" => stat.scores[1] = double(value),
                "median_score" => stat.scores[2] = double(value),
                "streams" => {
                    for stream in value.as_array().into_iter().flatten() {
                        if let Some(stream) = stream?.as_document() {
                            stat.add(stream)?;
                        }
                    }
                }
                _ => {}
            }
        }
        self.text = stat.text.into();
        self.doubles = stat.scores.into();
        self.integers = stat.counters.iter().map(|sum| sum.and_then(|sum| i64::try_from(sum).ok())).collect();
        self.times = vec![stat.started, stat.ended];
        Ok(())
    }

    /// Appends the row.
    pub(super) fn write(&self, stream: Stream, json: &[u8], out: &mut Vec<u8>) {
        let columns = columns(stream);
        out.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(u16::MAX).to_be_bytes());
        let (mut texts, mut doubles) = (self.text.iter(), self.doubles.iter());
        let (mut integers, mut times) = (self.integers.iter(), self.times.iter());
        for column in columns {
            match (column.kind, column.name) {
                (_, "id") => field(self.id.as_deref().unwrap_or_default().as_bytes(), out),
                (_, "time") => field(&self.time.to_be_bytes(), out),
                (Kind::Text, _) => nullable(texts.next().and_then(|text| text.as_deref().map(str::as_bytes)), out),
                (Kind::Double, _) => nullable(doubles.next().copied().flatten().map(f64::to_be_bytes).as_ref(), out),
                (Kind::Integer, _) => nullable(integers.next().copied().flatten().map(i64::to_be_bytes).as_ref(), out),
                (Kind::Time, _) => nullable(times.next().copied().flatten().map(i64::to_be_bytes).as_ref(), out),
                (Kind::Json, _) => {
                    // A document as JSON is limited to 32 MiB. Its binary form begins with a version.
                    out.extend_from_slice(&u32::try_from(json.len() + 1).unwrap_or(u32::MAX).to_be_bytes());
                    out.push(1);
                    out.extend_from_slice(json);
                }
            }
        }
    }
}

fn field(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn nullable<T: AsRef<[u8]> + ?Sized>(bytes: Option<&T>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => field(bytes.as_ref(), out),
        None => out.extend_from_slice(&NULL.to_be_bytes()),
    }
}

/// `type`, `room_sid`, `room_name`, `participant_sid`, `participant_identity`, `track_sid`, `node_id`.
fn of_event(document: &RawDocument) -> bson::error::Result<[Option<String>; 7]> {
    let mut columns = <[Option<String>; 7]>::default();
    let [kind, room, room_name, participant, identity, track, node] = &mut columns;
    // Of a field of its own, and of the message of an event about something else.
    let (mut own, mut other) = (<[Option<String>; 3]>::default(), <[Option<String>; 5]>::default());
    for element in document {
        let (key, value) = element?;
        match key.as_str() {
            "type" => *kind = name(value),
            "node_id" => *node = text(value),
            "room_id" => own[0] = text(value),
            "participant_id" => own[1] = text(value),
            "track_id" => *track = text(value),
            "room" => {
                let part = value.as_document();
                (*room, *room_name) = (part_of(part, "sid"), part_of(part, "name"));
            }
            "participant" => {
                let part = value.as_document();
                (*participant, *identity) = (part_of(part, "sid"), part_of(part, "identity"));
            }
            "track" => own[2] = part_of(value.as_document(), "sid"),
            "webhook" | "api_call" | "egress" | "sip_call" | "ingress" | "report" => {
                let mut part = value.as_document();
                if key == "report" {
                    part = within(within(part, "Message"), "FeatureUsage");
                }
                other = ["room_id", "room_name", "participant_id", "participant_identity", "track_id"]
                    .map(|name| part_of(part, name));
                if key == "ingress" {
                    other[0] = part_of(within(part, "state"), "room_id");
                }
            }
            _ => {}
        }
    }
    let (
        [own_room, own_participant, own_track],
        [other_room, other_name, other_participant, other_identity, other_track],
    ) = (own, other);
    let or = |column: &mut Option<String>, others: [Option<String>; 2]| {
        if column.is_none() {
            *column = others.into_iter().flatten().next();
        }
    };
    or(room, [own_room, other_room]);
    or(room_name, [None, other_name]);
    or(participant, [own_participant, other_participant]);
    or(identity, [None, other_identity]);
    or(track, [own_track, other_track]);
    Ok(columns)
}

/// A stat: the sums and extremes over its streams.
#[derive(Debug, Default)]
struct Stat {
    /// `kind`, `room_id`, `room_name`, `participant_id`, `track_id`, `node_id`, `mime`
    text: [Option<String>; 7],
    scores: [Option<f64>; 3],
    /// `bytes`, `packets`, `lost`, `frames`, `rtt_ms`, `jitter_us`, `nacks`, `plis`, `firs`
    counters: [Option<i128>; 9],
    started: Option<i64>,
    ended: Option<i64>,
}

impl Stat {
    fn add(&mut self, stream: &RawDocument) -> bson::error::Result<()> {
        let mut counted = [0_i128; 9];
        for element in stream {
            let (key, value) = element?;
            // What BSON's integers cannot hold is a double: more than any column can hold.
            let number = || value.as_i64().or_else(|| value.as_i32().map(i64::from)).map_or(i128::MAX / 8, i128::from);
            let sum = match key.as_str() {
                "primary_bytes" | "retransmit_bytes" | "padding_bytes" => 0,
                "primary_packets" | "retransmit_packets" | "padding_packets" => 1,
                "packets_lost" => 2,
                "frames" => 3,
                "rtt" => 4,
                "jitter" => 5,
                "nacks" => 6,
                "plis" => 7,
                "firs" => 8,
                "start_time" => {
                    let at = value.as_document().and_then(micros);
                    self.started = self.started.into_iter().chain(at).min();
                    continue;
                }
                "end_time" => {
                    let at = value.as_document().and_then(micros);
                    self.ended = self.ended.into_iter().chain(at).max();
                    continue;
                }
                _ => continue,
            };
            counted[sum] = counted[sum].saturating_add(number());
        }
        for (i, (total, of_stream)) in self.counters.iter_mut().zip(counted).enumerate() {
            let before = total.unwrap_or(0);
            let is_extreme = matches!(i, 4 | 5);
            *total = Some(if is_extreme { before.max(of_stream) } else { before.saturating_add(of_stream) });
        }
        Ok(())
    }
}

fn within<'a>(part: Option<&'a RawDocument>, name: &str) -> Option<&'a RawDocument> {
    part?.get_document(name).ok()
}

/// A part of the document of a oneof or message; empty ones do not exist.
fn part_of(document: Option<&RawDocument>, key: &str) -> Option<String> {
    text(document?.get(key).ok()??)
}

fn text(value: RawBsonRef<'_>) -> Option<String> {
    value.as_str().and_then(column_text)
}

/// The name of an enum's value; a number without a name stays a number.
fn name(value: RawBsonRef<'_>) -> Option<String> {
    value.as_i32().map(|number| number.to_string()).or_else(|| text(value))
}

/// A score; LiveKit's begin at 1, and 0 means that there is none.
fn double(value: RawBsonRef<'_>) -> Option<f64> {
    value.as_f64().filter(|value| value.is_finite())
}

/// A text as a column holds it; none if it is empty.
fn column_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| cut(text, MAX_TEXT).replace('\0', "\u{fffd}"))
}

/// The beginning of a text, of so many bytes at most.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// An id as the key holds it.
fn id_of(id: &str) -> String {
    if id.len() <= MAX_TEXT && !id.contains('\0') {
        return id.to_owned();
    }
    let hash = &blake3::hash(id.as_bytes()).to_hex()[..32];
    format!("{}~{hash}", cut(id, 64).replace('\0', "\u{fffd}"))
}

/// A `google.protobuf.Timestamp` in microseconds from 2000-01-01; none if it is empty, or `timestamptz` cannot hold it.
fn micros(timestamp: &RawDocument) -> Option<i64> {
    let number = |key| {
        let value = timestamp.get(key).ok().flatten();
        value.and_then(|value| value.as_i64().or_else(|| value.as_i32().map(i64::from)))
    };
    let (seconds, nanos) = (number("seconds"), number("nanos"));
    if seconds.is_none() && nanos.is_none() {
        return None;
    }
    let seconds = seconds.unwrap_or(0).checked_sub(EPOCH_SECONDS)?;
    let micros = seconds.checked_mul(1_000_000)?.checked_add(nanos.unwrap_or(0).div_euclid(1000))?;
    TIMES.contains(&micros).then_some(micros)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bson::{RawDocumentBuf, doc};

    use super::*;

    fn fields(stream: Stream, document: bson::Document) -> Fields {
        Fields::of(stream, &RawDocumentBuf::try_from(&document).expect("BSON")).expect("fields")
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn an_events_columns_come_from_its_document_and_from_the_message_it_is_about() {
        let event = fields(
            Stream::Events,
            doc! {
                "_id": "AE_1", "type": "PARTICIPANT_JOINED", "room_id": "RM_old", "node_id": "ND_1", "participant_id": "PA_1",
                "room": { "sid": "RM_1", "name": "room" }, "participant": { "sid": "PA_1", "identity": "zoë" },
                "track": { "sid": "TR_1" }, "timestamp": { "seconds": 946_684_801_i64, "nanos": 5_000 },
            },
        );
        let expected = ["PARTICIPANT_JOINED", "RM_1", "room", "PA_1", "zoë", "TR_1", "ND_1"].map(some);
        assert_eq!((event.id.as_deref(), event.time, &event.text[..]), (Some("AE_1"), 1_000_005, &expected[..]));
        let webhook = doc! { "_id": "AE_2", "type": 99, "webhook": { "room_id": "RM_1", "room_name": "room" } };
        let webhook = fields(Stream::Events, webhook);
        assert_eq!(webhook.text, [some("99"), some("RM_1"), some("room"), None, None, None, None]);
        let call = doc! { "_id": "AE_3", "sip_call": { "room_id": "RM_1", "participant_identity": "phone" } };
        assert_eq!(fields(Stream::Events, call).text, [None, some("RM_1"), None, None, some("phone"), None, None]);
        let ingress = doc! { "_id": "AE_4", "ingress": { "room_name": "room", "state": { "room_id": "RM_1" } } };
        assert_eq!(fields(Stream::Events, ingress).text, [None, some("RM_1"), some("room"), None, None, None, None]);
    }

    #[test]
    fn a_stats_numbers_are_those_of_all_its_streams() {
        let stat = fields(
            Stream::Stats,
            doc! {
                "_id": "AS_1", "kind": "UPSTREAM", "room_id": "RM_1", "mime": "video/VP8", "score": 4.5, "min_score": f64::NAN,
                "streams": [
                    { "primary_bytes": 10_i64, "padding_bytes": 5_i64, "primary_packets": 3_i64, "rtt": 7_i64, "frames": 2_i64,
                      "start_time": {}, "end_time": { "seconds": 946_684_802_i64 } },
                    { "primary_bytes": 1_i64, "rtt": 3_i64, "jitter": 8_i64, "nacks": 1e19,
                      "start_time": { "seconds": 946_684_801_i64 }, "end_time": { "seconds": 946_684_800_i64, "nanos": 1_000 } },
                ],
            },
        );
        assert_eq!(stat.doubles, [Some(4.5), None, None]);
        let zero = Some(0);
        assert_eq!(stat.integers, [Some(16), Some(3), zero, Some(2), Some(7), Some(8), None, zero, zero]);
        assert_eq!(stat.times, [Some(1_000_000), Some(2_000_000)]);
        let empty = fields(Stream::Stats, doc! { "_id": "AS_2" });
        assert_eq!((empty.integers, empty.times), (vec![None; 9], vec![None; 2]));
    }

    #[test]
    fn a_time_that_does_not_exist_or_fit_is_the_first_of_1970() {
        let time = |timestamp: bson::Document| fields(Stream::Events, doc! { "timestamp": timestamp }).time;
        let none = -EPOCH_SECONDS * 1_000_000;
        assert_eq!(time(doc! {}), none);
        for seconds in [i64::MAX, i64::MIN, 9_224_318_016_000, -210_866_803_201] {
            assert_eq!(time(doc! { "seconds": seconds }), none, "{seconds}");
        }
        assert_eq!(time(doc! { "seconds": 9_224_318_015_999_i64 }), 9_223_371_331_199_000_000);
        assert_eq!(time(doc! { "seconds": -210_866_803_200_i64 }), -211_813_488_000_000_000);
        assert_eq!(time(doc! { "nanos": 1 }), none, "the first moment of 1970");
    }

    #[test]
    fn different_ids_stay_different_and_fit_into_an_index() {
        let long = "é".repeat(600);
        let ids = ["a\0".to_owned(), "a\u{fffd}".to_owned(), "a".to_owned(), long.clone(), format!("{long}x")];
        let keys: BTreeSet<String> = ids.iter().map(|id| id_of(id)).collect();
        assert_eq!(keys.len(), ids.len());
        assert!(keys.iter().all(|key| key.len() <= MAX_TEXT && !key.contains('\0')));
        assert_eq!(id_of("AE_1"), "AE_1");
        assert_eq!(column_text("a\0b").as_deref(), Some("a\u{fffd}b"));
        assert!(column_text(&long).is_some_and(|text| text.len() == MAX_TEXT));
    }
}
