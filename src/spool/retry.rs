//! Gives dead letters another try: they go into the queue again, as new records, and stay in the dead letters until the
//! sink has taken them. What is rejected again keeps its history.

use std::sync::Arc;

use super::{
    AppendError, QueueError, Spool,
    dead::{DeadFilter, DeadLetter},
};
use crate::record::RecordBatchBuilder;

/// Letters that are queued again at once.
const PAGE: usize = 500;

/// Why dead letters were not queued again. Those before the failure were.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// They cannot be read, or the note that they are tried again cannot be written.
    #[error(transparent)]
    Letters(#[from] QueueError),
    /// The queue does not take them.
    #[error(transparent)]
    Queue(#[from] AppendError),
}

/// Queues the letters that a filter means again, oldest first; answers how many.
pub(super) async fn retry(spool: &Spool, filter: &DeadFilter) -> Result<u64, RetryError> {
    let mut retried = 0;
    loop {
        let (core, page) = (Arc::clone(&spool.core), filter.clone());
        let letters =
            blocking(spool, move || core.dead.not_retried(&page, PAGE).map_err(|e| core.dead_error(e))).await?;
        if letters.is_empty() {
            return Ok(retried);
        }
        for group in letters.chunk_by(|a, b| (a.stream, a.received_at) == (b.stream, b.received_at)) {
            retried += group.len() as u64;
            queue_again(spool, group).await?;
        }
    }
}

/// Queues letters of one stream and time.
async fn queue_again(spool: &Spool, letters: &[DeadLetter]) -> Result<(), RetryError> {
    let Some(first) = letters.first() else { return Ok(()) };
    let mut builder = RecordBatchBuilder::new(first.stream);
    letters.iter().for_each(|letter| builder.push(&letter.record));
    let ordinal = spool.append_once(builder.build(first.received_at)).await?;
    let marks = letters.iter().zip(ordinal..).map(|(letter, ordinal)| (letter.stream, letter.id.clone(), ordinal));
    let (core, marks) = (Arc::clone(&spool.core), marks.collect());
    blocking(spool, move || core.dead.mark_retried(marks).map_err(|error| core.dead_error(error))).await?;
    spool.core.keeper.ring();
    Ok(())
}

async fn blocking<T: Send + 'static>(
    spool: &Spool,
    work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(QueueError::Io { path: spool.core.folder.display().to_string(), source: std::io::Error::other(panic) })
    })
}
