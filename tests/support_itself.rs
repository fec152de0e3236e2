//! The test library does what the other tests rely on: servers survive kill -9, the proxy cuts where told, the scripted
//! server speaks with the real driver.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use bson::{Document, doc};
use mongodb::{
    Client,
    error::ErrorKind,
    options::{ClientOptions, WriteConcern},
};
use rand::{SeedableRng, rngs::StdRng};
use support::{
    mongo::{self, Mongo},
    power::{Recording, trace},
    proxy::{Cut, Mode, Proxy},
    records,
    redis::Redis,
    wire::{self, Reply, WireServer, WriteError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

mod support;

fn numbered(range: std::ops::Range<i32>) -> Vec<Document> {
    range.map(|n| doc! { "_id": format!("id_{n:05}"), "n": n }).collect()
}

fn ids(range: std::ops::Range<i32>) -> BTreeSet<String> {
    range.map(|n| format!("id_{n:05}")).collect()
}

async fn client(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).await.unwrap();
    options.server_selection_timeout = Some(Duration::from_secs(3));
    options.retry_writes = Some(false);
    options.write_concern = Some(WriteConcern::majority());
    Client::with_options(options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_server_keeps_what_it_acknowledged_over_kill_9_and_restart() {
    let mut mongo = Mongo::start().await;
    let database = mongo.database();
    let events = client(mongo.uri()).await.database(&database).collection::<Document>("events");
    events.insert_many(numbered(0..500)).await.unwrap();
    mongo.kill();
    events.insert_one(doc! { "_id": "while it is away" }).await.unwrap_err();
    mongo.restart().await;
    let events = mongo.open(&database).await.collection("events");
    mongo::assert_exactly_once(&events, &ids(0..500)).await;
    mongo.stop();
    mongo.restart().await;
    mongo::assert_exactly_once(&mongo.open(&database).await.collection("events"), &ids(0..500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_mongodb_server_names_duplicates_by_place_and_makes_ttl_indexes() {
    let mongo = Mongo::shared().await;
    let database = mongo.open(&mongo.database()).await;
    let events = database.collection::<Document>("events");
    events.insert_many(numbered(0..3)).await.unwrap();
    let error = events.insert_many(numbered(1..5)).ordered(false).await.unwrap_err();
    let ErrorKind::InsertMany(error) = *error.kind else { panic!("{error}") };
    let places: Vec<_> = error.write_errors.unwrap().iter().map(|error| (error.index, error.code)).collect();
    assert_eq!(places, [(0, 11000), (1, 11000)]);
    mongo::assert_exactly_once(&events, &ids(0..5)).await;
    let index = doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 0 };
    database.run_command(doc! { "createIndexes": "events", "indexes": [index] }).await.unwrap();
    let names = events.list_index_names().await.unwrap();
    assert_eq!(names, ["_id_", "at_1"]);
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "events: 1 of 6 acknowledged are missing: id_00005")]
async fn the_check_for_exactly_once_fails_where_one_is_missing() {
    let mongo = Mongo::shared().await;
    let events = mongo.open(&mongo.database()).await.collection::<Document>("events");
    events.insert_many(numbered(0..5)).await.unwrap();
    mongo::assert_exactly_once(&events, &ids(0..6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_cuts_before_a_request_after_it_and_in_its_reply() {
    // Answers every request with ten bytes, and tells which requests reached it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&listener.local_addr().unwrap().to_string()).await;
    let (heard, mut reached) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut request = [0; 4];
                while stream.read_exact(&mut request).await.is_ok() {
                    heard.send(String::from_utf8(request.to_vec()).unwrap()).unwrap();
                    stream.write_all(b"0123456789").await.unwrap();
                }
            });
        }
    });
    let ask = async |request: &[u8; 4]| {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 10];
        let mut read = 0;
        while read < 10 {
            match stream.read(&mut answer[read..]).await {
                Ok(0) | Err(_) => break,
                Ok(n) => read += n,
            }
        }
        read
    };
    assert_eq!(ask(b"pass").await, 10);
    proxy.cut_next(b"cut1", Cut::BeforeRequest);
    proxy.cut_next(b"cut2", Cut::AfterRequest);
    proxy.cut_next(b"cut3", Cut::InReply(3));
    assert_eq!(ask(b"free").await, 10);
    assert_eq!(ask(b"cut3").await, 3);
    assert_eq!(ask(b"cut1").await, 0);
    assert_eq!(ask(b"cut2").await, 0);
    assert_eq!(proxy.cuts_made(), 3);
    assert_eq!(ask(b"heal").await, 10);
    let mut seen = Vec::new();
    while let Ok(request) = reached.try_recv() {
        seen.push(request);
    }
    assert_eq!(seen, ["pass", "free", "cut3", "cut2", "heal"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_refuses_swallows_and_heals() {
    let server = WireServer::acknowledging().await;
    let proxy = Proxy::start(&server.address()).await;
    let events = client(&format!("mongodb://{}/?directConnection=true", proxy.address()))
        .await
        .database("test")
        .collection::<Document>("events");
    events.insert_many(numbered(0..10)).await.unwrap();

    proxy.set(Mode::Refuse).await;
    events.insert_many(numbered(0..10)).await.unwrap_err();
    proxy.set(Mode::Pass).await;
    // The driver does not empty its pool when a new connection is refused: one that was cut may be in it still.
    support::eventually("an insert after the proxy has healed", || async {
        events.insert_many(numbered(0..10)).await.is_ok()
    })
    .await;

    proxy.set(Mode::Blackhole).await;
    let swallowed = tokio::time::timeout(Duration::from_millis(500), events.insert_many(numbered(0..10))).await;
    assert!(swallowed.is_err(), "answered through a blackhole");
    assert_eq!(server.inserted(), 20);
    proxy.set(Mode::Delay(Duration::from_millis(20))).await;
    events.insert_many(numbered(0..10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_acknowledging_server_counts_what_the_driver_inserts() {
    let server = WireServer::acknowledging().await;
    let events = client(&server.uri()).await.database("test").collection::<Document>("events");
    for _ in 0..3 {
        assert_eq!(events.insert_many(numbered(0..5_000)).ordered(false).await.unwrap().inserted_ids.len(), 5_000);
    }
    assert_eq!(server.inserted(), 15_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripted_server_keeps_each_id_once_and_fails_what_the_script_says() {
    let server = WireServer::scripted(|command| match (command.name.as_str(), command.number) {
        ("insert", 1) => Reply::WriteErrors(vec![WriteError::new(2, 121, "Document failed validation")]),
        ("insert", 2) => Reply::Answer(wire::error(10107, "NotWritablePrimary", "not primary")),
        ("insert", 3) => Reply::DoAndHangUp,
        ("insert", 4) => Reply::HangUp,
        ("insert", 5) => Reply::CutShort(20),
        ("insert", 6) => Reply::WriteConcernError(
            doc! { "code": 64, "codeName": "WriteConcernTimeout", "errmsg": "waiting for replication timed out" },
        ),
        _ => Reply::Healthy,
    })
    .await;
    let events = client(&server.uri()).await.database("test").collection::<Document>("events");
    let insert = async |range| events.insert_many(numbered(range)).ordered(false).await;
    insert(0..3).await.unwrap();
    let ErrorKind::InsertMany(error) = *insert(2..6).await.unwrap_err().kind else { panic!("no write errors") };
    let places: Vec<_> = error.write_errors.unwrap().iter().map(|error| (error.index, error.code)).collect();
    assert_eq!(places, [(0, 11000), (2, 121)]);
    for range in [6..8, 8..10, 10..12, 12..14] {
        insert(range).await.unwrap_err();
    }
    let ErrorKind::InsertMany(error) = *insert(14..16).await.unwrap_err().kind else {
        panic!("no write concern error")
    };
    assert_eq!(error.write_concern_error.unwrap().code, 64);
    let kept: BTreeSet<String> = server.kept("test.events").into_keys().collect();
    // 4 failed, 6 and 7 met no primary, 10 and 11 were never read.
    let wanted: BTreeSet<String> =
        ids(0..16).difference(&[4, 6, 7, 10, 11].map(|n| format!("id_{n:05}")).into()).cloned().collect();
    assert_eq!(kept, wanted);
    let found = events.find_one(doc! { "_id": "id_00001" }).await.unwrap().unwrap();
    assert_eq!(found.get_i32("n").unwrap(), 1);
    assert_eq!(events.find_one(doc! { "_id": "id_00004" }).await.unwrap(), None);
    assert_eq!(server.commands("insert"), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_server_has_json_and_search_and_keeps_its_data_over_kill_9() {
    let mut redis = Redis::start().await;
    let mut connection = redis.connect().await;
    let set = |key: &str| redis::cmd("JSON.SET").arg(key).arg("$").arg(r#"{"n":1}"#).to_owned();
    let () = set("event:1").query_async(&mut connection).await.unwrap();
    let create = "FT.CREATE idx:n ON JSON PREFIX 1 event: SCHEMA $.n AS n NUMERIC";
    let mut command = redis::Cmd::new();
    for word in create.split(' ') {
        command.arg(word);
    }
    let () = command.query_async(&mut connection).await.unwrap();
    let synced: Vec<u64> = redis::cmd("WAITAOF").arg(1).arg(0).arg(5_000).query_async(&mut connection).await.unwrap();
    assert_eq!(synced, [1, 0]);
    redis.kill();
    redis.restart().await;
    let mut connection = redis.connect().await;
    let value: String = redis::cmd("JSON.GET").arg("event:1").query_async(&mut connection).await.unwrap();
    assert_eq!(value, r#"{"n":1}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_server_can_be_one_without_search_and_with_a_password() {
    let redis = Redis::start_with(false, &["--requirepass", "let me in"]).await;
    let mut connection = redis.connect().await;
    let refused = redis::cmd("JSON.GET").arg("x").query_async::<()>(&mut connection).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOAUTH"));
    let () = redis::cmd("AUTH").arg("let me in").query_async(&mut connection).await.unwrap();
    let () = redis::cmd("JSON.SET").arg("x").arg("$").arg("1").query_async(&mut connection).await.unwrap();
    redis::cmd("FT._LIST").query_async::<()>(&mut connection).await.unwrap_err();
}

#[test]
fn the_real_records_are_763_events_and_482_stats_each_with_an_id_of_its_own() {
    let (events, stats) = (records::real_events(), records::real_stats());
    assert_eq!((events.len(), stats.len()), (763, 482));
    assert_eq!(records::event_ids(&events).len(), 763);
    assert_eq!(records::stat_ids(&stats).len(), 482);
    let numbered: Vec<_> = records::numbered_events("x").take(1_000).collect();
    assert_eq!(records::event_ids(&numbered).len(), 1_000);
}

#[test]
fn the_images_of_a_power_cut_hold_what_was_synced_and_any_part_of_what_was_not() {
    let directory = support::directory("power");
    let (root, prefix) = (directory.path().join("root"), directory.path().join("trace"));
    fs::create_dir(&root).unwrap();
    // Names that are made and synced, then more in the same file, a file of its own, and a rename, none of it synced.
    let script = "printf A > kept; sync kept; sync .; printf B >> kept; printf C > loose; mv kept moved";
    let words = trace::strace(&prefix);
    let status = Command::new(&words[0]).args(&words[1..]).args(["sh", "-c", script]).current_dir(&root).status();
    assert!(status.expect("strace runs: `tests/servers` installs it").success());
    let recording = Recording::of(&trace::read(&prefix), &root);

    let some = |text: &str| Some(text.to_owned());
    let mut possible = BTreeSet::new();
    // The page without B's length, with it, or B's length without the page.
    for kept in ["A", "AB", "A\0"] {
        for loose in [None, some(""), some("C"), some("\0")] {
            possible.insert([some(kept), None, loose.clone()]);
            possible.insert([None, some(kept), loose]);
        }
    }

    let mut random = StdRng::seed_from_u64(support::seed());
    let mut seen = BTreeSet::new();
    // The rarest is one of some 64.
    for n in 0..5000 {
        if n >= 400 && seen == possible {
            break;
        }
        let image = directory.path().join(format!("image-{n}"));
        recording.image(&root, f64::INFINITY, &mut random, &image);
        let read = |name| fs::read_to_string(image.join(name)).ok();
        seen.insert([read("kept"), read("moved"), read("loose")]);
        fs::remove_dir_all(image).unwrap();
    }
    assert_eq!(seen, possible);
}

#[test]
#[should_panic(expected = "this test cannot run here, it needs more than there is; `false` says")]
fn a_test_that_cannot_run_fails_and_says_what_it_needs() {
    support::require("nothing", &["true"]);
    support::require("more than there is", &["false"]);
}
