//! LiveKit's schema: what its .proto files, which the livekit-protocol crate ships, compile to. `livekit.fds` is checked
//! in, so that a build needs no protobuf compiler; `tests/schema.rs` makes it, and fails where it is out of date.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

use super::{Stream, wire::WireType};

/// An encoded `google.protobuf.FileDescriptorSet` of the records, the webhooks and everything they refer to, with LiveKit's
/// own field options (`logger.sensitivity`).
pub const DESCRIPTORS: &[u8] = include_bytes!("livekit.fds");

/// The gRPC service that LiveKit sends its records to.
pub const SERVICE_NAME: &str = "livekit.AnalyticsRecorderService";

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTORS)
        .expect("tests/schema.rs wrote a descriptor set that its own compiler had checked")
});

/// All descriptors.
pub(crate) fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The message of a stream's records.
pub(crate) fn record(stream: Stream) -> MessageDescriptor {
    let name = stream.message_name();
    POOL.get_message_by_name(name).unwrap_or_else(|| panic!("livekit-protocol has no message {name}"))
}

/// The wire form of a single value of a kind.
pub(crate) const fn wire_type(kind: &Kind) -> WireType {
    match kind {
        Kind::Bool
        | Kind::Int32
        | Kind::Sint32
        | Kind::Uint32
        | Kind::Int64
        | Kind::Sint64
        | Kind::Uint64
        | Kind::Enum(_) => WireType::Varint,
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => WireType::Fixed64,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::Length,
        Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => WireType::Fixed32,
    }
}
