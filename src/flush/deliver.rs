//! Sends one batch to the sink: as a whole at first; bisected if the sink fails without naming a record.
//!
//! A record that fails alone while others are delivered counts as failed by name, like one that the sink named: it is
//! tried again, and [tried alone](super::trial) for the evidence that [`suspicion`](super::suspicion) requires. It is
//! never rejected because the sink was unavailable. If nothing is delivered at all, the fault is the sink's, and every
//! record stays.

use std::time::Duration;

use tokio::time::Instant;

use super::{context::Context, in_flight::InFlightBatch};
use crate::sink::{Batch, BatchOutcome, Outcome, SinkError, SinkErrorKind};

/// A bisection ends when this many records failed alone and none was delivered: the next one begins elsewhere.
const MAX_ALONE_WHILE_NONE_PASSES: usize = 8;

/// The result of a batch.
#[derive(Debug)]
pub(super) struct DeliveryResult {
    /// One per record.
    pub(super) outcomes: Vec<Outcome>,
    /// Why some are to be retried.
    pub(super) error: Option<SinkError>,
    /// The failed records failed alone, just before and just after another record was accepted.
    pub(super) failed_alone: bool,
    /// How long the sink took to answer the whole batch, if it was sent as a whole.
    pub(super) latency: Option<Duration>,
    /// How many batches were sent.
    pub(super) batches: u64,
    /// How many records the sink has accepted so far: a later retry compares with it.
    pub(super) delivered_total: u64,
}

/// Sends a batch until each record has an outcome.
pub(super) async fn deliver(context: &Context, batch: &InFlightBatch) -> DeliveryResult {
    let all: Vec<usize> = (0..batch.records.len()).collect();
    let outcomes = vec![Outcome::Retry; all.len()];
    let delivered_then = batch.delivered_then.unwrap_or_else(|| context.delivered());
    let mut attempt = Attempt { context, batch, outcomes, delivered_then, batches: 0, alone: Vec::new() };
    let begun = Instant::now();
    let (_, mut error) = attempt.send(&all).await;
    let latency = Some(begun.elapsed());
    if error.as_ref().is_some_and(|error| error.kind == SinkErrorKind::Unnamed) {
        error = attempt.bisect(all, error).await;
    }
    DeliveryResult {
        outcomes: attempt.outcomes,
        error,
        failed_alone: false,
        batches: attempt.batches,
        latency,
        delivered_total: context.delivered(),
    }
}

struct Attempt<'a> {
    context: &'a Context,
    batch: &'a InFlightBatch,
    outcomes: Vec<Outcome>,
    /// Records that the sink had accepted when these last failed, or were first sent.
    delivered_then: u64,
    batches: u64,
    /// Records that failed alone, and the error of each.
    alone: Vec<(usize, String)>,
}

impl Attempt<'_> {
    /// Sends some of the records and records their outcomes. Returns how many were delivered, and the error if some are
    /// left.
    async fn send(&mut self, indices: &[usize]) -> (u64, Option<SinkError>) {
        self.batches += 1;
        let answer = send(self.context, self.batch.part(indices)).await;
        let (mut delivered, mut is_left) = (0, false);
        for (&i, outcome) in indices.iter().zip(answer.records) {
            delivered += u64::from(outcome == Outcome::Delivered);
            is_left |= outcome == Outcome::Retry;
            self.outcomes[i] = outcome;
        }
        self.context.add_delivered(delivered);
        (delivered, is_left.then(|| answer.error.unwrap_or_else(unexplained)))
    }

    /// True if the sink accepts other records.
    fn others_pass(&self) -> bool {
        self.context.delivered() > self.delivered_then
    }

    /// Bisects the failed records until each has an outcome or failed alone.
    async fn bisect(&mut self, all: Vec<usize>, first: Option<SinkError>) -> Option<SinkError> {
        let (mut unnamed, mut unavailable, mut unavailable_in_a_row) = (first, None, 0);
        let mut todo = Vec::new();
        self.push_failed(&mut todo, &all, &unnamed);
        while let Some(group) = todo.pop() {
            let (delivered, failure) = self.send(&group).await;
            if delivered > 0 {
                unavailable_in_a_row = 0;
            }
            match failure {
                None => {}
                Some(failure) if failure.kind == SinkErrorKind::Unnamed => {
                    unnamed = Some(failure);
                    self.push_failed(&mut todo, &group, &unnamed);
                }
                Some(failure) => {
                    // A record may be unavailable by itself (a lock, a conflict); if it happens twice with none
                    // delivered, the fault is the sink's.
                    unavailable_in_a_row += 1;
                    unavailable = Some(failure);
                }
            }
            let enough = !self.others_pass() && self.alone.len() >= MAX_ALONE_WHILE_NONE_PASSES;
            if unavailable_in_a_row >= 2 || enough {
                return unavailable.or(unnamed);
            }
        }
        if self.others_pass() {
            for (i, reason) in std::mem::take(&mut self.alone) {
                self.outcomes[i] = Outcome::Failed(reason);
            }
        }
        unavailable.or(unnamed).filter(|_| self.outcomes.contains(&Outcome::Retry))
    }

    /// Queues the rest of a failed group in two halves, in random order; a single record counts as failed alone.
    fn push_failed(&mut self, todo: &mut Vec<Vec<usize>>, group: &[usize], error: &Option<SinkError>) {
        let left: Vec<usize> = group.iter().copied().filter(|&i| self.outcomes[i] == Outcome::Retry).collect();
        match left[..] {
            [] => {}
            [one] if group.len() == 1 => {
                self.alone.push((one, error.as_ref().map(|error| error.message.clone()).unwrap_or_default()));
            }
            [_] => todo.push(left),
            _ => {
                let (head, tail) = left.split_at(left.len() / 2);
                let (first, second) = if self.context.environment.random_bool() { (head, tail) } else { (tail, head) };
                todo.extend([first.to_vec(), second.to_vec()]);
            }
        }
    }
}

/// Sends one batch, within its timeout.
pub(super) async fn send(context: &Context, batch: Batch) -> BatchOutcome {
    let records = batch.records.len();
    let begun = Instant::now();
    let answer = send_within(context, batch).await;
    context.meters.latency.record_time(begun.elapsed());
    context.meters.batch_records.record(records as f64);
    answer
}

async fn send_within(context: &Context, batch: Batch) -> BatchOutcome {
    let (records, sent_at) = (batch.records.len(), Instant::now());
    let failed = |kind, message| BatchOutcome {
        records: vec![Outcome::Retry; records],
        error: Some(SinkError { kind, message }),
    };
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => failed(SinkErrorKind::Unavailable, "stopping".to_owned()),
        answer = tokio::time::timeout(context.timeout, context.sink.send_batch(batch)) => match answer {
            Ok(answer) if answer.records.len() == records => {
                // Otherwise it may have heard nothing, and given up.
                let failed_by_server = answer.error.as_ref().is_some_and(|error| error.kind == SinkErrorKind::Unnamed);
                if failed_by_server || answer.records.iter().any(|outcome| *outcome != Outcome::Retry) {
                    context.set_answered(sent_at);
                }
                answer
            }
            Ok(answer) => failed(
                SinkErrorKind::Unnamed,
                format!("{}: {} outcomes for {records} records", context.sink.address(), answer.records.len()),
            ),
            Err(_) => failed(
                SinkErrorKind::Timeout,
                format!("{}: no answer to {records} records within {:?}", context.sink.address(), context.timeout),
            ),
        },
    }
}

pub(super) fn unexplained() -> SinkError {
    SinkError { kind: SinkErrorKind::Unavailable, message: "the sink left records without a reason".to_owned() }
}
