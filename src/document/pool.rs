//! The descriptors of livekit-protocol's messages, as the schema has them.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::record::{Stream, schema::DESCRIPTORS};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTORS)
        .expect("tests/schema.rs wrote a descriptor set that its own compiler had checked")
});

/// All descriptors.
pub(super) fn pool() -> &'static DescriptorPool {
    &POOL
}

/// A message by its full name; callers ask only for names of the schema that this was built with.
pub(super) fn message(full_name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(full_name).unwrap_or_else(|| panic!("livekit-protocol has no message {full_name}"))
}

/// The message of a stream's records.
pub(super) fn record(stream: Stream) -> MessageDescriptor {
    message(stream.message_name())
}
