//! LiveKit's schema: what its .proto files, which the livekit-protocol crate ships, compile to. `livekit.fds` is checked
//! in, so that a build needs no protobuf compiler; `tests/schema.rs` makes it, and fails where it is out of date.

/// An encoded `google.protobuf.FileDescriptorSet` of the records, the webhooks and everything they refer to, with LiveKit's
/// own field options (`logger.sensitivity`).
pub const DESCRIPTORS: &[u8] = include_bytes!("livekit.fds");

/// The gRPC service that LiveKit sends its records to.
pub const SERVICE_NAME: &str = "livekit.AnalyticsRecorderService";
