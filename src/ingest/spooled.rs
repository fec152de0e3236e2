//! How ingest sees a spool: it makes batches durable, or says why not, in words for senders and without paths of this
//! machine.

use async_trait::async_trait;

use super::Refused;
use crate::{
    record::RecordBatch,
    spool::{AppendError, Appended, Spool},
};

/// Where batches become durable: a spool.
#[async_trait]
pub trait Append: Send + Sync + 'static {
    /// Returns when the whole batch is durable, or when the spool has dropped it by the user's policy.
    async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend>;

    /// The same if the call waits for nothing else: the calling thread may be blocked meanwhile.
    async fn append_alone(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        self.append(batch).await
    }

    /// True if it may drop, and count, what it has no space for.
    fn drops_newest(&self) -> bool {
        false
    }

    /// Counts records that it missed of calls that are answered OK; the count survives a kill. Blocking.
    fn count_missed(&self, _records: u64) {}
}

/// Why a spool refused a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CannotAppend {
    /// `Full` (a quota, the disk), `Unavailable` (it cannot write, or is closed) or `TooLarge` (it never fits).
    pub reason: Refused,
    /// For the sender: what happened, and the remedy.
    pub message: String,
}

#[async_trait]
impl Append for Spool {
    async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        Self::append(self, batch).await.map_err(CannotAppend::from)
    }

    async fn append_alone(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        self.append_in_place(batch).await.map_err(CannotAppend::from)
    }
}

impl From<AppendError> for CannotAppend {
    fn from(error: AppendError) -> Self {
        let (reason, message) = match error {
            AppendError::Full { limit, .. } => (Refused::Full, format!("its spool is full: {limit}: try again later")),
            AppendError::Io { source, .. } => (Refused::Unavailable, format!("its spool cannot be written: {source}")),
            AppendError::TooLong { bytes, most } => {
                (Refused::TooLarge, format!("a record of {bytes} bytes is too long: at most {most}"))
            }
            AppendError::NeverFits { bytes, max, .. } => (
                Refused::TooLarge,
                format!(
                    "a request of {bytes} bytes never fits into its spool, which holds {max} bytes of records at most: send \
                     smaller ones, or raise spool.max_bytes"
                ),
            ),
            AppendError::Closed { .. } => (Refused::Unavailable, "its spool is closing: try again later".to_owned()),
        };
        Self { reason, message }
    }
}
