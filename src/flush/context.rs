//! What a worker's loop and its tasks share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{FlushOptions, environment::Environment, status::Meters, suspicion::Evidence};
use crate::{sink::Sink, spool::Queue};

/// What a task needs from its worker; cheap to clone.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) environment: Environment,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) sink: Arc<dyn Sink>,
    /// How long one batch may take.
    pub(super) timeout: Duration,
    /// Cancels the batches in flight at the end of the last flush.
    pub(super) cancel: CancellationToken,
    pub(super) meters: Arc<Meters>,
    /// The evidence against records that fail while others are delivered.
    pub(super) evidence: Arc<Mutex<Evidence>>,
    /// Records that the sink accepted, over all tasks.
    delivered: Arc<AtomicU64>,
    answered: Arc<Mutex<Option<Answered>>>,
}

/// The last answer of a sink to a batch, whatever it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) at: Instant,
    /// How long the sink took.
    pub(super) latency: Duration,
}

impl Context {
    pub(super) fn new(
        environment: Environment,
        queue: Arc<dyn Queue>,
        sink: Arc<dyn Sink>,
        options: &FlushOptions,
        meters: Arc<Meters>,
    ) -> Self {
        let (cancel, delivered, answered) = (CancellationToken::new(), Arc::default(), Arc::default());
        let evidence = Arc::new(Mutex::new(Evidence::new(options.reject_after)));
        Self { environment, queue, sink, timeout: options.timeout, cancel, meters, evidence, delivered, answered }
    }

    /// Records that the sink accepted so far, over all tasks. Rejected records are not counted: they say nothing about
    /// the others.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(super) fn add_delivered(&self, records: u64) {
        self.delivered.fetch_add(records, Ordering::Relaxed);
    }

    /// The sink's last answer, over all tasks: a task may send many parts of its batch.
    pub(super) fn answered(&self) -> Option<Answered> {
        *self.answered.lock()
    }

    /// The sink answered a batch that was sent then.
    pub(super) fn set_answered(&self, sent_at: Instant) {
        let at = Instant::now();
        *self.answered.lock() = Some(Answered { at, latency: at - sent_at });
    }
}
