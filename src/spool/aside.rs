//! What sinks rejected for good: out of the queue, once it is among the dead letters.

use super::{DeadLetter, QueueError, Rejection, core::Core, dead::DeadError, failpoint, state::Fate};
use crate::record::{RecordId, Stream, UnixMillis, now_millis};

/// Keeps rejected records as dead letters, durably, then removes them from the queue.
pub(super) fn set_aside(core: &Core, stream: Stream, rejections: Vec<Rejection>) -> Result<(), QueueError> {
    let now = now_millis();
    let is_open = |rejection: &Rejection| {
        let ordinal = rejection.record.seq;
        !core.books.lock().streams[stream as usize].live.is_done(&(ordinal..ordinal + 1))
    };
    // An attempt that did not get all of them in may have been made before.
    let open = rejections.into_iter().filter(is_open);
    let (ordinals, letters): (Vec<u64>, Vec<DeadLetter>) =
        open.map(|rejection| (rejection.record.seq, letter(stream, rejection, now))).unzip();
    keep(core, stream, &ordinals, &letters)
}

fn letter(stream: Stream, rejection: Rejection, now: UnixMillis) -> DeadLetter {
    DeadLetter {
        stream,
        id: RecordId::of(stream, &rejection.record.bytes).to_string(),
        received_at: rejection.record.received_at,
        reason: rejection.reason,
        attempts: rejection.attempts,
        first_attempt_at: rejection.first_attempt_at,
        last_attempt_at: now,
        record: rejection.record.bytes.to_vec(),
    }
}

/// Keeps as many as fit, in order.
fn keep(core: &Core, stream: Stream, ordinals: &[u64], letters: &[DeadLetter]) -> Result<(), QueueError> {
    match core.dead.add(letters.to_vec()) {
        Ok(()) => {
            let ranges: Vec<_> = ordinals.iter().map(|&ordinal| ordinal..ordinal + 1).collect();
            core.finish(stream, &ranges, Fate::SetAside);
            failpoint::reach("dead_noted");
            Ok(())
        }
        Err(DeadError::Full { .. }) if letters.len() > 1 => {
            let half = letters.len() / 2;
            keep(core, stream, &ordinals[..half], &letters[..half])?;
            keep(core, stream, &ordinals[half..], &letters[half..])
        }
        Err(error) => Err(core.dead_error(error)),
    }
}

/// Keeps letters that are there already and failed once more. Where they do not fit beside what is there of them yet,
/// fewer at a time do.
pub(super) fn keep_again(core: &Core, letters: &[DeadLetter]) -> Result<(), QueueError> {
    match core.dead.add(letters.to_vec()) {
        Err(DeadError::Full { .. }) if letters.len() > 1 => {
            let (first, second) = letters.split_at(letters.len() / 2);
            keep_again(core, first)?;
            keep_again(core, second)
        }
        kept => kept.map_err(|error| core.dead_error(error)),
    }
}

/// Removes dead letters; on a full disk the reserve makes room for the note of it.
pub(super) fn remove(core: &Core, work: impl Fn() -> Result<u64, DeadError>) -> Result<u64, QueueError> {
    let removed = match work() {
        Err(error) if error.is_no_space() && core.release_reserve() => work(),
        removed => removed,
    };
    removed.map_err(|error| core.dead_error(error))
}
