//! Records come in: gRPC and HTTP, checked, handed to every sink's spool, answered after fsync.
//!
//! - [`wire`]: checks on the bytes as they came, pure;
//! - [`Intake`]: one batch to every sink's spool.

#[cfg(test)]
mod double;
mod fanout;
mod memory;
mod options;
mod refusal;
mod status;
pub mod wire;

pub use fanout::{Append, CannotAppend, Filter, Intake, Target};
pub use options::{
    AuthOptions, ConnectionOptions, GrpcOptions, HttpOptions, LivekitKeys, MemoryOptions, Secret, TlsOptions,
};
pub use refusal::Refusal;
pub use status::{IngestSnapshot, IngestStatus, Protocol, Refused, RefusedCount, TakenCount};

/// The `livekit.AnalyticsRecorderService` client and server, generated at build time.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/livekit.rs"));
}
