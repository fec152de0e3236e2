//! Why records were refused, for the sender (in the form of each protocol) and for the counters.

use super::{CannotAppend, Refused};
use crate::record::SinkName;

/// Records that were refused. The message names the remedy, and contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The cause.
    pub reason: Refused,
    /// The message for people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub(super) fn new(reason: Refused, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A sink's spool refuses them.
    pub(crate) fn of(sink: &SinkName, error: CannotAppend) -> Self {
        Self::new(error.reason, format!("sink {sink}: {}", error.message))
    }

    /// True if sending the same again later can help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self.reason {
            Refused::Full
            | Refused::Unavailable
            | Refused::Memory
            | Refused::Timeout
            | Refused::Aborted
            | Refused::Streams
            | Refused::Connections
            | Refused::Handshake
            | Refused::Stopping => true,
            Refused::Invalid
            | Refused::TooLarge
            | Refused::Unsupported
            | Refused::Path
            | Refused::Method
            | Refused::Unauthenticated => false,
        }
    }
}

impl From<super::wire::WireError> for Refusal {
    fn from(error: super::wire::WireError) -> Self {
        let reason = match error {
            super::wire::WireError::TooManyRecords { .. } => Refused::TooLarge,
            _ => Refused::Invalid,
        };
        Self::new(reason, error.to_string())
    }
}
