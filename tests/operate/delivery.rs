//! Commands that control delivery: `drain`, `flush`, `pause`, `resume`, `purge`, `indexes`.

use std::fs;

use serde_json::Value;

use super::{event, nowhere, send, support};
use crate::cli::{fails, ok, said, with_backlog};
use support::{
    process::{Setup, Spool},
    wire::{Reply, WireServer, WriteError},
};

#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_held_against_those_that_should_be_there() {
    let server = WireServer::scripted(|command| match command.name.as_str() {
        "listIndexes" if command.body.get_str("listIndexes").is_ok_and(|name| name == "events") => {
            let index = |key: &str| bson::doc! { "key": { key: 1 }, "name": key };
            let ttl = bson::doc! { "key": { "openvidu_expire_at": 1 }, "name": "ttl", "expireAfterSeconds": 60 };
            let batch = vec![index("_id"), index("type"), index("mine"), ttl];
            let cursor = bson::doc! { "id": 0_i64, "ns": "openvidu.events", "firstBatch": batch };
            Reply::Answer(bson::doc! { "ok": 1, "cursor": cursor })
        }
        "listIndexes" => Reply::Answer(support::wire::error(26, "NamespaceNotFound", "no such collection")),
        _ => Reply::Healthy,
    })
    .await;
    let spool = Setup::new().mongo("mongo", &server.uri(), "openvidu").prepare();
    let output = spool.command(&["indexes", "--json"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let state = |index: &str| {
        let found = rows.as_array().unwrap().iter().find(|row| row["collection"] == "events" && row["index"] == index);
        found.unwrap_or_else(|| panic!("{index} is not in {rows}"))["state"].clone()
    };
    assert_eq!(
        (state("type_1"), state("room.sid_1"), state("openvidu_expire_at_1"), state("mine")),
        ("ok".into(), "missing".into(), "differs".into(), "extra".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_a_server_that_is_unavailable_are_an_error_in_the_words_of_delivery() {
    let redis = "name: redis, type: redis, url: \"redis://127.0.0.1:9\"";
    let spool = nowhere("mongo").sink(redis).start().await;
    for sink in ["mongo", "redis"] {
        let error = || Spool::sink_of(&spool.backlog(), sink)["last_error"].as_str().map(str::to_owned);
        support::eventually("delivery says what is wrong", || async { error().is_some() }).await;
        let output = spool.command(&["indexes", sink]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert_eq!(said(&output), format!("livekit-spool: sink {sink}: {}\n", error().expect("still there")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_says_what_it_removed_and_asks_for_yes_without_a_terminal() {
    let spool = with_backlog(12).await;
    fails(&spool, &["purge", "mongo"], 2, "give --yes");
    let text = ok(&spool, &["purge", "mongo", "--yes"]);
    assert!(text.contains("removed 12 records"), "{text}");
    let stream = spool.backlog();
    assert_eq!(Spool::stream_of(&stream, "mongo", "events")["dropped"]["purged"], 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_delivers_all_and_exits_or_runs_out_of_time() {
    let server = WireServer::acknowledging().await;
    let mut spool = with_backlog(40).await;
    fails(&spool, &["drain", "mongo", "--timeout", "300ms"], 4, "40 records are left");
    spool.terminate();
    fails(&spool, &["drain", "--timeout", "300ms"], 4, "40 records are left");
    let config = spool.directory().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let uri = text.split('"').find(|part| part.starts_with("mongodb://")).unwrap().to_owned();
    fs::write(&config, text.replace(&uri, &server.uri())).unwrap();
    let text = ok(&spool, &["drain", "mongo"]);
    assert!(text.contains("drained"), "{text}");
    assert_eq!((server.inserted(), spool.records("mongo", "events")), (40, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_resume_and_flush_do_what_they_say() {
    let server = WireServer::acknowledging().await;
    let spool = Setup::new().mongo("mongo", &server.uri(), "openvidu").start().await;
    ok(&spool, &["pause", "mongo"]);
    send(&spool, vec![event("AE_1", "r")]).await;
    assert_eq!(Spool::sink_of(&spool.backlog(), "mongo")["state"], "paused");
    assert_eq!((server.inserted(), spool.records("mongo", "events")), (0, 1));
    ok(&spool, &["resume", "mongo"]);
    support::eventually("the record is delivered", || async { spool.records("mongo", "events") == 0 }).await;
    ok(&spool, &["flush", "mongo"]);
    assert!(ok(&spool, &["pause", "mongo"]).contains("resume"));
    assert!(ok(&spool, &["flush", "mongo"]).contains("the sink is paused"));
    let backlog = spool.backlog();
    assert_eq!(Spool::sink_of(&backlog, "mongo")["advice"][0], "`livekit-spool resume mongo` delivers again");
    assert!(ok(&spool, &["backlog"]).contains("→ `livekit-spool resume mongo`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_what_keeps_it_and_what_the_sink_rejected() {
    let mut spool = with_backlog(20).await;
    ok(&spool, &["pause", "mongo"]);
    fails(&spool, &["drain", "--timeout", "300ms"], 4, "mongo is paused: `livekit-spool resume mongo`");
    spool.terminate();

    let refusing = |command: &support::wire::Command| {
        if command.name != "insert" {
            return Reply::Healthy;
        }
        let is_odd = |document: &bson::RawDocumentBuf| document.get_str("_id").is_ok_and(|id| id == "AE_0007");
        let odd = (0..command.documents.len()).filter(|&i| is_odd(&command.documents[i]));
        Reply::WriteErrors(odd.map(|i| WriteError::new(i, 121, "too odd")).collect())
    };
    let server = WireServer::scripted(refusing).await;
    let config = spool.directory().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let uri = text.split('"').find(|part| part.starts_with("mongodb://")).unwrap().to_owned();
    fs::write(&config, text.replace(&uri, &server.uri())).unwrap();
    let drained: Value = serde_json::from_str(&ok(&spool, &["drain", "--json"])).unwrap();
    let figures = ["drained", "records", "dead_lettered", "left"].map(|key| drained[key].to_string());
    assert_eq!(figures, ["true", "19", "1", "0"], "{drained}");
    assert_eq!(server.kept("openvidu.events").len(), 19);
    assert!(ok(&spool, &["drain"]).starts_with("drained: 0 records"));
}
