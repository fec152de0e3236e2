//! Records come in: gRPC and HTTP, checked, handed to every sink's spool, answered after fsync.

/// The `livekit.AnalyticsRecorderService` client and server, generated at build time.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/livekit.rs"));
}
