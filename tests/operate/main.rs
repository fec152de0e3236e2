//! What an operator sees and does, on the real binary: the command line live and stopped, the API, the metrics, the status
//! page in a real browser.

#[path = "../delivery/resp.rs"]
#[allow(dead_code, reason = "the delivery tests use the rest")]
mod resp;
#[path = "../support/mod.rs"]
mod support;

mod admin;
mod backlog;
mod browser;
mod cdp;
mod cli;
mod configuring;
mod delivery;
mod documents;
mod hanging;
mod logs;
mod records;
mod redaction;
mod sessions;
mod sessions_api;
mod sessions_page;
mod spools;
mod start_stop;
mod stopped;
mod terminal;
mod threads;
mod watch;

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents, Room};
use prost::Message;
use support::process::{Setup, Spool};

/// The admin token of these tests.
const TOKEN: &str = "a-token-for-the-tests";

/// Prepares a process whose admin port has a token.
fn with_token(setup: Setup) -> Spool {
    setup.admin_token(TOKEN).prepare()
}

/// A MongoDB sink that nobody answers at.
fn nowhere(name: &str) -> Setup {
    Setup::new().mongo(name, "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200&directConnection=true", "openvidu")
}

/// An event in a room of this name.
fn event(id: &str, room: &str) -> AnalyticsEvent {
    AnalyticsEvent {
        id: id.to_owned(),
        room: Some(Room { sid: "RM_x".to_owned(), name: room.to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

/// Sends events over HTTP; returns when they are durable.
async fn send(spool: &Spool, events: Vec<AnalyticsEvent>) {
    let body = AnalyticsEvents { events }.encode_to_vec();
    let request = reqwest::Client::new()
        .post(format!("{}/v1/events", spool.http()))
        .header("content-type", "application/x-protobuf")
        .body(body);
    let response = request.send().await.expect("an answer");
    assert!(response.status().is_success(), "{}", response.text().await.unwrap_or_default());
}
