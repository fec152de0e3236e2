//! What a session is made of.

use serde_json::Value;

/// The documents of a room as they were stored; integers as JSON numbers (or strings of digits), times as they are in records
/// (`{seconds, nanos}`).
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// Of AnalyticsEvent.
    pub events: Vec<Value>,
    /// Of AnalyticsStat.
    pub stats: Vec<Value>,
}
