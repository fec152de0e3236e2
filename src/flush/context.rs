//! What a worker's loop and its tasks share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{environment::Environment, status::Meters};
use crate::{sink::Sink, spool::Queue};

/// What a task needs of its worker; cheap to clone.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) environment: Environment,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) sink: Arc<dyn Sink>,
    /// How long one batch may take.
    pub(super) timeout: Duration,
    /// Cancels what is in flight at the end of the last flush.
    pub(super) cancel: CancellationToken,
    pub(super) meters: Arc<Meters>,
    /// Records that the sink took or rejected by name, all tasks together.
    accepted: Arc<AtomicU64>,
}

impl Context {
    pub(super) fn new(
        environment: Environment,
        queue: Arc<dyn Queue>,
        sink: Arc<dyn Sink>,
        timeout: Duration,
        meters: Arc<Meters>,
    ) -> Self {
        let (cancel, accepted) = (CancellationToken::new(), Arc::default());
        Self { environment, queue, sink, timeout, cancel, meters, accepted }
    }

    /// Records that the sink accepted so far, all tasks together.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn add_accepted(&self, records: u64) {
        self.accepted.fetch_add(records, Ordering::Relaxed);
    }
}
