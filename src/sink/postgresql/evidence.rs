//! Whether a record is at fault whose values the server refuses, or the table: an expression or a trigger of the user's may
//! refuse those of every record.
//!
//! A record that is refused alone is at fault only if others of its stream were stored since the refusal before, not long
//! ago. A batch that is refused is bisected, so that these are its neighbours.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::record::Stream;

/// An older refusal says nothing about the table of today.
const RECENTLY: Duration = Duration::from_secs(60);

/// What was refused and stored last.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    streams: [Mutex<Last>; Stream::ALL.len()],
}

#[derive(Debug, Default)]
struct Last {
    refused: Option<Instant>,
    /// Rows were stored since then.
    has_stored: bool,
}

impl Evidence {
    /// Rows of this stream were stored.
    pub(super) fn stored(&self, stream: Stream) {
        self.streams[stream as usize].lock().has_stored = true;
    }

    /// Values were refused; true if others were stored just before.
    pub(super) fn refused(&self, stream: Stream) -> bool {
        let mut last = self.streams[stream as usize].lock();
        let before = std::mem::replace(&mut *last, Last { refused: Some(Instant::now()), has_stored: false });
        before.has_stored && before.refused.is_some_and(|at| at.elapsed() < RECENTLY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_counts_only_between_others_that_were_stored() {
        let (evidence, stream) = (Evidence::default(), Stream::Events);
        evidence.stored(stream);
        assert!(!evidence.refused(stream), "the table may have changed since");
        assert!(!evidence.refused(stream) && !evidence.refused(stream), "everything is refused");
        evidence.stored(Stream::Stats);
        assert!(!evidence.refused(stream), "another table");
        evidence.stored(stream);
        assert!(evidence.refused(stream));
        evidence.stored(stream);
        tokio::time::advance(RECENTLY).await;
        assert!(!evidence.refused(stream), "long ago");
    }
}
