//! Encodes fronts, entries and dead letters: bincode in its standard configuration, with variable-width integers.

use bincode::{Decode, Encode, config};

use super::journal::block::MAX_PAYLOAD_BYTES;

/// Encodes a value.
pub(crate) fn encode<T: Encode>(value: &T) -> Vec<u8> {
    match bincode::encode_to_vec(value, config::standard()) {
        Ok(bytes) => bytes,
        // Only a failing `Encode` or writer can fail; the derived ones and a Vec never do.
        Err(error) => unreachable!("encoding to memory failed: {error}"),
    }
}

/// Decodes what [`encode`] wrote; fails unless all bytes are used.
pub(crate) fn decode<T: Decode<()>>(bytes: &[u8]) -> Option<T> {
    let limited = config::standard().with_limit::<{ MAX_PAYLOAD_BYTES as usize }>();
    let (value, used) = bincode::decode_from_slice(bytes, limited).ok()?;
    (used == bytes.len()).then_some(value)
}
