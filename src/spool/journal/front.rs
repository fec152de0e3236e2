//! A segment's front: its first block, written and synced with its first group.
//!
//! Everything in it is positive evidence: what is done, and where a segment ended. A lost front causes redeliveries and
//! a walk over the segment before it, but loses no record.

use bincode::{Decode, Encode};

use crate::{
    record::PerStream,
    spool::{
        encoding::{decode, encode},
        totals::Totals,
    },
};

/// What a segment records about itself and those before it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Front {
    /// Its own number.
    pub(crate) segment: u64,
    /// The sequence numbers of the streams' first records in it.
    pub(crate) first: PerStream<u64>,
    /// How the segment before it ended; none in the first segment.
    pub(crate) previous: Option<Ending>,
    /// Segments before this one are no longer needed: all of them are done.
    pub(crate) needed_from: u64,
    /// All records before these were done when the front was written.
    pub(crate) ack_floor: PerStream<u64>,
    /// How those records were done, and later ones that were done out of order: for a start without a queue.
    pub(crate) totals: PerStream<Totals>,
}

/// How a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Ending {
    /// Its number.
    pub(crate) segment: u64,
    /// Its length: bytes after it were refused.
    pub(crate) len: u64,
    /// Its number of records.
    pub(crate) records: u64,
    /// The sequence numbers after the streams' last records in it.
    pub(crate) next: PerStream<u64>,
}

impl Front {
    /// The encoded payload.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Decodes a payload; `None` if it is invalid or belongs to another segment.
    pub(crate) fn read(segment: u64, payload: &[u8]) -> Option<Self> {
        decode::<Self>(payload).filter(|front| front.segment == segment)
    }
}
