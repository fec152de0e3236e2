//! Rooms that began before the range, never ended, or of which records are missing: the same in every archive.

use livekit_protocol::{
    AnalyticsEvent, AnalyticsEventType as Type, EgressInfo, IngressInfo, IngressState, ParticipantInfo, Room,
    SipCallInfo, WebhookInfo,
};
use livekit_spool::{
    archive::{Query, summaries},
    config::SinkConfig,
    record::Stream,
    session::Time,
};
use pbjson_types::Timestamp;
use prost::Message;

use crate::{
    support::{self, mongo::Mongo, postgres::Postgres},
    truth::{LIMITS, NOW, deliver_batch, encoder, open, sink},
};

const FROM: i64 = 1_795_000_000;
const TO: i64 = FROM + 3600;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn event(kind: Type, at: i64) -> AnalyticsEvent {
    let timestamp = Some(Timestamp { seconds: at, nanos: 0 });
    AnalyticsEvent {
        id: format!("AE_{kind:?}_{at}_{}", rand::random::<u32>()),
        r#type: kind.into(),
        timestamp,
        ..Default::default()
    }
}

/// An event of a room that was created then.
fn of_room(kind: Type, at: i64, sid: &str, created: i64) -> AnalyticsEvent {
    let room = Room { sid: sid.to_owned(), name: sid[3..].to_owned(), creation_time: created, ..Default::default() };
    let participant = matches!(kind, Type::ParticipantJoined | Type::ParticipantActive | Type::ParticipantLeft);
    let participant = participant.then(|| ParticipantInfo {
        sid: format!("PA_{sid}"),
        identity: "ann".to_owned(),
        ..Default::default()
    });
    let participant_id = participant.as_ref().map(|participant| participant.sid.clone()).unwrap_or_default();
    AnalyticsEvent { room: Some(room), room_id: sid.to_owned(), participant, participant_id, ..event(kind, at) }
}

/// Rooms around a range of an hour.
fn events() -> Vec<AnalyticsEvent> {
    let life = |sid: &str, from: i64, to: Option<i64>| {
        let mut events =
            vec![of_room(Type::RoomCreated, from, sid, from), of_room(Type::ParticipantJoined, from, sid, from)];
        events.extend(to.map(|to| of_room(Type::RoomEnded, to, sid, from)));
        events
    };
    let mut events = [
        life("RM_before", FROM - 2 * HOUR, Some(FROM - HOUR)),
        life("RM_after", TO, Some(TO + HOUR)),
        life("RM_within", FROM + 60, Some(TO - 60)),
        life("RM_around", FROM - HOUR, Some(TO + HOUR)),
        life("RM_long", FROM - 5 * DAY, Some(FROM + 60)),
        life("RM_open", FROM + 60, None),
        life("RM_lost", FROM - 20 * HOUR, None),
        life("RM_lost_long_ago", FROM - 30 * HOUR, None),
        // Only its end, only its joins.
        vec![of_room(Type::RoomEnded, FROM + 10, "RM_end_only", FROM - DAY)],
        vec![of_room(Type::ParticipantJoined, FROM + 20, "RM_join_only", FROM + 15)],
    ]
    .concat();
    // About rooms only by what they report; long before or after their time they are not looked for.
    let webhook = |at, room_id: &str| AnalyticsEvent {
        webhook: Some(WebhookInfo {
            room_id: room_id.to_owned(),
            event: "room_finished".to_owned(),
            ..Default::default()
        }),
        ..event(Type::Webhook, at)
    };
    events.push(webhook(TO + 60, "RM_within"));
    events.push(webhook(TO + 60, "RM_nosuch"));
    events.push(AnalyticsEvent {
        egress: Some(EgressInfo {
            egress_id: "EG_1".to_owned(),
            room_id: "RM_within".to_owned(),
            ..Default::default()
        }),
        egress_id: "EG_1".to_owned(),
        ..event(Type::EgressEnded, TO + 600)
    });
    events.push(AnalyticsEvent {
        sip_call: Some(SipCallInfo {
            call_id: "SCL_1".to_owned(),
            room_id: "RM_within".to_owned(),
            ..Default::default()
        }),
        sip_call_id: "SCL_1".to_owned(),
        ..event(Type::SipCallIncoming, FROM + 50)
    });
    let state = IngressState { room_id: "RM_within".to_owned(), ..Default::default() };
    events.push(AnalyticsEvent {
        ingress: Some(IngressInfo { ingress_id: "IN_1".to_owned(), state: Some(state), ..Default::default() }),
        ingress_id: "IN_1".to_owned(),
        ..event(Type::IngressStarted, FROM + 55)
    });
    // As they are delivered.
    events.sort_by_key(|event| event.timestamp.as_ref().map(|at| at.seconds));
    events
}

async fn check(sink: &SinkConfig) {
    let built = sink.target.build(&encoder()).expect("options");
    built.initialize().await.expect("ready");
    let records: Vec<Vec<u8>> = events().iter().map(Message::encode_to_vec).collect();
    deliver_batch(&*built, Stream::Events, &records).await;
    built.close().await;
    let archive = open(sink);
    let at = |seconds: i64| Time(seconds * 1_000_000_000);
    let query = Query { from: at(FROM), to: at(TO), room_name: None, room_prefix: None };
    let listing = archive.list(&query, &LIMITS).await.unwrap_or_else(|error| panic!("{error}"));
    let listed: Vec<(&str, i64, Option<i64>)> = listing
        .rooms
        .iter()
        .map(|room| {
            let seconds = |time: Time| time.0 / 1_000_000_000;
            (room.sid.as_str(), seconds(room.started_at) - FROM, room.ended_at.map(|ended_at| seconds(ended_at) - FROM))
        })
        .collect();
    let expected = [
        ("RM_open", 60, None),
        ("RM_within", 60, Some(HOUR - 60)),
        ("RM_join_only", 15, None),
        ("RM_around", -HOUR, Some(2 * HOUR)),
        // Nobody knows when it was over: its records tell.
        ("RM_lost", -20 * HOUR, None),
        ("RM_end_only", -DAY, Some(10)),
        ("RM_long", -5 * DAY, Some(60)),
    ];
    assert_eq!(listed, expected, "{}", archive.address());
    let (sessions, _) =
        summaries(&*archive, &query, &LIMITS, NOW, &|_, _| {}).await.unwrap_or_else(|error| panic!("{error}"));
    let there: Vec<&str> = sessions.iter().map(|session| session.room_sid.as_str()).collect();
    let expected: Vec<&str> = expected.iter().map(|(sid, ..)| *sid).filter(|sid| *sid != "RM_lost").collect();
    assert_eq!(there, expected, "a room whose last record was before the range was not there");
    let within = listing.rooms.iter().find(|room| room.sid == "RM_within").expect("it was listed").clone();
    let mut found = archive.records(&[within], &LIMITS).await.unwrap_or_else(|error| panic!("{error}"));
    let session = found.take("RM_within", NOW).expect("a session");
    assert_eq!((session.webhooks.len(), session.egresses.len()), (1, 1), "{session:#?}");
    assert_eq!((session.sip_calls.len(), session.ingresses.len()), (1, 1), "{session:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_began_before_never_ended_or_lack_records_are_the_same_in_mongodb() {
    let mongo = Mongo::shared().await;
    check(&sink(&format!("type: mongodb, uri: \"{}\", database: {}", mongo.uri(), mongo.database()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_began_before_never_ended_or_lack_records_are_the_same_in_postgresql() {
    let postgres = Postgres::start().await;
    check(&sink(&format!("type: postgresql, url: \"{}\"", postgres.url()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_that_began_before_never_ended_or_lack_records_are_the_same_in_files() {
    let directory = support::directory("files");
    check(&sink(&format!("type: file, path: \"{}\"", directory.path().display()))).await;
}
