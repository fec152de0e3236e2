//! What a block of kind 5 says: which letters are gone; or, with none, only how many there are (in its header) and
//! perhaps where the segment before its own ends.

use super::Key;
use crate::spool::{
    block::{Header, Kind},
    state::{decode, encode},
};

/// A block of kind 5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Letters that are gone.
    Keys(Vec<Key>),
    /// None.
    Counts {
        /// A segment and where it ends, whatever lies behind: a write there failed, and was refused.
        end_before: Option<(u64, u64)>,
    },
}

impl Removal {
    /// Reads a payload; `None` where it makes no sense.
    pub(crate) fn read(header: &Header, raw: &[u8]) -> Option<Self> {
        match (header.kind, header.count) {
            (Kind::DeadRemoved, 0) => decode(raw).map(|end_before| Self::Counts { end_before }),
            (Kind::DeadRemoved, _) => decode(raw).map(Self::Keys),
            _ => None,
        }
    }

    /// Whether a block of this header tells the counts and nothing else.
    pub(super) fn is_counts(header: &Header) -> bool {
        (header.kind, header.count) == (Kind::DeadRemoved, 0)
    }

    pub(super) fn write_counts(end_before: Option<(u64, u64)>) -> Vec<u8> {
        encode(&end_before)
    }

    pub(super) fn write_keys(keys: &[&Key]) -> Vec<u8> {
        encode(&keys)
    }
}
