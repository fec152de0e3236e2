//! Encodes a batch as documents, off the async threads, a part at a time.
//!
//! Documents may be many times as large as their records: the records of a batch may be small, and its documents gigabytes.
//! Each sink encodes, sends and drops a limited number of bytes at a time ([`PART_BYTES`]). The encoder bounds each
//! document in bytes and in work. Encoding stops when nobody waits for the batch any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinError;

use super::{Batch, BatchOutcome, Outcome, SinkError, SinkErrorKind};
use crate::tasks;

/// Bytes of a batch's documents that are in memory at once, plus the last document. An ordinary batch is one part.
pub(super) const PART_BYTES: usize = 8 << 20;

/// Tells whether a batch was cancelled: by its timeout or by a stop.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    /// Checked before each record.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Cancels when dropped.
struct Waits(Cancelled);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a part of a batch's work on a thread that may block; it learns when the caller is dropped.
///
/// # Errors
/// When it panics.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce(&Cancelled) -> T + Send + 'static,
) -> Result<T, JoinError> {
    let waits = Waits(Cancelled::default());
    let cancelled = waits.0.clone();
    tasks::run_blocking(move || work(&cancelled)).await
}

/// The result of a batch whose encoding panicked: a bug of ours that may concern only one of its records.
pub(super) fn panicked(batch: &Batch, address: &str, panic: &JoinError) -> BatchOutcome {
    let message = format!("{address}: encoding failed: {panic}");
    let error = Some(SinkError { kind: SinkErrorKind::Unnamed, message });
    BatchOutcome { records: vec![Outcome::Retry; batch.records.len()], error }
}

/// Small records whose documents are fifty times as large.
#[cfg(test)]
pub(super) fn small_records_of_large_documents(records: u64) -> super::Batch {
    use livekit_protocol::{AnalyticsEvent, EgressInfo, ImageOutput, RoomCompositeEgressRequest, egress_info::Request};
    use prost::Message;

    let request =
        RoomCompositeEgressRequest { image_outputs: vec![ImageOutput::default(); 2000], ..Default::default() };
    let egress = EgressInfo { request: Some(Request::RoomComposite(request)), ..Default::default() };
    let event = AnalyticsEvent { egress: Some(egress), ..Default::default() };
    let record = |seq| {
        let bytes = AnalyticsEvent { id: format!("AE_{seq}"), ..event.clone() }.encode_to_vec();
        crate::record::QueuedRecord { seq, received_at: 0, bytes: bytes.into() }
    };
    super::Batch { stream: crate::record::Stream::Events, records: (0..records).map(record).collect() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_learns_when_nobody_waits_for_it_any_more_and_not_before() {
        assert!(!run_blocking(Cancelled::is_set).await.unwrap());
        let (sender, noticed) = std::sync::mpsc::channel();
        let work = run_blocking(move |cancelled| {
            while !cancelled.is_set() {
                std::thread::sleep(Duration::from_millis(1));
            }
            sender.send(()).unwrap();
        });
        tokio::time::timeout(Duration::from_millis(10), work).await.unwrap_err();
        tokio::task::spawn_blocking(move || noticed.recv()).await.unwrap().unwrap();
    }
}
