//! Spools that have no space, for now or forever: what a sender is told over each protocol, and that no record is counted
//! twice.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use livekit_spool::{
    ingest::{GrpcOptions, client::BytesCodec},
    record::Stream,
    spool::{Compression, DropReason, Spool, SpoolOptions, WhenFull},
};
use prost::Message;
use reqwest::Client;
use serde_json::Value;
use tonic::{Code, Status, metadata::MetadataMap};

use crate::support::{Both, required, serve_both_into, within};

/// A spool's smallest quota.
const QUOTA: u64 = 4 << 20;

fn options(when_full: WhenFull) -> SpoolOptions {
    SpoolOptions {
        name: "own".into(),
        max_bytes: QUOTA,
        min_free_bytes: 0,
        when_full,
        block_timeout: Duration::from_secs(600),
        compression: Compression::NONE,
        ..Default::default()
    }
}

/// An event that takes up so many bytes, in its wrapper.
fn event(bytes: usize) -> Vec<u8> {
    AnalyticsEvents { events: vec![AnalyticsEvent { id: "x".repeat(bytes), ..Default::default() }] }.encode_to_vec()
}

async fn post(address: SocketAddr, body: Vec<u8>) -> (u16, Value) {
    let request =
        Client::new().post(format!("http://{address}/v1/events")).header("content-type", "application/x-protobuf");
    let response = within(request.body(body).send()).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Sends one message; what the answer's metadata say.
async fn call(address: SocketAddr, message: Vec<u8>) -> Result<MetadataMap, Status> {
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = "/livekit.AnalyticsRecorderService/IngestEvents".parse().unwrap();
    let messages = futures::stream::iter([Bytes::from(message)]);
    let answer = within(grpc.client_streaming(tonic::Request::new(messages), path, BytesCodec)).await?;
    Ok(answer.metadata().clone())
}

#[tokio::test]
async fn what_can_never_fit_is_refused_for_good_in_every_mode_and_drops_nothing() {
    for when_full in [WhenFull::Reject, WhenFull::Block, WhenFull::DropOldest, WhenFull::DropNewest] {
        let directory = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(directory.path(), options(when_full)).unwrap());
        let server = serve_both_into(GrpcOptions::default(), vec![required("own", &spool)]).await;
        assert_eq!(post(server.http, event(1000)).await.0, 200, "{when_full:?}");
        let beyond = event(3_700_000);

        let (status, answer) = post(server.http, beyond.clone()).await;
        assert_eq!((status, answer["reason"].as_str()), (413, Some("too_large")), "{when_full:?}: {answer}");
        let error = answer["error"].as_str().unwrap();
        for part in ["sink own: ", "3700", "never fits", "send smaller", "raise spool.max_bytes"] {
            assert!(error.contains(part), "{when_full:?}: {part:?} is not in {error:?}");
        }
        let refusal = call(server.grpc, beyond).await.unwrap_err();
        assert_eq!(refusal.code(), Code::OutOfRange, "{when_full:?}: {refusal}");
        assert!(refusal.message().starts_with("sink own: "), "{refusal}");

        let status = spool.status();
        let events = &status.streams[&Stream::Events];
        assert_eq!((events.records, events.dropped.len()), (1, 0), "{when_full:?}: nothing had to make room");
        assert_eq!(post(server.http, event(1000)).await.0, 200, "{when_full:?}");
        spool.close().await;
    }
}

/// Fills a spool until a call's answer says that something was dropped; how many calls came before.
async fn fill(server: &Both) -> u64 {
    for calls in 0.. {
        let (status, answer) = post(server.http, event(100_000)).await;
        assert_eq!(status, 200, "{answer}");
        if answer.get("dropped").is_some() {
            return calls;
        }
    }
    unreachable!("a spool of {QUOTA} bytes never refuses")
}

#[tokio::test]
async fn a_spool_that_drops_the_newest_answers_ok_and_says_what_it_dropped_each_record_once() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(directory.path(), options(WhenFull::DropNewest)).unwrap());
    let server = serve_both_into(GrpcOptions::default(), vec![required("own", &spool)]).await;
    let kept = within(fill(&server)).await;

    let (status, answer) = post(server.http, event(100_000)).await;
    assert_eq!((status, &answer["records"]), (200, &Value::from(1)), "{answer}");
    assert_eq!(answer["dropped"]["own"]["records"], 1, "{answer}");
    let reason = answer["dropped"]["own"]["reason"].as_str().unwrap();
    assert!(reason.contains("full") && reason.contains("drop_newest"), "{reason}");

    let two = AnalyticsEvents { events: vec![AnalyticsEvent { id: "x".repeat(100_000), ..Default::default() }; 2] };
    let said = call(server.grpc, two.encode_to_vec()).await.unwrap();
    assert_eq!(said.get("livekit-spool-dropped").unwrap(), "own=2");
    assert!(said.get("livekit-spool-dropped-reason").unwrap().to_str().unwrap().starts_with("own: its spool is full"));

    let status = spool.status();
    let events = &status.streams[&Stream::Events];
    assert_eq!((events.records, events.dropped[&DropReason::Newest]), (kept, 4), "1 while filling, 1, 2");
    let snapshot = server.ingester.snapshot();
    assert_eq!(snapshot.accepted.iter().map(|accepted| accepted.records).sum::<u64>(), kept + 4, "answered OK");
    assert!(snapshot.refused.iter().all(|refused| refused.count == 0), "nothing was refused");
    spool.close().await;
}

#[tokio::test]
async fn where_there_is_space_no_answer_says_that_something_was_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(directory.path(), options(WhenFull::DropNewest)).unwrap());
    let server = serve_both_into(GrpcOptions::default(), vec![required("own", &spool)]).await;
    assert_eq!(post(server.http, event(10)).await, (200, serde_json::json!({ "records": 1 })));
    assert!(call(server.grpc, event(10)).await.unwrap().get("livekit-spool-dropped").is_none());
    spool.close().await;
}
