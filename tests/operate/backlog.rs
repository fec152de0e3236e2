//! `backlog` and `peek`: the same live and stopped, and readable.

use std::fs;

use serde_json::Value;

use super::{event, nowhere, send, support};
use crate::cli::{fails, ok, with_backlog};
use support::process::Spool;

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
