//! One parcel through the sink: sent whole; bisected where the sink fails without saying on which record.
//!
//! A record is rejected here only on this evidence: it failed, then some other record passed, then it failed twice
//! alone; and never because the sink was away. Where nothing passes at all the trouble is the sink's, and every record
//! stays.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{parcel::Parcel, status::Meters};
use crate::sink::{Batch, BatchOutcome, Outcome, Sink, SinkError, SinkErrorKind};

/// So many records failing alone, and none passing, end a bisection: the next one begins elsewhere.
const ALONE_WITHOUT_A_PASS: usize = 8;

/// What parcels are sent through.
pub(super) struct Way<'a> {
    pub(super) sink: &'a dyn Sink,
    pub(super) timeout: Duration,
    /// Ends what is under way at the end of the last flush.
    pub(super) cut: &'a CancellationToken,
    pub(super) meters: &'a Meters,
    /// Records that the sink took or rejected by name, all workers' tasks together.
    pub(super) passes: &'a AtomicU64,
}

/// What became of a parcel.
#[derive(Debug)]
pub(super) struct Verdict {
    /// One per record.
    pub(super) outcomes: Vec<Outcome>,
    /// Why some are to be retried.
    pub(super) error: Option<SinkError>,
    /// How many batches it took.
    pub(super) batches: u64,
    /// How many records passed before the last failure: a later retry is judged by what passed since.
    pub(super) passes: u64,
}

/// Sends a parcel until each record has an outcome.
pub(super) async fn deliver(way: &Way<'_>, parcel: &Parcel) -> Verdict {
    let all: Vec<usize> = (0..parcel.records.len()).collect();
    let outcomes = vec![Outcome::Retry; all.len()];
    let mut attempt = Attempt { way, parcel, outcomes, batches: 0, alone: Vec::new() };
    let (passed, mut error) = attempt.send(&all).await;
    if error.as_ref().is_some_and(|error| error.kind == SinkErrorKind::Unnamed) {
        // Those of the same batch that passed count as others that pass.
        let passed_before = way.passes.load(Ordering::Relaxed) - passed;
        error = attempt.bisect(all, error, passed_before).await;
    }
    Verdict { outcomes: attempt.outcomes, error, batches: attempt.batches, passes: way.passes.load(Ordering::Relaxed) }
}

struct Attempt<'a> {
    way: &'a Way<'a>,
    parcel: &'a Parcel,
    outcomes: Vec<Outcome>,
    batches: u64,
    /// Records that failed alone.
    alone: Vec<usize>,
}

impl Attempt<'_> {
    /// Sends some of the records and notes their outcomes: how many passed, and the error where some are left.
    async fn send(&mut self, indices: &[usize]) -> (u64, Option<SinkError>) {
        self.batches += 1;
        let answer = send(self.way, self.parcel.part(indices)).await;
        let mut passed = 0;
        for (&i, outcome) in indices.iter().zip(answer.records) {
            passed += u64::from(outcome != Outcome::Retry);
            self.outcomes[i] = outcome;
        }
        self.way.passes.fetch_add(passed, Ordering::Relaxed);
        (passed, (passed < indices.len() as u64).then(|| answer.error.unwrap_or_else(unexplained)))
    }

    /// Halves what failed until each record passed or failed alone, then tries the latter once more.
    async fn bisect(&mut self, all: Vec<usize>, first: Option<SinkError>, passed_before: u64) -> Option<SinkError> {
        let (mut unnamed, mut away, mut away_in_a_row) = (first, None, 0);
        let mut todo = Vec::new();
        self.push_failed(&mut todo, &all);
        while let Some(group) = todo.pop() {
            let (passed, failure) = self.send(&group).await;
            if passed > 0 {
                away_in_a_row = 0;
            }
            match failure {
                None => {}
                Some(failure) if failure.kind == SinkErrorKind::Unnamed => {
                    self.push_failed(&mut todo, &group);
                    unnamed = Some(failure);
                }
                Some(failure) => {
                    // A record may be away by itself (a lock, a conflict); twice with none passing it is the sink.
                    away_in_a_row += 1;
                    away = Some(failure);
                }
            }
            let none_passed = self.way.passes.load(Ordering::Relaxed) == passed_before;
            if away_in_a_row >= 2 || (none_passed && self.alone.len() >= ALONE_WITHOUT_A_PASS) {
                return away.or(unnamed);
            }
        }
        if self.way.passes.load(Ordering::Relaxed) > self.parcel.suspect.unwrap_or(passed_before) {
            away = self.judge_the_lone_ones().await.or(away);
        }
        away.or(unnamed).filter(|_| self.outcomes.contains(&Outcome::Retry))
    }

    /// Queues what is left of a failed group in two halves, in random order; a single record is put down as alone.
    fn push_failed(&mut self, todo: &mut Vec<Vec<usize>>, group: &[usize]) {
        let left: Vec<usize> = group.iter().copied().filter(|&i| self.outcomes[i] == Outcome::Retry).collect();
        match left[..] {
            [] => {}
            [one] if group.len() == 1 => self.alone.push(one),
            [_] => todo.push(left),
            _ => {
                let (head, tail) = left.split_at(left.len() / 2);
                let (first, second) = if rand::random() { (head, tail) } else { (tail, head) };
                todo.extend([first.to_vec(), second.to_vec()]);
            }
        }
    }

    /// Rejects those that fail alone again, now that others have passed.
    async fn judge_the_lone_ones(&mut self) -> Option<SinkError> {
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
async fn send(way: &Way<'_>, batch: Batch) -> BatchOutcome {
    let records = batch.records.len();
    let begun = Instant::now();
    let answer = send_within(way, batch).await;
    way.meters.latency.record_time(begun.elapsed());
    way.meters.batch_records.record(records as f64);
    answer
}

async fn send_within(way: &Way<'_>, batch: Batch) -> BatchOutcome {
    let records = batch.records.len();
    let failed = |kind, message| BatchOutcome {
        records: vec![Outcome::Retry; records],
        error: Some(SinkError { kind, message }),
    };
    tokio::select! {
        biased;
        () = way.cut.cancelled() => failed(SinkErrorKind::Unavailable, "stopping".to_owned()),
        answer = tokio::time::timeout(way.timeout, way.sink.send_batch(batch)) => match answer {
            Ok(answer) if answer.records.len() == records => answer,
            Ok(answer) => failed(
                SinkErrorKind::Unnamed,
                format!("{}: {} outcomes for {records} records", way.sink.address(), answer.records.len()),
            ),
            Err(_) => failed(
                SinkErrorKind::Timeout,
                format!("{}: no answer to {records} records within {:?}", way.sink.address(), way.timeout),
            ),
        },
    }
}

fn unexplained() -> SinkError {
    SinkError { kind: SinkErrorKind::Unavailable, message: "the sink left records without saying why".to_owned() }
}
