//! What becomes of records that a receiver refuses, does not want yet, or sends elsewhere.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    flush::SinkState,
    record::Stream,
    secret::Secret,
    sink::{
        Batch, Outcome, SinkErrorKind,
        http::{HttpFormat, HttpMethod, HttpOptions},
    },
};
use prost::Message;

use crate::{
    http::{OK, all, batch, ids, quick, sink},
    pipeline::{Pipeline, http_sink_with, options},
    support::{
        eventually,
        receiver::{Answer, Receiver, Request, answer},
        records::{event_ids, numbered_events},
    },
};

fn refuses(bad: &'static [&'static str], status: u16) -> impl Fn(&Request) -> Answer {
    move |request| {
        let has_bad = request.ids().iter().any(|id| bad.contains(&id.as_str()));
        if has_bad { Answer::Status(status, "no \u{1b}[2J field\nsecond line") } else { OK }
    }
}

#[tokio::test]
async fn refused_records_are_found_and_rejected_alone_with_the_first_line() {
    let events = ids("bad", 300);
    let bad: &'static [&'static str] =
        Vec::leak([0, 17, 18, 150, 299].map(|i: usize| &*String::leak(events[i].clone())).to_vec());
    for status in [400, 415, 422] {
        for format in [HttpFormat::Ndjson, HttpFormat::Array] {
            let receiver = Receiver::start(refuses(bad, status)).await;
            let sink = http_sink_with(HttpOptions { format, timeout: Duration::from_secs(20), ..quick(&receiver) });
            let outcome = sink.send_batch(batch("bad", 300)).await;
            assert!(outcome.error.is_none(), "{:?}", outcome.error);
            for (id, outcome) in events.iter().zip(&outcome.records) {
                match outcome {
                    Outcome::Rejected(reason) => {
                        assert!(bad.contains(&id.as_str()), "{id}: {reason}");
                        assert!(reason.contains(&format!("code {status}")), "{reason}");
                        assert!(reason.contains("no \\u001b[2J field") && !reason.contains("second"), "{reason}");
                    }
                    other => assert!(*other == Outcome::Delivered && !bad.contains(&id.as_str()), "{id}: {other:?}"),
                }
            }
            let delivered = receiver
                .requests()
                .into_iter()
                .filter(|request| !request.ids().iter().any(|id| bad.contains(&id.as_str())));
            let mut once: Vec<String> = delivered.flat_map(|request| request.ids()).collect();
            once.sort();
            let mut good: Vec<String> = events.iter().filter(|id| !bad.contains(&id.as_str())).cloned().collect();
            good.sort();
            assert_eq!(once, good, "each once");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_refuses_everything_throws_nothing_away_and_is_asked_little() {
    for status in [400, 413, 415, 422] {
        for format in [HttpFormat::Ndjson, HttpFormat::Record] {
            let receiver = Receiver::start(move |_| Answer::Status(status, "wrong path")).await;
            let sink = http_sink_with(HttpOptions { format, ..quick(&receiver) });
            let outcome = sink.send_batch(batch("all", 1000)).await;
            assert!(outcome.records.iter().all(|outcome| matches!(outcome, Outcome::Failed(_))), "{status}");
            assert!(receiver.requests().len() < 60, "{status}: {} requests", receiver.requests().len());
            let alone = sink.send_batch(batch("alone", 1)).await;
            assert!(matches!(&alone.records[..], [Outcome::Failed(_)]), "{status}: {alone:?}");
        }
    }
    let is_wrong = Arc::new(AtomicBool::new(true));
    let wrong = Arc::clone(&is_wrong);
    let receiver =
        Receiver::start(move |_| if wrong.load(Ordering::SeqCst) { Answer::Status(400, "wrong") } else { OK });
    let receiver = receiver.await;
    let pipeline = Pipeline::start(sink(&receiver), options());
    let events: Vec<AnalyticsEvent> = numbered_events("kept").take(500).collect();
    pipeline.send_events(&events).await;
    eventually("it shows", || async { pipeline.status().state == SinkState::Unavailable }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains("code 400")));
    assert_eq!((pipeline.backlog(), pipeline.dead_letters().len()), (500, 0));
    is_wrong.store(false, Ordering::SeqCst);
    pipeline.drained().await;
    assert!(pipeline.dead_letters().is_empty());
    let mut delivered: Vec<String> = receiver.requests().iter().flat_map(Request::ids).collect();
    delivered.sort();
    delivered.dedup();
    assert_eq!(delivered, event_ids(&events).into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_record_that_comes_alone_and_is_refused_is_a_dead_letter_once_others_pass() {
    let receiver = Receiver::start(|request| {
        if request.ids().iter().any(|id| id.contains("poison")) { Answer::Status(422, "poison") } else { OK }
    })
    .await;
    let pipeline = Pipeline::start(sink(&receiver), options());
    pipeline.send_events(&numbered_events("poison").take(1).collect::<Vec<_>>()).await;
    let mut sent = 0;
    eventually("it is set aside", || {
        sent += 1;
        let events: Vec<AnalyticsEvent> = numbered_events(&format!("fine{sent}")).take(1).collect();
        let pipeline = &pipeline;
        async move {
            pipeline.send_events(&events).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            pipeline.dead_letters().len() == 1
        }
    })
    .await;
    pipeline.drained().await;
    assert!(pipeline.dead_letters()[0].reason.contains("code 422"), "{:?}", pipeline.dead_letters()[0].reason);
}

#[tokio::test]
async fn a_batch_with_many_refused_records_ends_with_each_in_its_place() {
    let is_bad = |id: &str| id.bytes().map(u32::from).sum::<u32>() % 2 == 0;
    let receiver =
        Receiver::start(
            move |request| {
                if request.ids().iter().any(|id| is_bad(id)) { Answer::Status(422, "odd") } else { OK }
            },
        )
        .await;
    let pipeline = Pipeline::start(sink(&receiver), options());
    let events: Vec<AnalyticsEvent> = numbered_events("many").take(400).collect();
    pipeline.send_events(&events).await;
    let mut sent = 0;
    // Records that are refused again and again are tried around others that pass.
    eventually("all have their place", || {
        sent += 1;
        let events: Vec<AnalyticsEvent> =
            numbered_events(&format!("more{sent}-")).filter(|event| !is_bad(&event.id)).take(1).collect();
        let pipeline = &pipeline;
        async move {
            pipeline.send_events(&events).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            pipeline.backlog() <= 2
        }
    })
    .await;
    pipeline.drained().await;
    let bad: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).filter(|id| is_bad(id)).collect();
    assert!(bad.len() > 50, "{}", bad.len());
    let dead = pipeline.dead_letters();
    assert_eq!(dead.len(), bad.len());
    assert!(dead.iter().all(|dead| dead.reason.contains("code 422")));
}

#[tokio::test]
async fn an_answer_that_repeats_a_secret_does_not_show_it() {
    let receiver = Receiver::start(|request| {
        let text = format!("{} is not allowed: {}", request.header("authorization"), request.target);
        Answer::Bytes(answer(403, "", &text))
    })
    .await;
    let options = HttpOptions {
        token: Some(Secret::new("hunter2")),
        url: format!("{}?key=hunter3", receiver.url()),
        ..quick(&receiver)
    };
    let outcome = http_sink_with(options).send_batch(batch("echo", 3)).await;
    let message = outcome.error.expect("an error").message;
    assert!(message.contains("Bearer *** is not allowed: /in?key=***") && !message.contains("hunter"), "{message}");
}

#[tokio::test]
async fn too_large_requests_are_halved_and_the_limit_is_remembered() {
    const LIMIT: usize = 40_000;
    let receiver =
        Receiver::start(
            |request| {
                if request.body.len() > LIMIT { Answer::Status(413, "nginx: too large") } else { OK }
            },
        )
        .await;
    let sink = sink(&receiver);
    assert!(all(&sink.send_batch(batch("large", 1000)).await, &Outcome::Delivered));
    let refused = |receiver: &Receiver| receiver.requests().iter().filter(|one| one.body.len() > LIMIT).count();
    let first = refused(&receiver);
    assert!(first > 0);
    assert!(all(&sink.send_batch(batch("later", 1000)).await, &Outcome::Delivered));
    assert!(refused(&receiver) <= first + 1, "{} refused after {first}", refused(&receiver));

    let tiny =
        Receiver::start(|request| if request.body.len() > 2000 { Answer::Status(413, "too large") } else { OK }).await;
    let mut records = batch("tiny", 20).records.to_vec();
    let large = AnalyticsEvent { id: "AE_large".to_owned(), error: "x".repeat(5000), ..AnalyticsEvent::default() };
    records[7].bytes = large.encode_to_vec().into();
    let outcome = crate::http::sink(&tiny).send_batch(Batch { stream: Stream::Events, records: records.into() }).await;
    for (i, outcome) in outcome.records.iter().enumerate() {
        match outcome {
            Outcome::Rejected(reason) => assert!(i == 7 && reason.contains("code 413"), "{i}: {reason}"),
            other => assert!(i != 7 && *other == Outcome::Delivered, "{i}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn retry_after_is_obeyed_by_all_batches() {
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&times);
    let receiver = Receiver::start(move |_| {
        let mut seen = seen.lock().expect("no panic under this lock");
        seen.push(Instant::now());
        if seen.len() <= 2 { Answer::Bytes(answer(429, "Retry-After: 2\r\n", "slow down")) } else { OK }
    })
    .await;
    let pipeline = Pipeline::start(sink(&receiver), options());
    let events: Vec<AnalyticsEvent> = numbered_events("later").take(1000).collect();
    pipeline.send_events(&events).await;
    eventually("it waits", || async { pipeline.status().state == SinkState::Unavailable }).await;
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains("Retry-After: 2s")));
    pipeline.drained().await;
    let times = times.lock().expect("no panic under this lock").clone();
    let pauses: Vec<Duration> = times.windows(2).map(|two| two[1] - two[0]).collect();
    let waited = pauses.iter().filter(|pause| **pause > Duration::from_millis(1900)).count();
    assert!((1..=2).contains(&waited), "{pauses:?}");
    assert!(times[times.len() - 1] - times[0] < Duration::from_secs(8), "{pauses:?}");

    for value in ["99999999999999999999999", "-1", "soon", "0", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let headers = format!("Retry-After: {value}\r\n");
        let receiver = Receiver::start(move |_| Answer::Bytes(answer(503, &headers, ""))).await;
        let sink = sink(&receiver);
        assert!(all(&sink.send_batch(batch("garbage", 1)).await, &Outcome::Retry));
        let wait = sink.not_before().map(|at| at.duration_since(tokio::time::Instant::now()));
        let expected = value.starts_with('9');
        assert_eq!(wait.is_some(), expected, "{value}: {wait:?}");
        assert!(wait.is_none_or(|wait| wait <= Duration::from_secs(600)), "{value}: {wait:?}");
    }
}

#[tokio::test]
async fn redirections_are_followed_on_the_same_host_with_the_body_and_nowhere_else() {
    for status in [307, 308] {
        let receiver = Receiver::start(move |request| {
            if request.target == "/in" { Answer::Bytes(answer(status, "Location: /there\r\n", "")) } else { OK }
        })
        .await;
        let options = HttpOptions { token: Some(Secret::new("t")), method: HttpMethod::Put, ..quick(&receiver) };
        assert!(all(&http_sink_with(options).send_batch(batch("moved", 3)).await, &Outcome::Delivered));
        let last = receiver.requests().pop().expect("a request");
        assert_eq!((last.method.as_str(), last.target.as_str()), ("PUT", "/there"));
        assert_eq!((last.header("authorization"), last.ids()), ("Bearer t", ids("moved", 3)));
    }
    let other = Receiver::start(|_| OK).await;
    for status in [301, 302, 303, 307, 308] {
        let headers = format!("Location: http://{}/x?hunter2\r\n", other.address());
        let receiver = Receiver::start(move |_| Answer::Bytes(answer(status, &headers, "moved"))).await;
        let outcome = sink(&receiver).send_batch(batch("elsewhere", 3)).await;
        assert!(all(&outcome, &Outcome::Retry), "{outcome:?}");
        let message = outcome.error.expect("an error").message;
        assert!(message.contains("check the url") && !message.contains("hunter2"), "{message}");
    }
    assert_eq!(other.connections(), 0, "nobody else sees a record or a credential");
    let circle = Receiver::start(|_| Answer::Bytes(answer(308, "Location: /in\r\n", ""))).await;
    let outcome = sink(&circle).send_batch(batch("circle", 3)).await;
    assert!(all(&outcome, &Outcome::Retry) && circle.requests().len() < 10);
    let nowhere = Receiver::start(|_| Answer::Bytes(answer(307, "", ""))).await;
    assert!(all(&sink(&nowhere).send_batch(batch("nowhere", 3)).await, &Outcome::Retry));
}

#[tokio::test]
async fn a_receiver_that_cannot_be_reached_is_named_with_the_reason() {
    for (url, reason) in [
        ("http://127.0.0.1:1/in", "Connection refused"),
        ("http://does-not-exist.invalid/in", "dns error"),
        ("http://[::1]:1/in", ""),
    ] {
        let options = HttpOptions { url: url.to_owned(), timeout: Duration::from_secs(5), ..HttpOptions::default() };
        let sink = http_sink_with(options);
        let failed = sink.initialize().await.expect_err("nobody there");
        let outcome = sink.send_batch(batch("nobody", 3)).await;
        assert!(all(&outcome, &Outcome::Retry));
        for error in [failed, outcome.error.expect("an error")] {
            assert!(error.kind == SinkErrorKind::Unavailable || error.kind == SinkErrorKind::Timeout, "{error:?}");
            assert!(error.message.starts_with(url) && error.message.contains(reason), "{error}");
        }
    }
}

#[tokio::test]
async fn a_record_that_is_refused_once_and_accepted_the_next_time_is_no_dead_letter() {
    for format in [HttpFormat::Ndjson, HttpFormat::Record] {
        let (flaky, bad) = (ids("flaky", 40)[7].clone(), ids("flaky", 40)[21].clone());
        let refused = Arc::new(AtomicBool::new(false));
        // Of two servers behind one address one has another schema: it refuses what comes to it.
        let receiver = Receiver::start(move |request| {
            let ids = request.ids();
            let is_alone = ids.len() == 1;
            if ids.contains(&bad) || (ids.contains(&flaky) && !refused.load(Ordering::SeqCst)) {
                refused.fetch_or(is_alone && ids.contains(&flaky), Ordering::SeqCst);
                return Answer::Status(400, "unknown field");
            }
            OK
        })
        .await;
        let options = HttpOptions { format, timeout: Duration::from_secs(20), ..quick(&receiver) };
        let outcome = http_sink_with(options).send_batch(batch("flaky", 40)).await;
        for (i, outcome) in outcome.records.iter().enumerate() {
            match outcome {
                Outcome::Rejected(reason) => assert!(i == 21 && reason.contains("code 400"), "{i}: {reason}"),
                outcome => assert!(i != 21 && *outcome == Outcome::Delivered, "{format:?} {i}: {outcome:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_repeats_a_secret_in_another_form_does_not_show_it() {
    let receiver = Receiver::start(|request| {
        let text = format!("{} is not allowed: {}", request.header("authorization"), request.target);
        Answer::Bytes(answer(403, "", &text))
    })
    .await;
    let options = HttpOptions {
        user: Some("me".to_owned()),
        password: Some(Secret::new("hunter2")),
        url: format!("{}?key=hunter%203&x=%68unter4", receiver.url()),
        ..quick(&receiver)
    };
    let message = http_sink_with(options).send_batch(batch("echo", 3)).await.error.expect("an error").message;
    assert!(message.contains("Basic *** is not allowed: /in?key=***&x=***"), "{message}");
    let signed = HttpOptions {
        sign: Some(livekit_spool::sink::http::HttpSignature::Livekit),
        api_key: Some("API1".to_owned()),
        api_secret: Some(Secret::new("hunter2")),
        streams: vec![Stream::Events],
        ..quick(&receiver)
    };
    let event = AnalyticsEvent { id: "AE_1".to_owned(), r#type: 0, ..AnalyticsEvent::default() };
    let record = livekit_spool::record::QueuedRecord { seq: 0, received_at: 0, bytes: event.encode_to_vec().into() };
    let batch = Batch { stream: Stream::Events, records: vec![record].into() };
    let message = http_sink_with(signed).send_batch(batch).await.error.expect("an error").message;
    assert!(message.contains(": *** is not allowed"), "a signature is valid for minutes: {message}");
}

#[tokio::test]
async fn the_longest_of_several_waits_is_obeyed() {
    let headers = "Retry-After: 5\r\nRetry-After: 60\r\nRetry-After: soon\r\n";
    let receiver = Receiver::start(move |_| Answer::Bytes(answer(503, headers, ""))).await;
    let sink = sink(&receiver);
    assert!(all(&sink.send_batch(batch("waits", 1)).await, &Outcome::Retry));
    let wait = sink.not_before().expect("a wait").duration_since(tokio::time::Instant::now());
    assert!(wait > Duration::from_secs(50), "{wait:?}");
}
