//! Retries dead letters: sends them to the sink directly from their store, without the queue.
//!
//! A delivered dead letter is removed; a rejected one stays with one more attempt; if the sink is unavailable, nothing
//! changes.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    record::{QueuedRecord, Stream, now_millis},
    sink::{Batch, Outcome, Sink, SinkErrorKind},
    spool::{DeadFilter, DeadLetter, QueueError, Spool},
    tasks,
};

/// Dead letters per batch.
const PAGE: usize = 500;

/// The result of a retry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// Delivered, and removed from the dead letters.
    pub delivered: u64,
    /// Rejected again.
    pub rejected: u64,
    /// Why the rest was not tried, if the sink became unavailable.
    pub stopped_by: Option<String>,
}

/// Sends the dead letters that a filter selects again.
///
/// # Errors
/// When the dead letters cannot be read or written.
pub(super) async fn retry(spool: &Arc<Spool>, sink: &dyn Sink, filter: DeadFilter) -> Result<Retried, QueueError> {
    // Each is tried once. Their times cannot tell which were tried: the clock may have jumped.
    let tried = Arc::new(Mutex::new(HashSet::new()));
    let mut done = Retried::default();
    // Dead letters that are added in the meantime are not included.
    let most = spool.status().dead_letters();
    while done.delivered + done.rejected < most {
        let dead_letters = blocking(spool, {
            let (filter, tried) = (filter.clone(), Arc::clone(&tried));
            move |spool| spool.dead_letters_except(&filter, &tried.lock(), PAGE)
        })
        .await?;
        let Some(stream) = dead_letters.first().map(|dead_letter| dead_letter.stream) else { break };
        let dead_letters: Vec<DeadLetter> =
            dead_letters.into_iter().filter(|dead_letter| dead_letter.stream == stream).collect();
        let (outcomes, error) = send(sink, stream, &dead_letters).await;
        let (mut delivered, mut rejected) = (Vec::new(), Vec::new());
        for (dead_letter, outcome) in dead_letters.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered => delivered.push((stream, dead_letter.id)),
                // The operator asked for this attempt: a record that fails by itself stays a dead letter, with the newer
                // reason.
                Outcome::Rejected(reason) | Outcome::Failed(reason) => {
                    tried.lock().insert(dead_letter.key());
                    // The spool adds the earlier attempts.
                    rejected.push(DeadLetter { reason, attempts: 1, last_attempt_at: now_millis(), ..dead_letter });
                }
                Outcome::Retry => {
                    done.stopped_by = Some(error.clone().unwrap_or_else(|| "the sink is unavailable".to_owned()))
                }
            }
        }
        done.delivered += delivered.len() as u64;
        done.rejected += rejected.len() as u64;
        blocking(spool, move |spool| {
            spool.remove_dead_letters(&delivered)?;
            if rejected.is_empty() { Ok(()) } else { spool.keep_dead_letters(&rejected) }
        })
        .await?;
        if done.stopped_by.is_some() {
            break;
        }
    }
    Ok(done)
}

/// Sends dead letters together; if the sink fails without naming one of them, each alone.
async fn send(sink: &dyn Sink, stream: Stream, dead_letters: &[DeadLetter]) -> (Vec<Outcome>, Option<String>) {
    let answer = sink.send_batch(batch(stream, dead_letters)).await;
    match answer.error {
        Some(error) if error.kind == SinkErrorKind::Unnamed && dead_letters.len() > 1 => {
            let mut outcomes = Vec::with_capacity(dead_letters.len());
            for (dead_letter, outcome) in dead_letters.iter().zip(answer.records) {
                outcomes.push(match outcome {
                    Outcome::Retry => alone(sink, stream, dead_letter).await,
                    known => known,
                });
            }
            (outcomes, Some(error.message))
        }
        Some(error) if error.kind == SinkErrorKind::Unnamed => (vec![Outcome::Rejected(error.message)], None),
        error => (answer.records, error.map(|error| error.message)),
    }
}

async fn alone(sink: &dyn Sink, stream: Stream, dead_letter: &DeadLetter) -> Outcome {
    let mut answer = sink.send_batch(batch(stream, std::slice::from_ref(dead_letter))).await;
    match (answer.records.pop(), answer.error) {
        (Some(Outcome::Retry) | None, Some(error)) if error.kind == SinkErrorKind::Unnamed => {
            Outcome::Rejected(error.message)
        }
        (outcome, _) => outcome.unwrap_or(Outcome::Retry),
    }
}

fn batch(stream: Stream, dead_letters: &[DeadLetter]) -> Batch {
    let records = dead_letters.iter().zip(0..).map(|(dead_letter, seq)| QueuedRecord {
        seq,
        received_at: dead_letter.received_at,
        bytes: dead_letter.record.clone().into(),
    });
    Batch { stream, records: records.collect() }
}

/// Runs blocking work on a spool outside the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    spool: &Arc<Spool>,
    work: impl FnOnce(&Spool) -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    let spool = Arc::clone(spool);
    tasks::run_blocking(move || work(&spool)).await.unwrap_or_else(|panic| {
        Err(QueueError::Io { path: "(spool)".to_owned(), source: std::io::Error::other(panic.to_string()) })
    })
}
