//! Which fields are kept out of documents.

use std::sync::LazyLock;

use prost_reflect::{ExtensionDescriptor, FieldDescriptor, Kind, Value};

use super::{options::Redact, pool};

/// LiveKit's own mark of a field, an option in its .proto files.
static SENSITIVITY: LazyLock<ExtensionDescriptor> = LazyLock::new(|| {
    pool::pool().get_extension_by_name("logger.sensitivity").expect("livekit-protocol ships logger/options.proto")
});

/// How sensitive a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Sensitivity {
    /// Neither of the others.
    Plain,
    /// Personal data.
    Pii,
    /// Credentials and authentication material.
    Secret,
}

/// What happens to a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    Keep,
    Hash,
    Remove,
}

/// Secrets that LiveKit left unmarked.
const UNMARKED_SECRETS: [&str; 2] = ["livekit.Room.turn_password", "livekit.IngressInfo.stream_key"];

/// LiveKit's own mark of a field.
fn marked(field: &FieldDescriptor) -> Sensitivity {
    match &*field.options().get_extension(&SENSITIVITY) {
        Value::EnumNumber(2) => Sensitivity::Secret,
        Value::EnumNumber(1) => Sensitivity::Pii,
        _ => Sensitivity::Plain,
    }
}

/// How sensitive a field is, by LiveKit's mark or ours, whichever is the stronger.
pub(super) fn sensitivity(field: &FieldDescriptor) -> Sensitivity {
    if UNMARKED_SECRETS.contains(&field.full_name()) { Sensitivity::Secret } else { marked(field) }
}

/// What `redact` makes of a field.
pub(super) fn treatment(redact: Redact, field: &FieldDescriptor) -> Treatment {
    match (redact, sensitivity(field)) {
        (Redact::None, _) | (_, Sensitivity::Plain) | (Redact::Secrets, Sensitivity::Pii) => Treatment::Keep,
        (_, Sensitivity::Secret) => Treatment::Remove,
        (Redact::Pii, Sensitivity::Pii) if matches!(field.kind(), Kind::String) => Treatment::Hash,
        (Redact::Pii, Sensitivity::Pii) => Treatment::Remove,
    }
}
