//! The intake's view of a spool: batches become durable there, or it says why not, in the words that senders get and without
//! paths of this machine.

use async_trait::async_trait;

use super::Refused;
use crate::{
    record::RecordBatch,
    spool::{AppendError, Appended, Spool},
};

/// Where batches become durable: a spool.
#[async_trait]
pub trait Append: Send + Sync + 'static {
    /// Returns when the batch is durable, all of it, or when the spool has dropped it by the policy that the user chose.
    async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend>;

    /// The same where the call waits for nothing else: the calling thread may be blocked meanwhile.
    async fn append_alone(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        self.append(batch).await
    }

    /// True where it may drop, and count, what it has no room for.
    fn drops_newest(&self) -> bool {
        false
    }

    /// Notes that it did not get so many records of calls that are answered OK: a kill does not take that. Blocking.
    fn count_missed(&self, _records: u64) {}
}

/// A spool did not take a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CannotAppend {
    /// `Full` (a quota, the disk), `Unavailable` (it cannot write, or was closed) or `TooLarge` (it never takes that).
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
                    "a request of {bytes} bytes never fits into its spool, which takes {max} bytes of records at most: send \
                     smaller ones, or raise spool.max_bytes"
                ),
            ),
            AppendError::Closed { .. } => (Refused::Unavailable, "its spool is closing: try again later".to_owned()),
        };
        Self { reason, message }
    }
}
