//! Receives records by gRPC and HTTP, checks them, appends them to every sink's spool, and answers after fsync.
//!
//! - [`wire`]: checks on the bytes as received, pure;
//! - [`Ingester`]: one batch to every sink's spool;
//! - [`grpc`]: the service `livekit.AnalyticsRecorderService`;
//! - [`http`]: records as protobuf, JSON or NDJSON, and LiveKit's webhooks;
//! - [`client`]: the other end, for `send`, `run --demo` and tests;
//! - [`Authenticator`] and [`Tls`]: who can send;
//! - [`Dropped`]: what a call that was answered OK did not keep.
//!
//! Uses `caller`, `catch_panic`, `hs256`, `record`, `secret`, `setting`, `spool`, `tasks`, `tls_files`.

mod auth;
pub(crate) mod body;
pub mod client;
mod config;
mod conversions;
mod decompress;
mod decompression_work;
mod dropped;
#[cfg(test)]
mod fake;
mod fanout;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod grpc;
mod gzip;
mod handler_state;
pub mod http;
mod json;
mod listener;
pub(crate) mod memory;
mod optional;
mod options;
mod pass;
mod refusal;
mod repeats;
mod requests;
mod rules;
mod server;
mod side;
mod slots;
mod spooled;
mod status;
mod stream;
mod throttle;
mod tls;
mod webhook;
pub mod wire;
mod zstd_frames;

pub(crate) use json::Json;
pub(crate) use listener::{Peer, listen};
pub(crate) use server::{Handler, Server, http1};
pub(crate) use slots::OpenRequest;
use slots::{Holder, Slots};

pub use auth::Authenticator;
pub use config::{AuthConfig, AuthMode, IngestConfig};
pub(crate) use conversions::AT_ONCE as CONVERSION_THREADS;
pub(crate) use dropped::drops_newest;
pub use dropped::{Accepted, Dropped, DroppedRecords};
pub use fanout::{Filter, Ingester, Target};
pub use listener::Listener;
pub use options::{
    AuthOptions, ConnectionOptions, GrpcOptions, HttpOptions, Listen, LivekitKeys, MemoryOptions, Secret, TlsOptions,
};
pub use refusal::Refusal;
pub(crate) use rules::ReaderRefused;
pub use rules::{AUDIENCE, MIN_TOKEN_LENGTH};
pub use server::ServeError;
pub use spooled::{Append, CannotAppend};
pub use status::{AcceptedCount, IngestSnapshot, IngestStatus, Protocol, Refused, RefusedCount};
pub use tls::{Tls, TlsError};
