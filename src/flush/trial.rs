//! Tries suspects: each is sent alone just before and just after another record, the witness, that the sink accepts.
//!
//! A suspect's failure is evidence only if it fails both times, the witness is delivered, and no suspect is, see
//! [`suspicion`](super::suspicion). A sink that is unavailable, full or slow ends the trial without evidence.

use super::{
    context::Context,
    deliver::{DeliveryResult, deliver, send},
    in_flight::InFlightBatch,
    tasks::{TaskResult, complete},
};
use crate::sink::{Outcome, SinkError, SinkErrorKind};

/// The most records that are tried around one witness: few enough that hardly any time passes between the sends.
pub(super) const MAX_SUSPECTS: usize = 16;

/// Tries them, and removes delivered or rejected records from the queue.
pub(super) async fn try_alone(context: Context, suspects: InFlightBatch, witness: InFlightBatch) -> TaskResult {
    let mut trial = Trial {
        context: &context,
        suspects: &suspects,
        outcomes: vec![Outcome::Retry; suspects.records.len()],
        batches: 0,
        error: None,
    };
    let failed_before = trial.round().await;
    let seen = deliver(&context, &witness).await;
    let delivered = seen.outcomes.iter().all(|outcome| *outcome == Outcome::Delivered);
    let is_evidence = failed_before && delivered && trial.round().await;
    let result = DeliveryResult {
        outcomes: trial.outcomes,
        error: trial.error,
        failed_alone: is_evidence,
        batches: trial.batches,
        latency: None,
        delivered_total: context.delivered(),
    };
    let witness = complete(&context, &witness, seen).await;
    let suspects = complete(&context, &suspects, result).await;
    TaskResult::Tried(Box::new(witness), Box::new(suspects))
}

struct Trial<'a> {
    context: &'a Context,
    suspects: &'a InFlightBatch,
    outcomes: Vec<Outcome>,
    batches: u64,
    error: Option<SinkError>,
}

impl Trial<'_> {
    /// Sends each remaining suspect alone; false if the sink accepts one of them, or is unavailable.
    async fn round(&mut self) -> bool {
        let mut all_failed = true;
        for i in 0..self.outcomes.len() {
            if matches!(self.outcomes[i], Outcome::Delivered | Outcome::Rejected(_)) {
                continue;
            }
            self.batches += 1;
            let mut answer = send(self.context, self.suspects.part(&[i])).await;
            self.outcomes[i] = match (answer.records.pop(), answer.error) {
                (Some(Outcome::Retry) | None, Some(error)) if error.kind == SinkErrorKind::Unnamed => {
                    Outcome::Failed(error.message)
                }
                (Some(Outcome::Retry) | None, error) => {
                    self.outcomes[i] = Outcome::Retry;
                    self.error = error;
                    return false;
                }
                (Some(Outcome::Delivered), _) => {
                    self.context.add_delivered(1);
                    all_failed = false;
                    Outcome::Delivered
                }
                (Some(outcome), _) => outcome,
            };
        }
        all_failed
    }
}
