//! What is logged: one line a change of state, JSON for programs, text for people, and no secret.

use serde_json::Value;

use super::{event, send, support};
use support::process::Setup;

const URI: &str = "mongodb://someone:hunter2@127.0.0.1:9/?serverSelectionTimeoutMS=50&directConnection=true";

fn nowhere() -> Setup {
    Setup::new().mongo("mongo", URI, "openvidu")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_one_line_of_json_whatever_the_attempts_and_no_line_holds_a_secret() {
    let mut spool = nowhere().section("log: { level: trace }").start().await;
    send(&spool, vec![event("AE_1", "r")]).await;
    support::eventually("some attempts", || async {
        let text = spool.command(&["backlog", "--json"]).stdout;
        let backlog: Value = serde_json::from_slice(&text).expect("JSON");
        let sink = &backlog["sinks"][0];
        sink["state"] == "away" && sink["last_error_at"].as_i64() > sink["since"].as_i64().map(|at| at + 500)
    })
    .await;
    let log = spool.process().output();
    spool.terminate();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let away = lines.iter().filter(|line| line["state"] == "away").count();
    assert_eq!(away, 1, "{log}");
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_format_is_chosen_in_the_config_and_rust_log_overrides_the_level() {
    let mut human = nowhere().section("log: { format: human }").start().await;
    support::eventually("the outage in the log", || {
        let log = human.process().output();
        async move { log.contains("WARN sink is away") }
    })
    .await;
    assert!(!human.process().output().contains('\u{1b}'), "colours are for terminals only");
    let mut quiet = nowhere().env("RUST_LOG", "error").start().await;
    support::eventually("the outage", || async { quiet.backlog()["sinks"][0]["state"] == "away" }).await;
    assert_eq!(quiet.process().output(), "");
}
