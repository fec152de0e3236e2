//! livekit-1.11: 7 rooms with 3 clients each, checked against the protobuf records themselves.

use std::collections::{BTreeMap, BTreeSet};

use livekit_protocol::{AnalyticsEvent, AnalyticsEventType, AnalyticsStat, RtpStats, StreamType};
use prost::Message;
use serde_json::Value;

use super::{EVENTS, LATE, STATS, documents, forks, json, real, sessions};
use crate::{
    document::{DocumentOptions, Enums, JsonStyle, PiiKey, Redact},
    record::wire::delimited,
    session::{Documents, Quality, Session, State, Summary, fold},
};

fn events() -> impl Iterator<Item = AnalyticsEvent> {
    delimited(EVENTS).map(|record| AnalyticsEvent::decode(record).unwrap())
}

fn stats() -> impl Iterator<Item = AnalyticsStat> {
    delimited(STATS).map(|record| AnalyticsStat::decode(record).unwrap())
}

fn seconds(event: &AnalyticsEvent) -> f64 {
    let at = event.timestamp.as_ref().unwrap();
    at.seconds as f64 + f64::from(at.nanos) / 1e9
}

#[test]
fn the_rooms_are_seven_ended_sessions_of_three_participants() {
    let sessions = sessions(&real());
    assert_eq!(sessions.len(), 7);
    let mut connection_seconds = Vec::new();
    for session in sessions.values() {
        assert_eq!(session.state, State::Ended);
        assert!(session.settled);
        assert_eq!((session.totals.participants, session.totals.peak_participants), (3, 3), "{}", session.room_name);
        let identities: Vec<&str> = session.participants.iter().map(|who| who.identity.as_str()).collect();
        assert_eq!(BTreeSet::from_iter(identities), BTreeSet::from(["user0", "user1", "user2"]));
        assert!(session.participants.is_sorted_by_key(|who| who.connections[0].joined_at));
        connection_seconds.push(session.totals.connection_seconds.round() as u64);
    }
    assert_eq!(connection_seconds.iter().min(), Some(&76));
    assert_eq!(connection_seconds.iter().max(), Some(&303));
}

#[test]
fn totals_are_those_of_the_records() {
    for (room, session) in sessions(&real()) {
        let mut bytes = [0, 0];
        for stat in stats().filter(|stat| stat.room_id == room) {
            let way = usize::from(stat.kind() == StreamType::Downstream);
            for stream in &stat.streams {
                bytes[way] += stream.primary_bytes + stream.retransmit_bytes + stream.padding_bytes;
            }
        }
        assert_eq!([session.totals.bytes_in, session.totals.bytes_out], bytes, "{room}");
        let left =
            events().filter(|event| event.room_id == room && event.r#type() == AnalyticsEventType::ParticipantLeft);
        let truth: f64 =
            left.map(|event| seconds(&event) - event.participant.as_ref().unwrap().joined_at_ms as f64 / 1000.0).sum();
        assert!((session.totals.connection_seconds - truth).abs() < 1e-5, "{room}");
    }
}

#[test]
fn a_room_begins_when_it_was_created_to_the_millisecond() {
    let sessions = sessions(&real());
    for event in events().filter(|event| event.r#type() == AnalyticsEventType::RoomCreated) {
        let room = event.room.unwrap();
        let session = &sessions[&room.sid];
        assert_eq!(session.started_at.0, room.creation_time_ms * 1_000_000);
        assert_eq!(session.moments[0].kind, "ROOM_CREATED");
        assert_eq!(session.moments[0].at, session.started_at);
    }
}

#[test]
fn the_connect_time_is_the_time_from_joining_to_active() {
    let mut compared = 0;
    for session in sessions(&real()).values() {
        for connection in session.participants.iter().flat_map(|who| &who.connections) {
            let took = connection.active_at.unwrap().since(connection.joined_at.unwrap()) * 1000.0;
            let measured = connection.connect_ms.unwrap() as f64;
            assert!((took - measured).abs() <= 2.0, "{took} ms, measured: {measured} ms");
            assert!((25.0..=105.0).contains(&measured));
            assert_eq!(connection.transport.as_deref(), Some("udp"));
            assert_eq!(connection.reason.as_deref(), Some("CLIENT_INITIATED"));
            assert_eq!(connection.client.sdk, "PYTHON");
            assert_eq!(connection.client.address_class, "loopback");
            compared += 1;
        }
    }
    assert_eq!(compared, 21);
}

/// The totals of each track and direction, as LiveKit sums them up when it is closed.
fn closings() -> BTreeMap<(String, String, bool), RtpStats> {
    let closings = events().filter_map(|event| {
        let is_downstream = match event.r#type() {
            AnalyticsEventType::TrackPublishStats => false,
            AnalyticsEventType::TrackSubscribeStats => true,
            _ => return None,
        };
        Some(((event.participant_id, event.track_id, is_downstream), event.rtp_stats?))
    });
    closings.collect()
}

#[test]
fn the_stats_of_each_track_add_up_to_its_closing_event() {
    // Without the closing events, which would be taken where they know more.
    let mut documents = real();
    documents.events.retain(|event| !event["type"].as_str().unwrap().ends_with("_STATS"));
    let closings = closings();
    let (mut compared, mut packets) = (0, 0);
    for session in sessions(&documents).values() {
        for (key, quality) in qualities(session) {
            let closing = &closings[&key];
            assert_eq!(quality.packets, u64::from(closing.packets), "{key:?}");
            assert_eq!(quality.bytes, closing.bytes + closing.bytes_duplicate + closing.bytes_padding, "{key:?}");
            assert_eq!(quality.lost, u64::from(closing.packets_lost), "{key:?}");
            compared += 1;
            packets += quality.packets;
        }
    }
    assert_eq!((compared, packets), (126, 252_718));
}

fn qualities(session: &Session) -> Vec<((String, String, bool), &Quality)> {
    let mut qualities = Vec::new();
    for connection in session.participants.iter().flat_map(|who| &who.connections) {
        let key = |track: &String, is_downstream| (connection.sid.clone(), track.clone(), is_downstream);
        qualities.extend(connection.published.iter().map(|track| (key(&track.sid, false), &track.upstream)));
        let subscribed = connection.subscribed.iter();
        qualities.extend(subscribed.map(|received| (key(&received.track_sid, true), &received.downstream)));
    }
    qualities
}

#[test]
fn without_any_stats_the_closing_events_give_the_same_totals_of_tracks() {
    let whole = sessions(&real());
    for (room, session) in sessions(&Documents { stats: Vec::new(), ..real() }) {
        let totals = |session: &Session| {
            let qualities = qualities(session).into_iter();
            qualities.map(|(key, quality)| (key, quality.packets, quality.bytes)).collect::<Vec<_>>()
        };
        assert_eq!(totals(&session), totals(&whole[&room]));
    }
}

#[test]
fn tracks_have_publisher_subscribers_and_latencies() {
    for session in sessions(&real()).values() {
        for participant in &session.participants {
            let [connection] = &participant.connections[..] else {
                panic!("{} connections", participant.connections.len())
            };
            let sources: BTreeSet<&str> = connection.published.iter().map(|track| track.source.as_str()).collect();
            assert_eq!(sources, BTreeSet::from(["CAMERA", "MICROPHONE"]));
            for track in &connection.published {
                assert_eq!(track.subscribers.len(), 2);
                assert!((0.0..1000.0).contains(&track.publish_ms.unwrap()));
                assert!(track.unpublished_at.unwrap() > track.published_at.unwrap());
                let (kind, mime, width) =
                    if track.source == "CAMERA" { ("VIDEO", "video/VP8", 320) } else { ("AUDIO", "audio/red", 0) };
                assert_eq!((track.kind.as_str(), track.mime.as_str(), track.width), (kind, mime, width));
            }
            assert_eq!(connection.subscribed.len(), 4);
            for subscription in &connection.subscribed {
                assert!(!subscription.publisher_identity.is_empty());
                assert_ne!(subscription.publisher_identity, participant.identity);
                assert!((0.0..1000.0).contains(&subscription.subscribe_ms.unwrap()));
                let [span] = subscription.spans[..] else { panic!("{} spans", subscription.spans.len()) };
                assert!(span.to.unwrap() > span.from);
            }
        }
        assert_eq!(session.webhooks.len(), 20);
        assert!(session.webhooks.iter().all(|webhook| webhook.error.is_none() && webhook.send_ms > 0.0));
    }
}

#[test]
fn every_event_is_a_moment() {
    let sessions = sessions(&real());
    assert_eq!(sessions.values().map(|session| session.moments.len()).sum::<usize>(), 763);
}

#[test]
fn a_call_without_trouble_has_nothing_to_observe() {
    for session in sessions(&real()).values() {
        assert_eq!(session.observations, []);
    }
}

#[test]
fn the_forks_documents_make_the_same_sessions() {
    assert_eq!(sessions(&forks()), sessions(&real()));
}

#[test]
fn documents_of_both_together_make_the_same_sessions() {
    let (mut both, forks) = (real(), forks());
    both.events.extend(forks.events);
    both.stats.extend(forks.stats);
    assert_eq!(sessions(&both), sessions(&real()));
}

#[test]
fn every_form_of_our_documents_makes_the_same_sessions() {
    let expected = sessions(&real());
    let names = DocumentOptions { enums: Enums::Names, ..DocumentOptions::default() };
    for style in [JsonStyle::Canonical, JsonStyle::Relaxed, JsonStyle::Plain] {
        assert_eq!(sessions(&documents(EVENTS, STATS, DocumentOptions::default(), style)), expected, "{style:?}");
        assert_eq!(sessions(&documents(EVENTS, STATS, names.clone(), style)), expected, "{style:?}");
    }
}

#[test]
fn redacted_documents_make_sessions_with_the_same_totals() {
    for pii_key in [Some(PiiKey::from_secret("key")), None] {
        let is_hashed = pii_key.is_some();
        let options = DocumentOptions { redact: Redact::Pii, pii_key, ..DocumentOptions::default() };
        let redacted = sessions(&documents(EVENTS, STATS, options, JsonStyle::Relaxed));
        for (room, session) in sessions(&real()) {
            assert_eq!(redacted[&room].totals, session.totals, "{room}");
            for participant in &redacted[&room].participants {
                assert_eq!(participant.identity.starts_with("pii:"), is_hashed, "{}", participant.identity);
                assert_eq!(participant.name, "");
                let class = &participant.connections[0].client.address_class;
                assert_eq!(class.starts_with("pii:"), is_hashed, "{class}");
            }
        }
    }
}

#[test]
fn a_room_that_no_document_is_about_has_no_session() {
    for room in ["RM_other", ""] {
        assert_eq!(fold(room, &real(), LATE), None);
    }
    assert_eq!(fold("RM_1", &Documents::default(), LATE), None);
}

#[test]
fn records_with_every_field_filled_at_random_make_sessions() {
    let documents = documents(
        include_bytes!("../../../tests/data/every-field/events.pb"),
        include_bytes!("../../../tests/data/every-field/stats.pb"),
        DocumentOptions::default(),
        JsonStyle::Relaxed,
    );
    let sessions = sessions(&documents);
    assert_eq!(sessions.len(), 9);
    for session in sessions.values() {
        json(session);
        assert_eq!(Summary::of(session).totals, session.totals);
    }
}

#[test]
fn a_summary_is_of_the_session() {
    for session in sessions(&real()).values() {
        let summary = Summary::of(session);
        assert_eq!(summary.totals, session.totals);
        assert_eq!((summary.present, summary.problems, summary.warnings), (0, 0, 0));
        assert_eq!(summary.worst, None);
        assert_eq!(summary.max_loss, Some(0.0));
        // Not 1.25, which LiveKit gives to the moment at which a track ends.
        assert!(summary.min_score.unwrap() > 4.0);
    }
}

/// Compares the sums of stats with what the closing events tell, as documents have them.
///
/// With loss on the way up the packets differ: see the header of quality.rs.
pub(super) fn closings_add_up(documents: &Documents, has_loss: bool) {
    let is_closing = |event: &Value| event["type"].as_str().unwrap().ends_with("_STATS");
    let without = Documents {
        events: documents.events.iter().filter(|event| !is_closing(event)).cloned().collect(),
        stats: documents.stats.clone(),
    };
    let mut compared = 0;
    for session in sessions(&without).values() {
        for ((connection, track, is_downstream), quality) in qualities(session) {
            let kind = if is_downstream { "TRACK_SUBSCRIBE_STATS" } else { "TRACK_PUBLISH_STATS" };
            let of_flow = documents.events.iter().filter(|event| {
                event["type"] == kind && event["participant_id"] == *connection && event["track_id"] == *track
            });
            let sum = |key: &str| of_flow.clone().filter_map(|event| event["rtp_stats"][key].as_u64()).sum::<u64>();
            if !has_loss {
                assert_eq!(quality.packets, sum("packets"), "{connection} {track} {kind}");
            }
            assert_eq!(quality.bytes, sum("bytes") + sum("bytes_duplicate") + sum("bytes_padding"), "{track} {kind}");
            compared += usize::from(quality.packets > 0);
        }
    }
    assert!(compared >= 4, "{compared}");
}
