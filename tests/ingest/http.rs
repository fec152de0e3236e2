//! HTTP: formats, encodings, limits, answers.

use std::{io::Write, time::Duration};

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents, AnalyticsStat, AnalyticsStats};
use livekit_spool::{
    ingest::{AuthOptions, Authenticator, HttpOptions, LivekitKeys, Refused, Secret},
    record::Stream,
};
use prost::Message;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Behaviour, Running, bundled, open_authenticator, serve_http, within};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

async fn server() -> Running {
    serve_http(HttpOptions::default(), open_authenticator()).await
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
    let accepted: u64 = server.ingester.snapshot().accepted.iter().map(|accepted| accepted.records).sum();
    assert_eq!(accepted, 3 * 763 + 482);
}

#[tokio::test]
async fn one_object_an_array_the_wrapper_and_lines_of_json_are_accepted() {
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
    server.spool.set(Behaviour::Hangs);
    let call = {
        let url = format!("http://{}/v1/events", server.address);
        tokio::spawn(Client::new().post(url).header("content-type", JSON).body(r#"{"id": "AE_1"}"#).send())
    };
    within(server.spool.was_offered_some()).await;
    assert!(!call.is_finished());
    server.spool.set(Behaviour::Accepts);
    assert_eq!(within(call).await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn each_refusal_has_its_status_its_reason_and_says_what_to_do() {
    let options = HttpOptions { max_body_bytes: 10_000, max_request_records: 5, ..Default::default() };
    let server = serve_http(options, open_authenticator()).await;
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
    assert_eq!(server.ingester.snapshot().waiting_bytes, 0);
}

#[tokio::test]
async fn a_full_spool_answers_503_and_when_to_come_again() {
    let server = server().await;
    server.spool.set(Behaviour::Full);
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
        serve_http(HttpOptions { body_timeout: Duration::from_millis(50), ..Default::default() }, open_authenticator())
            .await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(server.refused(Refused::Timeout), 1);
}

/// Whatever part of a body it is whose bytes come one by one, without end.
#[tokio::test]
async fn a_whispered_body_is_answered_408_and_others_are_served_meanwhile() {
    let options = HttpOptions { body_timeout: Duration::from_millis(300), ..Default::default() };
    let server = serve_http(options, open_authenticator()).await;
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let whispers = [
        ("Content-Length: 1000000\r\n\r\n".to_owned(), " "),
        (chunked.to_owned(), "1\r\n \r\n"),
        (chunked.to_owned(), "0"),
        (format!("{chunked}1;"), "x"),
        (chunked.to_owned(), "1;a=b\r\n \r\n"),
        (format!("{chunked}1\r\n \r\n0\r\n"), "X: y\r\n"),
        (format!("{chunked}1\r\n \r\n0\r\nX: "), "y"),
    ];
    for (begin, again) in &whispers {
        let (mut reader, mut writer) = TcpStream::connect(server.address).await.unwrap().into_split();
        let head = format!("POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{begin}");
        writer.write_all(head.as_bytes()).await.unwrap();
        let whisper = async {
            while writer.write_all(again.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let mut answer = [0; 13];
        let read = async {
            assert_eq!(
                post(&server, "/v1/events", &[("content-type", JSON)], r#"{"id": "AE_1"}"#).await.0,
                StatusCode::OK
            );
            within(reader.read_exact(&mut answer)).await.unwrap();
        };
        tokio::select! {
            () = read => {}
            () = whisper => panic!("{begin:?}, {again:?}: the connection ended without an answer"),
        }
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 408 ", "{begin:?}, {again:?}");
    }
    assert_eq!(server.refused(Refused::Timeout), whispers.len() as u64);
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_server_ends() {
    let server = server().await;
    server.spool.set(Behaviour::Hangs);
    let url = format!("http://{}/v1/events", server.address);
    let call = tokio::spawn(Client::new().post(url).header("content-type", JSON).body(r#"{"id": "AE_1"}"#).send());
    within(server.spool.was_offered_some()).await;
    server.begin_stop();
    server.spool.set(Behaviour::Accepts);
    assert_eq!(within(call).await.unwrap().unwrap().status(), StatusCode::OK);
    server.ended().await;
}

#[tokio::test]
async fn a_connection_may_idle_between_requests_for_longer_than_a_load_balancer_keeps_it() {
    assert!(HttpOptions::default().idle_timeout > Duration::from_secs(60));
    let soon = Duration::from_millis(200);
    let options = HttpOptions { header_timeout: soon, ..HttpOptions::default() };
    let patient = serve_http(options.clone(), open_authenticator()).await;
    let impatient = serve_http(HttpOptions { idle_timeout: soon, ..options }, open_authenticator()).await;
    let request = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"id\": \"AE_1\"}";
    for (server, keeps) in [(&patient, true), (&impatient, false)] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let mut answer = vec![0; 1024];
        stream.write_all(request).await.unwrap();
        assert!(within(stream.read(&mut answer)).await.unwrap() > 0);
        tokio::time::sleep(4 * soon).await;
        // written into a closed connection, it may go out, and comes back as nothing or as a reset
        let _ = stream.write_all(request).await;
        let read = within(stream.read(&mut answer)).await.unwrap_or(0);
        assert_eq!(read > 0, keeps);
    }
}

/// The status of a request as a browser, or whoever else, writes it.
async fn asked(server: &Running, head: &str, body: &str) -> u16 {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let length = body.len();
    let request = format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn without_credentials_no_web_page_can_send_by_a_browser_of_this_machine() {
    let server = serve_http(
        HttpOptions { hosts: vec!["spool.example".to_owned()], ..HttpOptions::default() },
        open_authenticator(),
    )
    .await;
    let json = "Content-Type: application/json";
    let mut sent = 0;
    for (path, body) in [
        ("/v1/events", r#"{"id": "AE_1"}"#),
        ("/v1/stats", r#"{"id": "AS_1"}"#),
        ("/v1/node_rooms", r#"{"nodeId": "ND_1"}"#),
    ] {
        for (host, more, status) in [
            ("127.0.0.1:7891", "", 200),
            ("localhost", "", 200),
            ("spool.example", "", 200),
            ("livekit-spool:7891", "", 200),
            ("evil.example", "", 421),
            ("evil.example:7891", "\r\nSec-Fetch-Site: same-origin\r\nOrigin: http://evil.example:7891", 421),
            ("0.0.0.0:7891", "", 421),
            ("localhost", "\r\nOrigin: http://evil.example", 403),
            ("localhost", "\r\nOrigin: null", 403),
            ("localhost", "\r\nSec-Fetch-Site: cross-site", 403),
            ("localhost", "\r\nSec-Fetch-Site: same-site", 403),
        ] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{json}{more}");
            assert_eq!(asked(&server, &head, body).await, status, "{head}");
            sent += usize::from(status == 200);
        }
        for simple in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {simple}\r\nOrigin: https://evil.example\r\n\
                 Sec-Fetch-Site: cross-site"
            );
            assert_eq!(asked(&server, &head, body).await, 403, "{head}");
            let without = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {simple}");
            assert_eq!(asked(&server, &without, body).await, 415, "a browser that says nothing: {simple}");
        }
        let preflight = format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\
             Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type"
        );
        assert_eq!(asked(&server, &preflight, "").await, 403);
        let absolute = format!("POST http://evil.example{path} HTTP/1.1\r\nHost: localhost\r\n{json}");
        assert_eq!(asked(&server, &absolute, body).await, 421);
        assert_eq!(asked(&server, &format!("POST {path} HTTP/1.1\r\n{json}"), body).await, 421, "no Host");
    }
    for path in ["/webhook", "/nowhere"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: evil.example\r\n{json}");
        assert_eq!(asked(&server, &head, "{}").await, 421, "{path}");
    }
    assert_eq!(server.spool.batches(), sent);
}

#[tokio::test]
async fn with_credentials_the_name_does_not_matter_and_another_site_still_does() {
    let token = "sixteen characters or more";
    let authenticator = Authenticator::new(AuthOptions::Tokens(vec![Secret::new(token)]), LivekitKeys::new(), None);
    let server = serve_http(HttpOptions::default(), authenticator).await;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: spool.example\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}"
    );
    assert_eq!(asked(&server, &head, r#"{"id": "AE_1"}"#).await, 200);
    assert_eq!(asked(&server, &format!("{head}\r\nSec-Fetch-Site: cross-site"), "{}").await, 403);
}
