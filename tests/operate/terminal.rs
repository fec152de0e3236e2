//! Nothing that a sender or a server writes controls the terminal of the reader: ids, reasons, errors, documents.

use std::process::Output;

use serde_json::Value;

use super::{
    event,
    resp::{Answer, RespServer},
    send, support,
};
use support::process::Setup;

/// Clears the screen, sets the title, rings, hides (8-bit CSI), turns the direction round, forges a line.
const TRICKS: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}8m\u{202e}\u{2066}\r\nforged\u{85}\u{200f}";

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).expect("UTF-8")
}

#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    let steers = |c: &char| {
        (c.is_control() && *c != '\n')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert_eq!(text.chars().find(steers), None, "{what}: {text:?}");
    let forged = text.lines().any(|line| line.trim_start().starts_with("forged"));
    assert!(!forged, "{what}: a line break makes a line of its own: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_senders_write_controls_the_terminal() {
    // An error of Redis is one line; the rest of the tricks comes with the ids.
    let reason = TRICKS.replace(['\r', '\n'], "");
    let (rejecting, away) = (format!("WRONGTYPE {reason}"), format!("NOAUTH {reason}"));
    let rejecting = RespServer::start(move |command| match &*command[0] {
        "JSON.SET" | "EXPIRE" => Answer::Error(rejecting.clone()),
        _ => Answer::Healthy,
    });
    let away = RespServer::start(move |command| match &*command[0] {
        "JSON.SET" | "EXPIRE" => Answer::Error(away.clone()),
        _ => Answer::Healthy,
    });
    let (rejecting, away) = (rejecting.await, away.await);
    let sink = |name: &str, url: String| format!("name: {name}, type: redis, url: \"{url}\"");
    let setup = Setup::new().sink(&sink("rejecting", rejecting.url())).sink(&sink("away", away.url()));
    let mut spool = setup.section("log: { level: trace, format: human }").start().await;
    let id = format!("AE_{TRICKS}");
    send(&spool, vec![event(&id, TRICKS)]).await;
    support::eventually("one is rejected, the other away", || async {
        let backlog = spool.backlog();
        let of = |name: &str, field: &str| support::process::Spool::sink_of(&backlog, name)[field].clone();
        of("rejecting", "dead_letters") == 1 && of("away", "last_error").is_string()
    })
    .await;

    for live in [true, false] {
        if !live {
            assert_harmless("the log", &spool.process().output());
            spool.terminate();
        }
        for words in [
            &["dead", "list", "rejecting"][..],
            &["dead", "list", "rejecting", "--json"],
            &["dead", "show", "rejecting", &id],
            &["dead", "show", "rejecting", TRICKS],
            &["peek", "away"],
            &["peek", "away", "--json"],
            &["backlog"],
            &["backlog", "--json"],
            &["peek", TRICKS],
            &["verify"],
            &["check-config"],
        ] {
            let output = spool.command(words);
            assert_harmless(&format!("{words:?}, live: {live}"), &said(&output));
            if words.contains(&"--json") {
                let _: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}"));
            }
        }
        let listed: Value =
            serde_json::from_slice(&spool.command(&["dead", "list", "rejecting", "--json"]).stdout).unwrap();
        assert_eq!(listed[0]["id"], Value::from(id.as_str()), "a program reads what it was");
    }
}
