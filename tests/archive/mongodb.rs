//! A MongoDB-compatible server: documents of the sink, and of OpenVidu's fork.

use std::{fs, path::Path, time::Duration};

use bson::{Bson, Document, doc};
use livekit_spool::archive::{Archive, ArchiveError, Limits};
use serde_json::Value;

use crate::{
    questions::answers_as_the_records_do,
    support::{
        free_port,
        mongo::Mongo,
        wire::{Command, Reply, WireServer, error},
    },
    truth::{LIMITS, as_json, deliver, ever, open, rooms_of, sessions, sink, truth},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_the_sinks_documents_are_those_of_the_records() {
    let mongo = Mongo::shared().await;
    let sink = sink(&format!("type: mongodb, uri: \"{}\", database: {}", mongo.uri(), mongo.database()));
    deliver(&sink, 500).await;
    answers_as_the_records_do(&*open(&sink)).await;
}

/// The documents that OpenVidu's fork makes, with the indexes that it has.
fn of_the_fork(name: &str) -> Vec<Document> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/livekit-1.11").join(name);
    let text = fs::read_to_string(path).expect("a fixture");
    let document = |line: &str| match bson_of(serde_json::from_str(line).expect("JSON")) {
        Bson::Document(document) => document,
        other => panic!("{other:?}"),
    };
    text.lines().map(document).collect()
}

/// Canonical Extended JSON; the fork's numbers are doubles.
fn bson_of(value: Value) -> Bson {
    match value {
        Value::Object(fields) => match fields.get("$numberDouble") {
            Some(number) => Bson::Double(number.as_str().expect("text").parse().expect("a number")),
            None => Bson::Document(fields.into_iter().map(|(key, value)| (key, bson_of(value))).collect()),
        },
        Value::Array(values) => Bson::Array(values.into_iter().map(bson_of).collect()),
        Value::String(text) => Bson::String(text),
        Value::Bool(value) => Bson::Boolean(value),
        other => panic!("{other}: not in canonical Extended JSON"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_database_of_openvidus_fork_are_the_same() {
    let mongo = Mongo::shared().await;
    let name = mongo.database();
    let database = mongo.open(&name).await;
    for (collection, fields) in [
        ("events", &["type", "room.sid", "participant.sid", "timestamp.seconds"][..]),
        ("stats", &["room_id", "participant_id", "track_id", "kind", "time_stamp.seconds", "score"]),
    ] {
        let index = |field: &&str| doc! { "key": { *field: 1 }, "name": format!("{field}_1") };
        let indexes: Vec<Document> = fields.iter().map(index).collect();
        database.run_command(doc! { "createIndexes": collection, "indexes": indexes }).await.expect("indexes");
        let documents = of_the_fork(&format!("{collection}.extjson"));
        database.collection::<Document>(collection).insert_many(documents).await.expect("inserted");
    }
    let archive = open(&sink(&format!("type: mongodb, uri: \"{}\", database: {name}", mongo.uri())));
    let truth = truth();
    let listing = archive.list(&ever(), &LIMITS).await.expect("a list");
    assert_eq!(listing.rooms, rooms_of(&truth));
    for (sid, session) in sessions(&*archive, &listing.rooms).await {
        assert_eq!(session, as_json(&truth[&sid]));
    }
}

fn archive_of(server: &WireServer) -> std::sync::Arc<dyn Archive> {
    open(&sink(&format!("type: mongodb, uri: \"{}\"", server.uri())))
}

/// A creation of a room.
fn created(n: i64) -> Document {
    doc! {
        "_id": n, "type": "ROOM_CREATED", "timestamp": { "seconds": 1_700_000_000 - n },
        "room": { "sid": format!("RM_{n:04}"), "name": "room" },
    }
}

fn batch(key: &str, id: i64, documents: Vec<Document>) -> Reply {
    Reply::Answer(doc! { "ok": 1.0, "cursor": { "id": id, "ns": "openvidu.events", key: documents } })
}

/// The type of event that a list asks for.
fn asked(command: &Command) -> String {
    command.body.get_document("filter").and_then(|filter| filter.get_str("type")).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_long_answer_is_read_batch_by_batch_and_a_limit_closes_the_cursor() {
    let server = WireServer::scripted(|command| match (command.name.as_str(), asked(command).as_str()) {
        ("find", "ROOM_CREATED") => batch("firstBatch", 77, (0..10).map(created).collect()),
        ("find", _) => batch("firstBatch", 0, Vec::new()),
        ("getMore", _) => {
            assert_eq!(command.body.get_i64("getMore").expect("a cursor"), 77);
            assert_eq!(command.body.get_str("collection").expect("a collection"), "events");
            let from = 10 + 10 * command.number as i64;
            batch("nextBatch", if from < 50 { 77 } else { 0 }, (from..from + 10).map(created).collect())
        }
        ("killCursors", _) => {
            assert_eq!(command.body.get_array("cursors").expect("cursors"), &[Bson::Int64(77)]);
            assert_eq!(command.number, 0, "once");
            Reply::Answer(doc! { "ok": 1.0 })
        }
        _ => Reply::Healthy,
    })
    .await;
    let archive = archive_of(&server);
    let listing = archive.list(&ever(), &LIMITS).await.expect("a list");
    assert_eq!((listing.rooms.len(), listing.complete_from), (60, None));
    // Nothing is left for the ends of those that were read: whether they are in the range is not known.
    let few = archive.list(&ever(), &Limits { bytes: 500, ..LIMITS }).await.expect("a list");
    assert_eq!((few.rooms, few.complete_from), (Vec::new(), Some(ever().to)));
}

#[tokio::test]
async fn documents_of_others_do_not_make_a_list_look_whole() {
    // As many creations as are asked for, of which one is about no room: there may be more.
    let server = WireServer::scripted(|command| match (command.name.as_str(), asked(command).as_str()) {
        ("find", "ROOM_CREATED") => {
            let other = doc! { "type": "ROOM_CREATED", "timestamp": { "seconds": 1_795_000_000_i64 } };
            let limit = command.body.get_i64("limit").expect("a limit");
            let rooms = (1..limit).map(created).chain([other]);
            batch("firstBatch", 0, rooms.collect())
        }
        ("find", _) => batch("firstBatch", 0, Vec::new()),
        _ => Reply::Healthy,
    })
    .await;
    let listing = archive_of(&server).list(&ever(), &Limits { rooms: 5, ..LIMITS }).await.expect("a list");
    assert_eq!(listing.rooms.len(), 5);
    assert!(listing.complete_from.is_some());
}

#[tokio::test]
async fn a_server_that_is_away_refuses_or_is_slow_is_one_line() {
    let away = sink(&format!(
        "type: mongodb, uri: \"mongodb://me:secret@127.0.0.1:{}/?directConnection=true&serverSelectionTimeoutMS=300\"",
        free_port()
    ));
    let said = open(&away).list(&ever(), &LIMITS).await.expect_err("nobody is there").to_string();
    assert!(said.contains("cannot be reached: connection refused") && !said.contains("secret"), "{said}");
    assert!(!said.contains('\n'), "{said}");

    for (code, name, expected) in [
        (13, "Unauthorized", "its right to read"),
        (50, "MaxTimeMSExpired", "not answered within"),
        (115, "CommandNotSupported", "(code 115 CommandNotSupported)"),
    ] {
        let server = WireServer::scripted(move |command| match command.name.as_str() {
            "find" => Reply::Answer(error(code, name, "no")),
            _ => Reply::Healthy,
        })
        .await;
        let said = archive_of(&server).list(&ever(), &LIMITS).await.expect_err(name).to_string();
        assert!(said.contains(expected), "{said}");
    }

    let silent = WireServer::scripted(|command| match command.name.as_str() {
        "find" => Reply::Silence,
        _ => Reply::Healthy,
    })
    .await;
    let limits = Limits { time: Duration::from_millis(300), ..LIMITS };
    let said = archive_of(&silent).list(&ever(), &limits).await.expect_err("no answer");
    assert!(matches!(said, ArchiveError::Slow { .. }), "{said}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_an_error_and_no_panic() {
    for answer in [
        doc! { "ok": 1.0 },
        doc! { "ok": 1.0, "cursor": 7 },
        doc! { "ok": 1.0, "cursor": { "id": 0_i64 } },
        doc! { "ok": 1.0, "cursor": { "id": 0_i64, "firstBatch": "x" } },
    ] {
        let told = answer.clone();
        let server = WireServer::scripted(move |command| match command.name.as_str() {
            "find" => Reply::Answer(told.clone()),
            _ => Reply::Healthy,
        })
        .await;
        archive_of(&server).list(&ever(), &LIMITS).await.expect_err(&answer.to_string());
    }
    let odd = vec![
        doc! {},
        doc! { "type": 7, "room": "x" },
        doc! { "type": "ROOM_CREATED", "room": { "sid": 7 }, "timestamp": { "seconds": 1 } },
        doc! { "type": "ROOM_CREATED", "room": { "sid": "RM_1" }, "timestamp": { "seconds": i64::MAX } },
        doc! { "type": "ROOM_CREATED", "room": { "sid": "RM_2", "creation_time_ms": f64::INFINITY }, "timestamp": { "seconds": f64::NAN } },
        doc! { "type": "ROOM_CREATED", "room": { "sid": "RM_3", "name": ["x"] }, "timestamp": { "seconds": "1700000000" } },
    ];
    let server = WireServer::scripted(move |command| match (command.name.as_str(), asked(command).as_str()) {
        ("find", "ROOM_CREATED") => batch("firstBatch", 0, odd.clone()),
        ("find", _) => batch("firstBatch", 0, Vec::new()),
        _ => Reply::Healthy,
    })
    .await;
    let listing = archive_of(&server).list(&ever(), &LIMITS).await.expect("a list");
    let rooms: Vec<&str> = listing.rooms.iter().map(|room| room.sid.as_str()).collect();
    assert_eq!(rooms, ["RM_3"]);
}
