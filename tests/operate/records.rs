//! Commands that copy, check and extract records: `export`, `import`, `verify`, `recover`, `dead`.

use std::fs;

use serde_json::Value;

use super::{event, send, support};
use crate::cli::{fails, ok, with_backlog};
use support::{
    process::{Setup, Spool},
    wire::{Reply, WireServer, WriteError},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_private_resumes_and_comes_back_by_import() {
    let mut spool = with_backlog(20).await;
    ok(&spool, &["export", "mongo", "-o", "all.raw", "--raw"]);
    fails(&spool, &["export", "mongo", "-o", "all.raw", "--raw"], 2, "--force");
    fails(&spool, &["export", "mongo", "-o", "no/all"], 1, "no/all: its directory does not exist: create it first");
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
