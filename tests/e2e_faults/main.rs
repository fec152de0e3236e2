//! What goes wrong around the real binary: directories that cannot be used, disks that fail, kills at any moment, clocks that jump,
//! eyes that should not see.

#[path = "../support/mod.rs"]
mod support;

mod bad_sectors;
mod clock;
mod durable;
mod failing;
mod kills;
mod one_sink;
mod private;
mod start;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use support::{
    process::Spool,
    records,
    wire::{Reply, WireServer},
};

const EVENTS: &str = "test.events";

/// A server that is unavailable until it is told otherwise.
async fn server() -> (WireServer, Arc<AtomicBool>) {
    let away = Arc::new(AtomicBool::new(true));
    let gone = Arc::clone(&away);
    let script = move |_: &_| if gone.load(Ordering::SeqCst) { Reply::HangUp } else { Reply::Healthy };
    (WireServer::scripted(script).await, away)
}

/// Sends events in calls of ten; all are answered OK.
async fn send(spool: &Spool, events: &[AnalyticsEvent]) -> BTreeSet<String> {
    for call in events.chunks(10) {
        let message = AnalyticsEvents { events: call.to_vec() };
        spool.recorder().ingest_events(tokio_stream::iter([message])).await.expect("accepted");
    }
    records::event_ids(events)
}

/// The ids of all documents that a file sink has written there, each as often as it is there.
fn lines(out: &Path) -> Vec<String> {
    let files = fs::read_dir(out).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
    files.flat_map(|path| ids_in(&fs::read(path).expect("a file"))).collect()
}

fn ids_in(lines: &[u8]) -> Vec<String> {
    // What is being written is no whole line yet.
    let whole = lines.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let document = |line| serde_json::from_slice::<serde_json::Value>(line).expect("a line is JSON");
    whole.map(|line| document(line)["_id"].as_str().expect("an id").to_owned()).collect()
}
