//! Spools that the configuration does not name, that are where they should not, that are full or cannot be written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    cli::{fails, ok, said},
    configuring::rewrite,
    event, send, support,
};
use support::process::{Setup, Spool};

/// A spool's smallest quota.
const SMALL: &str = "max_bytes: 4MiB, min_free_bytes: 0B, compression: { codec: none }";

/// A sink that nobody answers at, by more keys.
fn mongo(name: &str, keys: &str) -> String {
    format!("name: {name}, type: mongodb, uri: \"mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200\", {keys}")
}

/// Takes a sink's line out of the config; puts it back.
fn without(spool: &Spool, name: &str) -> (String, String) {
    let text = fs::read_to_string(spool.directory().join("config.yaml")).unwrap();
    let is_its = |line: &&str| !line.contains(&format!("{{ name: {name},"));
    let less: String = text.lines().filter(is_its).flat_map(|line| [line, "\n"]).collect();
    assert_ne!(text, less);
    (text, less)
}

fn configure(spool: &Spool, text: &str) {
    rewrite(&spool.directory().join("config.yaml"), text);
}

/// Two sinks with a record each, the second of them no longer named; stopped.
async fn with_an_orphaned_one(keys: &str) -> Spool {
    let mut spool = Setup::new().sink(&mongo("one", "")).sink(&mongo("two", keys)).start().await;
    send(&spool, vec![event("AE_1", "a room")]).await;
    spool.terminate();
    let (_, less) = without(&spool, "two");
    configure(&spool, &less);
    spool
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_removes_what_the_spool_made_and_names_what_it_left_live_and_stopped() {
    for is_live in [true, false] {
        let mut spool = with_an_orphaned_one("").await;
        let directory = spool.data().join("two");
        fs::create_dir(directory.join("out")).unwrap();
        let foreign = ["events-20261122T010203.456Z.ndjson", "out/notes.txt", "journal/notes.txt"];
        foreign.iter().for_each(|file| fs::write(directory.join(file), "precious").unwrap());
        if is_live {
            spool.start().await;
        }
        let text = ok(&spool, &["purge", "two", "--yes"]);
        assert!(text.contains("two: removed 1 records"), "{text}");
        for left in ["two/events-20261122T010203.456Z.ndjson", "two/out\n", "two/journal/notes.txt"] {
            assert!(text.contains(left), "{left:?} is not in {text}");
        }
        assert!(foreign.iter().all(|file| fs::read(directory.join(file)).is_ok_and(|bytes| bytes == b"precious")));
        let gone = ["lock", "queue", "dead", "journal/000000000001.journal"];
        assert!(gone.iter().all(|part| !directory.join(part).exists()), "{is_live}");
        assert_eq!(spool.records("two", "events"), 0, "its journal directory is still there");
        fs::remove_dir_all(&directory).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_and_a_reload_that_names_the_sink_again_do_not_meet() {
    // So many files take a while to remove.
    const FILES: usize = 20_000;
    let mut spool = with_an_orphaned_one("").await;
    let quarantine = spool.data().join("two/quarantine");
    fs::create_dir_all(&quarantine).unwrap();
    for file in 0..FILES {
        fs::write(quarantine.join(format!("000000000001-{file:010}.bad")), "").unwrap();
    }
    spool.start().await;
    let left = || fs::read_dir(&quarantine).map_or(0, Iterator::count);
    let less = fs::read_to_string(spool.directory().join("config.yaml")).unwrap();
    let both = less.replace("sinks:\n", &format!("sinks:\n  - {{ {} }}\n", mongo("two", "")));
    std::thread::scope(|scope| {
        let purge = scope.spawn(|| spool.command(&["purge", "two", "--yes"]));
        while left() == FILES && !purge.is_finished() {
            std::thread::yield_now();
        }
        configure(&spool, &both);
        let reload = spool.command(&["reload"]);
        let purge = purge.join().unwrap();
        assert!(purge.status.success() && said(&purge).contains("removed 1 records"), "{}", said(&purge));
        assert!(reload.status.success() && said(&reload).contains("sink two added"), "{}", said(&reload));
    });
    send(&spool, vec![event("AE_2", "a room")]).await;
    assert_eq!((spool.records("one", "events"), spool.records("two", "events")), (2, 1));
    assert!(ok(&spool, &["verify", "two"]).contains("1 records"));
    // What was answered OK is in files that are there.
    spool.kill();
    assert_eq!(spool.records("two", "events"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_sink_that_writes_into_a_spool_is_refused_by_every_way_to_start_it() {
    let mut spool = with_an_orphaned_one("").await;
    let (good, _) = without(&spool, "one");
    std::os::unix::fs::symlink(spool.data().join("one"), spool.directory().join("link")).unwrap();
    for (path, directory) in [
        ("data/one", "one"),
        ("data/two/out", "two"),
        ("./data/../data/one/journal", "one"),
        ("link/out", "one"),
        ("data", "one"),
        ("data/files", "files"),
    ] {
        let sink = format!("sinks:\n  - {{ name: files, type: file, path: {path} }}\n");
        configure(&spool, &good.replace("sinks:\n", &sink));
        let before = listing(&spool.data());
        let reason = format!("spool of sink {directory}");
        for words in [&["check-config"][..], &["run"], &["drain", "files"], &["dead", "retry", "files", "--all"]] {
            fails(&spool, words, 2, "sink files: path ");
            fails(&spool, words, 2, &reason);
        }
        assert_eq!(before, listing(&spool.data()), "{path}");
    }
    configure(&spool, &good);
    spool.start().await;
    configure(&spool, &good.replace("sinks:\n", "sinks:\n  - { name: files, type: file, path: data/one }\n"));
    fails(&spool, &["reload"], 2, "spool of sink one");
    // Another data directory waits for a restart, the sink would not.
    let moved = good.replace("data_dir: ", "data_dir: /elsewhere");
    configure(&spool, &moved.replace("sinks:\n", "sinks:\n  - { name: files, type: file, path: data/one }\n"));
    spool.process().signal(rustix::process::Signal::HUP);
    support::eventually("it is refused too", || {
        let refused = spool.said().matches("spool of sink one").count();
        async move { refused == 2 }
    })
    .await;
    configure(&spool, &good);
    ok(&spool, &["ready"]);
}

/// Every path below a directory.
fn listing(directory: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        paths.push(entry.path());
        if entry.path().is_dir() {
            paths.extend(listing(&entry.path()));
        }
    }
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclaimed_spool_is_read_with_every_key_that_the_configuration_knows_live_and_stopped() {
    const OWN: &str = "4242424242424242424242424242424242424242424242424242424242424242";
    const OTHER: &str = "2121212121212121212121212121212121212121212121212121212121212121";
    let key = |keys: &str| format!("spool: {{ encryption: {{ {keys} }} }}");
    let (own, other) = (key(&format!("key: \"{OWN}\"")), key(&format!("key: \"{OTHER}\"")));
    let rotated = key(&format!("key: \"{OTHER}\", old_keys: [\"{OWN}\"]"));
    for (what, first, second, for_all) in [
        ("the key of another sink", "", &own, ""),
        ("an old key of another sink", "", &rotated, ""),
        ("the key for all sinks, each of which has its own", &*other, &other, &*own),
    ] {
        let mut spool = with_an_orphaned_one(&own).await;
        let config = fs::read_to_string(spool.directory().join("config.yaml")).unwrap();
        let sinks = config.replace(&mongo("one", ""), &mongo("first", first));
        configure(&spool, &format!("{for_all}\n{sinks}  - {{ {} }}\n", mongo("second", second)));
        for is_live in [true, false] {
            if is_live {
                spool.start().await;
            }
            let at = format!("{what}, live: {is_live}");
            let backlog = spool.backlog();
            let figures = Spool::stream_of(&backlog, "two", "events");
            assert_eq!((&figures["records"], figures["oldest_received_at"].is_i64()), (&Value::from(1), true), "{at}");
            let peeked = ok(&spool, &["peek", "two"]);
            assert!(peeked.contains("AE_1"), "{at}: {peeked}");
            assert!(ok(&spool, &["verify", "two"]).contains("two: sound"), "{at}");
            ok(&spool, &["export", "two", "-o", "out.ndjson", "--force"]);
            assert!(fs::read_to_string(spool.directory().join("out.ndjson")).unwrap().contains("AE_1"), "{at}");
            let raw = ok(&spool, &["export", "two", "--raw", "-o", "out.raw", "--force", "--json"]);
            assert_eq!(serde_json::from_str::<Value>(&raw).unwrap()["records"], 1, "{at}");
            assert!(ok(&spool, &["dead", "list", "two"]).contains("no dead letters"), "{at}");
            if is_live {
                for path in ["peek", "records"] {
                    let url = format!("{}/api/v1/sinks/two/{path}", spool.admin());
                    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
                    assert!(text.contains("AE_1"), "{at}: {path}: {text}");
                }
                spool.terminate();
            }
        }
        let _ = fs::remove_file(spool.directory().join("saved.raw"));
        assert!(ok(&spool, &["recover", "data/two", "-o", "saved.raw"]).contains("1 records"), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_cannot_be_written_is_not_ready_and_readyz_names_it_and_the_remedy() {
    let spool = Setup::new().sink(&mongo("mongo", &format!("spool: {{ {SMALL} }}"))).start().await;
    send(&spool, vec![event("AE_0", "a room")]).await;
    let journal = spool.data().join("mongo/journal");
    fs::rename(&journal, spool.data().join("mongo/moved")).unwrap();
    // So that it cannot be made again either.
    fs::write(&journal, "").unwrap();
    let mut id = 0;
    support::eventually("a call is refused", || {
        id += 1;
        let body = [event(&format!("AE_{id}"), &"x".repeat(100_000))];
        let body = prost::Message::encode_to_vec(&livekit_protocol::AnalyticsEvents { events: body.into() });
        let request = reqwest::Client::new().post(format!("{}/v1/events", spool.http()));
        let request = request.header("content-type", "application/x-protobuf").body(body);
        async { request.send().await.expect("an answer").status() == 503 }
    })
    .await;
    let ready = reqwest::get(format!("{}/readyz", spool.admin())).await.unwrap();
    assert_eq!(ready.status(), 503);
    let text = ready.text().await.unwrap();
    for part in ["sink mongo: ", "cannot be written", "moved or removed, put it back"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains(spool.data().to_str().unwrap()), "it is open to anyone, and names no path: {text}");
    fails(&spool, &["ready"], 1, "sink mongo: ");
    let backlog = spool.backlog();
    let advice = Spool::sink_of(&backlog, "mongo")["advice"].to_string();
    assert!(advice.contains("put it back") && !advice.contains("raise spool.max_bytes"), "{advice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_spool_drops_by_its_policy_is_reported_by_import_and_send_and_counted_once() {
    let keys = format!("spool: {{ {SMALL}, when_full: drop_newest }}");
    let mut spool = Setup::new().sink(&mongo("mongo", &keys)).start().await;
    send(&spool, vec![event("AE_first", &"x".repeat(100_000))]).await;
    ok(&spool, &["export", "mongo", "--raw", "-o", "one.raw"]);
    let client = reqwest::Client::new();
    for bytes in [100_000, 10_000, 1_000, 10] {
        let events = livekit_protocol::AnalyticsEvents { events: vec![event("AE_x", &"x".repeat(bytes))] };
        let body = prost::Message::encode_to_vec(&events);
        support::eventually("no more of this size fits", || async {
            let request = client.post(format!("{}/v1/events", spool.http())).body(body.clone());
            let answer = request.header("content-type", "application/x-protobuf").send().await.expect("an answer");
            assert_eq!(answer.status(), 200);
            answer.json::<Value>().await.unwrap()["dropped"]["mongo"]["records"] == 1
        })
        .await;
    }
    let dropped = |spool: &Spool| -> u64 {
        let backlog = spool.backlog();
        let streams = Spool::sink_of(&backlog, "mongo")["streams"].as_object().unwrap().clone();
        streams.values().filter_map(|stream| stream["dropped"]["newest"].as_u64()).sum()
    };
    assert_eq!(dropped(&spool), 4);

    assert!(
        ok(&spool, &["ready"]).contains("accepting records"),
        "calls are answered OK: nobody should be sent elsewhere"
    );
    let backlog = spool.backlog();
    let error = Spool::sink_of(&backlog, "mongo")["spool_error"].clone();
    assert!(error.as_str().is_some_and(|error| error.contains("drops new records")), "{error}");

    let before = dropped(&spool);
    let to = ["--to".to_owned(), spool.grpc()];
    let words = ["send", "--count", "20", "--rate", "0", "--json", &to[0], &to[1]];
    let output = spool.command(&words);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["acknowledged"], &answer["resent_batches"]), (&Value::from(20), &Value::from(0)), "{answer}");
    assert_eq!(answer["dropped"]["mongo"]["records"], 20, "{answer}");
    assert!(said(&output).contains("not all records are kept: dropped 20 by sink mongo: its spool is full"));
    assert_eq!(dropped(&spool), before + 20);

    for is_live in [true, false] {
        // A spool that is closed gives back what it had reserved: some more fit then.
        support::eventually("an import is dropped", || async {
            let before = dropped(&spool);
            let output = spool.command(&["import", "one.raw", "--json"]);
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["records"], 1, "{is_live}: {answer}");
            match output.status.code() {
                Some(4) => {
                    assert_eq!(answer["dropped"]["mongo"]["records"], 1, "{is_live}: {answer}");
                    assert_eq!(dropped(&spool), before + 1, "{is_live}");
                    true
                }
                code => {
                    assert_eq!((code, answer.get("dropped"), dropped(&spool)), (Some(0), None, before), "{is_live}");
                    false
                }
            }
        })
        .await;
        if is_live {
            spool.terminate();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_what_can_never_fit_is_refused_for_good_live_and_stopped() {
    let large = format!("spool: {{ {} }}", SMALL.replace("4MiB", "64MiB"));
    let small = format!("spool: {{ {SMALL} }}");
    let mut spool = Setup::new().sink(&mongo("large", &large)).start().await;
    send(&spool, vec![event("AE_0", &"x".repeat(3_700_000))]).await;
    ok(&spool, &["export", "large", "--raw", "-o", "one.raw"]);
    let text = fs::read_to_string(spool.directory().join("config.yaml")).unwrap();
    configure(&spool, &text.replace("sinks:\n", &format!("sinks:\n  - {{ {} }}\n", mongo("small", &small))));
    ok(&spool, &["reload"]);
    for is_live in [true, false] {
        fails(&spool, &["import", "one.raw", "--sink", "small"], 1, "never fits");
        assert_eq!(spool.records("small", "events"), 0);
        if is_live {
            spool.terminate();
        }
    }
}
