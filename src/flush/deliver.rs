//! One batch through the sink: sent whole; bisected where the sink fails without saying on which record.
//!
//! A record is rejected here only on this evidence: it failed, then some other record was accepted, then it failed twice
//! alone; and never because the sink was unavailable. Where nothing is accepted at all the fault is the sink's, and every
//! record stays.

use std::time::Duration;

use tokio::time::Instant;

use super::{context::Context, in_flight::InFlightBatch};
use crate::sink::{Batch, BatchOutcome, Outcome, SinkError, SinkErrorKind};

/// So many records that fail alone, and none accepted, end a bisection: the next one begins elsewhere.
const MAX_ALONE_WITHOUT_ACCEPTANCE: usize = 8;

/// What became of a batch.
#[derive(Debug)]
pub(super) struct DeliveryResult {
    /// One per record.
    pub(super) outcomes: Vec<Outcome>,
    /// Why some are to be retried.
    pub(super) error: Option<SinkError>,
    /// How long the sink took to answer the whole batch.
    pub(super) latency: Duration,
    /// How many batches it took.
    pub(super) batches: u64,
    /// How many records were accepted before the last failure: a later retry is judged by what was accepted since.
    pub(super) accepted_total: u64,
}

/// Sends a batch until each record has an outcome.
pub(super) async fn deliver(context: &Context, batch: &InFlightBatch) -> DeliveryResult {
    let all: Vec<usize> = (0..batch.records.len()).collect();
    let outcomes = vec![Outcome::Retry; all.len()];
    let mut attempt = Attempt { context, batch, outcomes, batches: 0, alone: Vec::new() };
    let begun = Instant::now();
    let (accepted, mut error) = attempt.send(&all).await;
    let latency = begun.elapsed();
    if error.as_ref().is_some_and(|error| error.kind == SinkErrorKind::Unnamed) {
        // Those of the same batch that were accepted count as others that are.
        let accepted_before = context.accepted() - accepted;
        error = attempt.bisect(all, error, accepted_before).await;
    }
    DeliveryResult {
        outcomes: attempt.outcomes,
        error,
        batches: attempt.batches,
        latency,
        accepted_total: context.accepted(),
    }
}

struct Attempt<'a> {
    context: &'a Context,
    batch: &'a InFlightBatch,
    outcomes: Vec<Outcome>,
    batches: u64,
    /// Records that failed alone.
    alone: Vec<usize>,
}

impl Attempt<'_> {
    /// Sends some of the records and records their outcomes: how many were accepted, and the error where some are left.
    async fn send(&mut self, indices: &[usize]) -> (u64, Option<SinkError>) {
        self.batches += 1;
        let answer = send(self.context, self.batch.part(indices)).await;
        let mut accepted = 0;
        for (&i, outcome) in indices.iter().zip(answer.records) {
            accepted += u64::from(outcome != Outcome::Retry);
            self.outcomes[i] = outcome;
        }
        self.context.add_accepted(accepted);
        (accepted, (accepted < indices.len() as u64).then(|| answer.error.unwrap_or_else(unexplained)))
    }

    /// Halves what failed until each record was accepted or failed alone, then tries the latter once more.
    async fn bisect(&mut self, all: Vec<usize>, first: Option<SinkError>, accepted_before: u64) -> Option<SinkError> {
        let (mut unnamed, mut unavailable, mut unavailable_in_a_row) = (first, None, 0);
        let mut todo = Vec::new();
        self.push_failed(&mut todo, &all);
        while let Some(group) = todo.pop() {
            let (accepted, failure) = self.send(&group).await;
            if accepted > 0 {
                unavailable_in_a_row = 0;
            }
            match failure {
                None => {}
                Some(failure) if failure.kind == SinkErrorKind::Unnamed => {
                    self.push_failed(&mut todo, &group);
                    unnamed = Some(failure);
                }
                Some(failure) => {
                    // A record may be unavailable by itself (a lock, a conflict); twice with none accepted it is the sink.
                    unavailable_in_a_row += 1;
                    unavailable = Some(failure);
                }
            }
            let none_accepted = self.context.accepted() == accepted_before;
            if unavailable_in_a_row >= 2 || (none_accepted && self.alone.len() >= MAX_ALONE_WITHOUT_ACCEPTANCE) {
                return unavailable.or(unnamed);
            }
        }
        if self.context.accepted() > self.batch.suspect.unwrap_or(accepted_before) {
            unavailable = self.retry_lone_records().await.or(unavailable);
        }
        unavailable.or(unnamed).filter(|_| self.outcomes.contains(&Outcome::Retry))
    }

    /// Queues what is left of a failed group in two halves, in random order; a single record counts as alone.
    fn push_failed(&mut self, todo: &mut Vec<Vec<usize>>, group: &[usize]) {
        let left: Vec<usize> = group.iter().copied().filter(|&i| self.outcomes[i] == Outcome::Retry).collect();
        match left[..] {
            [] => {}
            [one] if group.len() == 1 => self.alone.push(one),
            [_] => todo.push(left),
            _ => {
                let (head, tail) = left.split_at(left.len() / 2);
                let (first, second) = if self.context.environment.random_bool() { (head, tail) } else { (tail, head) };
                todo.extend([first.to_vec(), second.to_vec()]);
            }
        }
    }

    /// Rejects those that fail alone again, now that others were accepted.
    async fn retry_lone_records(&mut self) -> Option<SinkError> {
        for i in std::mem::take(&mut self.alone) {
            match self.send(&[i]).await.1 {
                Some(error) if error.kind == SinkErrorKind::Unnamed => {
                    self.outcomes[i] = Outcome::Rejected(error.message)
                }
                Some(error) => return Some(error),
                None => {}
            }
        }
        None
    }
}

/// One batch, within the time it may take.
async fn send(context: &Context, batch: Batch) -> BatchOutcome {
    let records = batch.records.len();
    let begun = Instant::now();
    let answer = send_within(context, batch).await;
    context.meters.latency.record_time(begun.elapsed());
    context.meters.batch_records.record(records as f64);
    answer
}

async fn send_within(context: &Context, batch: Batch) -> BatchOutcome {
    let records = batch.records.len();
    let failed = |kind, message| BatchOutcome {
        records: vec![Outcome::Retry; records],
        error: Some(SinkError { kind, message }),
    };
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => failed(SinkErrorKind::Unavailable, "stopping".to_owned()),
        answer = tokio::time::timeout(context.timeout, context.sink.send_batch(batch)) => match answer {
            Ok(answer) if answer.records.len() == records => answer,
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

fn unexplained() -> SinkError {
    SinkError { kind: SinkErrorKind::Unavailable, message: "the sink left records without saying why".to_owned() }
}
