//! What goes wrong around the real binary: folders that cannot be used, disks that fail, clocks that jump, eyes that
//! should not see.

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod durable;
mod failing;
mod one_sink;
mod private;
mod start;

use std::{
    collections::BTreeSet,
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

/// A server that is away until it is told otherwise.
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
        spool.recorder().ingest_events(tokio_stream::iter([message])).await.expect("taken");
    }
    records::event_ids(events)
}
