//! Records in JSON: what is accepted, what is refused, and how.

mod differential;
mod model;
mod text;

use bytes::Bytes;
use livekit_protocol::{AnalyticsEvent, AnalyticsStat, ParticipantInfo, Room};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};

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
fn the_halves_of_a_text_have_its_records() {
    // Not all begin with the same field, and each has objects that may be taken for the next record.
    let event = |n: usize| {
        let first = ["id", "roomId", "participantId"][n % 3];
        format!(r#"{{"{first}":"{n}","room":{{"enabledCodecs":[{{"mime":"a,"}},{{"mime":"}},{{\"id\":\"1\"}}"}}]}}}}"#)
    };
    let check =
        |halves: Option<[Bytes; 2]>, text: &Bytes, read: fn(Stream, &[u8]) -> Result<RecordBatchBuilder, JsonError>| {
            let read =
                |text: &Bytes| read(Stream::Events, text).unwrap_or_else(|error| panic!("{error}: {text:?}")).build(0);
            let (whole, halves) = (read(text), halves.expect("a cut").map(|half| read(&half)));
            assert!(whole.iter().eq(halves[0].iter().chain(halves[1].iter())), "{text:?}");
            assert!(halves.iter().all(|half| half.count() * 3 >= whole.count() - 3), "{text:?}");
        };
    for count in 4..40 {
        let events: Vec<_> = (0..count).map(event).collect();
        for between in [",", ", ", ",\n  ", " , "] {
            let text = Bytes::from(format!(" [ {} ]\n", events.join(between)));
            check(halves_of_json(&text), &text, records_from_json);
        }
        for end in ["\n", "\n\n", "\r\n"] {
            let text = Bytes::from(events.join(end) + end);
            check(halves_of_ndjson(&text), &text, records_from_ndjson);
        }
    }
    let not_cut =
        [r#"{"events":[{"id":"1"},{"id":"2"}]}"#, r#"[{"room":{"enabledCodecs":[{},{"mime":"a"}]}}]"#, "[", "[{", ""];
    assert!(not_cut.iter().all(|text| halves_of_json(&Bytes::from_static(text.as_bytes())).is_none()));
}

/// Whatever the text: halves that are both valid have the records of the whole, which is valid then.
#[test]
fn no_faulty_text_has_two_valid_halves() {
    let records: Vec<_> = (0..6).map(|n| format!(r#"{{"id":"AE_{n}","roomId":"[{{\"id\":"}}"#)).collect();
    let text = format!("[{}]", records.join(","));
    let faults = ["", "[", "]", "{", "}", ",", "\"", ":", "\\", "{\"id\":", "},{\"id\":", "],[", "\n"];
    for at in 0..=text.len() {
        for fault in faults {
            for gap in [0, 1, 2] {
                let Some(tail) = text.get(at + gap..) else { continue };
                for text in [format!("{}{fault}{tail}", &text[..at]), format!("{fault}{}", &text[..at])] {
                    let text = Bytes::from(text);
                    let Some(halves) = halves_of_json(&text) else { continue };
                    let halves = halves.map(|half| records_from_json(Stream::Events, &half).map(|half| half.build(0)));
                    let [Ok(first), Ok(second)] = halves else { continue };
                    let whole =
                        records_from_json(Stream::Events, &text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
                    assert!(whole.build(0).iter().eq(first.iter().chain(second.iter())), "{text:?}");
                }
            }
        }
    }
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
    let error = records_from_ndjson(Stream::Events, b"{\"id\": \"AE_1\"}\n{}\n").unwrap_err();
    assert!(error.to_string().starts_with("JSON line 2: an object without fields"), "{error}");
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

#[test]
fn a_record_with_too_many_entries_is_too_large_and_a_long_list_is_not() {
    let map = |entries: usize| {
        let entries: Vec<_> = (0..entries).map(|n| format!(r#""{n}":"""#)).collect();
        format!(r#"{{"participant": {{"attributes": {{{}}}}}}}"#, entries.join(","))
    };
    // The map is the only part of the messages around it until it ends.
    records(Stream::Events, &map(parts::MAX_PARTS));
    let error = records_from_json(Stream::Events, map(parts::MAX_PARTS + 1).as_bytes()).unwrap_err();
    assert!(error.is_too_large && error.path == "participant.attributes", "{error}");
    let repeated = format!("{{{}\"id\": \"\"}}", "\"id\": \"AE\",".repeat(parts::MAX_PARTS));
    assert!(records_from_json(Stream::Events, repeated.as_bytes()).unwrap_err().is_too_large);
    let codecs = format!(r#"{{"room": {{"enabledCodecs": [{}{{}}]}}}}"#, "{},".repeat(1_000_000));
    records(Stream::Events, &codecs);
}

#[test]
fn messages_in_messages_are_refused_beyond_what_protobuf_allows() {
    let nested = |levels: usize, begin: &str, end: &str| {
        format!(
            r#"{{"sipCall": {{"callContext": [{}{{"@type": "x/livekit.Room"}}{}]}}}}"#,
            begin.repeat(levels),
            end.repeat(levels)
        )
    };
    // Each level is a message and an `Any`; after the name, or before it: then each level is read on its own.
    for (begin, end) in [
        (r#"{"@type": "x/livekit.SIPCallInfo", "callContext": ["#, "]}"),
        (r#"{"callContext": ["#, r#"], "@type": "x/livekit.SIPCallInfo"}"#),
    ] {
        records(Stream::Events, &nested(30, begin, end));
        for levels in [100, 1000] {
            let error = refused(Stream::Events, &nested(levels, begin, end));
            assert!(error.contains("nested deeper") || error.contains("recursion limit"), "{error}");
        }
    }
}

#[test]
fn what_is_not_utf8_is_refused_with_its_place() {
    let error = records_from_ndjson(Stream::Events, b"{\"id\": \"AE_1\"}\n{\"id\": \"\xFF\"}").unwrap_err();
    assert_eq!((error.line, error.column), (2, 9), "{error}");
}

#[test]
fn a_double_is_the_one_that_was_written() {
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..2000 {
        let double = f64::from(random.random::<u32>()) * random.random::<f64>();
        for text in [format!("{double}"), format!("{double:e}"), format!("\"{double}\"")] {
            let json = format!(r#"{{"bitrate": {text}}}"#);
            let bytes = protobuf_from_json("livekit.RTPStats", UnknownFields::Refuse, json.as_bytes()).unwrap();
            let stats = livekit_protocol::RtpStats::decode(&*bytes).unwrap();
            assert_eq!(stats.bitrate.to_bits(), double.to_bits(), "{text}");
        }
    }
}

#[test]
fn the_largest_numbers_are_accepted_and_none_becomes_infinite() {
    let stats = |json: String| protobuf_from_json("livekit.RTPStats", UnknownFields::Refuse, json.as_bytes());
    let float = |text: &str| {
        let bytes = stats(format!(r#"{{"packetLossPercentage": {text}}}"#))?;
        Ok::<_, JsonError>(livekit_protocol::RtpStats::decode(&*bytes).unwrap().packet_loss_percentage)
    };
    // Nine digits are the shortest text that only the largest float has; a half of its last place more is refused.
    for (text, expected) in [("3.4028235e38", f32::MAX), ("-3.4028235e+38", f32::MIN), ("3.40282356e38", f32::MAX)] {
        assert_eq!(float(text), Ok(expected));
        assert_eq!(float(&format!("\"{text}\"")), Ok(expected));
    }
    assert_eq!(float("\"-Infinity\""), Ok(f32::NEG_INFINITY));
    for text in ["3.4028236e38", "-3.4028236e38", "1e400"] {
        for text in [text.to_owned(), format!("\"{text}\"")] {
            float(&text).unwrap_err();
        }
    }
    stats(r#"{"bitrate": "1.7976931348623157e308"}"#.to_owned()).unwrap();
    stats(r#"{"bitrate": "1.7976931348623159e308"}"#.to_owned()).unwrap_err();
}

#[test]
fn an_error_is_short_however_long_the_names_are() {
    let name = "ä".repeat(100_000);
    for text in [
        format!(r#"{{"{name}": 1}}"#),
        format!(r#"{{"participant": {{"attributes": {{"{name}": 1}}}}}}"#),
        format!(r#"{{"sipCall": {{"callContext": [{{"{name}": 1, "@type": "x/livekit.Room"}}]}}}}"#),
    ] {
        let error = refused(Stream::Events, &text);
        assert!(error.len() < 3000 && error.contains('…'), "{} bytes: {error:.100}", error.len());
    }
}

#[test]
fn keys_before_the_name_of_their_message_count_as_well() {
    let any = |begin: &str, keys: usize, end: &str| {
        let keys = r#""sid": "","#.repeat(keys);
        format!(r#"{{"sipCall": {{"callContext": [{begin}{{{keys}"@type": "x/livekit.Room"}}{end}]}}}}"#)
    };
    records(Stream::Events, &any("", 20_000, ""));
    for text in [
        any("", parts::MAX_PARTS + 1, ""),
        // Those around it are still kept.
        any(
            &format!(r#"{{{}"callContext": ["#, r#""callId": "","#.repeat(15_000)),
            12_000,
            r#"], "@type": "x/livekit.SIPCallInfo"}"#,
        ),
    ] {
        let error = records_from_json(Stream::Events, text.as_bytes()).unwrap_err();
        assert!(error.is_too_large, "{error}");
    }
    // Nothing is left of them for the next record.
    let [one, other] = [any("", 20_000, ""), any("", 20_000, "")];
    assert_eq!(records(Stream::Events, &format!("[{one}, {other}, {one}]")).len(), 3);
}
