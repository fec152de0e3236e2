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
        sink["state"] == "unavailable" && sink["last_error_at"].as_i64() > sink["since"].as_i64().map(|at| at + 500)
    })
    .await;
    let log = spool.process().output();
    spool.terminate();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let away = lines.iter().filter(|line| line["state"] == "unavailable").count();
    assert_eq!(away, 1, "{log}");
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_format_is_chosen_in_the_config_and_rust_log_overrides_the_level() {
    let mut human = nowhere().section("log: { format: human }").start().await;
    support::eventually("the outage in the log", || {
        let log = human.process().output();
        async move { log.contains("WARN sink is unavailable") }
    })
    .await;
    assert!(!human.process().output().contains('\u{1b}'), "colours are for terminals only");
    let mut quiet = nowhere().env("RUST_LOG", "error").start().await;
    support::eventually("the outage", || async { quiet.backlog()["sinks"][0]["state"] == "unavailable" }).await;
    assert_eq!(quiet.process().output(), "");
}

/// A pipe that is open for reading, and that nobody reads.
const NOBODY_READS: &str =
    r#"pipe=$(mktemp -u); mkfifo "$pipe"; exec 3<>"$pipe"; exec 2>"$pipe"; rm "$pipe"; exec "$@""#;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_neither_senders_nor_the_end() {
    let setup = nowhere().env("RUST_LOG", "trace").through(&["sh", "-c", NOBODY_READS, "sh"]);
    let mut spool = setup.start().await;
    let begun = std::time::Instant::now();
    for number in 0..500 {
        send(&spool, vec![event(&format!("AE_{number}"), "r")]).await;
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(spool.records("mongo", "events"), 500);
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_from_outside_is_some_lines_and_one_that_sums_them_up() {
    use std::io::Write;
    let mut spool = nowhere().start().await;
    let mut stranger = std::net::TcpStream::connect(spool.grpc().trim_start_matches("http://")).expect("a connection");
    stranger.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("a preface");
    // Answers to PINGs that nobody sent: a warning each.
    let answers = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &[7; 8]].concat().repeat(12_000);
    stranger.write_all(&answers).expect("noise");
    support::eventually("they are summed up", || {
        let log = spool.process().output();
        async move { log.contains("of this kind: recv PING ack") }
    })
    .await;
    let log = spool.process().output();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let noise = lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains("PING ack")));
    assert_eq!(noise.count(), 11, "{log}");
    assert!(lines.iter().any(|line| line["lines"] == 11_990 && line["level"] == "WARN"), "{log}");
}
