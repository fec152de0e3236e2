//! What is refused, dropped and lost is counted where an operator sees it, and fills no log.

use std::time::Instant;

use base64::{Engine, prelude::BASE64_STANDARD};
use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use livekit_spool::record::now_millis;
use prost::Message;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    ALONE,
    support::{
        jwt::signed,
        process::{Setup, Spool},
    },
    wire::{address, call, http2},
};

const KEY: &str = "APIkey";
const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const TOKEN: &str = "a-token-of-a-well-behaved-sender";
const GUESS: &str = "a-token-that-somebody-made-up";

fn setup() -> Setup {
    let auth = format!("mode: tokens, tokens: [{TOKEN}], keys: {{ {KEY}: {SECRET} }}");
    Setup::new().files("files").auth(&auth).admin_token("the-admin-token")
}

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.expect("an answer").status()
}

/// A counter of `/metrics`, by its name and labels as they are there.
async fn metric(spool: &Spool, name: &str) -> u64 {
    let answer = reqwest::get(format!("{}/metrics", spool.admin())).await.expect("metrics");
    let page = answer.text().await.expect("text");
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in:\n{page}")).parse().expect("a whole number")
}

#[tokio::test(flavor = "multi_thread")]
async fn guessed_credentials_are_counted_each_time_and_logged_once_in_a_while_without_the_guess() {
    let _alone = ALONE.lock().await;
    let mut spool = setup().start().await;
    let (client, began) = (Client::new(), Instant::now());
    for _ in 0..20 {
        let records = client.post(format!("{}/v1/events", spool.http())).bearer_auth(GUESS).body("{}");
        let webhook = client.post(format!("{}/webhook", spool.http())).header("authorization", GUESS).body("{}");
        let action = client.post(format!("{}/api/v1/sinks/files/pause", spool.admin())).bearer_auth(GUESS);
        // the tokens of one door open no other
        let with_admins = client.post(format!("{}/v1/events", spool.http())).bearer_auth("the-admin-token").body("{}");
        let with_senders = client.post(format!("{}/api/v1/sinks/files/pause", spool.admin())).bearer_auth(TOKEN);
        for request in [records, webhook, action, with_admins, with_senders] {
            assert_eq!(status(request).await, StatusCode::UNAUTHORIZED);
        }
        let nobody = spool.recorder().ingest_events(futures::stream::iter([AnalyticsEvents::default()])).await;
        assert_eq!(nobody.expect_err("no token").code(), tonic::Code::Unauthenticated);
    }
    for (protocol, times) in [("grpc", 20), ("http", 40), ("webhook", 20), ("admin", 40)] {
        let name = format!("livekit_spool_refused_total{{protocol=\"{protocol}\",reason=\"unauthenticated\"}}");
        assert_eq!(metric(&spool, &name).await, times, "{protocol}");
    }
    let log = spool.process().output();
    let lines = log.lines().filter(|line| line.contains("was refused")).count() as u64;
    let allowed = 1 + began.elapsed().as_secs() / 10;
    assert!((1..=allowed).contains(&lines), "{lines} lines for 120 guesses:\n{log}");
    assert!(![GUESS, TOKEN, SECRET, "the-admin-token"].iter().any(|secret| log.contains(secret)), "{log}");
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_grpc_calls_are_counted_each_time_and_logged_once_in_a_while() {
    let _alone = ALONE.lock().await;
    let mut spool = Setup::new().files("files").start().await;
    let (grpc, began) = (address(&spool.grpc()), Instant::now());
    for _ in 0..20 {
        for method in ["livekit.AnalyticsRecorderService/IngestAll", "livekit.RoomService/ListRooms"] {
            let (mut sender, connection) = http2(grpc).await.expect("a connection");
            let asked = sender.send_request(call(method, futures::stream::empty()));
            let answer = tokio::select! {
                answer = asked => answer.expect("an answer"),
                _ = connection => panic!("the connection ended"),
            };
            assert_eq!(answer.headers()["grpc-status"], "12", "{method}");
        }
    }
    assert_eq!(metric(&spool, "livekit_spool_refused_total{protocol=\"grpc\",reason=\"path\"}").await, 40);
    let log = spool.process().output();
    let lines = log.lines().filter(|line| line.contains("nothing is accepted here")).count() as u64;
    assert!((1..=1 + began.elapsed().as_secs() / 10).contains(&lines), "{lines} lines for 40 calls:\n{log}");
    assert!(log.contains("/livekit.AnalyticsRecorderService/IngestAll"), "{log}");
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_livekit_says_it_dropped_of_its_webhooks_is_a_metric() {
    let _alone = ALONE.lock().await;
    let mut spool = setup().start().await;
    for (id, dropped) in [("EV_1", 3), ("EV_2", 4)] {
        let body = json!({"event": "room_started", "id": id, "numDropped": dropped}).to_string();
        let now = now_millis() / 1000;
        let hash = BASE64_STANDARD.encode(Sha256::digest(&body));
        let claims = json!({"iss": KEY, "nbf": now, "exp": now + 300, "sha256": hash});
        let request = Client::new().post(format!("{}/webhook", spool.http())).body(body);
        assert_eq!(status(request.header("authorization", signed(&claims, SECRET))).await, StatusCode::OK);
    }
    assert_eq!(metric(&spool, "livekit_spool_webhooks_dropped_by_livekit_total").await, 7);
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_optional_sink_loses_is_a_metric_and_the_others_lose_nothing() {
    let _alone = ALONE.lock().await;
    let small = "name: spare, type: mongodb, uri: \"mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200\", required: false, \
                 spool: { max_bytes: 4MiB, compression: { codec: none } }";
    let mut spool = Setup::new().files("files").sink(small).start().await;
    let client = Client::new();
    for id in 0..60 {
        let event = AnalyticsEvent { id: format!("AE_{id}"), error: "x".repeat(100_000), ..Default::default() };
        let request =
            client.post(format!("{}/v1/events", spool.http())).header("content-type", "application/x-protobuf");
        let body = AnalyticsEvents { events: vec![event] }.encode_to_vec();
        assert_eq!(status(request.body(body)).await, StatusCode::OK, "an optional sink holds nobody up");
    }
    let kept = spool.records("spare", "events");
    let lost = metric(&spool, "livekit_spool_lost_records_total{sink=\"spare\"}").await;
    assert!(lost > 0 && kept > 0, "{lost} lost, {kept} kept");
    assert_eq!(lost + kept, 60);
    assert_eq!(metric(&spool, "livekit_spool_lost_records_total{sink=\"files\"}").await, 0);
    spool.terminate();
}
