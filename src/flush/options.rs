//! How a worker makes batches, and what it does when its sink does not take them.

use std::time::Duration;

/// How a sink's worker makes batches, limits their rate and retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushOptions {
    /// A batch that is not full goes out when its first record has waited this long.
    pub interval: Duration,
    /// Records in a batch at most, at least 1.
    pub batch_records: usize,
    /// Bytes of records in a batch at most; a larger record goes alone.
    pub batch_bytes: usize,
    /// Batches in flight at once at most, at least 1; 1 keeps strict order. Where the sink answers slowly there are fewer.
    pub max_in_flight: usize,
    /// Records a second at most; 0: no limit. What is in flight follows the sink's latency by itself, so this is not needed
    /// to protect a server that recovers. It is for what latency does not show: a share of the server that others must
    /// keep, a quota or a price per request, a network that is paid by its use.
    pub max_rate: u64,
    /// The pauses while the sink is unavailable.
    pub backoff: BackoffOptions,
    /// How long one batch may take before it counts as failed.
    pub timeout: Duration,
    /// How long a record that its sink refuses by name, for a reason that may pass, has to go on failing alone, others being
    /// delivered just before it fails again, before it becomes a dead letter.
    pub reject_after: Duration,
    /// How long the last flush at shutdown may take; what is left stays on disk.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffOptions {
    /// The first pause at most.
    pub initial: Duration,
    /// Any pause at most.
    pub max: Duration,
}

impl Default for BackoffOptions {
    fn default() -> Self {
        Self { initial: Duration::from_millis(200), max: Duration::from_secs(30) }
    }
}
