//! What the MongoDB sink needs in its database: an ordinary collection with indexes, at the start and later.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bson::{Document, doc, oid::ObjectId};
use livekit_spool::flush::FlushState;

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
        eventually("it says so", || async { pipeline.status().state == FlushState::Unavailable }).await;
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
    let warnings = mongo_sink(&server.uri(), "openvidu").initialize().await.expect("it goes on");
    assert!(matches!(&warnings[..], [one] if one.contains("capped collection")), "{warnings:?}");
    for (code, name) in [(13, "Unauthorized"), (59, "CommandNotFound"), (8000, "AtlasError")] {
        let server = WireServer::scripted(move |command| match command.name.as_str() {
            "listCollections" => Reply::Answer(error(code, name, "told to refuse")),
            _ => Reply::Healthy,
        })
        .await;
        assert!(mongo_sink(&server.uri(), "openvidu").initialize().await.expect("it goes on").is_empty());
    }
}

#[tokio::test]
async fn another_primary_and_a_server_that_was_away_are_looked_at_again_while_deliveries_go_on() {
    let collection = Arc::new(Mutex::new(ordinary()));
    let server = server_with(&collection).await;
    let election = |n: u8| doc! { "electionId": ObjectId::from_bytes([n; 12]) };
    server.set_hello(election(1));
    let uri = format!("{}&heartbeatFrequencyMS=500", server.uri());
    let pipeline = Pipeline::start(mongo_sink(&uri, "openvidu"), options());
    pipeline.send_events(&numbered_events("a").take(10).collect::<Vec<_>>()).await;
    pipeline.drained().await;
    let looks = server.commands("createIndexes");
    assert_eq!(looks, 3, "one a collection");

    server.set_hello(election(2));
    let mut more = numbered_events("b");
    eventually("it looks again", || {
        let event = more.next().unwrap();
        let (pipeline, server) = (&pipeline, &server);
        async move {
            pipeline.send_events(&[event]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.commands("createIndexes") >= looks + 3
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
            pipeline.status().state == FlushState::Unavailable
        }
    })
    .await;
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains("time-series")));
    *collection.lock().unwrap() = ordinary();
    pipeline.drained().await;
}
