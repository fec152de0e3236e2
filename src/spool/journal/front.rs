//! A segment's front: its first block, written and synced with its first group.
//!
//! Everything in it is positive evidence: what is done, where a segment ended. A front that is lost costs redeliveries and a
//! walk over the segment before it, never a record.

use bincode::{Decode, Encode};

use crate::{
    record::PerStream,
    spool::{
        encoding::{decode, encode},
        totals::Totals,
    },
};

/// What a segment says of itself and of those before it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Front {
    /// Its own number.
    pub(crate) segment: u64,
    /// The sequence numbers of the streams' first records in it.
    pub(crate) first: PerStream<u64>,
    /// How the segment before it ended; none in the first one.
    pub(crate) previous: Option<Ending>,
    /// Segments before this one are needed no more: all of them are done.
    pub(crate) needed_from: u64,
    /// All records before these were done when the front was written: delivered, dead letters, or dropped.
    pub(crate) ack_floor: PerStream<u64>,
    /// What became of them, and of those behind the floor that were done: for a start without a queue.
    pub(crate) totals: PerStream<Totals>,
}

/// How a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Ending {
    /// Its number.
    pub(crate) segment: u64,
    /// Its length: what lies behind was refused.
    pub(crate) len: u64,
    /// How many records it holds.
    pub(crate) records: u64,
    /// The sequence numbers behind the streams' last records in it.
    pub(crate) next: PerStream<u64>,
}

impl Front {
    /// Its payload.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a payload; `None` where it makes no sense, or stands in another segment.
    pub(crate) fn read(segment: u64, payload: &[u8]) -> Option<Self> {
        decode::<Self>(payload).filter(|front| front.segment == segment)
    }
}
