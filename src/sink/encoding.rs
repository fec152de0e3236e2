//! A batch becomes documents off the async threads, a part at a time.
//!
//! Documents may be many times as large as the records they are made of: a batch is small by its records' bytes, and its
//! documents would take up gigabytes. Each sink makes, sends and drops so many bytes of them at a time ([`PART_BYTES`]).
//! One document is bounded by its encoder, in bytes and in work; and nothing more is made of a batch that nobody waits
//! for any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::{JoinError, spawn_blocking};

use super::{Batch, BatchOutcome, Outcome, SinkError, SinkErrorKind};

/// Documents of one batch that are in memory at once, bytes, and the last one beyond. Ordinary batches are one part.
pub(super) const PART_BYTES: usize = 8 << 20;

/// Tells whether a batch was given up: timed out, or cancelled.
#[derive(Debug, Clone, Default)]
pub(super) struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    /// Asked before each record.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gives up when dropped.
struct Waits(GivenUp);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a part of a batch's work on a thread that may block; it is told when the caller is dropped.
///
/// # Errors
/// When it panics.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce(&GivenUp) -> T + Send + 'static,
) -> Result<T, JoinError> {
    let waits = Waits(GivenUp::default());
    let given_up = waits.0.clone();
    spawn_blocking(move || work(&given_up)).await
}

/// The answer to a batch whose encoding panicked: a bug of ours, which only one of its records may touch.
pub(super) fn panicked(batch: &Batch, address: &str, panic: &JoinError) -> BatchOutcome {
    let message = format!("{address}: encoding failed: {panic}");
    let error = Some(SinkError { kind: SinkErrorKind::Unnamed, message });
    BatchOutcome { records: vec![Outcome::Retry; batch.records.len()], error }
}

/// Records that are small, and their documents fifty times as large.
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
    async fn work_is_told_when_nobody_waits_for_it_any_more_and_not_before() {
        assert!(!run_blocking(GivenUp::is_set).await.unwrap());
        let (sender, told) = std::sync::mpsc::channel();
        let work = run_blocking(move |given_up| {
            while !given_up.is_set() {
                std::thread::sleep(Duration::from_millis(1));
            }
            sender.send(()).unwrap();
        });
        tokio::time::timeout(Duration::from_millis(10), work).await.unwrap_err();
        tokio::task::spawn_blocking(move || told.recv()).await.unwrap().unwrap();
    }
}
