//! Cuts a text with many records in two, so that two threads can convert it.
//!
//! A cut is found without a check of the text before it. If both halves are valid, so is the whole, with the records of
//! the first and then those of the second; if either is not, only the whole can tell what is wrong with it.

use bytes::Bytes;

/// The halves of a text with one record per line: cut after a line.
pub fn halves_of_ndjson(text: &Bytes) -> Option<[Bytes; 2]> {
    let middle = text.len() / 2;
    let mut first = text.clone();
    let second = first.split_off(middle + memchr::memchr(b'\n', &text[middle..])? + 1);
    Some([first, second])
}

/// The halves of an array of objects, each an array: cut between two of them. (Of `[A, B]` the halves are `[A]` and `[B]`.
/// Both have an object next to the cut, so neither `A` nor `B` is empty.)
pub fn halves_of_json(text: &Bytes) -> Option<[Bytes; 2]> {
    let comma = comma_after(text.len() / 2, text)?;
    let (first, second) = (&text[..comma], &text[comma + 1..]);
    let is_between_objects = first.trim_ascii_end().ends_with(b"}") && second.trim_ascii_start().starts_with(b"{");
    is_between_objects.then(|| [[first, b"]"].concat().into(), [b"[", second].concat().into()])
}

/// The first comma at `middle` or after it that separates two elements of an array; none if the text is no array.
fn comma_after(middle: usize, text: &[u8]) -> Option<usize> {
    let start = text.len() - text.trim_ascii_start().len();
    if text.get(start) != Some(&b'[') {
        return None;
    }
    let (mut at, mut depth) = (start, 0_u32);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 1 && at >= middle => return Some(at),
            b'"' => at = end_of_string(text, at + 1)?,
            _ => {}
        }
        at += 1;
    }
    None
}

/// The quote that ends a string.
fn end_of_string(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
