//! How many bytes came, and what became of them, since the process started.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::{DropReason, Fate};

/// Bytes of records as they came, since the process started. What leaves a queue leaves it block by block: a block's bytes
/// count with its last record, and as what became of that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedBytes {
    /// Came for the sink: appended, or dropped as the newest.
    pub appended: u64,
    /// Acknowledged by the sink.
    pub delivered: u64,
    /// Set aside as dead letters.
    pub set_aside: u64,
    /// Dropped, by reason; absent means none.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl PassedBytes {
    pub(super) fn leave(&mut self, fate: Fate, bytes: u64) {
        fate.add(bytes, &mut self.delivered, &mut self.set_aside, &mut self.dropped);
    }
}
