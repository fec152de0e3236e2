//! Empties queues at the user's word.

use std::{io, sync::Arc, time::Duration};

use serde::Serialize;

use super::{QueueError, core::Core, state::Size};
use crate::record::Stream;

/// How long to wait for the note that says so to be durable.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a purge removed from one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// The stream.
    pub stream: Stream,
    /// Records that were to be delivered.
    pub records: u64,
    /// The journal blocks that held them.
    pub blocks: u64,
    /// Bytes of these blocks on disk; they are given back within seconds.
    pub bytes: u64,
}

/// Drops all that the streams hold, handed-out records too; returns when that is durable.
pub(super) async fn purge(core: &Arc<Core>, streams: &[Stream]) -> Result<Vec<Purged>, QueueError> {
    let mut removed = Vec::new();
    let mut ends = Vec::new();
    {
        let mut books = core.books.lock();
        let mut inbox = core.inbox.lock();
        for &stream in streams {
            let live = &books.streams[stream as usize].live;
            let (records, Size { blocks, bytes, .. }, end) = (live.records(), live.size, live.next);
            removed.push(Purged { stream, records, blocks, bytes });
            if let Some(note) = books.purge(stream) {
                inbox.add_note(&note);
                ends.push((stream, end));
            }
        }
        inbox.hurry = !ends.is_empty();
        // Nothing is left: the old segments can go at once.
        inbox.roll |= !ends.is_empty() && books.streams.iter().all(|stream| stream.live.records() == 0);
        core.mail.notify_one();
    }
    let durable = || {
        let books = core.books.lock();
        ends.iter().all(|&(stream, end)| books.streams[stream as usize].durable.head >= end)
    };
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let published = core.published.notified();
            tokio::pin!(published);
            published.as_mut().enable();
            if durable() {
                return;
            }
            published.await;
        }
    });
    waited.await.map_err(|_| QueueError::Io {
        path: core.folder.display().to_string(),
        source: io::Error::new(
            io::ErrorKind::TimedOut,
            "the queue is empty, but the journal does not take a note of it",
        ),
    })?;
    Ok(removed)
}
