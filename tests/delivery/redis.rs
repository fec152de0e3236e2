//! The Redis sink against a scripted server and real ones.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use livekit_protocol::AnalyticsEvent;
use livekit_spool::{flush::SinkState, record::Stream, sink::redis::RedisOptions};

use crate::{
    pipeline::{Pipeline, options, redis_sink, redis_sink_with},
    resp::{Answer, RespServer, shards, slot_of},
    support::{
        eventually, free_port,
        records::{event_ids, numbered_events, real_events, real_stats, stat_ids},
        redis::Redis,
    },
};

fn some_events(count: usize) -> Vec<AnalyticsEvent> {
    numbered_events("t").take(count).collect()
}

/// The record ids in keys.
fn ids(keys: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    keys.into_iter().map(|key| key.rsplit(':').next().expect("an id").to_owned()).collect()
}

async fn keys(redis: &Redis, pattern: &str) -> Vec<String> {
    let mut connection = redis.connect().await;
    ::redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.expect("keys")
}

#[tokio::test]
async fn real_records_become_json_documents_under_the_forks_keys_and_indexes() {
    let redis = Redis::start().await;
    let sink = redis_sink(&redis.url());
    assert_eq!(sink.initialize().await.expect("a Redis Stack"), Vec::<String>::new(), "no warnings");
    let pipeline = Pipeline::start(sink, options());
    let (events, stats) = (real_events(), real_stats());
    pipeline.send_events(&events).await;
    pipeline.send(Stream::Stats, &stats).await;
    pipeline.drained().await;
    assert!(ids(keys(&redis, "event:{*}:*").await) == event_ids(&events), "not the ids that were sent");
    assert!(ids(keys(&redis, "stat:{*}:*").await) == stat_ids(&stats), "not the ids that were sent");

    let mut connection = redis.connect().await;
    let key = keys(&redis, &format!("event:*:{}", events[0].id)).await.pop().expect("a key");
    let json: String = ::redis::cmd("JSON.GET").arg(&key).query_async(&mut connection).await.expect("a JSON document");
    let document: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(document["_id"], serde_json::Value::from(events[0].id.clone()));
    let ttl: i64 = ::redis::cmd("TTL").arg(&key).query_async(&mut connection).await.expect("TTL");
    assert!((760 * 3600..=768 * 3600).contains(&ttl), "{ttl}");

    let indexes: BTreeSet<String> = ::redis::cmd("FT._LIST").query_async(&mut connection).await.expect("indexes");
    let wanted = ["eventType", "eventRoomSid", "eventParticipantSid", "eventTimestamp", "statRoomId"]
        .into_iter()
        .chain(["statParticipantId", "statTrackId", "statKind", "statTimestamp", "statScore"]);
    assert_eq!(indexes, wanted.map(|name| format!("idx:{name}")).collect());
    eventually("the documents can be searched", || async {
        let mut search = ::redis::cmd("FT.SEARCH");
        search.arg("idx:eventTimestamp").arg("@eventTimestamp:[1 inf]").arg("LIMIT").arg(0).arg(0);
        let found: Vec<::redis::Value> = search.query_async(&mut redis.connect().await).await.expect("a search");
        found.first() == Some(&::redis::Value::Int(events.len() as i64))
    })
    .await;
}

#[tokio::test]
async fn a_server_without_search_or_file_is_a_warning_and_keeps_the_documents() {
    let redis = Redis::start_with(false, &["--appendonly", "no"]).await;
    let sink = redis_sink(&redis.url());
    let warnings = sink.initialize().await.expect("it continues");
    assert!(warnings.iter().any(|warning| warning.contains("no RediSearch")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("appendonly is off")), "{warnings:?}");
    let pipeline = Pipeline::start(sink, options());
    pipeline.send_events(&some_events(50)).await;
    pipeline.drained().await;
    assert_eq!(keys(&redis, "event:*").await.len(), 50);
}

/// Sends 200 events through a server that answers `problem` to the first JSON.SETs; all must arrive.
async fn delivers_through(problem: &'static str) -> Pipeline {
    let sets = AtomicU32::new(0);
    let server = RespServer::start(move |command| match &*command[0] {
        "JSON.SET" if sets.fetch_add(1, Ordering::SeqCst) < 150 => match problem {
            "" => Answer::HangUp,
            text => Answer::Error(text.to_owned()),
        },
        _ => Answer::Healthy,
    })
    .await;
    let pipeline = Pipeline::start(redis_sink(&server.url()), options());
    let events = some_events(200);
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    assert_eq!(ids(server.kept().into_keys()), event_ids(&events), "{problem}");
    assert!(pipeline.dead_letters().is_empty(), "{problem}");
    pipeline
}

#[tokio::test]
async fn answers_that_say_not_now_are_retried() {
    for problem in [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading the dataset in memory",
        "ASK 3999 127.0.0.1:1",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOAUTH Authentication required.",
        "NOPERM this user has no permissions to run the 'json.set' command",
        "",
    ] {
        let pipeline = delivers_through(problem).await;
        assert!(pipeline.status().last_error.is_some(), "{problem}");
    }
}

#[tokio::test]
async fn a_redirection_is_followed_and_remembered() {
    let other = RespServer::start(|_| Answer::Healthy).await;
    let (redirected, address) = (Arc::new(AtomicU32::new(0)), other.address());
    let counted = Arc::clone(&redirected);
    let first = RespServer::start(move |command| match &*command[0] {
        "JSON.SET" | "EXPIRE" => {
            counted.fetch_add(1, Ordering::SeqCst);
            // Redis names the slot of the key: all these are of one room.
            Answer::Error(format!("MOVED {} {address}", slot_of("RM_one")))
        }
        "CLUSTER" => shards(&["10.1.1.1:6379", &address]),
        _ => Answer::Healthy,
    })
    .await;
    let pipeline = Pipeline::start(redis_sink(&first.url()), options());
    let events = in_one_room(some_events(150));
    for part in events.chunks(50) {
        pipeline.send_events(part).await;
        pipeline.drained().await;
    }
    assert_eq!(ids(other.kept().into_keys()), event_ids(&events));
    let asked = redirected.load(Ordering::SeqCst);
    assert!((1..=2 * 50).contains(&asked), "only the first batch had to ask: {asked}");
    assert!(pipeline.status().figures.retried_records.is_empty());
}

#[tokio::test]
async fn a_redirection_to_a_node_that_is_unavailable_is_retried_where_the_slot_was() {
    let (moved, nobody) = (Arc::new(AtomicBool::new(true)), free_port());
    let is_moved = Arc::clone(&moved);
    let server = RespServer::start(move |command| match &*command[0] {
        "JSON.SET" | "EXPIRE" if is_moved.load(Ordering::SeqCst) => {
            Answer::Error(format!("MOVED {} 127.0.0.1:{nobody}", slot_of("RM_one")))
        }
        "CLUSTER" => shards(&[&format!("127.0.0.1:{nobody}")]),
        _ => Answer::Healthy,
    })
    .await;
    let pipeline = Pipeline::start(redis_sink(&server.url()), options());
    let events = in_one_room(some_events(100));
    pipeline.send_events(&events).await;
    eventually("away", || async { pipeline.status().state == SinkState::Unavailable }).await;
    assert_eq!(pipeline.backlog(), 100);
    moved.store(false, Ordering::SeqCst);
    pipeline.drained().await;
    assert_eq!(ids(server.kept().into_keys()), event_ids(&events));
    assert!(pipeline.dead_letters().is_empty());
}

#[tokio::test]
async fn a_server_that_is_no_cluster_or_lists_no_such_node_cannot_have_anything_sent_elsewhere() {
    for redirection in ["MOVED", "ASK"] {
        for cluster in
            ["-ERR This instance has cluster support disabled\r\n", "+OK\r\n", "*0\r\n", "own", "-NOPERM no\r\n"]
        {
            let thief = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = thief.local_addr().expect("its address").to_string();
            let lies = Arc::new(AtomicBool::new(true));
            let (is_lying, to) = (Arc::clone(&lies), address.clone());
            let server = RespServer::start(move |command| match &*command[0] {
                "JSON.SET" | "EXPIRE" if is_lying.load(Ordering::SeqCst) => {
                    Answer::Error(format!("{redirection} {} {to}", slot_of("RM_one")))
                }
                "CLUSTER" if cluster == "own" => shards(&["127.0.0.1:1"]),
                "CLUSTER" => Answer::Raw(cluster.to_owned()),
                _ => Answer::Healthy,
            })
            .await;
            let url = server.url().replace("redis://", "redis://user:password@");
            let pipeline = Pipeline::start(redis_sink(&url), options());
            let events = in_one_room(some_events(20));
            pipeline.send_events(&events).await;
            eventually("away", || async { pipeline.status().state == SinkState::Unavailable }).await;
            let came = tokio::time::timeout(Duration::from_millis(200), thief.accept()).await;
            assert!(came.is_err(), "{redirection} {cluster}: someone connects to the thief");
            assert!(
                pipeline
                    .status()
                    .last_error
                    .is_some_and(|error| error.contains(redirection) || error.contains(&address))
            );
            lies.store(false, Ordering::SeqCst);
            pipeline.drained().await;
            assert_eq!(ids(server.kept().into_keys()), event_ids(&events));
        }
    }
}

fn in_one_room(mut events: Vec<AnalyticsEvent>) -> Vec<AnalyticsEvent> {
    for event in &mut events {
        event.room.as_mut().map(|room| room.sid = "RM_one".to_owned()).unwrap_or_default();
        event.room_id = "RM_one".to_owned();
    }
    events
}

#[tokio::test]
async fn memory_that_is_full_is_retried_until_there_is_space() {
    let redis = Redis::start_with(false, &["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]).await;
    let pipeline = Pipeline::start(redis_sink(&redis.url()), options());
    let events = some_events(500);
    pipeline.send_events(&events).await;
    eventually("it is full", || async { pipeline.status().figures.retried_records.contains_key("full") }).await;
    let mut connection = redis.connect().await;
    let _: String =
        ::redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1gb").query_async(&mut connection).await.expect("set");
    pipeline.drained().await;
    assert!(ids(keys(&redis, "event:*").await) == event_ids(&events), "not the ids that were sent");
    assert!(pipeline.dead_letters().is_empty());
}

#[tokio::test]
async fn a_key_of_another_type_rejects_its_record_alone() {
    let redis = Redis::start_with(false, &[]).await;
    let events = some_events(30);
    let sink = redis_sink(&redis.url());
    let pipeline = Pipeline::start(Arc::clone(&sink), options());
    pipeline.send_events(&events[..1]).await;
    pipeline.drained().await;
    let key = keys(&redis, "event:*").await.pop().expect("a key");
    let mut connection = redis.connect().await;
    let _: String = ::redis::cmd("SET").arg(&key).arg("mine").query_async(&mut connection).await.expect("set");
    pipeline.send_events(&events).await;
    pipeline.drained().await;
    let dead = pipeline.dead_letters();
    assert_eq!(dead.iter().map(|dead_letter| dead_letter.id.to_string()).collect::<Vec<_>>(), [events[0].id.clone()]);
    assert_eq!(keys(&redis, "event:*").await.len(), 30);
}

#[tokio::test]
async fn without_an_expiration_documents_stay_forever_and_labels_are_in_them() {
    let redis = Redis::start_with(false, &[]).await;
    let sink = redis_sink_with(RedisOptions {
        url: redis.url(),
        expiration: None,
        labels: [("site".to_owned(), "berlin".to_owned())].into(),
        timeout: Duration::from_secs(5),
        ..RedisOptions::default()
    });
    let pipeline = Pipeline::start(sink, options());
    pipeline.send_events(&some_events(3)).await;
    pipeline.drained().await;
    let mut connection = redis.connect().await;
    let key = keys(&redis, "event:*").await.pop().expect("a key");
    let ttl: i64 = ::redis::cmd("TTL").arg(&key).query_async(&mut connection).await.expect("TTL");
    assert_eq!(ttl, -1);
    let mut get = ::redis::cmd("JSON.GET");
    let label: String = get.arg(&key).arg("$.labels.site").query_async(&mut connection).await.expect("a label");
    assert_eq!(label, r#"["berlin"]"#);
}

#[tokio::test]
async fn a_tls_url_to_a_server_without_tls_is_waited_for() {
    let redis = Redis::start_with(false, &[]).await;
    let sink = redis_sink(&redis.url().replace("redis://", "rediss://"));
    let error = sink.initialize().await.expect_err("no TLS there");
    assert!(error.message.starts_with("rediss://127.0.0.1"), "{error}");
}
