//! `check-config`, `config` and `reload`.

use std::fs;

use serde_json::Value;

use super::{event, nowhere, send, support};
use crate::cli::{fails, ok, with_backlog};
use support::{
    process::{Setup, Spool},
    wire::WireServer,
};

/// Puts a file in another's place at once: a reload that reads it meanwhile reads the one or the other.
pub(super) fn rewrite(path: &std::path::Path, text: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).unwrap();
    fs::rename(&fresh, path).unwrap();
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
