//! The inbox: batches that wait to be appended, in order of arrival, and when the next group is taken from it.
//!
//! One group is packed at a time ([`Inbox::packing`]) while others are being written ([`Inbox::committing`]).

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::error::AppendError;
use crate::record::RecordBatch;

/// A group's records, unpacked, are at most this long (a longer batch is a group of its own).
const GROUP_RAW_BYTES: usize = 4 << 20;
/// During a sync, the next group is packed when this many bytes wait. Fewer are better packed after the sync, with all
/// that has arrived by then.
const PACK_AHEAD_BYTES: usize = 512 << 10;

/// A batch, and the caller that waits for its answer.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) batch: RecordBatch,
    pub(crate) answer: oneshot::Sender<Result<(), AppendError>>,
}

/// The batches that wait to be appended.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    appends: VecDeque<Waiting>,
    /// Unpacked bytes of the records that wait.
    bytes: usize,
    /// Begin a new segment, so that the current one can be deleted.
    pub(crate) roll: bool,
    pub(crate) closing: bool,
    /// A thread is packing a group: the next one has to wait for it.
    pub(super) packing: bool,
    /// Groups that are packed and not yet durable.
    pub(super) committing: usize,
    /// Batches in the last group: their senders usually send the next batch as soon as they are answered.
    pub(super) last: usize,
}

/// What is appended together, and whether in a new segment.
pub(super) type Group = (Vec<Waiting>, bool);

impl Inbox {
    pub(crate) fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.batch.bytes().len();
        self.appends.push_back(waiting);
    }

    /// Refuses all batches: no thread is left to append them.
    pub(crate) fn clear(&mut self) {
        self.appends.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty() && !self.roll
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.packing && self.committing == 0
    }

    /// True if the next group is to be packed now.
    pub(crate) fn is_due(&self) -> bool {
        !self.is_empty() && !self.packing && (self.committing == 0 || self.bytes >= PACK_AHEAD_BYTES)
    }

    /// True if fewer batches wait than the last group had: the callers who were just answered may be about to send
    /// more.
    pub(super) fn awaits_more(&self) -> bool {
        self.appends.len() < self.last
    }

    /// The group of a single caller, which can append it on its own thread.
    pub(super) fn take_alone(&mut self) -> Option<Group> {
        (self.last == 1 && self.is_idle() && self.appends.len() == 1).then(|| self.take_group())
    }

    /// Takes the first batches, up to a group's size. The caller has to append them.
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
