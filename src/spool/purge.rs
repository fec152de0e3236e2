//! Purges queues when the user asks for it.

use serde::Serialize;

use super::{
    QueueError,
    journal::{segment, writer::Refusal},
    shared::Shared,
    store::Store,
    totals::{Disposition, DropReason},
};
use crate::record::Stream;

/// What a purge removed from one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// The stream.
    pub stream: Stream,
    /// Records that were to be delivered.
    pub records: u64,
    /// The journal blocks that contained them.
    pub blocks: u64,
    /// Bytes of these blocks on disk; they are freed within seconds.
    pub bytes: u64,
}

/// Drops everything that the streams hold, including leased records, and fails if some could not be read and therefore
/// not be dropped. Returns when it is durable: a new segment's front records it or, on a full disk, the queue does.
/// Blocking.
pub(super) fn purge(shared: &Shared, streams: &[Stream]) -> Result<Vec<Purged>, QueueError> {
    let mut removed = Vec::new();
    for &stream in streams {
        let (size, next) = {
            let state = shared.store.state.lock();
            (state.streams[stream as usize].size, state.streams[stream as usize].next)
        };
        let records = shared.store.finish(stream, &[0..next], Disposition::Dropped(DropReason::Purged));
        removed.push(Purged { stream, records, blocks: size.blocks, bytes: size.bytes });
    }
    if removed.iter().any(|purged| purged.records > 0) {
        shared.store.flush();
        let rolled = shared.store.roll();
        shared.store.retain();
        shared.maintenance.wake();
        if let (Err(refusal), (false, _)) = (rolled, shared.store.queue_health()) {
            let source = match refusal {
                Refusal::Io(error) => error,
                refusal => std::io::Error::other(format!("{refusal:?}")),
            };
            return Err(shared.io_error(source));
        }
    }
    check_read(&shared.store).map(|()| removed)
}

/// Fails if some dead letters could not be read and therefore not be dropped.
pub(super) fn check_dead_letters_read(shared: &Shared) -> Result<(), QueueError> {
    check_read(shared.dead.store())
}

fn check_read(store: &Store) -> Result<(), QueueError> {
    let Some(&segment) = store.unread_segments().first() else { return Ok(()) };
    let path = segment::path(&store.journal(), segment).display().to_string();
    let source = std::io::Error::other(
        "it cannot be read now: its records are not purged, the others are; purge again when it can be read",
    );
    Err(QueueError::Io { path, source })
}
