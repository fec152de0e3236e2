//! Encodes a record's bytes as the document that a sink stores, by the protobuf descriptors.
//!
//! A document has the shape that OpenVidu's LiveKit fork gives it (Go's `encoding/json` over the generated structs):
//!
//! | in the record | in the document |
//! |---|---|
//! | the record's id | `_id`, a string, first ([`RecordId`](crate::record::RecordId)) |
//! | a field | the same name in snake_case; zero, false, empty and absent fields are omitted |
//! | an `optional` field | present if the record has it, also at zero |
//! | a oneof | a document with Go's name of the oneof, in it Go's name of the member: `egress.Request.RoomComposite` |
//! | `bool` | boolean |
//! | `int32`, `sint32`, `sfixed32`, enums | 32-bit integer |
//! | `uint32`, `fixed32`, `int64`, `sint64`, `sfixed64` | 64-bit integer |
//! | `uint64`, `fixed64` | 64-bit integer; above `i64::MAX` a double |
//! | `float`, `double` | double (a float as its shortest decimal form reads); NaN and infinities too |
//! | `string` | string |
//! | `bytes` | string, base64 |
//! | a message | document; `google.protobuf.Timestamp` and `Duration` are `{seconds, nanos}` like any other |
//! | a list | array |
//! | a map | document, keys as they are (`map`) |
//! | enums that the fork names | string, present even at zero; a number without a name stays a number (`fork`) |
//! | fields that the schema does not know | omitted; the raw record keeps them |
//!
//! Besides, at the end: `time`, `openvidu_expire_at`, `labels` ([`DocumentOptions`], [`DocumentContext`]). `time` is the
//! record's own timestamp as a BSON date, rounded down to the millisecond; it is omitted if the record has none, or if
//! BSON's 64-bit milliseconds cannot hold it.
//!
//! What cannot be a document is a [`DocumentError`] with the field's path; nothing panics, whatever the bytes.
//!
//! Uses `record`, `secret`, `setting`.

mod encoder;
mod encoding;
mod error;
mod exact;
mod extjson;
mod fork;
mod indexes;
mod key_index;
mod list;
mod map;
mod message;
mod number;
mod options;
mod parts;
mod protojson;
mod redact;
mod schema;
mod scrub;
#[cfg(test)]
mod tests;
mod value;
mod writer;

pub use encoder::Encoder;
pub use error::{DocumentError, DocumentErrorReason};
pub use extjson::{JsonStyle, MAX_JSON, NoJson, write_json};
pub use indexes::{Index, indexes};
pub use options::{
    BadLabel, DocumentContext, DocumentOptions, Enums, Labels, MONGODB_MAX_DOCUMENT, PiiKey, Redact, expire_at,
};

pub use crate::record::wire::{MAX_DEPTH, WireType};
