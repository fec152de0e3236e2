//! Spools that are full: what commands tell.

use std::fs;

use serde_json::Value;

use super::{
    cli::{fails, ok, rewrite, said},
    event, send, support,
};
use support::process::{Setup, Spool};

/// A spool's smallest quota.
const SMALL: &str = "max_bytes: 4MiB, min_free_bytes: 0B, compression: { codec: none }";

/// A sink that nobody answers at, by more keys.
fn mongo(name: &str, keys: &str) -> String {
    format!("name: {name}, type: mongodb, uri: \"mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200\", {keys}")
}

fn configure(spool: &Spool, text: &str) {
    rewrite(&spool.folder().join("config.yaml"), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_spool_drops_by_its_policy_is_told_by_import_and_send_and_counted_once() {
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
        ok(&spool, &["ready"]).contains("taking records"),
        "calls are answered OK: nobody should be sent elsewhere"
    );
    let before = dropped(&spool);
    let to = ["--to".to_owned(), spool.grpc()];
    let words = ["send", "--count", "20", "--rate", "0", "--json", &to[0], &to[1]];
    let output = spool.command(&words);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["acknowledged"], &answer["resent_batches"]), (&Value::from(20), &Value::from(0)), "{answer}");
    assert_eq!(answer["dropped"]["mongo"]["records"], 20, "{answer}");
    assert!(said(&output).contains("not all of them are kept: dropped 20 by sink mongo: its spool is full"));
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
    let text = fs::read_to_string(spool.folder().join("config.yaml")).unwrap();
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
