//! What all commands have in common: output, exit codes, help.

use std::{fs, process::Output};

use serde_json::Value;

use super::{event, nowhere, send, support};
use support::process::Spool;

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

pub(crate) async fn with_backlog(records: usize) -> Spool {
    let spool = nowhere("mongo").start().await;
    send(&spool, (0..records).map(|i| event(&format!("AE_{i:04}"), &format!("room{}", i % 3))).collect()).await;
    spool
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
        "sessions",
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
    for words in [["dead", "list"], ["dead", "retry"], ["sessions", "show"], ["config", "show"], ["config", "schema"]] {
        let page = ok(&spool, &["man", words[0], words[1]]);
        assert!(page.contains(&format!(".TH livekit-spool-{} ", words.join("-"))), "{words:?}: {page}");
    }
    fails(&spool, &["man", "dead", "lsit"], 2, "livekit-spool-dead has no command \"lsit\"; it has list, ");
    fails(&spool, &["man", "ready", "list"], 2, "livekit-spool-ready has no command \"list\"");
}
