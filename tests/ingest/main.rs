//! The ingest ports from outside: real sockets, real clients, spools in memory that behave as told.

mod auth;
mod connections;
#[path = "../support/eventually.rs"]
mod eventually;
mod full;
mod grpc;
mod http;
#[path = "../support/jwt.rs"]
mod jwt;
mod limits;
mod sending;
mod support;
mod tls;
mod webhook;

/// The client of `livekit.AnalyticsRecorderService`; `tests/schema.rs` makes the file.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
mod recorder_client {
    include!("../support/recorder_client.rs");
}
