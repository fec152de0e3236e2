//! Tasks that run concurrently with the worker's loop: a batch's delivery, and its removal from the queue.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    context::Context,
    deliver::{DeliveryResult, deliver, unexplained},
    in_flight::{InFlightBatch, ranges},
    suspicion::Suspicion,
};
use crate::{
    record::{QueuedRecord, Stream, UnixMillis, time_of},
    sink::{Outcome, SinkError, SinkErrorKind},
    spool::{QueueError, Rejection},
};

/// The most kinds of reasons by which failed records of a batch are distinguished.
const MAX_REASONS: usize = 8;

/// What a task reports.
pub(super) enum TaskResult {
    /// The sink was initialized, with these warnings; or that failed.
    Initialized(Result<Vec<String>, SinkError>),
    /// The sink has loaded what it delivered since then; or that failed.
    DeliveredLoaded(Option<UnixMillis>, Result<(), SinkError>),
    /// A batch was tried.
    Sent(Box<Sent>),
    /// Suspects were tried alone around another record: the result of that one, and theirs.
    Tried(Box<Sent>, Box<Sent>),
}

/// The result of a batch.
pub(super) struct Sent {
    pub(super) batches: u64,
    pub(super) delivered: u64,
    pub(super) delivered_bytes: u64,
    pub(super) rejected: u64,
    pub(super) lag_millis: Option<i64>,
    /// How many records and bytes were sent first, and how long the sink took to answer if that was one batch.
    pub(super) records: usize,
    pub(super) bytes: u64,
    pub(super) latency: Option<Duration>,
    /// Why the last rejected record was rejected.
    pub(super) rejected_for: Option<String>,
    /// What is to be tried again, and why: what the sink left, and what it failed by name.
    pub(super) leftovers: Vec<(InFlightBatch, SinkError)>,
    /// Others were delivered since these were first sent, or last failed.
    pub(super) others_delivered: bool,
    /// Records that were delivered, over all tasks, when this one ended.
    pub(super) delivered_total: u64,
    /// The outcomes that the queue could not record.
    pub(super) unsettled: Option<(Unsettled, QueueError)>,
}

/// Outcomes that the queue still has to record.
#[derive(Debug, Clone)]
pub(super) struct Unsettled {
    pub(super) stream: Stream,
    pub(super) acknowledged: Vec<Range<u64>>,
    pub(super) rejections: Vec<Rejection>,
}

/// Connects to the sink and initializes it.
pub(super) async fn initialize(context: Context) -> TaskResult {
    let unavailable = |message| Err(SinkError { kind: SinkErrorKind::Unavailable, message });
    // A sink may try several things in turn, each within the timeout of a batch.
    let timeout = context.timeout * 4;
    TaskResult::Initialized(tokio::select! {
        biased;
        () = context.cancel.cancelled() => unavailable("stopping".to_owned()),
        result = tokio::time::timeout(timeout, context.sink.initialize()) => match result {
            Ok(result) => result,
            Err(_) => unavailable(format!("{}: not ready within {timeout:?}", context.sink.address())),
        },
    })
}

/// Lets the sink check what it set up.
pub(super) async fn check_setup(context: Context) -> Result<Vec<String>, SinkError> {
    let timeout = context.timeout * 4;
    let checked = tokio::time::timeout(timeout, context.sink.check_setup()).await;
    checked.unwrap_or_else(|_| {
        let message = format!("{}: no answer within {timeout:?}", context.sink.address());
        Err(SinkError { kind: SinkErrorKind::Timeout, message })
    })
}

/// Lets the sink load what it delivered since then, because the queue may redeliver it.
pub(super) async fn load_delivered(context: Context, since: Option<UnixMillis>) -> TaskResult {
    let stopping = || Err(SinkError { kind: SinkErrorKind::Unavailable, message: "stopping".to_owned() });
    // Without a timeout: there may be many files to read.
    let result = tokio::select! {
        biased;
        () = context.cancel.cancelled() => stopping(),
        result = context.sink.load_delivered(since.unwrap_or(UnixMillis::MAX)) => result,
    };
    TaskResult::DeliveredLoaded(since, result)
}

/// Sends a batch, removes delivered records from the queue, makes dead letters of rejected ones.
pub(super) async fn send(context: Context, batch: InFlightBatch) -> TaskResult {
    let result = deliver(&context, &batch).await;
    TaskResult::Sent(Box::new(complete(&context, &batch, result).await))
}

/// Removes delivered records from the queue, makes dead letters of rejected ones.
pub(super) async fn complete(context: &Context, batch: &InFlightBatch, result: DeliveryResult) -> Sent {
    let DeliveryResult { outcomes, error, failed_alone, batches, latency, delivered_total } = result;
    let now = Instant::now();
    let mut sent = Sent {
        batches,
        delivered: 0,
        delivered_bytes: 0,
        rejected: 0,
        lag_millis: None,
        records: batch.records.len(),
        bytes: batch.bytes(),
        latency,
        rejected_for: None,
        leftovers: Vec::new(),
        others_delivered: batch.delivered_then.is_some_and(|then| then < delivered_total),
        delivered_total,
        unsettled: None,
    };
    let (mut delivered, mut rejections) = (Vec::with_capacity(outcomes.len()), Vec::new());
    let (mut left, mut failed) = (Vec::new(), Vec::<Failed>::new());
    let rejection = |record: &QueuedRecord, reason| Rejection {
        record: record.clone(),
        reason,
        attempts: batch.attempts + 1,
        first_attempt_at: batch.first_attempt_at,
    };
    for (record, outcome) in batch.records.iter().zip(outcomes) {
        match outcome {
            Outcome::Delivered => {
                delivered.push(record.seq);
                sent.delivered_bytes += record.bytes.len() as u64;
            }
            Outcome::Rejected(reason) => rejections.push(rejection(record, reason)),
            Outcome::Retry => left.push(record.clone()),
            Outcome::Failed(reason) => {
                let mut suspicion = Suspicion::after_failure(batch.suspicion.as_ref(), &reason);
                if failed_alone && context.evidence.lock().failed_alone(&mut suspicion, now) {
                    rejections.push(rejection(record, reason));
                    continue;
                }
                let alike = failed.iter().position(|alike| alike.suspicion == suspicion);
                match alike.or_else(|| (failed.len() >= MAX_REASONS).then_some(0)) {
                    Some(i) => failed[i].records.push(record.clone()),
                    None => failed.push(Failed { records: vec![record.clone()], suspicion, reason }),
                }
            }
        }
    }
    sent.delivered = delivered.len() as u64;
    sent.rejected = rejections.len() as u64;
    sent.rejected_for = rejections.last().map(|rejection| rejection.reason.clone());
    if sent.delivered > 0 {
        sent.lag_millis = lag(context, batch);
        if let Some(suspicion) = &batch.suspicion {
            context.evidence.lock().delivered(suspicion, now);
        }
    }
    let outcomes = Unsettled { stream: batch.stream, acknowledged: ranges(delivered), rejections };
    sent.unsettled = settle(context, outcomes).await.err().map(|unsettled| *unsettled);
    let attempts = batch.attempts + 1;
    let part = |records: Vec<QueuedRecord>, suspicion| InFlightBatch {
        records: if batch.attempts == 0 { records.iter().map(detached).collect() } else { records.into() },
        attempts,
        suspicion,
        ..batch.clone()
    };
    for Failed { records, suspicion, reason } in failed {
        let error = SinkError { kind: SinkErrorKind::Unnamed, message: reason };
        sent.leftovers.push((part(records, Some(suspicion)), error));
    }
    if !left.is_empty() {
        let error = error.unwrap_or_else(unexplained);
        sent.leftovers.push((part(left, None), error));
    }
    sent
}

/// A copy that does not keep the whole block in memory: few records of a block may be held, for a long time.
fn detached(record: &QueuedRecord) -> QueuedRecord {
    QueuedRecord { bytes: Bytes::copy_from_slice(&record.bytes), ..*record }
}

/// Records that failed for one kind of reason.
struct Failed {
    records: Vec<QueuedRecord>,
    suspicion: Suspicion,
    reason: String,
}

/// Records outcomes in the queue; returns those that it could not record.
pub(super) async fn settle(context: &Context, outcomes: Unsettled) -> Result<(), Box<(Unsettled, QueueError)>> {
    let Unsettled { stream, acknowledged, rejections } = outcomes;
    let mut failed = None;
    let mut remaining = Unsettled { stream, acknowledged: Vec::new(), rejections: Vec::new() };
    if !acknowledged.is_empty() {
        let (queue, seqs) = (Arc::clone(&context.queue), acknowledged.clone());
        let removed = context.environment.run_blocking(move || queue.acknowledge(stream, &seqs)).await;
        if let Err(error) = removed.unwrap_or_else(|panic| Err(panicked(panic))) {
            failed = Some(error);
            remaining.acknowledged = acknowledged;
        }
    }
    if !rejections.is_empty() {
        let (queue, rejected) = (Arc::clone(&context.queue), rejections.clone());
        let removed = context.environment.run_blocking(move || queue.dead_letter(stream, rejected)).await;
        if let Err(error) = removed.unwrap_or_else(|panic| Err(panicked(panic))) {
            failed = Some(error);
            remaining.rejections = rejections;
        }
    }
    match failed {
        Some(error) => Err(Box::new((remaining, error))),
        None => Ok(()),
    }
}

/// A panic in an implementation of the queue, as an error.
pub(super) fn panicked(message: String) -> QueueError {
    QueueError::Io { path: "(queue)".to_owned(), source: std::io::Error::other(message) }
}

/// From a record's own time to now, the slower of the batch's ends: reading every record would cost more than the
/// figure is worth.
fn lag(context: &Context, batch: &InFlightBatch) -> Option<i64> {
    let now = context.environment.now_millis();
    let ends = [batch.records.first()?, batch.records.last()?];
    ends.into_iter().filter_map(|record| time_of(batch.stream, &record.bytes)).map(|at| now - at).max()
}

/// Counts retried records by reason.
pub(super) fn count_retries(counts: &mut BTreeMap<String, u64>, sent: &Sent) {
    for (leftover, error) in &sent.leftovers {
        *counts.entry(error.kind.as_str().to_owned()).or_default() += leftover.records.len() as u64;
    }
}
