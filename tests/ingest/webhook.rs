//! LiveKit's webhooks: what a real server sent, what it might send, and what others might.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use livekit_protocol::{AnalyticsEvent, AnalyticsEventType};
use livekit_spool::{
    ingest::{AuthOptions, Authenticator, HttpOptions, LivekitKeys, Refused, Secret},
    record::{Stream, now_millis},
};
use prost::Message;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    jwt::signed,
    support::{Behaviour, Running, serve_http},
};

const KEY: &str = "APIkey";
const SECRET: &str = "a secret of at least thirty-two bytes";

async fn server() -> Running {
    let keys = LivekitKeys::from([(KEY.to_owned(), Secret::new(SECRET))]);
    serve_http(HttpOptions::default(), Authenticator::new(AuthOptions::None, keys, None)).await
}

/// The claims as LiveKit sets them, some of them replaced.
fn token(body: &str, changes: Value, secret: &str) -> String {
    let now = now_millis() / 1000;
    let hash = BASE64_STANDARD.encode(Sha256::digest(body));
    let mut claims = json!({"iss": KEY, "nbf": now, "exp": now + 300, "sha256": hash});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    signed(&claims, secret)
}

async fn post(server: &Running, body: &str, token: &str) -> Response {
    let request = Client::new().post(format!("http://{}/webhook", server.address)).body(body.to_owned());
    request.header("content-type", "application/webhook+json").header("authorization", token).send().await.unwrap()
}

fn events(server: &Running) -> Vec<AnalyticsEvent> {
    server.spool.records(Stream::Events).iter().map(|record| AnalyticsEvent::decode(&record[..]).unwrap()).collect()
}

#[tokio::test]
async fn all_webhooks_of_a_real_server_become_the_events_that_say_the_same() {
    let server = server().await;
    let path = format!("{}/tests/data/livekit-1.11/webhooks.ndjson", env!("CARGO_MANIFEST_DIR"));
    let bodies = std::fs::read_to_string(path).unwrap();
    let mut counts: BTreeMap<AnalyticsEventType, usize> = BTreeMap::new();
    for body in bodies.lines() {
        let response = post(&server, body, &token(body, json!({}), SECRET)).await;
        assert_eq!(response.status(), 200, "{body}");
        assert_eq!(response.json::<Value>().await.unwrap(), json!({"records": 1}));
    }
    let events = events(&server);
    assert_eq!(events.len(), 140);
    for (event, body) in events.iter().zip(bodies.lines()) {
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(event.id, body["id"].as_str().unwrap());
        assert_eq!(event.room_id, body["room"]["sid"].as_str().unwrap());
        assert_eq!(event.participant_id, body["participant"]["sid"].as_str().unwrap_or_default());
        assert_eq!(event.track_id, body["track"]["sid"].as_str().unwrap_or_default());
        let created_at: i64 = body["createdAt"].as_str().unwrap().parse().unwrap();
        assert_eq!(event.timestamp.unwrap().seconds, created_at);
        *counts.entry(event.r#type()).or_default() += 1;
    }
    let expected = BTreeMap::from([
        (AnalyticsEventType::RoomCreated, 7),
        (AnalyticsEventType::RoomEnded, 7),
        (AnalyticsEventType::ParticipantActive, 21),
        (AnalyticsEventType::ParticipantLeft, 21),
        (AnalyticsEventType::TrackPublished, 42),
        (AnalyticsEventType::TrackUnpublished, 42),
    ]);
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn a_webhook_may_be_compressed_on_its_way_and_what_is_signed_is_its_content() {
    let server = server().await;
    let body = r#"{"event": "room_started", "id": "EV_1"}"#;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, body.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let header = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
    let empty_blocks = [&header[..], &[0, 0, 0, 0xFF, 0xFF].repeat(200_000), &[1, 0, 0, 0xFF, 0xFF], &[0; 8]].concat();
    for (encoding, packed, status) in [
        ("gzip", packed.clone(), 200),
        ("X-GZIP", packed.clone(), 200),
        ("br", packed.clone(), 415),
        ("gzip", packed[..20].to_vec(), 400),
        ("gzip", empty_blocks, 413),
    ] {
        let request = Client::new().post(format!("http://{}/webhook", server.address)).body(packed);
        let request =
            request.header("content-encoding", encoding).header("authorization", token(body, json!({}), SECRET));
        assert_eq!(request.send().await.unwrap().status(), status, "{encoding}");
    }
    assert_eq!(events(&server).len(), 1, "and the same, however it comes");
}

#[tokio::test]
async fn egress_ingress_and_unknown_names_are_accepted() {
    let server = server().await;
    for body in [
        r#"{"event": "egress_started", "id": "EV_1", "egressInfo": {"egressId": "EG_1", "roomId": "RM_1"}}"#,
        r#"{"event": "egress_updated", "id": "EV_2", "egressInfo": {"egressId": "EG_1", "status": "EGRESS_ACTIVE"}}"#,
        r#"{"event": "egress_ended", "id": "EV_3", "egressInfo": {"egressId": "EG_1", "status": "EGRESS_COMPLETE"}}"#,
        r#"{"event": "ingress_started", "id": "EV_4", "ingressInfo": {"ingressId": "IN_1"}}"#,
        r#"{"event": "ingress_ended", "id": "EV_5", "ingressInfo": {"ingressId": "IN_1"}}"#,
        r#"{"event": "participant_connection_aborted", "id": "EV_6", "participant": {"sid": "PA_1"}}"#,
        r#"{"event": "agent_job_started", "id": "EV_7", "job": {"id": "AJ_1"}}"#,
        r#"{"event": "something_new", "id": "EV_8", "unheardOf": {"of": [1, 2]}}"#,
    ] {
        let response = post(&server, body, &token(body, json!({}), SECRET)).await;
        assert_eq!(response.status(), 200, "{body}");
    }
    let types: Vec<_> = events(&server).iter().map(AnalyticsEvent::r#type).collect();
    let expected = [
        AnalyticsEventType::EgressStarted,
        AnalyticsEventType::EgressUpdated,
        AnalyticsEventType::EgressEnded,
        AnalyticsEventType::IngressStarted,
        AnalyticsEventType::IngressEnded,
        AnalyticsEventType::ParticipantConnectionAborted,
        AnalyticsEventType::Webhook,
        AnalyticsEventType::Webhook,
    ];
    assert_eq!(types, expected);
    assert_eq!(events(&server)[7].webhook.as_ref().unwrap().event, "something_new");
}

#[tokio::test]
async fn what_livekit_did_not_sign_is_refused() {
    let server = server().await;
    let body = r#"{"event": "room_started", "id": "EV_1", "room": {"sid": "RM_1"}}"#;
    let hour_ago = now_millis() / 1000 - 3600;
    for (what, token) in [
        ("no token", String::new()),
        ("garbage", "garbage.garbage.garbage".to_owned()),
        ("a wrong secret", token(body, json!({}), "another secret of thirty-two bytes")),
        ("an unknown key", token(body, json!({"iss": "APIother"}), SECRET)),
        ("a wrong hash", token(body, json!({"sha256": "AAAA"}), SECRET)),
        ("no hash", token(body, json!({"sha256": null}), SECRET)),
        ("expired", token(body, json!({"nbf": hour_ago, "exp": hour_ago + 300}), SECRET)),
        ("not yet valid", token(body, json!({"nbf": hour_ago + 7200, "exp": hour_ago + 7500}), SECRET)),
        ("replayed with another body", token(&body.replace("RM_1", "RM_2"), json!({}), SECRET)),
        ("no signature", {
            let signed = token(body, json!({}), SECRET);
            let (claims, _) = signed.rsplit_once('.').unwrap();
            let (_, claims) = claims.split_once('.').unwrap();
            format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
        }),
    ] {
        let response = post(&server, body, &token).await;
        assert_eq!(response.status(), 401, "{what}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer", "{what}");
    }
    assert_eq!((server.spool.batches(), server.refused(Refused::Unauthenticated)), (0, 10));
    let good = post(&server, body, &format!("Bearer {}", token(body, json!({}), SECRET))).await;
    assert_eq!(good.status(), 200, "with and without the scheme");
}

#[tokio::test]
async fn without_keys_no_webhook_is_accepted() {
    let server =
        serve_http(HttpOptions::default(), Authenticator::new(AuthOptions::None, LivekitKeys::new(), None)).await;
    let body = r#"{"event": "room_started"}"#;
    assert_eq!(post(&server, body, &token(body, json!({}), SECRET)).await.status(), 401);
}

#[tokio::test]
async fn overload_answers_503_so_that_livekit_tries_again_and_what_it_dropped_is_counted() {
    let server = server().await;
    let body = r#"{"event": "room_started", "id": "EV_1", "numDropped": 3}"#;
    server.spool.set(Behaviour::Full);
    let response = post(&server, body, &token(body, json!({}), SECRET)).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    server.spool.set(Behaviour::Accepts);
    assert_eq!(post(&server, body, &token(body, json!({}), SECRET)).await.status(), 200);
    assert_eq!(server.ingester.snapshot().webhooks_dropped_by_livekit, 3);
}

#[tokio::test]
async fn what_is_dropped_is_reported_and_what_never_fits_is_refused_for_good() {
    let server = server().await;
    let body = r#"{"event": "room_started", "id": "EV_1", "numDropped": 3}"#;
    server.spool.set(Behaviour::Drops);
    let response = post(&server, body, &token(body, json!({}), SECRET)).await;
    assert_eq!(response.status().as_u16(), 200, "LiveKit has nothing to send again");
    let reason = "its spool is full (no space left on the disk), and when_full is drop_newest";
    let dropped = json!({"memory": {"records": 1, "reason": reason}});
    assert_eq!(response.json::<Value>().await.unwrap(), json!({"records": 1, "dropped": dropped}));
    server.spool.set(Behaviour::NeverFits);
    let response = post(&server, body, &token(body, json!({}), SECRET)).await;
    assert_eq!((response.status().as_u16(), response.headers().get("retry-after")), (413, None));
    assert_eq!(response.json::<Value>().await.unwrap()["error"], "sink memory: it never fits");
    assert_eq!(server.ingester.snapshot().webhooks_dropped_by_livekit, 3, "of the one that was accepted");
}

#[tokio::test]
async fn a_signed_body_that_is_no_webhook_is_answered_400() {
    let server = server().await;
    for body in ["", "{", "[]", r#"{"event": 5}"#] {
        assert_eq!(post(&server, body, &token(body, json!({}), SECRET)).await.status(), 400, "{body}");
    }
}

#[tokio::test]
async fn a_webhook_that_comes_again_is_one_record_and_counts_once() {
    let server = server().await;
    let body = r#"{"event": "room_started", "id": "EV_1", "numDropped": 2}"#;
    server.spool.set(Behaviour::Full);
    assert_eq!(post(&server, body, &token(body, json!({}), SECRET)).await.status(), 503);
    server.spool.set(Behaviour::Accepts);
    for _ in 0..20 {
        let answer = post(&server, body, &token(body, json!({}), SECRET)).await;
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, r#"{"records":1}"#));
    }
    let another = r#"{"event": "room_started", "id": "EV_2"}"#;
    post(&server, another, &token(another, json!({}), SECRET)).await;
    // A sender without LiveKit's own signature is still refused.
    assert_eq!(post(&server, body, &token(body, json!({}), "another secret")).await.status(), 401);
    assert_eq!(events(&server).len(), 2);
    let snapshot = server.ingester.snapshot();
    let accepted: u64 = snapshot.accepted.iter().map(|accepted| accepted.records).sum();
    assert_eq!((accepted, snapshot.webhooks_repeated, snapshot.webhooks_dropped_by_livekit), (2, 19, 2));
}

#[tokio::test]
async fn what_a_sink_dropped_is_not_a_repeat() {
    let server = server().await;
    let body = r#"{"event": "room_started", "id": "EV_1"}"#;
    for (behaviour, kept) in [(Behaviour::Drops, 0), (Behaviour::Accepts, 1)] {
        server.spool.set(behaviour);
        assert_eq!(post(&server, body, &token(body, json!({}), SECRET)).await.status(), 200);
        assert_eq!(events(&server).len(), kept);
    }
}
