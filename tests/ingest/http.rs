//! HTTP: formats, encodings, limits, answers.

use std::{io::Write, time::Duration};

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents, AnalyticsStat, AnalyticsStats};
use livekit_spool::{
    ingest::{HttpOptions, Refused},
    record::Stream,
};
use prost::Message;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Mood, Running, bundled, open_gate, serve_http, within};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

async fn server() -> Running {
    serve_http(HttpOptions::default(), open_gate()).await
}

async fn post(
    server: &Running,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (StatusCode, Value) {
    let mut request = Client::new().post(format!("http://{}{path}", server.address)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn real_records_as_protobuf_are_stored_byte_for_byte_and_counted() {
    let server = server().await;
    let events = bundled("livekit-1.11/events.pb");
    let body =
        AnalyticsEvents { events: events.iter().map(|record| AnalyticsEvent::decode(&record[..]).unwrap()).collect() };
    let plain = body.encode_to_vec();
    let expected: Vec<_> = body.events.iter().map(Message::encode_to_vec).collect();
    for (encoding, bytes) in
        [("identity", plain.clone()), ("gzip", gzip(&plain)), ("zstd", zstd::encode_all(&plain[..], 3).unwrap())]
    {
        let before = server.spool.records(Stream::Events).len();
        let headers = [("content-type", PROTOBUF), ("content-encoding", encoding)];
        let answer = post(&server, "/v1/events", &headers, bytes).await;
        assert_eq!(answer, (StatusCode::OK, json!({"records": 763})), "{encoding}");
        assert_eq!(server.spool.records(Stream::Events)[before..], expected, "{encoding}");
    }
    let stats = bundled("livekit-1.11/stats.pb");
    let stats = AnalyticsStats { stats: stats.iter().map(|r| AnalyticsStat::decode(&r[..]).unwrap()).collect() };
    let answer = post(&server, "/v1/stats", &[("content-type", PROTOBUF)], stats.encode_to_vec()).await;
    assert_eq!(answer, (StatusCode::OK, json!({"records": 482})));
    let taken: u64 = server.intake.snapshot().taken.iter().map(|taken| taken.records).sum();
    assert_eq!(taken, 3 * 763 + 482);
}

#[tokio::test]
async fn one_object_an_array_the_wrapper_and_lines_of_json_are_taken() {
    let server = server().await;
    let one = r#"{"id": "AE_1", "type": "ROOM_ENDED", "roomId": "RM_1"}"#;
    for (content_type, body, count) in [
        (JSON, one.to_owned(), 1),
        (JSON, format!("[{one}, {one}]"), 2),
        (JSON, format!(r#"{{"events": [{one}, {one}, {one}]}}"#), 3),
        (NDJSON, format!("{one}\n\n{one}\n"), 2),
        ("application/json; charset=utf-8", "[]".to_owned(), 0),
    ] {
        let answer = post(&server, "/v1/events", &[("content-type", content_type)], body).await;
        assert_eq!(answer, (StatusCode::OK, json!({"records": count})));
    }
    let records = server.spool.records(Stream::Events);
    let expected = AnalyticsEvent { id: "AE_1".into(), r#type: 1, room_id: "RM_1".into(), ..Default::default() };
    assert_eq!(records, vec![expected.encode_to_vec(); 8]);

    let packed = gzip(br#"{"nodeId": "ND_1", "sequenceNumber": 4}"#);
    let headers = [("content-type", JSON), ("content-encoding", "gzip")];
    assert_eq!(post(&server, "/v1/node_rooms", &headers, packed).await.1, json!({"records": 1}));
    assert_eq!(server.spool.records(Stream::NodeRooms).len(), 1);
}

/// A gzip body that becomes nothing, in so many empty blocks.
fn empty_blocks(blocks: usize) -> Vec<u8> {
    let header = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
    [&header[..], &[0, 0, 0, 0xFF, 0xFF].repeat(blocks), &[1, 0, 0, 0xFF, 0xFF], &[0; 8]].concat()
}

#[tokio::test]
async fn at_every_path_gzip_goes_by_all_its_names_and_empty_blocks_are_refused() {
    let server = server().await;
    let (events, stats) = (&br#"{"roomId": "RM_1"}"#[..], &br#"{"score": 4.5}"#[..]);
    let node_rooms = &br#"{"nodeId": "ND_1"}"#[..];
    for (path, one) in [("/v1/events", events), ("/v1/stats", stats), ("/v1/node_rooms", node_rooms)] {
        for encoding in ["gzip", "GZIP", "x-gzip", "X-Gzip", "identity, gzip"] {
            let headers = [("content-type", JSON), ("content-encoding", encoding)];
            let answer = post(&server, path, &headers, gzip(one)).await;
            assert_eq!(answer, (StatusCode::OK, json!({"records": 1})), "{path} {encoding}");
        }
        for content_type in [JSON, NDJSON, PROTOBUF] {
            let headers = [("content-type", content_type), ("content-encoding", "gzip")];
            let (status, answer) = post(&server, path, &headers, empty_blocks(800_000)).await;
            assert_eq!((status.as_u16(), answer["reason"].as_str()), (413, Some("too_large")), "{path} {answer}");
            for broken in [gzip(one)[..20].to_vec(), [&gzip(one)[..], b"more"].concat()] {
                let (status, answer) = post(&server, path, &headers, broken).await;
                assert_eq!((status.as_u16(), answer["reason"].as_str()), (400, Some("invalid")), "{path} {answer}");
            }
        }
    }
}

#[tokio::test]
async fn the_answer_waits_until_the_records_are_durable() {
    let server = server().await;
    server.spool.set(Mood::Hangs);
    let call = {
        let url = format!("http://{}/v1/events", server.address);
        tokio::spawn(Client::new().post(url).header("content-type", JSON).body(r#"{"id": "AE_1"}"#).send())
    };
    within(server.spool.was_offered_some()).await;
    assert!(!call.is_finished());
    server.spool.set(Mood::Takes);
    assert_eq!(within(call).await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn each_refusal_has_its_status_its_reason_and_says_what_to_do() {
    let options = HttpOptions { max_body_bytes: 10_000, max_request_records: 5, ..Default::default() };
    let server = serve_http(options, open_gate()).await;
    let bomb = gzip(&[b' '; 5_000_000]);
    let six = "{\"id\": \"AE\"}\n".repeat(6);
    for (headers, body, status, reason) in [
        (&[("content-type", PROTOBUF)][..], b"\xFF\xFF".to_vec(), 400, "invalid"),
        (&[("content-type", JSON)], b"{\"id\": ".to_vec(), 400, "invalid"),
        (&[("content-type", JSON)], b"{\"nonsense\": 1}".to_vec(), 400, "invalid"),
        (&[("content-type", NDJSON)], b"{}\n".to_vec(), 400, "invalid"),
        (&[("content-type", JSON), ("content-encoding", "gzip")], b"{}".to_vec(), 400, "invalid"),
        (&[("content-type", "text/plain")], b"{}".to_vec(), 415, "unsupported"),
        (&[], b"{}".to_vec(), 415, "unsupported"),
        (&[("content-type", JSON), ("content-encoding", "br")], b"{}".to_vec(), 415, "unsupported"),
        (&[("content-type", JSON)], vec![b' '; 10_001], 413, "too_large"),
        (&[("content-type", JSON), ("content-encoding", "gzip")], bomb, 413, "too_large"),
        (&[("content-type", NDJSON)], six.into_bytes(), 413, "too_large"),
    ] {
        let (got, answer) = post(&server, "/v1/events", headers, body).await;
        assert_eq!((got.as_u16(), answer["reason"].as_str()), (status, Some(reason)), "{headers:?} {answer}");
        assert!(answer["error"].as_str().is_some_and(|error| error.len() > 10), "{answer}");
    }
    assert_eq!(post(&server, "/v2/events", &[], "").await.0, StatusCode::NOT_FOUND);
    let wrong_method = reqwest::get(format!("http://{}/v1/events", server.address)).await.unwrap();
    assert_eq!((wrong_method.status().as_u16(), &wrong_method.headers()["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(server.spool.batches(), 0);
    assert_eq!(server.intake.snapshot().waiting_bytes, 0);
}

#[tokio::test]
async fn a_full_spool_answers_503_and_when_to_come_again() {
    let server = server().await;
    server.spool.set(Mood::Full);
    let request = Client::new().post(format!("http://{}/v1/stats", server.address));
    let response = request.header("content-type", JSON).body(r#"{"id": "AS_1"}"#).send().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer, json!({"error": "sink memory: the spool is full", "reason": "full"}));
    assert_eq!(server.refused(Refused::Full), 1);
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_large_is_refused_before_it_comes() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\
                Expect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_answered_408() {
    let server =
        serve_http(HttpOptions { body_timeout: Duration::from_millis(50), ..Default::default() }, open_gate()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(server.refused(Refused::Timeout), 1);
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_server_ends() {
    let server = server().await;
    server.spool.set(Mood::Hangs);
    let url = format!("http://{}/v1/events", server.address);
    let call = tokio::spawn(Client::new().post(url).header("content-type", JSON).body(r#"{"id": "AE_1"}"#).send());
    within(server.spool.was_offered_some()).await;
    server.begin_stop();
    server.spool.set(Mood::Takes);
    assert_eq!(within(call).await.unwrap().unwrap().status(), StatusCode::OK);
    server.ended().await;
}
