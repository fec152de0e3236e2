//! The MongoDB sink against a scripted server: every answer it can get.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bson::{RawDocumentBuf, doc};
use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    flush::{FlushOptions, SinkState},
    sink::mongodb::MongoOptions,
};

use crate::{
    pipeline::{Pipeline, mongo_sink, mongo_sink_with, options},
    support::{
        eventually,
        records::{event_ids, numbered_events},
        wire::{Command, Reply, WireServer, WriteError, error},
    },
};

const EVENTS: &str = "openvidu.events";

fn some_events(prefix: &str, count: usize) -> Vec<AnalyticsEvent> {
    numbered_events(prefix).take(count).collect()
}

fn ids(kept: &BTreeMap<String, RawDocumentBuf>) -> BTreeSet<String> {
    kept.keys().cloned().collect()
}

fn sink_of(server: &WireServer) -> Arc<dyn livekit_spool::sink::Sink> {
    mongo_sink(&server.uri(), "openvidu")
}

/// Sends 500 events through a server that does `problem` to the first inserts; all must arrive, none twice.
async fn delivers_through(problem: impl Fn(&Command, u32) -> Reply + Send + Sync + 'static) -> (WireServer, Pipeline) {
    let inserts = AtomicU32::new(0);
    let server = WireServer::scripted(move |command| match command.name.as_str() {
        "insert" => problem(command, inserts.fetch_add(1, Ordering::SeqCst)),
        _ => Reply::Healthy,
    })
    .await;
    let pipeline = Pipeline::start(sink_of(&server), options());
    let events = some_events("t", 500);
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    assert_eq!(ids(&server.kept(EVENTS)), event_ids(&events));
    assert_eq!(server.inserted(), 500, "each was inserted once");
    assert!(pipeline.dead_letters().is_empty());
    (server, pipeline)
}

#[tokio::test]
async fn a_connection_cut_before_the_request_loses_and_doubles_nothing() {
    delivers_through(|_, insert| if insert < 3 { Reply::HangUp } else { Reply::Healthy }).await;
}

#[tokio::test]
async fn a_connection_cut_after_the_request_loses_and_doubles_nothing() {
    delivers_through(|_, insert| if insert < 3 { Reply::DoAndHangUp } else { Reply::Healthy }).await;
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_the_reply_loses_and_doubles_nothing() {
    for bytes in [1, 15, 16, 20, 40] {
        delivers_through(move |_, insert| if insert < 3 { Reply::CutShort(bytes) } else { Reply::Healthy }).await;
    }
}

#[tokio::test]
async fn a_primary_that_steps_down_or_shuts_down_is_waited_for() {
    for (code, name) in [
        (10107, "NotWritablePrimary"),
        (189, "PrimarySteppedDown"),
        (91, "ShutdownInProgress"),
        (11600, "InterruptedAtShutdown"),
        (13435, "NotPrimaryNoSecondaryOk"),
        (262, "ExceededTimeLimit"),
        (112, "WriteConflict"),
    ] {
        delivers_through(move |_, insert| match insert {
            0..3 => Reply::Answer(error(code, name, "told to fail")),
            _ => Reply::Healthy,
        })
        .await;
    }
}

#[tokio::test]
async fn a_write_concern_error_revokes_what_was_delivered() {
    let concern =
        || doc! { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out" };
    let (server, pipeline) = delivers_through(move |_, insert| match insert {
        0..3 => Reply::WriteConcernError(concern()),
        _ => Reply::Healthy,
    })
    .await;
    assert!(server.commands("insert") > 5, "they came again, and were found there");
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains("write concern")));
}

#[tokio::test]
async fn a_failed_log_in_is_reported_in_one_line_with_the_user_and_without_the_password() {
    let server = WireServer::scripted(|command| match command.name.as_str() {
        "saslStart" => Reply::Answer(error(18, "AuthenticationFailed", "Authentication failed.")),
        _ => Reply::Healthy,
    })
    .await;
    let uri = server.uri().replace("mongodb://", "mongodb://stranger:hunter2@");
    let pipeline = Pipeline::start(mongo_sink(&uri, "openvidu"), options());
    pipeline.send_events(&some_events("t", 1)).await;
    eventually("unauthorized", || async { pipeline.status().state == SinkState::Unauthorized }).await;
    // The first attempt fails to log in; later ones may find no server for it. Both say the same.
    for _ in 0..3 {
        let status = pipeline.status();
        let expected = format!(
            "mongodb://{}/openvidu: authentication failed for user stranger; check user, password and authSource in the \
             uri, and the role readWrite on openvidu",
            server.address()
        );
        assert_eq!(status.last_error, Some(expected));
        let again = || async { pipeline.status().last_error_at > status.last_error_at };
        eventually("another attempt", again).await;
    }
}

#[tokio::test]
async fn missing_rights_and_wrong_passwords_lose_nothing() {
    for (code, name) in [(13, "Unauthorized"), (18, "AuthenticationFailed")] {
        let (allowed, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (open, counted) = (Arc::clone(&allowed), Arc::clone(&refused));
        let server = WireServer::scripted(move |command| {
            if command.name == "insert" && !open.load(Ordering::SeqCst) {
                counted.fetch_add(1, Ordering::SeqCst);
                return Reply::Answer(error(code, name, "not authorized on openvidu"));
            }
            Reply::Healthy
        })
        .await;
        let pipeline = Pipeline::start(sink_of(&server), options());
        let events = some_events("t", 50);
        pipeline.send_events(&events).await;
        eventually("refused several times", || async { refused.load(Ordering::SeqCst) >= 5 }).await;
        assert_eq!(pipeline.status().state, SinkState::Unauthorized);
        assert!(pipeline.status().last_error.is_some_and(|error| error.contains("role readWrite on openvidu")));
        assert_eq!(pipeline.backlog(), 50);
        allowed.store(true, Ordering::SeqCst);
        pipeline.drained().await;
        assert_eq!(ids(&server.kept(EVENTS)), event_ids(&events));
        assert!(pipeline.dead_letters().is_empty());
    }
}

#[tokio::test]
async fn documents_the_server_refuses_for_good_are_dead_lettered_alone_with_its_reason() {
    let bad = |id: &str| id.ends_with('7');
    let server = WireServer::scripted(move |command| {
        if command.name != "insert" {
            return Reply::Healthy;
        }
        let refused =
            command.documents.iter().enumerate().filter(|(_, document)| bad(document.get_str("_id").unwrap()));
        Reply::WriteErrors(refused.map(|(i, _)| WriteError::new(i, 121, "Document failed validation")).collect())
    })
    .await;
    let pipeline = Pipeline::start(sink_of(&server), options());
    let events = some_events("t", 300);
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    let (dead_lettered, delivered): (BTreeSet<_>, BTreeSet<_>) = event_ids(&events).into_iter().partition(|id| bad(id));
    assert_eq!(ids(&server.kept(EVENTS)), delivered);
    let dead = pipeline.dead_letters();
    assert_eq!(dead.iter().map(|dead_letter| dead_letter.id.to_string()).collect::<BTreeSet<_>>(), dead_lettered);
    assert!(dead.iter().all(|dead_letter| dead_letter.reason.contains("Document failed validation (code 121)")));
}

#[tokio::test]
async fn errors_of_every_class_at_random_records_each_get_their_own_outcome() {
    // By the record's number: delivered, refused, retried a few times, an unknown code forever.
    let tries = Arc::new(AtomicU64::new(0));
    let server = WireServer::scripted(move |command| {
        if command.name != "insert" {
            return Reply::Healthy;
        }
        let round = tries.fetch_add(1, Ordering::SeqCst);
        let fault = |document: &RawDocumentBuf| match number_of(document) % 13 {
            3 => Some((121, "Document failed validation")),
            5 if round % 3 != 2 => Some((11602, "interrupted due to repl state change")),
            7 => Some((987_654, "nobody knows")),
            9 if round.is_multiple_of(2) => Some((64, "write concern")),
            _ => None,
        };
        let errors = command.documents.iter().enumerate();
        let errors =
            errors.filter_map(|(i, document)| fault(document).map(|(code, text)| WriteError::new(i, code, text)));
        Reply::WriteErrors(errors.collect())
    })
    .await;
    let pipeline = Pipeline::start(sink_of(&server), options());
    let events = some_events("t", 500);
    pipeline.send_events(&events).await;
    drained_with_traffic(&pipeline, 1300).await;
    let expected = |number: u64| !matches!(number % 13, 3 | 7);
    let kept: Vec<u64> = server.kept(EVENTS).values().map(number_of).filter(|number| *number < 500).collect();
    assert_eq!(kept, (0..500).filter(|&number| expected(number)).collect::<Vec<_>>());
    let dead: BTreeSet<String> = pipeline.dead_letters().iter().map(|dead_letter| dead_letter.id.to_string()).collect();
    assert_eq!(dead.len(), 500 - kept.len());
    assert_eq!(server.inserted(), server.kept(EVENTS).len() as u64);
}

/// Waits until nothing is left, with a good event now and then: only while others pass are records at fault.
async fn drained_with_traffic(pipeline: &Pipeline, first: usize) {
    // Numbers that no script here finds fault with: multiples of 1300.
    for event in numbered_events("z").step_by(first).skip(1).take(600) {
        if pipeline.backlog() == 0 {
            return;
        }
        pipeline.send_events(&[event]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never drained: {:?}", pipeline.status());
}

fn number_of(document: &RawDocumentBuf) -> u64 {
    document.get_str("_id").unwrap().rsplit('_').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_error_that_names_no_record_is_bisected_down_to_the_records_at_fault() {
    let server = WireServer::scripted(|command| {
        let poisoned = |document: &RawDocumentBuf| matches!(number_of(document), 17 | 18 | 83);
        if command.name == "insert" && command.documents.iter().any(poisoned) {
            return Reply::Answer(error(424_242, "Strange", "something in here"));
        }
        Reply::Healthy
    })
    .await;
    let pipeline = Pipeline::start(sink_of(&server), options());
    let events = some_events("t", 150);
    pipeline.send_events(&events).await;
    drained_with_traffic(&pipeline, 1300).await;
    assert_eq!(server.kept(EVENTS).values().filter(|kept| number_of(kept) < 150).count(), 147);
    let dead: BTreeSet<String> = pipeline.dead_letters().iter().map(|dead_letter| dead_letter.id.to_string()).collect();
    assert_eq!(dead, ["AE_t_000017", "AE_t_000018", "AE_t_000083"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_clash_with_a_users_own_unique_index_is_rejected_unless_the_record_is_there() {
    // Room ids are unique here; the record itself may be there from an attempt whose answer was lost.
    let server = WireServer::scripted(|command| {
        if command.name != "insert" {
            return Reply::Healthy;
        }
        let clash = |i| WriteError {
            index: i,
            code: 11000,
            message: "E11000 duplicate key error collection: openvidu.events index: mine dup key".to_owned(),
            more: doc! { "keyPattern": { "room_id": 1 } },
        };
        let numbers = command.documents.iter().map(number_of).enumerate();
        let clashing = numbers.filter(|(_, number)| *number == 3 || (*number == 5 && command.number > 0));
        match command.number {
            // The first answer is lost after the server has stored all but number 3.
            0 => Reply::DoAndHangUp,
            _ => Reply::WriteErrors(clashing.map(|(i, _)| clash(i)).collect()),
        }
    })
    .await;
    let pipeline = Pipeline::start(sink_of(&server), options());
    let mut events = some_events("t", 10);
    let clashing = events.remove(3);
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    pipeline.send_events(&[clashing]).await;
    pipeline.drained().await;
    assert_eq!(server.kept(EVENTS).len(), 9);
    assert!(server.commands("find") >= 2, "a majority read decided");
    let dead: Vec<String> = pipeline.dead_letters().iter().map(|dead_letter| dead_letter.id.to_string()).collect();
    assert_eq!(dead, ["AE_t_000003"], "number 5 was there");
}

#[tokio::test]
async fn batches_shrink_for_a_server_that_is_too_slow_for_full_ones() {
    let server = WireServer::scripted(|command| match command.name.as_str() {
        // It never answers to more than 30 documents at once.
        "insert" if command.documents.len() > 30 => Reply::Silence,
        _ => Reply::Healthy,
    })
    .await;
    let flush = FlushOptions { timeout: Duration::from_millis(300), ..options() };
    let pipeline = Pipeline::start(sink_of(&server), flush);
    let events = some_events("t", 300);
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    assert_eq!(ids(&server.kept(EVENTS)), event_ids(&events));
    assert!(pipeline.status().figures.retried_records["timeout"] >= 100);
}

#[tokio::test]
async fn batches_are_split_under_the_limits_the_server_announces() {
    let limits = doc! { "maxBsonObjectSize": 1_200_000, "maxMessageSizeBytes": 3_000_000, "maxWriteBatchSize": 25 };
    let server = WireServer::scripted_with(limits, |command| {
        let (count, bytes) = (
            command.documents.len(),
            command.documents.iter().map(|document| document.as_bytes().len()).sum::<usize>(),
        );
        match command.name.as_str() {
            "insert" if count == 1 && bytes > 1_200_000 => {
                Reply::WriteErrors(vec![WriteError::new(0, 10334, "object to insert too large")])
            }
            "insert" if count > 25 || bytes > 1_200_000 => {
                Reply::Answer(error(10334, "BSONObjectTooLarge", "more than announced"))
            }
            _ => Reply::Healthy,
        }
    })
    .await;
    let pipeline = Pipeline::start(sink_of(&server), options());
    let mut events = some_events("t", 200);
    for large in &mut events[50..100] {
        large.error = "x".repeat(100_000);
    }
    events[77].error = "x".repeat(1_300_000);
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    assert_eq!(server.kept(EVENTS).len(), 199);
    let dead = pipeline.dead_letters();
    assert_eq!(dead.len(), 1, "the one that is too large alone, by the server's word");
    assert!(dead[0].reason.contains("too large (code 10334)"), "{}", dead[0].reason);
    assert!(pipeline.status().figures.retried_records.is_empty(), "nothing had to be tried twice");
}

#[tokio::test]
async fn writes_are_majority_and_journaled_unless_the_uri_says_otherwise() {
    for (query, w, j) in [("", "majority", true), ("&w=1", "1", true), ("&w=2&journal=false", "2", false)] {
        let seen = Arc::new(std::sync::Mutex::new(None));
        let note = Arc::clone(&seen);
        let server = WireServer::scripted(move |command| {
            if command.name == "insert" {
                *note.lock().unwrap() = command.body.get_document("writeConcern").ok().cloned();
                assert!(!command.body.get_bool("ordered").unwrap());
            }
            Reply::Healthy
        })
        .await;
        let pipeline = Pipeline::start(mongo_sink(&format!("{}{query}", server.uri()), "openvidu"), options());
        pipeline.send_events(&some_events("t", 5)).await;
        pipeline.drained().await;
        let concern = seen.lock().unwrap().take().expect("a write concern");
        assert_eq!(concern.get("w").unwrap().to_string().trim_matches('"'), w);
        assert_eq!(concern.get_bool("j").unwrap(), j);
    }
}

#[tokio::test]
async fn a_refused_index_is_a_warning_and_stops_nothing() {
    for (code, name, text) in [
        (67, "CannotCreateIndex", "TTL indexes are not supported"),
        (85, "IndexOptionsConflict", "Index already exists with different options"),
        (13, "Unauthorized", "not authorized to create an index"),
    ] {
        let server = WireServer::scripted(move |command| {
            let indexes = command.body.get_array("indexes").cloned().unwrap_or_default();
            let ttl = indexes.iter().any(|index| index.as_document().unwrap().contains_key("expireAfterSeconds"));
            if ttl { Reply::Answer(error(code, name, text)) } else { Reply::Healthy }
        })
        .await;
        let sink = sink_of(&server);
        let warnings = sink.initialize().await.expect("it continues");
        assert_eq!(warnings.len(), 3, "one a collection: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains("openvidu_expire_at_1") && warning.contains(text)));
        assert_eq!(
            code == 85,
            warnings[0].contains("dropIndex(\"openvidu_expire_at_1\")"),
            "how to fix it: {warnings:?}"
        );
        let pipeline = Pipeline::start(sink, options());
        pipeline.send_events(&some_events("t", 5)).await;
        pipeline.drained().await;
    }
}

#[tokio::test]
async fn the_pool_stays_flat_through_an_outage() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let server =
        WireServer::scripted(move |_| if is_down.load(Ordering::SeqCst) { Reply::HangUp } else { Reply::Healthy })
            .await;
    let pipeline = Pipeline::start(sink_of(&server), options());
    pipeline.send_events(&some_events("a", 100)).await;
    pipeline.drained().await;
    down.store(true, Ordering::SeqCst);
    pipeline.send_events(&some_events("b", 1000)).await;
    let before = server.connections();
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Each attempt costs a connection here, since the server closes it; none is opened besides.
    let attempts = pipeline.status().figures.batches + 5;
    assert!(server.connections() - before <= 2 * attempts, "{} connections", server.connections() - before);
    assert!(attempts < 100, "{attempts} attempts in 3 s with pauses up to 200 ms");
    down.store(false, Ordering::SeqCst);
    pipeline.drained().await;
}

#[tokio::test]
async fn labels_and_expiry_are_in_each_document() {
    let server = WireServer::scripted(|_| Reply::Healthy).await;
    let sink = mongo_sink_with(MongoOptions {
        uri: server.uri(),
        labels: [("site".to_owned(), "berlin".to_owned())].into(),
        expiration: Some(Duration::from_secs(3600)),
        ..MongoOptions::default()
    });
    let pipeline = Pipeline::start(sink, options());
    pipeline.send_events(&some_events("t", 3)).await;
    pipeline.drained().await;
    for document in server.kept(EVENTS).values() {
        let labels = document.get_document("labels").expect("labels");
        assert_eq!(labels.get_str("site").expect("site"), "berlin");
        let expires = document.get_datetime("openvidu_expire_at").expect("a date").timestamp_millis();
        let from_now = expires - bson::DateTime::now().timestamp_millis();
        assert!((3_500_000..=3_600_000).contains(&from_now), "{from_now}");
    }
    // The recorded events are old.
    eventually("a lag", || async { pipeline.status().figures.lag_millis.is_some_and(|lag| lag > 0) }).await;
}
