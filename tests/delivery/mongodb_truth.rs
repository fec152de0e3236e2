//! Whatever a MongoDB server refuses everything with, the status says so, nothing is thrown away without its final word, and
//! all arrives once it takes documents again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bson::doc;
use livekit_spool::flush::{FlushOptions, SinkState};

use crate::{
    pipeline::{Pipeline, mongo_sink, options},
    support::{
        eventually,
        records::{event_ids, numbered_events},
        wire::{Command, Reply, WireServer, WriteError, error},
    },
};

/// How a server refuses an insert.
#[derive(Debug, Clone, Copy)]
enum Shape {
    EachDocument,
    Command,
    WriteConcern,
}

fn refuse(command: &Command, shape: Shape, code: i32) -> Reply {
    let text = "told to refuse";
    match shape {
        Shape::EachDocument => {
            Reply::WriteErrors((0..command.documents.len()).map(|i| WriteError::new(i, code, text)).collect())
        }
        Shape::Command => Reply::Answer(error(code, "ToldToRefuse", text)),
        Shape::WriteConcern => Reply::WriteConcernError(doc! { "code": code, "errmsg": text }),
    }
}

/// As in production: only a minute of failures while others pass makes a dead letter.
fn patient() -> FlushOptions {
    FlushOptions { reject_after: FlushOptions::default().reject_after, ..options() }
}

#[tokio::test]
async fn a_server_that_refuses_all_by_any_code_in_any_shape_is_unavailable_and_loses_nothing() {
    let codes = [166, 8000, 13297, 2, 1, 50, 91, 16500, 61, 26, 987_654];
    let cases = codes
        .into_iter()
        .flat_map(|code| [Shape::EachDocument, Shape::Command, Shape::WriteConcern].map(|shape| (code, shape)));
    let cases = cases.map(|(code, shape)| async move {
        let refusing = Arc::new(AtomicBool::new(true));
        let refuses = Arc::clone(&refusing);
        let server = WireServer::scripted(move |command| match command.name.as_str() {
            "insert" if refuses.load(Ordering::SeqCst) => refuse(command, shape, code),
            _ => Reply::Healthy,
        })
        .await;
        let pipeline = Pipeline::start(mongo_sink(&server.uri(), "openvidu"), patient());
        let events: Vec<_> = numbered_events("t").take(150).collect();
        pipeline.send_events(&events).await;
        eventually("it says so", || async { pipeline.status().state == SinkState::Unavailable }).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let status = pipeline.status();
        assert_eq!(status.state, SinkState::Unavailable, "{code} {shape:?}");
        assert!(status.last_error.as_ref().is_some_and(|error| error.contains("told to refuse")), "{status:?}");
        assert_eq!((pipeline.backlog(), pipeline.dead_letters().len()), (150, 0), "{code} {shape:?}");
        refusing.store(false, Ordering::SeqCst);
        pipeline.drained().await;
        assert!(pipeline.dead_letters().is_empty());
        let kept: std::collections::BTreeSet<_> = server.kept("openvidu.events").into_keys().collect();
        assert_eq!(kept, event_ids(&events), "{code} {shape:?}");
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn a_server_that_rejects_all_for_good_is_reported_as_such_until_something_is_delivered() {
    let refusing = Arc::new(AtomicBool::new(true));
    let refuses = Arc::clone(&refusing);
    let server = WireServer::scripted(move |command| match command.name.as_str() {
        "insert" if refuses.load(Ordering::SeqCst) => refuse(command, Shape::EachDocument, 121),
        _ => Reply::Healthy,
    })
    .await;
    let pipeline = Pipeline::start(mongo_sink(&server.uri(), "openvidu"), patient());
    pipeline.send_events(&numbered_events("t").take(50).collect::<Vec<_>>()).await;
    eventually("it says so", || async { pipeline.status().state == SinkState::Rejecting }).await;
    assert!(
        pipeline
            .status()
            .last_error
            .is_some_and(|error| error.contains("nothing is accepted") && error.contains("121"))
    );
    pipeline.drained().await;
    assert_eq!(pipeline.dead_letters().len(), 50);
    refusing.store(false, Ordering::SeqCst);
    pipeline.send_events(&numbered_events("u").take(5).collect::<Vec<_>>()).await;
    pipeline.drained().await;
    eventually("well again", || async { !pipeline.status().state.is_failing() }).await;
}

#[tokio::test]
async fn throttling_of_single_documents_makes_no_dead_letters_whatever_its_code() {
    let cases =
        [(16500, "Request rate is large"), (1, "internal error"), (8000, "try later"), (50, "too long"), (91, "bye")];
    let cases = cases.map(|(code, text)| async move {
        let throttling = Arc::new(AtomicBool::new(true));
        let throttles = Arc::clone(&throttling);
        let server = WireServer::scripted(move |command| {
            if command.name != "insert" || !throttles.load(Ordering::SeqCst) {
                return Reply::Healthy;
            }
            // A budget for every insert; what is over it is refused.
            let over = (0..command.documents.len()).filter(|i| i % 3 == 2);
            Reply::WriteErrors(over.map(|i| WriteError::new(i, code, text)).collect())
        })
        .await;
        let pipeline = Pipeline::start(mongo_sink(&server.uri(), "openvidu"), patient());
        let events: Vec<_> = numbered_events("t").take(600).collect();
        for some in events.chunks(50) {
            pipeline.send_events(some).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        assert!(pipeline.dead_letters().is_empty(), "{code}");
        throttling.store(false, Ordering::SeqCst);
        pipeline.drained().await;
        assert!(pipeline.dead_letters().is_empty(), "{code}");
        let kept: std::collections::BTreeSet<_> = server.kept("openvidu.events").into_keys().collect();
        assert_eq!(kept, event_ids(&events), "{code}");
    });
    futures::future::join_all(cases).await;
}
