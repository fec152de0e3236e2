//! How many bytes came, and what became of them, since the process started.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::queue::DropReason;

/// Bytes of records as they came, since the process started. What leaves a queue counts with its share of its blocks; with the
/// last record of a block all of its bytes are counted.
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
