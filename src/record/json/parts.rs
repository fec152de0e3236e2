//! Puts what a message or a map consists of in order.
//!
//! JSON has the fields of a message in any order, and the last of several counts. The bytes have them in the order of
//! their numbers, each once, so that the same content always gives the same bytes. The same holds for the entries of a
//! map, in the order of their keys.

use std::cmp::Ordering;

/// How many parts of messages and maps that have begun but not ended a record may have: this bounds the memory for
/// them. LiveKit's largest message has under a hundred fields.
pub(super) const MAX_PARTS: usize = 50_000;

/// A field of a message, or an entry of a map, in the bytes written so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Its place, see [`Order`].
    pub(super) place: u64,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What the places of parts mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Numbers: of fields, or the distance of a map's key from the least key of its type.
    Number,
    /// A map's key is a text: where it begins, after the start of the part, and its length ([`text_place`]).
    Text,
}

/// The place of a text that begins `at` bytes after the start of its part.
pub(super) const fn text_place(at: usize, length: usize) -> u64 {
    (at as u64) << 32 | length as u64
}

/// The place of the text after it was moved, away from the start of its part.
pub(super) const fn moved(place: u64, by: usize) -> u64 {
    place + ((by as u64) << 32)
}

/// The text of a part; `part` are its bytes.
pub(super) fn text(place: u64, part: &[u8]) -> &[u8] {
    let (at, length) = ((place >> 32) as usize, place as u32 as usize);
    &part[at..at + length]
}

impl Order {
    #[inline]
    fn compare(self, one: &Part, other: &Part, out: &[u8]) -> Ordering {
        match self {
            Self::Number => one.place.cmp(&other.place),
            Self::Text => text(one.place, &out[one.start..]).cmp(text(other.place, &out[other.start..])),
        }
    }
}

/// Sorts `parts`, which together are `out` from `start` on, and keeps the last of each place.
#[inline]
pub(super) fn settle(out: &mut Vec<u8>, start: usize, parts: &mut [Part], order: Order, scratch: &mut Vec<u8>) {
    if !parts.is_sorted_by(|one, next| order.compare(one, next, out).is_lt()) {
        reorder(out, start, parts, order, scratch);
    }
}

fn reorder(out: &mut Vec<u8>, start: usize, parts: &mut [Part], order: Order, scratch: &mut Vec<u8>) {
    // Stable: of several with the same place the last one written stays last.
    parts.sort_by(|one, other| order.compare(one, other, out));
    scratch.clear();
    for (index, part) in parts.iter().enumerate() {
        if parts.get(index + 1).is_none_or(|next| order.compare(part, next, out).is_ne()) {
            scratch.extend_from_slice(&out[part.start..part.end]);
        }
    }
    out.truncate(start);
    out.extend_from_slice(scratch);
}
