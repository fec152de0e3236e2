//! The command line.

use std::{fs, process::Output};

use serde_json::Value;

use super::{event, nowhere, send, support};
use support::{
    process::{Setup, Spool},
    wire::{Reply, WireServer, WriteError},
};

pub(super) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
pub(super) fn ok(spool: &Spool, words: &[&str]) -> String {
    let output = spool.command(words);
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
pub(super) fn fails(spool: &Spool, words: &[&str], code: i32, reason: &str) {
    let output = spool.command(words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}", said(&output));
    assert!(said(&output).contains(reason), "{words:?}: {:?} is not in {}", reason, said(&output));
}

async fn with_backlog(records: usize) -> Spool {
    let spool = nowhere("mongo").start().await;
    send(&spool, (0..records).map(|i| event(&format!("AE_{i:04}"), &format!("room{}", i % 3))).collect()).await;
    spool
}

/// Puts a file in another's place at once: a reload that reads it meanwhile reads the one or the other.
pub(super) fn rewrite(path: &std::path::Path, text: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).unwrap();
    fs::rename(&fresh, path).unwrap();
}

/// What must be the same live and stopped.
fn figures(backlog: &Value) -> Vec<(String, Value)> {
    let sink = Spool::sink_of(backlog, "mongo");
    let streams = sink["streams"].as_object().expect("streams");
    let mut figures: Vec<_> = [
        "records",
        "blocks",
        "bytes",
        "dead_letters",
        "max_bytes",
        "unread_segments",
        "unread_error",
        "unread_dead_letters",
        "queue_on_disk",
        "queue_failures",
    ]
    .map(|key| (key.to_owned(), sink[key].clone()))
    .into();
    for (name, stream) in streams {
        for key in ["records", "blocks", "bytes", "oldest_received_at", "dead_letters", "delivered"] {
            figures.push((format!("{name}.{key}"), stream[key].clone()));
        }
    }
    figures
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_shows_the_same_figures_live_and_stopped_and_changes_no_byte() {
    let mut spool = with_backlog(50).await;
    let live = spool.backlog();
    assert_eq!(Spool::stream_of(&live, "mongo", "events")["records"], 50);
    assert!(live["process"]["pid"].is_u64());
    spool.terminate();
    let before = listing(&spool);
    let stopped = spool.backlog();
    assert_eq!(figures(&live), figures(&stopped));
    assert_eq!(stopped["process"], Value::Null);
    assert_eq!(Spool::sink_of(&stopped, "mongo")["state"], "stopped");
    ok(&spool, &["backlog"]);
    ok(&spool, &["peek", "mongo"]);
    assert_eq!(before, listing(&spool), "looking changed the data directory");
}

/// Every file of the data directory with its bytes.
fn listing(spool: &Spool) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    fn walk(directory: &std::path::Path, files: &mut Vec<(std::path::PathBuf, Vec<u8>)>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, files)
            } else {
                files.push((path.clone(), fs::read(&path).unwrap_or_default()))
            }
        }
    }
    let mut files = Vec::new();
    walk(&spool.data(), &mut files);
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_for_people_fits_80_columns_and_names_state_and_error() {
    let spool = with_backlog(3).await;
    support::eventually("the sink is unavailable", || async {
        Spool::sink_of(&spool.backlog(), "mongo")["state"] == "unavailable"
    })
    .await;
    let text = ok(&spool, &["backlog"]);
    let table: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    assert!(table.len() == 4 && table.iter().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("mongo → mongodb mongodb://127.0.0.1:9") && text.contains(": unavailable since"), "{text}");
    assert!(text.contains("last error: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_name_of_a_sink_leaves_the_table_of_the_backlog_in_80_columns() {
    let name = "sink-of-64-characters-".repeat(3)[..64].to_owned();
    let spool = nowhere(&name).start().await;
    send(&spool, vec![event("AE_1", "room")]).await;
    let text = ok(&spool, &["backlog"]);
    let table: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    assert!(table.iter().all(|line| line.chars().count() <= 80), "{text}");
    assert!(table[0].ends_with("dead") && table.iter().any(|line| line.contains("node_rooms")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn peek_shows_documents_oldest_or_newest_first_filtered_live_and_stopped() {
    let mut spool = with_backlog(30).await;
    for _ in ["live", "stopped"] {
        let ids = |words: &[&str]| -> Vec<String> {
            let text = ok(&spool, words);
            text.lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["_id"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(ids(&["peek", "mongo", "events", "-n", "2"]), ["AE_0000", "AE_0001"]);
        assert_eq!(ids(&["peek", "mongo", "-n", "2", "--newest"]), ["AE_0029", "AE_0028"]);
        assert_eq!(ids(&["peek", "mongo", "--where", "room.name=room2", "-n", "2"]), ["AE_0002", "AE_0005"]);
        assert!(ids(&["peek", "mongo", "stats"]).is_empty());
        assert_eq!(spool.records("mongo", "events"), 30, "nothing was removed");
        if spool.backlog()["process"].is_object() {
            spool.terminate();
        }
    }
    fails(&spool, &["peek", "nosuch"], 2, "there is no sink");
    fails(&spool, &["peek", "mongo", "--where", "nonsense"], 2, "FIELD=VALUE");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_private_resumes_and_comes_back_by_import() {
    let mut spool = with_backlog(20).await;
    ok(&spool, &["export", "mongo", "-o", "all.raw", "--raw"]);
    fails(&spool, &["export", "mongo", "-o", "all.raw", "--raw"], 2, "--force");
    let lines = ok(&spool, &["export", "mongo", "-o", "all.ndjson", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&lines).unwrap()["records"], 20);

    let path = spool.directory().join("all.ndjson");
    let whole = fs::read_to_string(&path).unwrap();
    assert_eq!(whole.lines().count(), 20);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // As if it had been interrupted after seven records, in the middle of the eighth.
    let seven: usize = whole.lines().take(7).map(|line| line.len() + 1).sum();
    fs::write(&path, &whole[..seven + 10]).unwrap();
    let progress = format!(r#"{{"sink":"mongo","raw":false,"bytes":{seven},"records":7,"next":{{"events":7}}}}"#);
    fs::write(spool.directory().join("all.ndjson.progress"), progress).unwrap();
    let resumed: Value = serde_json::from_str(&ok(&spool, &["export", "mongo", "-o", "all.ndjson", "--json"])).unwrap();
    assert_eq!((&resumed["records"], &resumed["resumed_after"]), (&Value::from(20), &Value::from(7)));
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);

    ok(&spool, &["purge", "mongo", "--yes"]);
    assert_eq!(spool.records("mongo", "events"), 0);
    ok(&spool, &["import", "all.raw"]);
    assert_eq!(spool.records("mongo", "events"), 20);
    spool.terminate();
    ok(&spool, &["purge", "mongo", "--yes"]);
    ok(&spool, &["import", "all.raw", "--sink", "mongo"]);
    assert_eq!(spool.records("mongo", "events"), 20);
    let torn = fs::read(spool.directory().join("all.raw")).unwrap();
    fs::write(spool.directory().join("torn.raw"), &torn[..torn.len() / 2]).unwrap();
    fails(&spool, &["import", "torn.raw"], 4, "torn.raw");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_damage_and_recover_reads_what_is_whole() {
    let mut spool = with_backlog(20).await;
    assert!(ok(&spool, &["verify"]).contains("mongo: sound"));
    spool.terminate();
    assert!(ok(&spool, &["verify", "mongo"]).contains("20 records"));
    let recovered = ok(&spool, &["recover", "data", "-o", "saved.raw"]);
    assert!(recovered.contains("20 records"), "{recovered}");

    let journal = fs::read_dir(spool.data().join("mongo/journal")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&journal).unwrap();
    let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&journal, bytes).unwrap();
    fails(&spool, &["verify"], 4, "problems found");
    ok(&spool, &["purge", "mongo", "--yes"]);
    ok(&spool, &["import", "saved.raw"]);
    assert_eq!(spool.records("mongo", "events"), 20);
}

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
async fn a_sink_that_is_not_there_is_exit_code_2_live_and_stopped_and_leaves_no_file() {
    let mut spool = with_backlog(1).await;
    for is_live in [true, false] {
        for words in [
            &["peek", "nosuch"][..],
            &["export", "nosuch", "-o", "out"],
            &["import", "some.raw", "--sink", "nosuch"],
            &["drain", "nosuch"],
            &["purge", "nosuch", "--yes"],
            &["dead", "list", "nosuch"],
            &["dead", "retry", "nosuch", "--all"],
            &["dead", "drop", "nosuch", "--all"],
            &["verify", "nosuch"],
            &["indexes", "nosuch"],
        ] {
            ok(&spool, &["export", "mongo", "--raw", "-o", "some.raw", "--force"]);
            fails(&spool, words, 2, "there is no sink \"nosuch\"; there are mongo");
        }
        for action in ["pause", "resume", "flush"].into_iter().filter(|_| is_live) {
            fails(&spool, &[action, "nosuch"], 2, "there is no sink \"nosuch\"; there are mongo");
        }
        if is_live {
            spool.terminate();
        }
    }
    fails(&spool, &["recover", "nowhere", "-o", "out"], 1, "nowhere");
    let left: Vec<_> = fs::read_dir(spool.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("out")), "{left:?}");
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

#[tokio::test(flavor = "multi_thread")]
async fn an_import_gives_each_sink_what_it_gets_of_what_comes_in() {
    let setup = Setup::new()
        .sink("name: all, type: file, path: all, flush: { interval: 1h }")
        .sink("name: stats, type: file, path: stats, streams: [stats], flush: { interval: 1h }")
        .sink("name: ended, type: file, path: ended, event_types: [ROOM_ENDED], flush: { interval: 1h }");
    let mut spool = setup.start().await;
    for sink in ["all", "stats", "ended"] {
        ok(&spool, &["pause", sink]);
    }
    send(&spool, vec![event("AE_1", "r")]).await;
    ok(&spool, &["export", "all", "--raw", "-o", "all.raw"]);
    for is_live in [true, false] {
        ok(&spool, &["import", "all.raw"]);
        let counts = ["all", "stats", "ended"].map(|sink| spool.records(sink, "events"));
        assert_eq!(counts, [if is_live { 2 } else { 3 }, 0, 0], "{is_live}");
        if is_live {
            // A file sink delivers what is left when it stops.
            spool.kill();
        }
    }
    ok(&spool, &["import", "all.raw", "--sink", "stats"]);
    assert_eq!(spool.records("stats", "events"), 1, "who names a sink means it");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_ends_when_its_reader_has_gone() {
    let spool = with_backlog(5).await;
    let mut watch = std::process::Command::new(support::process::BINARY)
        .args(["backlog", "--watch", "--json", "--config", "config.yaml"])
        .current_dir(spool.directory())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(watch.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let first: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(Spool::stream_of(&first, "mongo", "events")["records"], 5);
    drop(output);
    let ended = tokio::task::spawn_blocking(move || watch.wait().unwrap());
    let status = tokio::time::timeout(support::TIMEOUT, ended).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn what_run_would_refuse_is_refused_by_check_config_too() {
    for (from, to, reason) in [
        ("admin: { listen: \"127.0.0.1", "admin: { listen: \"0.0.0.0", "set admin.token"),
        ("grpc: { listen: \"127.0.0.1", "grpc: { listen: \"0.0.0.0", "`ingest.auth` is none"),
        ("sinks:\n", "sinks:\n  - { name: x, type: flie }\n", "did you mean file?"),
        ("sinks:\n", "sinks:\n  - { name: x, type: file, path: data/mongo/out }\n", "spool of sink mongo"),
        ("  http:", "  tls: { certificate: no.crt, key: no.key }\n  http:", "no.crt"),
        ("  http:", "  auth: { mode: tokens, tokens: [short] }\n  http:", "16 characters"),
        ("sinks:\n", "spool: { max_bytes: 2MiB }\nsinks:\n", "expected a size from 4MiB"),
        ("sinks:\n", "sinks:\n  - { name: lock, type: file, path: out }\n", "name of a file in the data directory"),
        ("sinks:\n", "sinks:\n  - { name: x, type: file, path: out, labels: { \"\": v } }\n", "labels: label name"),
        (
            "sinks:\n",
            "sinks:\n  - { name: x, type: redis, url: \"redis://h\", labels: { \"\": v } }\n",
            "labels: label name",
        ),
        (
            "sinks:\n",
            "sinks:\n  - { name: x, type: file, path: out }\n  - { name: y, type: file, path: ./x/../out/ }\n",
            "sinks x and y both write into",
        ),
        ("directConnection=true", "socketTimeoutMS=1", "option socketTimeoutMS"),
        ("127.0.0.1:9/", "127.0.0.1:9,127.0.0.1:10/", "directConnection"),
        ("directConnection=true", "tls=true&tlsCAFile=no.pem", "no.pem"),
        ("data_dir:", "log_level: debug\ndata_dir:", "did you mean log.level"),
    ] {
        let spool = nowhere("mongo").prepare();
        let config = spool.directory().join("config.yaml");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text}");
        fs::write(&config, text.replacen(from, to, 1)).unwrap();
        fails(&spool, &["check-config"], 2, reason);
        fails(&spool, &["run"], 2, reason);
        assert!(!spool.data().exists(), "{reason}: nothing was opened");
        let answer: Value = serde_json::from_slice(&spool.command(&["check-config", "--json"]).stdout).unwrap();
        assert_eq!(answer["valid"], false);
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(reason)), "{answer}");
    }
}

#[test]
fn one_address_for_two_servers_is_refused_by_check_config_and_by_run() {
    let with = |grpc: &str, http: &str, admin: &str| {
        let spool = nowhere("mongo").prepare();
        let text = format!(
            "data_dir: data\ningest:\n  grpc: {{ listen: '{grpc}' }}\n  http: {{ listen: '{http}' }}\n  auth: {{ mode: tokens, \
             tokens: [a-token-of-enough-characters] }}\nadmin: {{ listen: '{admin}', token: a-token-of-enough-characters }}\n\
             sinks: [{{ name: f, type: file, path: out }}]\n"
        );
        fs::write(spool.directory().join("config.yaml"), text).unwrap();
        spool
    };
    let port = support::free_port();
    let at = |host: &str| format!("{host}:{port}");
    for (a, b) in
        [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("", "[::1]"), ("[::]", "0.0.0.0")]
    {
        for spool in [with(&at(a), &at(b), "none"), with(&at(b), "none", &at(a)), with("none", &at(a), &at(b))] {
            fails(&spool, &["check-config"], 2, "are the same address");
            fails(&spool, &["run"], 2, "are the same address");
        }
    }
    fails(&with("unix:./s", "unix:./s", "none"), &["check-config"], 2, "are the same address");
    ok(&with("127.0.0.1:0", "127.0.0.1:0", "none"), &["check-config"]);
    ok(&with(&at("127.0.0.1"), &at("127.0.0.2"), &at("[::1]")), &["check-config"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_retried_and_dropped_live_and_stopped() {
    let refuse = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let refusing = std::sync::Arc::clone(&refuse);
    let server = WireServer::scripted(move |command| {
        if command.name != "insert" || !refusing.load(std::sync::atomic::Ordering::Relaxed) {
            return Reply::Healthy;
        }
        Reply::WriteErrors((0..command.documents.len()).map(|i| WriteError::new(i, 121, "too odd")).collect())
    })
    .await;
    let mut spool = Setup::new().mongo("mongo", &server.uri(), "openvidu").start().await;
    send(&spool, (0..4).map(|i| event(&format!("AE_{i}"), "odd room")).collect()).await;
    support::eventually("four dead letters", || async {
        Spool::sink_of(&spool.backlog(), "mongo")["dead_letters"] == 4
    })
    .await;

    for attempts in [2, 3] {
        let text = ok(&spool, &["dead", "list", "mongo"]);
        assert!(text.contains("AE_2") && text.contains("too odd"), "{text}");
        let shown = ok(&spool, &["dead", "show", "mongo", "AE_1"]);
        assert!(shown.contains("\"odd room\"") && shown.contains("attempts"), "{shown}");
        fails(&spool, &["dead", "show", "mongo", "AE_9"], 1, "no dead letter");
        fails(&spool, &["dead", "drop", "mongo"], 2, "--all");
        // Live, then stopped.
        let again = ok(&spool, &["dead", "retry", "mongo", "--id", "AE_3"]);
        assert!(again.contains("0 delivered, 1 rejected again"), "{again}");
        let dead_letters: Value =
            serde_json::from_str(&ok(&spool, &["dead", "list", "mongo", "--id", "AE_3", "--json"])).unwrap();
        assert_eq!(dead_letters[0]["attempts"], attempts, "its history is kept: {dead_letters}");
        if spool.backlog()["process"].is_object() {
            assert_eq!(ok(&spool, &["dead", "drop", "mongo", "--id", "AE_0"]).trim(), "1 dropped");
            spool.terminate();
        }
    }
    assert_eq!(ok(&spool, &["dead", "drop", "mongo", "--id", "AE_1"]).trim(), "1 dropped");
    refuse.store(false, std::sync::atomic::Ordering::Relaxed);
    let retried = ok(&spool, &["dead", "retry", "mongo", "--all"]);
    assert!(retried.contains("2 delivered, 0 rejected again"), "{retried}");
    assert_eq!(ok(&spool, &["dead", "list", "mongo"]).trim(), "no dead letters");
    assert_eq!(server.kept("openvidu.events").into_keys().collect::<Vec<_>>(), ["AE_2", "AE_3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_the_config_no_longer_names_is_kept_and_reported_with_what_to_do() {
    let mut spool = with_backlog(5).await;
    spool.terminate();
    let config = spool.directory().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("name: mongo", "name: renamed")).unwrap();
    let report = ok(&spool, &["check-config"]);
    for part in ["the spool of sink mongo (5 records", "export mongo", "purge mongo", "A renamed sink is a new sink"] {
        assert!(report.contains(part), "{part:?} is not in {report}");
    }
    spool.start().await;
    let backlog = spool.backlog();
    assert_eq!(Spool::sink_of(&backlog, "mongo")["state"], "not-configured");
    assert_eq!(Spool::stream_of(&backlog, "mongo", "events")["records"], 5);
    assert!(ok(&spool, &["backlog"]).contains("the configuration does not name it"));
    assert_eq!(ok(&spool, &["peek", "mongo"]).lines().count(), 5);
    assert!(ok(&spool, &["purge", "mongo", "--yes"]).contains("removed 5 records"));
    assert!(!spool.data().join("mongo").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_changes_and_removes_sinks_without_losing_a_record_and_refuses_a_bad_config() {
    let (first, second) = (WireServer::acknowledging().await, WireServer::acknowledging().await);
    let mut spool = Setup::new().mongo("one", &first.uri(), "openvidu").start().await;
    let config = spool.directory().join("config.yaml");
    let original = fs::read_to_string(&config).unwrap();
    send(&spool, vec![event("AE_1", "r")]).await;
    support::eventually("AE_1 is at the first", || async { first.inserted() == 1 }).await;

    let two = original.replace(
        "sinks:\n",
        &format!(
            "sinks:\n  - {{ name: two, type: mongodb, uri: \"{}\", flush: {{ interval: 50ms }} }}\n",
            second.uri()
        ),
    );
    rewrite(&config, &two.replace("interval: 50ms, backoff", "interval: 60ms, backoff"));
    let text = ok(&spool, &["reload"]);
    assert!(text.contains("sink two added") && text.contains("sink one changed"), "{text}");
    send(&spool, vec![event("AE_2", "r")]).await;
    support::eventually("both have AE_2", || async { first.inserted() == 2 && second.inserted() == 1 }).await;

    rewrite(&config, &format!("{two}nonsense: 1\n"));
    fails(&spool, &["reload"], 2, "nonsense: unknown key");
    spool.process().signal(rustix::process::Signal::HUP);
    rewrite(&config, &two.replace("data_dir: ", "data_dir: /elsewhere"));
    send(&spool, vec![event("AE_3", "r")]).await;
    support::eventually("all continue", || async { first.inserted() == 3 && second.inserted() == 2 }).await;

    rewrite(&config, &original);
    spool.process().signal(rustix::process::Signal::HUP);
    support::eventually("two is gone", || async {
        // While it is being closed it is in neither list.
        let sinks = spool.backlog()["sinks"].as_array().cloned().unwrap_or_default();
        sinks.iter().any(|sink| sink["name"] == "two" && sink["state"] == "not-configured")
    })
    .await;
    send(&spool, vec![event("AE_4", "r")]).await;
    support::eventually("AE_4 is at the first", || async { first.inserted() == 4 }).await;
    assert_eq!(second.inserted(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_says_of_every_change_whether_it_is_in_force_and_refuses_what_a_start_would_refuse() {
    let spool = nowhere("mongo").section("documents: { redact: pii, pii_key: a-key-to-hash-with }").start().await;
    let config = spool.directory().join("config.yaml");
    let original = fs::read_to_string(&config).unwrap();
    let reloaded = |text: &str| -> Value {
        fs::write(&config, text).unwrap();
        serde_json::from_str(&ok(&spool, &["reload", "--json"])).unwrap()
    };
    let changed = |from: &str, to: &str| {
        assert!(original.contains(from), "{from:?} is not in {original}");
        reloaded(&original.replacen(from, to, 1))
    };
    let is = |answer: &Value, applied: &[&str], needs_restart: &[&str]| {
        assert_eq!(*answer, serde_json::json!({ "applied": applied, "needs_restart": needs_restart, "failed": [] }));
    };
    is(
        &changed("admin: {", "admin: { public_metrics: true, hosts: [x.example],"),
        &["admin.hosts", "admin.public_metrics"],
        &[],
    );
    is(&reloaded(&original), &["admin.hosts", "admin.public_metrics"], &[]);
    is(&changed("a-key", "another-key"), &[], &["documents"]);
    is(&changed("data_dir:", "shutdown_timeout: 3s\ndata_dir:"), &[], &["shutdown_timeout"]);
    is(&changed("data_dir:", "log: { level: debug, format: json }\ndata_dir:"), &["log.level: debug"], &["log.format"]);
    is(&reloaded(&original), &["log.level: info"], &[]);
    is(&changed("max: 500ms", "max: 600ms"), &["sink mongo changed"], &[]);
    is(&reloaded(&original), &["sink mongo changed"], &[]);
    is(&reloaded(&original), &[], &[]);
    fs::write(&config, original.replacen("admin: { listen: \"127.0.0.1", "admin: { listen: \"0.0.0.0", 1)).unwrap();
    fails(&spool, &["reload"], 2, "set admin.token");
    for blank in
        ["", "\n \n", "# data_dir: data\n", "---\n", "---\n...\n", "~", "{}\n", "null # nothing\n", "\u{feff}\n"]
    {
        fs::write(&config, blank).unwrap();
        fails(&spool, &["reload"], 2, "config.yaml is empty (it contains no key)");
    }
    assert_eq!(spool.backlog()["sinks"][0]["name"], "mongo", "the old one stays in force");
    let changes = spool.backlog()["changes"].to_string();
    assert!(changes.contains("configuration refused"), "{changes}");
    ok(&spool, &["ready"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_data_directory_is_refused_by_name() {
    let spool = with_backlog(1).await;
    fails(&spool, &["run"], 3, "another livekit-spool (pid ");
    ok(&spool, &["ready"]);
}

#[test]
fn commands_that_need_a_process_say_that_none_runs() {
    let spool = nowhere("mongo").prepare();
    for words in [&["pause", "mongo"][..], &["ready"], &["reload"]] {
        fails(&spool, words, 3, "no livekit-spool runs");
    }
    fs::write(spool.directory().join("config.yaml"), "sinks: []\n").unwrap();
    fails(&spool, &["run"], 2, "no sink: sinks: is empty");
    fails(&spool, &["check-config"], 2, "no sink: sinks: is empty");
}

#[test]
fn config_prints_what_is_in_force_the_defaults_and_the_schema() {
    let spool = nowhere("mongo").prepare();
    let shown = ok(&spool, &["config", "show"]);
    assert!(shown.contains("  - name: mongo") && shown.contains(" # config.yaml:"), "{shown}");
    let shown: Value = serde_json::from_str(&ok(&spool, &["config", "show", "--json"])).unwrap();
    assert_eq!((&shown["config"]["log"]["level"], &shown["sources"]["log.level"]), (&"info".into(), &"default".into()));
    assert!(ok(&spool, &["config", "default"]).starts_with("# yaml-language-server: $schema="));
    let schema: Value = serde_json::from_str(&ok(&spool, &["config", "schema"])).unwrap();
    assert!(schema["properties"]["spool"]["properties"]["max_bytes"]["description"].is_string());
    assert_eq!(ok(&spool, &["config", "check"]), ok(&spool, &["check-config"]));
    fs::write(spool.directory().join("config.yaml"), "flush: {intervall: 1s}\n").unwrap();
    fails(&spool, &["config", "show"], 2, "config.yaml:1:9: flush.intervall: unknown key; did you mean interval?");
}

#[test]
fn every_command_has_completions_a_manual_page_and_help_with_the_common_flags() {
    let spool = nowhere("mongo").prepare();
    for shell in ["bash", "zsh", "fish"] {
        assert!(ok(&spool, &["completions", shell]).contains("check-config"), "{shell}");
    }
    assert!(ok(&spool, &["man"]).contains("livekit\\-spool"));
    for command in [
        "run",
        "backlog",
        "peek",
        "export",
        "import",
        "drain",
        "purge",
        "verify",
        "recover",
        "indexes",
        "pause",
        "resume",
        "flush",
        "dead",
        "send",
        "doc",
        "check-config",
        "config",
        "reload",
        "ready",
        "completions",
    ] {
        assert!(ok(&spool, &["man", command]).contains(".TH livekit-spool-"), "{command}");
        let help = ok(&spool, &[command, "--help"]);
        assert!(help.contains("--config") && help.contains("--json"), "{command}: {help}");
    }
    for words in [["dead", "list"], ["dead", "retry"], ["config", "show"], ["config", "schema"]] {
        let page = ok(&spool, &["man", words[0], words[1]]);
        assert!(page.contains(&format!(".TH livekit-spool-{} ", words.join("-"))), "{words:?}: {page}");
    }
    fails(&spool, &["man", "dead", "lsit"], 2, "livekit-spool-dead has no command \"lsit\"; it has list, ");
    fails(&spool, &["man", "ready", "list"], 2, "livekit-spool-ready has no command \"list\"");
}
