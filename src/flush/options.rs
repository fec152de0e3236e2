//! How a worker makes batches, and what it does when its sink does not accept them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::setting::{Count, DAY, GIB, HOUR, Is, KIB, Size, Span};

/// How a sink is delivered to.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlushOptions {
    /// (reload) a batch that is not full goes out when its first record has waited this long
    #[serde_as(as = "Is<Span<1, DAY>>")]
    pub interval: Duration,
    /// (reload) records in a batch at most
    #[serde_as(as = "Is<Count<1, 100_000>>")]
    pub batch_records: usize,
    /// (reload) bytes of records in a batch at most; a larger record goes alone
    #[serde_as(as = "Is<Size<KIB, GIB>>")]
    pub batch_bytes: usize,
    /// (reload) batches in flight at once, fewer while the sink is slow; 1: strict order
    #[serde_as(as = "Is<Count<1, 64>>")]
    pub max_in_flight: usize,
    // What is in flight follows the sink's latency by itself: this is for what latency does not show.
    /// (reload) records a second at most, for a quota, a price per request, or capacity reserved for others; 0: no limit
    #[serde_as(as = "Is<Count<0, 1_000_000_000>>")]
    pub max_rate: u64,
    /// While a sink is unavailable: doubling, with full jitter.
    pub backoff: BackoffOptions,
    /// (reload) a batch without an answer by then is sent again
    #[serde_as(as = "Is<Span<100, HOUR>>")]
    pub timeout: Duration,
    /// How long a record that its sink fails by name, for a reason that may pass, has to fail alone, while others are
    /// delivered just before each failure, until it becomes a dead letter.
    #[serde(skip)]
    pub reject_after: Duration,
    /// How long the last flush at shutdown may take; what is left stays on disk.
    #[serde(skip)]
    pub shutdown_timeout: Duration,
}

impl Default for FlushOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            batch_records: 1000,
            batch_bytes: 4 << 20,
            max_in_flight: 2,
            max_rate: 0,
            backoff: BackoffOptions::default(),
            timeout: Duration::from_secs(30),
            reject_after: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// Exponential backoff with full jitter: each pause is random, up to a limit that doubles from `initial` to `max`.
#[serde_as]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackoffOptions {
    /// (reload) the first pause at most
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub initial: Duration,
    /// (reload) any pause at most
    #[serde_as(as = "Is<Span<1, DAY>>")]
    pub max: Duration,
}

impl Default for BackoffOptions {
    fn default() -> Self {
        Self { initial: Duration::from_millis(200), max: Duration::from_secs(30) }
    }
}
