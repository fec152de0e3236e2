//! What the MongoDB sink needs in its database: an ordinary collection with indexes, at the start and later.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bson::{Document, doc, oid::ObjectId};
use livekit_spool::flush::SinkState;

use crate::{
    pipeline::{Pipeline, mongo_sink, options},
    support::{
        eventually,
        records::{event_ids, numbered_events},
        wire::{Reply, WireServer, error},
    },
};

const EVENTS: &str = "openvidu.events";

/// A server whose `events` is what the test says.
async fn server_with(collection: &Arc<Mutex<Document>>) -> WireServer {
    let collection = Arc::clone(collection);
    WireServer::scripted(move |command| match command.name.as_str() {
        "listCollections" => {
            let listed = collection.lock().unwrap().clone();
            let cursor = doc! { "id": 0_i64, "ns": "openvidu.$cmd.listCollections", "firstBatch": [listed] };
            Reply::Answer(doc! { "ok": 1.0, "cursor": cursor })
        }
        _ => Reply::Healthy,
    })
    .await
}

fn ordinary() -> Document {
    doc! { "name": "events", "type": "collection", "options": {} }
}

fn time_series() -> Document {
    doc! { "name": "events", "type": "timeseries", "options": { "timeseries": { "timeField": "time" } } }
}

#[tokio::test]
async fn nothing_is_sent_to_a_view_or_a_time_series_collection_until_it_is_another() {
    let view = doc! { "name": "events", "type": "view", "options": { "viewOn": "other" } };
    for (unsuitable, text) in [(time_series(), "time-series collection"), (view, "is a view")] {
        let collection = Arc::new(Mutex::new(unsuitable));
        let server = server_with(&collection).await;
        let pipeline = Pipeline::start(mongo_sink(&server.uri(), "openvidu"), options());
        let events: Vec<_> = numbered_events("t").take(50).collect();
        pipeline.send_events(&events).await;
        eventually("it says so", || async { pipeline.status().state == SinkState::Unavailable }).await;
        let error = pipeline.status().last_error.expect("why");
        assert!(
            error.contains("openvidu.events") && error.contains(text) && error.contains("drop or rename"),
            "{error}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!((server.commands("insert"), server.commands("createIndexes"), pipeline.backlog()), (0, 0, 50));
        *collection.lock().unwrap() = ordinary();
        pipeline.drained().await;
        assert_eq!(server.kept(EVENTS).into_keys().collect::<std::collections::BTreeSet<_>>(), event_ids(&events));
    }
}

#[tokio::test]
async fn a_capped_collection_and_a_user_that_may_not_list_stop_nothing() {
    let capped = doc! { "name": "events", "type": "collection", "options": { "capped": true, "size": 4096 } };
    let server = server_with(&Arc::new(Mutex::new(capped))).await;
    let warnings = mongo_sink(&server.uri(), "openvidu").initialize().await.expect("it continues");
    assert!(matches!(&warnings[..], [one] if one.contains("capped collection")), "{warnings:?}");
    for (code, name) in [(13, "Unauthorized"), (59, "CommandNotFound"), (8000, "AtlasError")] {
        let server = WireServer::scripted(move |command| match command.name.as_str() {
            "listCollections" => Reply::Answer(error(code, name, "told to refuse")),
            _ => Reply::Healthy,
        })
        .await;
        assert!(mongo_sink(&server.uri(), "openvidu").initialize().await.expect("it continues").is_empty());
    }
}

#[tokio::test]
async fn another_primary_and_a_server_that_was_unavailable_are_inspected_again_while_deliveries_continue() {
    let collection = Arc::new(Mutex::new(ordinary()));
    let server = server_with(&collection).await;
    let election = |n: u8| doc! { "electionId": ObjectId::from_bytes([n; 12]) };
    server.set_hello(election(1));
    let uri = format!("{}&heartbeatFrequencyMS=500", server.uri());
    let pipeline = Pipeline::start(mongo_sink(&uri, "openvidu"), options());
    pipeline.send_events(&numbered_events("a").take(10).collect::<Vec<_>>()).await;
    pipeline.drained().await;
    let inspections = server.commands("createIndexes");
    assert_eq!(inspections, 3, "one a collection");

    server.set_hello(election(2));
    let mut more = numbered_events("b");
    eventually("it looks again", || {
        let event = more.next().unwrap();
        let (pipeline, server) = (&pipeline, &server);
        async move {
            pipeline.send_events(&[event]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.commands("createIndexes") >= inspections + 3
        }
    })
    .await;
    pipeline.drained().await;

    // It finds that the collection is another one now.
    *collection.lock().unwrap() = time_series();
    server.set_hello(election(3));
    eventually("it says so", || {
        let event = more.next().unwrap();
        let pipeline = &pipeline;
        async move {
            pipeline.send_events(&[event]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            pipeline.status().state == SinkState::Unavailable
        }
    })
    .await;
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains("time-series")));
    *collection.lock().unwrap() = ordinary();
    pipeline.drained().await;
}

/// A server that answers these commands so, for as long as `is_broken`, and otherwise is a healthy one.
async fn broken(commands: &'static [&'static str], how: How, code: i32) -> (WireServer, Arc<AtomicBool>) {
    let is_broken = Arc::new(AtomicBool::new(true));
    let breaks = Arc::clone(&is_broken);
    let server = WireServer::scripted(move |command| {
        let is_meant = commands.contains(&command.name.as_str()) && breaks.load(Ordering::SeqCst);
        if is_meant { how(code) } else { Reply::Healthy }
    })
    .await;
    (server, is_broken)
}

/// How a command is answered, given a code.
type How = fn(i32) -> Reply;

fn refused(code: i32) -> Reply {
    Reply::Answer(error(code, "ToldToRefuse", "told to refuse"))
}

const SETUP: [&[&str]; 3] = [&["createIndexes"], &["listCollections"], &["createIndexes", "listCollections"]];

#[tokio::test]
async fn a_set_up_that_fails_for_whatever_reason_or_is_never_answered_holds_up_no_delivery() {
    let codes =
        [1, 11, 13, 18, 33, 50, 64, 67, 91, 100, 112, 117, 262, 276, 365, 384, 391, 8000, 14031, 16500, 987_654];
    let mut ways: Vec<(How, i32)> = codes.into_iter().map(|code| (refused as How, code)).collect();
    ways.extend([(|_| Reply::HangUp, -1), (|_| Reply::Silence, -2)] as [(How, i32); 2]);
    let cases = SETUP.into_iter().flat_map(|commands| ways.iter().map(move |&(how, code)| (commands, how, code)));
    let cases = cases.map(|(commands, how, code)| async move {
        let (server, _) = broken(commands, how, code).await;
        let pipeline = Pipeline::start(mongo_sink(&server.uri(), "openvidu"), options());
        let events: Vec<_> = numbered_events("t").take(50).collect();
        pipeline.send_events(&events).await;
        let drained = tokio::time::timeout(Duration::from_secs(15), pipeline.drained()).await;
        assert!(drained.is_ok(), "{commands:?} {code}: {:?}", pipeline.status());
        assert_eq!(server.kept(EVENTS).len(), 50, "{commands:?} {code}");
        assert!(!pipeline.status().state.is_failing(), "{commands:?} {code}: {:?}", pipeline.status());
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn a_set_up_that_failed_for_a_reason_that_passes_is_warned_of_and_soon_tried_again() {
    for commands in SETUP {
        let ways: [(How, i32); 4] =
            [(refused, 112), (refused, 16500), (|_| Reply::HangUp, -1), (|_| Reply::Silence, -2)];
        for (how, code) in ways {
            let (server, is_broken) = broken(commands, how, code).await;
            let sink = mongo_sink(&server.uri(), "openvidu");
            let began = tokio::time::Instant::now();
            let warnings = sink.initialize().await.expect("it continues");
            assert!(began.elapsed() < Duration::from_secs(6), "{commands:?} {code}: {:?}", began.elapsed());
            assert!(
                !warnings.is_empty() && warnings.iter().all(|warning| warning.contains("openvidu")),
                "{warnings:?}"
            );
            assert!(sink.doubts_setup(), "{commands:?} {code}: {warnings:?}");
            is_broken.store(false, Ordering::SeqCst);
            eventually("a look that ends well", || async {
                let warnings = sink.check_setup().await.expect("a look");
                !sink.doubts_setup()
                    && !warnings.iter().any(|warning| warning.contains("tried again") || warning.contains("still"))
            })
            .await;
            assert!(server.commands("createIndexes") >= 3);
        }
    }
    for (code, is_final) in [(67, true), (13, true), (85, true), (16500, false)] {
        let (server, _) = broken(&["createIndexes"], refused, code).await;
        let sink = mongo_sink(&server.uri(), "openvidu");
        let warnings = sink.initialize().await.expect("it continues");
        assert_eq!((warnings.is_empty(), sink.doubts_setup()), (false, !is_final), "{code}: {warnings:?}");
    }
}

#[tokio::test]
async fn what_cannot_keep_records_is_sent_nothing_either_while_it_cannot_be_inspected() {
    let listed = Arc::new(Mutex::new(Some(time_series())));
    let lists = Arc::clone(&listed);
    let server = WireServer::scripted(move |command| match (command.name.as_str(), &*lists.lock().unwrap()) {
        ("listCollections", Some(collection)) => {
            let cursor =
                doc! { "id": 0_i64, "ns": "openvidu.$cmd.listCollections", "firstBatch": [collection.clone()] };
            Reply::Answer(doc! { "ok": 1.0, "cursor": cursor })
        }
        ("listCollections", None) => refused(16500),
        _ => Reply::Healthy,
    })
    .await;
    let pipeline = Pipeline::start(mongo_sink(&server.uri(), "openvidu"), options());
    pipeline.send_events(&numbered_events("t").take(10).collect::<Vec<_>>()).await;
    eventually("it says so", || async { pipeline.status().state == SinkState::Unavailable }).await;
    *listed.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((server.commands("insert"), pipeline.backlog()), (0, 10));
    *listed.lock().unwrap() = Some(ordinary());
    pipeline.drained().await;
}

#[tokio::test]
async fn a_server_that_answers_nothing_but_hello_is_unavailable_and_not_forever_connecting() {
    let server = WireServer::scripted(|_| Reply::Silence).await;
    let pipeline = Pipeline::start(mongo_sink(&server.uri(), "openvidu"), options());
    pipeline.send_events(&numbered_events("t").take(10).collect::<Vec<_>>()).await;
    eventually("it says so", || async { pipeline.status().state == SinkState::Unavailable }).await;
    assert_eq!((pipeline.backlog(), pipeline.dead_letters().len()), (10, 0));
}
