//! Where a page of a list ends: opaque to the client, and valid for the list it came from only.
//!
//! It names the last item by its place in the order, not by a count, so items that appear or vanish meanwhile neither repeat
//! others nor leave them out. It also holds the range of the first page, as a range that ends now would move.

use axum::http::StatusCode;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{admin::problem::Problem, session::Time};

/// Bytes of the check at the end.
const CHECK: usize = 12;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The range.
    pub(super) from: Time,
    pub(super) to: Time,
    /// The place of the last item: its time, and what distinguishes it from others of that time.
    pub(super) at: Time,
    pub(super) tie: String,
}

impl Cursor {
    /// `list`: the path and everything that chooses and orders its items.
    pub(super) fn encode(&self, list: &str) -> String {
        let mut bytes = [self.from, self.to, self.at].map(|time| time.0.to_be_bytes()).concat();
        bytes.extend_from_slice(self.tie.as_bytes());
        let check = check(&bytes, list);
        bytes.extend_from_slice(&check);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// # Errors
    /// When it does not come from this list.
    pub(super) fn decode(text: &str, list: &str) -> Result<Self, Problem> {
        let decoded = || {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
            let (bytes, given) = bytes.split_at_checked(bytes.len().checked_sub(CHECK)?)?;
            if check(bytes, list) != *given {
                return None;
            }
            let (times, tie) = bytes.split_at_checked(24)?;
            let time = |index: usize| times[index * 8..][..8].try_into().map(|bytes| Time(i64::from_be_bytes(bytes)));
            let (from, to, at) = (time(0).ok()?, time(1).ok()?, time(2).ok()?);
            Some(Self { from, to, at, tie: String::from_utf8(tie.to_vec()).ok()? })
        };
        let wrong = "page.cursor: is not a cursor of this list: use nextCursor with the parameters of its page";
        decoded().ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, wrong))
    }
}

fn check(bytes: &[u8], list: &str) -> [u8; CHECK] {
    let hash = blake3::Hasher::new().update(bytes).update(list.as_bytes()).finalize();
    let mut check = [0; CHECK];
    check.copy_from_slice(&hash.as_bytes()[..CHECK]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_valid_for_its_own_list_and_no_byte_of_it_can_change() {
        let cursor = Cursor { from: Time(-1), to: Time(i64::MAX), at: Time(7), tie: "RM_ä".to_owned() };
        let text = cursor.encode("sessions?a");
        assert_eq!(Cursor::decode(&text, "sessions?a").unwrap(), cursor);
        assert!(Cursor::decode(&text, "sessions?b").is_err());
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(Cursor::decode(&changed, "sessions?a").is_err(), "{at}");
            assert!(Cursor::decode(&text[..at], "sessions?a").is_err(), "{at}");
        }
        for text in ["", "next", "%%%", "AAAA"] {
            assert_eq!(Cursor::decode(text, "sessions?a").unwrap_err().status, StatusCode::BAD_REQUEST, "{text}");
        }
    }
}
