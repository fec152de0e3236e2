//! The HTTP sink and receivers of every kind: what they are sent, what their answers mean, and how they misbehave.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    record::{QueuedRecord, Stream},
    secret::Secret,
    sink::{
        Batch, BatchOutcome, Outcome, Sink, SinkErrorKind,
        http::{HttpCompression, HttpFormat, HttpMethod, HttpOptions},
    },
};
use prost::Message;

use crate::{
    pipeline::http_sink_with,
    support::{
        receiver::{Answer, Receiver, Request, answer},
        records::numbered_events,
    },
};

pub(crate) const OK: Answer = Answer::Status(200, "{}");

pub(crate) fn batch(prefix: &str, count: usize) -> Batch {
    let record = |(i, event): (usize, AnalyticsEvent)| QueuedRecord {
        seq: i as u64,
        received_at: 0,
        bytes: Bytes::from(event.encode_to_vec()),
    };
    Batch { stream: Stream::Events, records: numbered_events(prefix).take(count).enumerate().map(record).collect() }
}

pub(crate) fn ids(prefix: &str, count: usize) -> Vec<String> {
    numbered_events(prefix).take(count).map(|event| event.id).collect()
}

pub(crate) fn quick(receiver: &Receiver) -> HttpOptions {
    HttpOptions { url: receiver.url(), timeout: Duration::from_secs(2), ..HttpOptions::default() }
}

pub(crate) fn sink(receiver: &Receiver) -> Arc<dyn Sink> {
    http_sink_with(quick(receiver))
}

pub(crate) fn kind_of(outcome: &BatchOutcome) -> Option<SinkErrorKind> {
    outcome.error.as_ref().map(|error| error.kind)
}

pub(crate) fn all(outcome: &BatchOutcome, expected: &Outcome) -> bool {
    outcome.records.iter().all(|outcome| outcome == expected)
}

#[tokio::test]
async fn requests_have_what_the_options_say_and_tell_their_records() {
    let receiver = Receiver::start(|_| OK).await;
    let basic = HttpOptions {
        method: HttpMethod::Put,
        user: Some("me".to_owned()),
        password: Some(Secret::new("pass word")),
        headers: [("X-Api-Key".to_owned(), Secret::new("k"))].into(),
        ..quick(&receiver)
    };
    assert!(all(&http_sink_with(basic).send_batch(batch("a", 3)).await, &Outcome::Delivered));
    let array = HttpOptions {
        format: HttpFormat::Array,
        token: Some(Secret::new("t")),
        url: format!("http://{}/deep/path?query=INSERT%20INTO%20t", receiver.address()),
        ..quick(&receiver)
    };
    assert!(all(&http_sink_with(array).send_batch(batch("a", 3)).await, &Outcome::Delivered));
    let record = HttpOptions { format: HttpFormat::Record, ..quick(&receiver) };
    assert!(all(&http_sink_with(record).send_batch(batch("a", 3)).await, &Outcome::Delivered));

    let requests = receiver.requests();
    assert_eq!(requests.len(), 5);
    let [basic, array, one, ..] = &requests[..] else { panic!("five requests") };
    assert_eq!((basic.method.as_str(), basic.target.as_str()), ("PUT", "/in"));
    assert_eq!(basic.header("authorization"), "Basic bWU6cGFzcyB3b3Jk");
    assert_eq!((basic.header("x-api-key"), basic.header("host")), ("k", receiver.address().as_str()));
    assert_eq!(basic.header("content-type"), "application/x-ndjson");
    assert!(basic.header("user-agent").starts_with("livekit-spool/"));
    assert_eq!(basic.body.iter().filter(|&&byte| byte == b'\n').count(), 3);
    assert_eq!((array.method.as_str(), array.target.as_str()), ("POST", "/deep/path?query=INSERT%20INTO%20t"));
    assert_eq!(array.header("authorization"), "Bearer t");
    assert_eq!(array.header("content-type"), "application/json");
    assert!(array.body.starts_with(b"[{") && array.body.ends_with(b"}]"));
    assert_eq!(one.header("livekit-spool-id"), ids("a", 1)[0]);
    assert_eq!(requests[2..].iter().flat_map(Request::ids).collect::<Vec<_>>(), ids("a", 3));
    for request in &requests {
        assert_eq!(request.header("livekit-spool-stream"), "events");
        assert_eq!(request.header("transfer-encoding"), "", "a length, for receivers that know nothing else");
    }
    assert_eq!(basic.header("idempotency-key"), array.header("idempotency-key"), "the same records");
    assert_ne!(basic.header("idempotency-key"), one.header("idempotency-key"));
    assert_eq!(basic.documents(), array.documents());
}

#[tokio::test]
async fn compressed_bodies_are_the_documents() {
    let receiver = Receiver::start(|_| OK).await;
    for (compression, name) in [(HttpCompression::Gzip, "gzip"), (HttpCompression::Zstd, "zstd")] {
        let options = HttpOptions { compression, ..quick(&receiver) };
        assert!(all(&http_sink_with(options).send_batch(batch("z", 100)).await, &Outcome::Delivered));
        let mut request = receiver.requests().pop().expect("a request");
        assert_eq!(request.header("content-encoding"), name);
        request.body = match name {
            "gzip" => {
                let mut body = Vec::new();
                std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&request.body[..]), &mut body).unwrap();
                body
            }
            _ => zstd::decode_all(&request.body[..]).unwrap(),
        };
        assert_eq!(request.ids(), ids("z", 100));
    }
}

#[tokio::test]
async fn a_batch_goes_in_requests_of_limited_size_over_one_connection() {
    let receiver = Receiver::start(|_| OK).await;
    let sink = http_sink_with(HttpOptions { max_body_bytes: 4096, ..quick(&receiver) });
    assert!(all(&sink.send_batch(batch("part", 100)).await, &Outcome::Delivered));
    let requests = receiver.requests();
    assert!(requests.len() > 5 && requests.iter().all(|request| request.body.len() <= 4096), "{}", requests.len());
    assert_eq!(requests.iter().flat_map(Request::ids).collect::<Vec<_>>(), ids("part", 100));
    assert_eq!(receiver.connections(), 1);
}

/// What each status must come to, for three records together.
fn expected(status: u16) -> (Option<SinkErrorKind>, fn(&Outcome) -> bool) {
    let retry: fn(&Outcome) -> bool = |outcome| *outcome == Outcome::Retry;
    match status {
        200..=299 => (None, |outcome| *outcome == Outcome::Delivered),
        400 | 413 | 415 | 422 => (None, |outcome| matches!(outcome, Outcome::Failed(_))),
        401 | 403 | 407 => (Some(SinkErrorKind::Unauthorized), retry),
        300..=399 | 404 | 405 | 410 => (Some(SinkErrorKind::Unsuitable), retry),
        507 => (Some(SinkErrorKind::Full), retry),
        408 | 425 | 429 | 500..=599 => (Some(SinkErrorKind::Unavailable), retry),
        _ => (Some(SinkErrorKind::Unnamed), retry),
    }
}

#[tokio::test]
async fn every_status_has_its_meaning_and_only_2xx_takes_a_record_from_the_queue() {
    let status = Arc::new(AtomicUsize::new(0));
    let next = Arc::clone(&status);
    let receiver = Receiver::start(move |_| {
        let status = next.load(Ordering::SeqCst) as u16;
        // These have no body.
        let body = if matches!(status, 204 | 205 | 304) { "" } else { "first line\nsecond" };
        Answer::Bytes(answer(status, "", body))
    })
    .await;
    let sink = sink(&receiver);
    for code in 200..600 {
        status.store(code.into(), Ordering::SeqCst);
        let outcome = sink.send_batch(batch("status", 3)).await;
        let (kind, is_expected) = expected(code);
        assert_eq!(kind_of(&outcome), kind, "{code}: {outcome:?}");
        assert!(outcome.records.iter().all(is_expected), "{code}: {outcome:?}");
        if let Some(error) = outcome.error {
            assert!(error.message.starts_with(&receiver.url()) && error.message.contains(&code.to_string()), "{error}");
            assert!(!error.message.contains("second"), "{error}");
        }
    }
    for code in 600..1000 {
        status.store(code, Ordering::SeqCst);
        let outcome = sink.send_batch(batch("status", 3)).await;
        assert!(all(&outcome, &Outcome::Retry), "{code}: {outcome:?}");
    }
}

#[tokio::test]
async fn interim_answers_are_no_answers() {
    for status in [100, 102, 103, 104, 199] {
        let interim = format!("HTTP/1.1 {status} Interim\r\nLink: </a>\r\n\r\n").into_bytes();
        let both = [interim.clone(), interim.clone(), answer(200, "", "{}")].concat();
        let receiver = Receiver::start(move |_| Answer::Bytes(both.clone())).await;
        for _ in 0..2 {
            let outcome = sink(&receiver).send_batch(batch("interim", 3)).await;
            assert!(all(&outcome, &Outcome::Delivered), "{status}: {outcome:?}");
        }
        let receiver = Receiver::start(move |_| Answer::Last(interim.clone())).await;
        let outcome = sink(&receiver).send_batch(batch("interim", 3)).await;
        assert!(all(&outcome, &Outcome::Retry), "{status}: {outcome:?}");
    }
    let receiver = Receiver::start(|_| Answer::Last(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n".to_vec())).await;
    let outcome = sink(&receiver).send_batch(batch("upgrade", 3)).await;
    assert!(all(&outcome, &Outcome::Retry), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_cut_at_any_byte_delivers_if_its_head_was_whole() {
    let whole = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello".to_vec();
    let head = whole.len() - 5;
    for end in 0..whole.len() {
        let part = whole[..end].to_vec();
        let receiver = Receiver::start(move |_| Answer::Last(part.clone())).await;
        let outcome = sink(&receiver).send_batch(batch("cut", 3)).await;
        let expected = if end >= head { Outcome::Delivered } else { Outcome::Retry };
        assert!(all(&outcome, &expected), "{end} bytes: {outcome:?}");
        assert_eq!(receiver.requests().len(), 1, "{end}: not sent again by itself");
    }
}

#[tokio::test]
async fn answers_in_odd_forms_are_read_or_retried() {
    let long = "x".repeat(1 << 20);
    for (what, bytes, is_delivered) in [
        ("HTTP/1.0 until the end", b"HTTP/1.0 200 OK\r\n\r\nbody".to_vec(), true),
        ("HTTP/1.0 with a length", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec(), true),
        ("connection: close", answer(200, "Connection: close\r\n", "{}"), true),
        (
            "chunks and trailers",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n".to_vec(),
            true,
        ),
        ("a body longer than it says", answer(200, "", "").into_iter().chain(*b"surplus").collect(), true),
        ("a body shorter than it says", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}".to_vec(), true),
        ("a broken chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(), true),
        ("no reason", b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n".to_vec(), true),
        ("bare line feeds", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n".to_vec(), true),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}".to_vec(), false),
        ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}".to_vec(), false),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), false),
        ("HTTP/2 without being asked", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), false),
        ("HTTP/0.9", b"{\"ok\": true}".to_vec(), false),
        ("a status of two digits", b"HTTP/1.1 20 OK\r\n\r\n".to_vec(), false),
        ("a status with a sign", b"HTTP/1.1 +20 OK\r\n\r\n".to_vec(), false),
        ("a header without a colon", b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n".to_vec(), false),
        ("a NUL in a header", b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n".to_vec(), false),
        ("a huge header", answer(200, &format!("X: {long}\r\n"), "{}"), false),
        ("very many headers", answer(200, &"X: y\r\n".repeat(10_000), "{}"), false),
        ("nothing", Vec::new(), false),
        ("a byte of zeros", vec![0; 100], false),
    ] {
        let receiver = Receiver::start(move |_| Answer::Last(bytes.clone())).await;
        let sink = sink(&receiver);
        for _ in 0..2 {
            let outcome = sink.send_batch(batch("odd", 3)).await;
            let expected = if is_delivered { Outcome::Delivered } else { Outcome::Retry };
            assert!(all(&outcome, &expected), "{what}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn endless_bodies_cost_little_time_and_memory() {
    let head = |status| format!("HTTP/1.1 {status} X\r\nContent-Length: 10000000000\r\n\r\n").into_bytes();
    let endless = |status| Answer::Endless(head(status), vec![b'x'; 64 * 1024]);
    let drip = |status| Answer::Slowly([head(status), vec![b'x'; 10_000]].concat(), Duration::from_millis(1));
    for (answer, delivered) in [(endless(200), true), (drip(200), true), (endless(503), false), (drip(503), false)] {
        let receiver = Receiver::start(move |_| answer.clone()).await;
        let options = HttpOptions { timeout: Duration::from_secs(20), ..quick(&receiver) };
        let (sink, begun) = (http_sink_with(options), Instant::now());
        let outcome = sink.send_batch(batch("endless", 3)).await;
        assert!(all(&outcome, if delivered { &Outcome::Delivered } else { &Outcome::Retry }), "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        let shown = outcome.error.map(|error| error.message.len()).unwrap_or_default();
        assert!(shown < 500, "{shown} characters");
    }
}

#[tokio::test]
async fn slow_answers_are_waited_for_within_the_timeout_and_silence_is_a_timeout() {
    let slow = Receiver::start(|_| Answer::Slowly(answer(200, "", "{}"), Duration::from_millis(10))).await;
    assert!(all(&sink(&slow).send_batch(batch("slow", 3)).await, &Outcome::Delivered));
    let header = [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; 1000]].concat();
    for stuck in [Answer::Silence, Answer::Slowly(header, Duration::from_millis(100))] {
        let receiver = Receiver::start(move |_| stuck.clone()).await;
        let (sink, begun) = (sink(&receiver), Instant::now());
        let outcome = sink.send_batch(batch("stuck", 3)).await;
        assert!(all(&outcome, &Outcome::Retry), "{outcome:?}");
        assert_eq!(kind_of(&outcome), Some(SinkErrorKind::Timeout), "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "before the worker gives up: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn what_was_delivered_before_the_time_was_over_is_known() {
    let receiver = Receiver::start(|_| Answer::Slowly(answer(200, "", ""), Duration::from_millis(3))).await;
    let sink = http_sink_with(HttpOptions { format: HttpFormat::Record, ..quick(&receiver) });
    let outcome = sink.send_batch(batch("half", 200)).await;
    let delivered = outcome.records.iter().take_while(|outcome| **outcome == Outcome::Delivered).count();
    assert!((1..200).contains(&delivered), "{delivered}");
    assert!(outcome.records[delivered..].iter().all(|outcome| *outcome == Outcome::Retry));
    assert_eq!(kind_of(&outcome), Some(SinkErrorKind::Timeout));
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_counts() {
    for (status, kind) in [(401, Some(SinkErrorKind::Unauthorized)), (503, Some(SinkErrorKind::Unavailable))] {
        let early = move |_: &Request| Some(Answer::Bytes(answer(status, "", "early")));
        let receiver = Receiver::start_with(early, |_| Answer::Bytes(Vec::new())).await;
        let outcome = sink(&receiver).send_batch(batch("early", 5000)).await;
        assert!(all(&outcome, &Outcome::Retry), "{status}");
        assert_eq!(kind_of(&outcome), kind, "{:?}", outcome.error);
    }
    // Closed while the request is on its way: whatever is seen of it, nothing is delivered or rejected.
    for bytes in [answer(413, "Connection: close\r\n", "too large"), answer(401, "", ""), Vec::new()] {
        let early = move |_: &Request| Some(Answer::Last(bytes.clone()));
        let receiver = Receiver::start_with(early, |_| OK).await;
        let outcome = sink(&receiver).send_batch(batch("early", 5000)).await;
        let lost = |outcome: &Outcome| matches!(outcome, Outcome::Delivered | Outcome::Rejected(_));
        assert!(!outcome.records.iter().any(lost), "{:?}", outcome.error);
    }
}

#[tokio::test]
async fn a_connection_that_closes_while_it_rests_loses_nothing() {
    let receiver = Receiver::start(|_| Answer::Last(answer(200, "", "{}"))).await;
    let sink = sink(&receiver);
    let mut delivered = 0;
    for i in 0..200 {
        let outcome = sink.send_batch(batch(&format!("rest{i}"), 3)).await;
        assert!(all(&outcome, &Outcome::Delivered) || all(&outcome, &Outcome::Retry), "{outcome:?}");
        delivered += usize::from(all(&outcome, &Outcome::Delivered));
    }
    assert_eq!(receiver.requests().len(), delivered, "each request was answered, and none was sent twice");
    assert!(delivered > 100, "{delivered}");
}

#[tokio::test]
async fn a_success_that_comes_before_the_request_is_none() {
    // It answers as soon as it has seen the head, and reads on when the answer is out.
    let early = |_: &Request| Some(Answer::Slowly(answer(200, "", "{}"), Duration::from_millis(2)));
    let receiver = Receiver::start_with(early, |_| Answer::Bytes(Vec::new())).await;
    // A body of 16 MB: a smaller one may be in the connection's buffers, and so on its way, before the answer is there.
    let options = HttpOptions { timeout: Duration::from_secs(20), max_body_bytes: 64 << 20, ..quick(&receiver) };
    let outcome = http_sink_with(options).send_batch(batch("early", 20_000)).await;
    assert!(all(&outcome, &Outcome::Retry), "{:?}", outcome.error);
    let error = outcome.error.expect("it says why");
    assert!(error.kind == SinkErrorKind::Unavailable && error.message.contains("before the request"), "{error}");
}
