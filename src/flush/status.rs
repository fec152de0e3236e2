//! A worker's status: one snapshot for the CLI, the page and the metrics.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::environment::Environment;
use crate::{
    histogram::{self, Histogram, HistogramSnapshot},
    record::UnixMillis,
    sink::SinkErrorKind,
};

/// What a sink is doing: reported by its worker, or derived where no worker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinkState {
    /// The sink has not answered yet; nothing has failed so far.
    Connecting,
    /// Records are being delivered.
    Delivering,
    /// The backlog is empty.
    Idle,
    /// The sink accepts no records: backing off, see the last error.
    Unavailable,
    /// The sink refuses the credentials, or their permissions are insufficient: backing off, see the last error.
    Unauthorized,
    /// The sink rejects all records, and they become dead letters; see the last error.
    Rejecting,
    /// Paused by the user.
    Paused,
    /// Records that the sink rejected cannot become dead letters: delivery waits until some are retried or dropped.
    DeadLettersFull,
    /// The spool cannot be read, or cannot record deliveries: backing off, see the last error.
    SpoolFailed,
    /// The last flush at shutdown is running.
    Stopping,
    /// No process delivers.
    Stopped,
    /// The configuration does not name it, and no process delivers.
    NotConfigured,
}

impl SinkState {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Connecting,
        Self::Delivering,
        Self::Idle,
        Self::Unavailable,
        Self::Unauthorized,
        Self::Rejecting,
        Self::Paused,
        Self::DeadLettersFull,
        Self::SpoolFailed,
        Self::Stopping,
        Self::Stopped,
        Self::NotConfigured,
    ];

    /// The state's name, as JSON and the log show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Delivering => "delivering",
            Self::Idle => "idle",
            Self::Unavailable => "unavailable",
            Self::Unauthorized => "unauthorized",
            Self::Rejecting => "rejecting",
            Self::Paused => "paused",
            Self::DeadLettersFull => "dead-letters-full",
            Self::SpoolFailed => "spool-failed",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::NotConfigured => "not-configured",
        }
    }

    /// True if records wait because of a failure.
    #[must_use]
    pub const fn is_failing(self) -> bool {
        matches!(
            self,
            Self::Unavailable
                | Self::Unauthorized
                | Self::Rejecting
                | Self::DeadLettersFull
                | Self::SpoolFailed
                | Self::NotConfigured
        )
    }
}

impl From<SinkErrorKind> for SinkState {
    fn from(kind: SinkErrorKind) -> Self {
        match kind {
            SinkErrorKind::Unauthorized => Self::Unauthorized,
            SinkErrorKind::Unavailable
            | SinkErrorKind::Timeout
            | SinkErrorKind::Full
            | SinkErrorKind::Unsuitable
            | SinkErrorKind::Unnamed => Self::Unavailable,
        }
    }
}

/// What a worker reports of its sink.
#[derive(Debug, Clone, PartialEq)]
pub struct FlushStatus {
    /// The sink's name.
    pub sink: String,
    /// The sink's type, as in the configuration.
    pub kind: String,
    /// Where it delivers to, without secrets.
    pub address: String,
    /// What it is doing.
    pub state: SinkState,
    /// Since when it is in this state (delivering and idle count as one), by the wall clock.
    pub since: UnixMillis,
    /// The last error; kept after the sink has recovered.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<UnixMillis>,
    /// What it has delivered.
    pub figures: FlushFigures,
}

/// A worker's figures since it started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FlushFigures {
    /// Records the sink acknowledged.
    pub delivered_records: u64,
    /// Their bytes, as received.
    pub delivered_bytes: u64,
    /// Batches that were sent, including retries.
    pub batches: u64,
    /// Records that were rejected and became dead letters.
    pub rejected_records: u64,
    /// Records that had to be sent again, by reason.
    pub retried_records: BTreeMap<String, u64>,
    /// Batches in flight.
    pub in_flight: u64,
    /// The current limit of records in a batch (smaller while the sink answers slowly).
    pub batch_records: u64,
    /// From a record's own time to its delivery, in milliseconds; the slowest record of the last batch.
    pub lag_millis: Option<i64>,
    /// When a batch was last acknowledged, milliseconds since the Unix epoch.
    pub last_delivery_at: Option<UnixMillis>,
    /// How long the sink took to answer a batch, in seconds.
    pub latency: HistogramSnapshot,
    /// Records in the batches that were sent.
    pub batch_sizes: HistogramSnapshot,
}

/// Measured at each batch.
#[derive(Debug)]
pub(super) struct Meters {
    pub(super) latency: Histogram,
    pub(super) batch_records: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        Self { latency: Histogram::new(histogram::LATENCY), batch_records: Histogram::new(histogram::RECORDS) }
    }
}

/// The status as the worker maintains it.
#[derive(Debug)]
pub(super) struct Shared {
    environment: Environment,
    status: Mutex<FlushStatus>,
    /// Records that the worker has in memory.
    #[cfg(test)]
    pub(super) in_memory: std::sync::atomic::AtomicUsize,
}

impl Shared {
    pub(super) fn new(environment: Environment, sink: &str, kind: &str, address: String) -> Self {
        let status = Mutex::new(FlushStatus {
            sink: sink.to_owned(),
            kind: kind.to_owned(),
            address,
            state: SinkState::Connecting,
            since: environment.now_millis(),
            last_error: None,
            last_error_at: None,
            figures: FlushFigures::default(),
        });
        Self {
            environment,
            status,
            #[cfg(test)]
            in_memory: Default::default(),
        }
    }

    pub(super) fn snapshot(&self) -> FlushStatus {
        self.status.lock().clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut FlushStatus)) {
        change(&mut self.status.lock());
    }

    /// Enters a state; logs one line if it has changed.
    pub(super) fn enter(&self, state: SinkState, error: Option<&str>) {
        let mut status = self.status.lock();
        if let Some(error) = error {
            status.last_error = Some(error.to_owned());
            status.last_error_at = Some(self.environment.now_millis());
        }
        let was = std::mem::replace(&mut status.state, state);
        let healthy = |state| matches!(state, SinkState::Delivering | SinkState::Idle);
        if was == state || (healthy(was) && healthy(state)) {
            return;
        }
        let now = self.environment.now_millis();
        let after_seconds = (now - std::mem::replace(&mut status.since, now)) / 1000;
        let are_rejected = state == SinkState::Rejecting;
        let (sink, address, state) = (&status.sink, &status.address, state.as_str());
        match error {
            Some(error) if are_rejected => {
                tracing::warn!(%sink, %address, state, error, "sink is {state}: records become dead letters");
            }
            Some(error) => tracing::warn!(%sink, %address, state, error, "sink is {state}: records wait in the spool"),
            None => tracing::info!(%sink, %address, state, was = was.as_str(), after_seconds, "sink is {state}"),
        }
    }
}
