//! What waits to be appended, in the order it came, and when the next group is taken out of it.
//!
//! One group is packed at a time ([`Inbox::packing`]) while others are on their way to the medium ([`Inbox::committing`]).

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::error::AppendError;
use crate::record::RecordBatch;

/// A group's records, unpacked, are at most this long (a longer batch is a group of its own).
const GROUP_RAW_BYTES: usize = 4 << 20;
/// While a group is synced, the next one is packed when this much waits; less is better packed when the sync is over, with
/// all that has come until then.
const PACK_AHEAD_BYTES: usize = 512 << 10;

/// A batch and who waits for it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) batch: RecordBatch,
    pub(crate) answer: oneshot::Sender<Result<(), AppendError>>,
}

/// What waits to be appended.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    appends: VecDeque<Waiting>,
    /// Bytes of the records that wait, unpacked.
    bytes: usize,
    /// Begin a new segment, so that the present one can go.
    pub(crate) roll: bool,
    pub(crate) closing: bool,
    /// A thread packs a group: the next one comes after it.
    pub(super) packing: bool,
    /// Groups that are packed and not yet durable.
    pub(super) committing: usize,
    /// Batches in the last group: who sent one sends the next as soon as it is answered.
    pub(super) last: usize,
}

/// What is appended together, and whether in a new segment.
pub(super) type Group = (Vec<Waiting>, bool);

impl Inbox {
    pub(crate) fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.batch.bytes().len();
        self.appends.push_back(waiting);
    }

    /// Refuses what waits: nobody is left to append it.
    pub(crate) fn clear(&mut self) {
        self.appends.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty() && !self.roll
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.packing && self.committing == 0
    }

    /// Whether the next group is to be packed now.
    pub(crate) fn is_due(&self) -> bool {
        !self.is_empty() && !self.packing && (self.committing == 0 || self.bytes >= PACK_AHEAD_BYTES)
    }

    /// Whether fewer batches wait than the last group had: who was answered with that may be about to send the next.
    pub(super) fn awaits_more(&self) -> bool {
        self.appends.len() < self.last
    }

    /// The group that its only caller can append itself.
    pub(super) fn take_alone(&mut self) -> Option<Group> {
        (self.last == 1 && self.is_idle() && self.appends.len() == 1).then(|| self.take_group())
    }

    /// What comes first, up to a group's size. It has to be appended.
    pub(super) fn take_group(&mut self) -> Group {
        self.packing = true;
        let (mut group, mut raw) = (Vec::new(), 0);
        while let Some(waiting) = self.appends.front() {
            let len = waiting.batch.bytes().len();
            if raw > 0 && raw + len > GROUP_RAW_BYTES {
                break;
            }
            raw += len;
            group.extend(self.appends.pop_front());
        }
        self.bytes -= raw;
        (group, std::mem::take(&mut self.roll))
    }
}
