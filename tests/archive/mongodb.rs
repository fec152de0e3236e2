//! A MongoDB-compatible server: documents of the sink, and of OpenVidu's fork.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bson::{Bson, Document, doc};
use livekit_spool::archive::{Archive, ArchiveError, Limits, Room};
use serde_json::Value;

use crate::{
    questions::answers_as_the_records_do,
    support::{
        eventually, free_port,
        mongo::Mongo,
        wire::{Command, Reply, WireServer, error},
    },
    truth::{LIMITS, NOW, as_json, deliver, ever, open, rooms_of, sessions, sink, truth},
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

fn archive_of(server: &WireServer) -> Arc<dyn Archive> {
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
    assert_eq!(server.commands("killCursors"), 1);
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
        (50, "MaxTimeMSExpired", "no answer within"),
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
        let said = archive_of(&server).list(&ever(), &LIMITS).await.expect_err(&answer.to_string()).to_string();
        assert!(said.contains("the server's answer has no"), "{said}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_continued_in_the_session_that_opened_it_however_many_are_open() {
    // As MongoDB does: codes 50737 and 50738.
    let opened: Mutex<BTreeMap<i64, Option<Document>>> = Mutex::default();
    let server = WireServer::scripted(move |command| {
        let session = command.body.get_document("lsid").ok().cloned();
        match command.name.as_str() {
            "find" => {
                let cursor = command.number as i64 + 1;
                opened.lock().expect("a lock").insert(cursor, session);
                batch("firstBatch", cursor, Vec::new())
            }
            "getMore" => {
                let cursor = command.body.get_i64("getMore").expect("a cursor");
                match opened.lock().expect("a lock").get(&cursor) {
                    Some(opener) if *opener == session => batch("nextBatch", 0, Vec::new()),
                    _ => Reply::Answer(error(50738, "Location50738", "created in another session")),
                }
            }
            _ => Reply::Healthy,
        }
    })
    .await;
    let archive = archive_of(&server);
    let room = Room { sid: "RM_1".to_owned(), name: "room".to_owned(), started_at: NOW, ended_at: Some(NOW) };
    for _ in 0..5 {
        archive.list(&ever(), &LIMITS).await.unwrap_or_else(|error| panic!("{error}"));
        archive.records(std::slice::from_ref(&room), &LIMITS).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test]
async fn a_server_without_sessions_is_read_too() {
    let hello = doc! { "logicalSessionTimeoutMinutes": Bson::Null };
    let server = WireServer::scripted_with(hello, |command| match (command.name.as_str(), asked(command).as_str()) {
        ("find" | "getMore", _) if command.body.contains_key("lsid") => {
            Reply::Answer(error(72, "InvalidOptions", "there are no sessions"))
        }
        ("find", "ROOM_CREATED") => batch("firstBatch", 7, vec![created(1)]),
        ("find", _) => batch("firstBatch", 0, Vec::new()),
        ("getMore", _) => batch("nextBatch", 0, vec![created(2)]),
        _ => Reply::Healthy,
    })
    .await;
    let listing = archive_of(&server).list(&ever(), &LIMITS).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(listing.rooms.len(), 2);
}

#[tokio::test]
async fn a_reader_that_leaves_closes_its_cursor() {
    let server = WireServer::scripted(|command| match command.name.as_str() {
        "find" => batch("firstBatch", 77, vec![created(1)]),
        "getMore" => Reply::Silence,
        "killCursors" => {
            assert_eq!(command.body.get_array("cursors").expect("cursors"), &[Bson::Int64(77)]);
            Reply::Answer(doc! { "ok": 1.0 })
        }
        _ => Reply::Healthy,
    })
    .await;
    let archive = archive_of(&server);
    let reading = tokio::spawn({
        let archive = Arc::clone(&archive);
        async move { archive.list(&ever(), &LIMITS).await }
    });
    eventually("asked for more", async || server.commands("getMore") == 1).await;
    reading.abort();
    eventually("closed", async || server.commands("killCursors") == 1).await;
    // The same where the time is over.
    let limits = Limits { time: Duration::from_millis(300), ..LIMITS };
    let said = archive.list(&ever(), &limits).await.expect_err("no answer");
    assert!(matches!(said, ArchiveError::Slow { .. }), "{said}");
    eventually("closed", async || server.commands("killCursors") == 2).await;
}

#[tokio::test]
async fn an_answer_that_ends_between_two_batches_is_an_error_and_no_shorter_list() {
    for fault in ["no such cursor", "interrupted", "hung up", "cut short", "no documents", "empty for ever"] {
        let server = WireServer::scripted(move |command| match (command.name.as_str(), fault) {
            ("find", _) => batch("firstBatch", 77, vec![created(1)]),
            ("getMore", "no such cursor") => Reply::Answer(error(43, "CursorNotFound", "no such cursor")),
            ("getMore", "interrupted") => Reply::Answer(error(11601, "Interrupted", "interrupted")),
            ("getMore", "hung up") => Reply::HangUp,
            ("getMore", "cut short") => Reply::CutShort(20),
            ("getMore", "no documents") => Reply::Answer(doc! { "ok": 1.0, "cursor": { "id": 0_i64 } }),
            ("getMore", _) => batch("nextBatch", 77, Vec::new()),
            _ => Reply::Healthy,
        })
        .await;
        let archive = archive_of(&server);
        let limits = Limits { time: Duration::from_secs(2), ..LIMITS };
        let rooms = [Room { sid: "RM_1".to_owned(), name: String::new(), started_at: NOW, ended_at: Some(NOW) }];
        let errors = [
            archive.list(&ever(), &limits).await.map(|_| ()).expect_err(fault),
            archive.records(&rooms, &limits).await.map(|_| ()).expect_err(fault),
            archive.room("RM_0001", &limits).await.map(|_| ()).expect_err(fault),
        ];
        for said in errors {
            let is_slow = matches!(said, ArchiveError::Slow { .. });
            assert_eq!(is_slow, fault == "empty for ever", "{fault}: {said}");
            assert!(!said.to_string().contains('\n'), "{said}");
        }
    }
}

#[tokio::test]
async fn a_list_that_ends_at_its_limit_is_refused_if_it_is_not_the_newest() {
    let server = WireServer::scripted(|command| match (command.name.as_str(), asked(command).as_str()) {
        // Without the order that was asked for.
        ("find", "ROOM_CREATED") => batch("firstBatch", 0, [3, 1, 2].map(created).to_vec()),
        ("find", _) => batch("firstBatch", 0, Vec::new()),
        _ => Reply::Healthy,
    })
    .await;
    let archive = archive_of(&server);
    let said = archive.list(&ever(), &Limits { rooms: 2, ..LIMITS }).await.expect_err("not sorted").to_string();
    assert!(said.contains("does not sort"), "{said}");
    // All of them are there: their order is of no matter.
    assert_eq!(archive.list(&ever(), &LIMITS).await.expect("a list").rooms.len(), 3);
    // Nor is it that a limit is not kept to, or a projection.
    let server = WireServer::scripted(|command| match (command.name.as_str(), asked(command).as_str()) {
        ("find", "ROOM_CREATED") => batch("firstBatch", 0, (1..2500).map(created).collect()),
        ("find", _) => batch("firstBatch", 0, Vec::new()),
        _ => Reply::Healthy,
    })
    .await;
    let listing = archive_of(&server).list(&ever(), &Limits { rooms: 2, ..LIMITS }).await.expect("a list");
    assert_eq!((listing.rooms.len(), listing.complete_from), (2, Some(listing.rooms[1].started_at)));
}
