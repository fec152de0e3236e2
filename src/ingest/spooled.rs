//! The intake's view of a real spool: its errors in the words that senders get, without paths of this machine.

use async_trait::async_trait;

use super::{Append, CannotAppend, Refused};
use crate::{
    record::RecordBatch,
    spool::{AppendError, Appended, Spool},
};

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
