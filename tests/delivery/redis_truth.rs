//! Whatever a Redis server refuses everything with, the status says so, and nothing is thrown away without its final word;
//! and whom a cluster's list is believed from.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use livekit_spool::flush::{FlushOptions, SinkState};

use crate::{
    pipeline::{Pipeline, options, redis_sink},
    resp::{Answer, RespServer, shards, slot_of},
    support::{eventually, records::numbered_events},
};

/// As in production: only a minute of failures while others pass makes a dead letter.
fn patient() -> FlushOptions {
    FlushOptions { reject_after: FlushOptions::default().reject_after, ..options() }
}

const ERRORS: [&str; 10] = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots",
    "BUSY Redis is busy running a script",
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "NOREPLICAS Not enough good replicas to write.",
    "CLUSTERDOWN The cluster is down",
    "ERR something new",
    "WHATEVER nobody knows",
    "THROTTLED too many commands",
];

/// While the server does as `wrong` says nothing is delivered or dead, and it is told; then all is delivered. Answers the last error
/// of meanwhile.
async fn all_waits_until_it_ends(server: &RespServer, wrong: &AtomicBool, case: &str) -> Option<String> {
    let pipeline = Pipeline::start(redis_sink(&server.url()), patient());
    pipeline.send_events(&numbered_events("t").take(150).collect::<Vec<_>>()).await;
    eventually("it says so", || async { pipeline.status().state == SinkState::Unavailable }).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let status = pipeline.status();
    assert_eq!(status.state, SinkState::Unavailable, "{case}: {status:?}");
    assert_eq!((pipeline.backlog(), pipeline.dead_letters().len()), (150, 0), "{case}");
    wrong.store(false, Ordering::SeqCst);
    pipeline.drained().await;
    assert_eq!((server.kept().len(), pipeline.dead_letters().len()), (150, 0), "{case}");
    status.last_error
}

#[tokio::test]
async fn a_server_that_refuses_all_by_any_error_is_unavailable_and_loses_nothing() {
    let cases = ERRORS.map(|error| async move {
        let refusing = Arc::new(AtomicBool::new(true));
        let refuses = Arc::clone(&refusing);
        let server = RespServer::start(move |command| match &*command[0] {
            "JSON.SET" if refuses.load(Ordering::SeqCst) => Answer::Error(error.to_owned()),
            _ => Answer::Healthy,
        })
        .await;
        let last_error = all_waits_until_it_ends(&server, &refusing, error).await;
        assert!(last_error.is_some_and(|last| last.contains(error.split(' ').next().unwrap())), "{error}");
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn errors_of_single_commands_make_no_dead_letters_while_they_may_pass() {
    let cases = ERRORS.map(|error| async move {
        let (refusing, count) = (Arc::new(AtomicBool::new(true)), AtomicUsize::new(0));
        let refuses = Arc::clone(&refusing);
        let server = RespServer::start(move |command| match &*command[0] {
            "JSON.SET" if refuses.load(Ordering::SeqCst) && count.fetch_add(1, Ordering::SeqCst) % 3 == 2 => {
                Answer::Error(error.to_owned())
            }
            _ => Answer::Healthy,
        })
        .await;
        let pipeline = Pipeline::start(redis_sink(&server.url()), patient());
        let events: Vec<_> = numbered_events("t").take(400).collect();
        for some in events.chunks(40) {
            pipeline.send_events(some).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        refusing.store(false, Ordering::SeqCst);
        pipeline.drained().await;
        assert_eq!((server.kept().len(), pipeline.dead_letters().len()), (400, 0), "{error}");
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn whatever_a_server_answers_but_what_its_commands_answer_in_success_nothing_is_delivered() {
    let set = ["$-1", ":1", ":0", "_", "+QUEUED", "+", "$2\r\nOK", "*1\r\n+OK", "*0", "#f", "#t", "+OK\r\n+OK", "$-5"];
    let expire = ["$-1", ":0", ":-1", ":2", "+OK", "+QUEUED", "*0"].map(|answer| ("EXPIRE", answer));
    let cases = set.map(|answer| ("JSON.SET", answer)).into_iter().chain(expire);
    // Without WAITAOF no reply of its own kind ends the list.
    let cases = cases.flat_map(|case| [true, false].map(|fsyncs| (case, fsyncs)));
    let cases = cases.map(|((of, answer), fsyncs)| async move {
        let lying = Arc::new(AtomicBool::new(true));
        let lies = Arc::clone(&lying);
        let server = RespServer::start(move |command| match &*command[0] {
            name if name == of && lies.load(Ordering::SeqCst) => Answer::Raw(format!("{answer}\r\n")),
            "WAITAOF" if !fsyncs => Answer::Error("ERR unknown command 'WAITAOF'".to_owned()),
            _ => Answer::Healthy,
        })
        .await;
        all_waits_until_it_ends(&server, &lying, &format!("{of} {answer:?}")).await;
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn search_indexes_that_are_refused_or_never_answered_hold_up_no_delivery() {
    let ways: [fn() -> Answer; 4] = [
        || Answer::Silence,
        || Answer::HangUp,
        || Answer::Error("BUSY wait".to_owned()),
        || Answer::Raw("$-1\r\n".to_owned()),
    ];
    let cases = ways.into_iter().enumerate().map(|(i, how)| async move {
        let server = RespServer::start(move |command| match &*command[0] {
            "FT.CREATE" => how(),
            _ => Answer::Healthy,
        })
        .await;
        let warnings = redis_sink(&server.url()).initialize().await.expect("it continues");
        assert!(warnings.iter().any(|warning| warning.contains("search index")), "{i}: {warnings:?}");
        let pipeline = Pipeline::start(redis_sink(&server.url()), patient());
        pipeline.send_events(&numbered_events("t").take(50).collect::<Vec<_>>()).await;
        let drained = tokio::time::timeout(Duration::from_secs(10), pipeline.drained()).await;
        assert!(drained.is_ok(), "{i}: {:?}", pipeline.status());
        assert_eq!(server.kept().len(), 50, "{i}");
    });
    futures::future::join_all(cases).await;
}

/// The list of the server in the URL is believed: it has user, password and records already. No other node's is.
#[tokio::test]
async fn a_node_of_the_cluster_cannot_send_on_to_a_host_that_only_it_lists() {
    let thief = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = thief.local_addr().expect("its address").to_string();
    let moved = |to: &str| Answer::Error(format!("MOVED {} {to}", slot_of("RM_one")));
    let node = RespServer::start(move |command| match &*command[0] {
        "JSON.SET" | "EXPIRE" => moved(&to),
        "CLUSTER" => shards(&[&to]),
        _ => Answer::Healthy,
    })
    .await;
    let address = node.address();
    let first = RespServer::start(move |command| match &*command[0] {
        "JSON.SET" | "EXPIRE" => moved(&address),
        "CLUSTER" => shards(&[&address]),
        _ => Answer::Healthy,
    })
    .await;
    let url = first.url().replace("redis://", "redis://user:password@");
    let pipeline = Pipeline::start(redis_sink(&url), patient());
    let events = numbered_events("t").take(20);
    let in_one_room = |mut event: livekit_protocol::AnalyticsEvent| {
        event.room_id = "RM_one".to_owned();
        event.room.get_or_insert_default().sid = "RM_one".to_owned();
        event
    };
    pipeline.send_events(&events.map(in_one_room).collect::<Vec<_>>()).await;
    eventually("away", || async { pipeline.status().state == SinkState::Unavailable }).await;
    assert!(tokio::time::timeout(Duration::from_millis(500), thief.accept()).await.is_err(), "someone came");
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains("CLUSTER SHARDS")));
}
