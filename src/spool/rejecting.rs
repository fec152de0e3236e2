//! Records that sinks reject for good: removed from the queue once they are dead letters.

use super::{
    QueueError, Rejection,
    dead_letters::{self, DeadError, DeadLetter},
    failpoint,
    shared::Shared,
    totals::Disposition,
};
use crate::record::{RecordId, Stream, UnixMillis, now_millis};

/// About the length to which a reason is cut.
const MAX_REASON_BYTES: usize = 16 << 10;

/// Keeps rejected records as dead letters, durably, then removes them from the queue.
pub(super) fn dead_letter(shared: &Shared, stream: Stream, rejections: Vec<Rejection>) -> Result<(), QueueError> {
    let now = now_millis();
    let is_open = |rejection: &Rejection| {
        let seq = rejection.record.seq;
        shared.store.entry_from(stream, seq).is_some_and(|(key, entry)| entry.seqs(key).contains(&seq))
    };
    // An earlier attempt may have kept a part of them.
    let open = rejections.into_iter().filter(is_open);
    let (seqs, dead_letters): (Vec<u64>, Vec<DeadLetter>) =
        open.map(|rejection| (rejection.record.seq, as_dead_letter(stream, rejection, now))).unzip();
    for group in dead_letters::groups(&dead_letters, shared.dead.group_bytes()) {
        keep(shared, stream, &seqs[group.clone()], &dead_letters[group])?;
    }
    Ok(())
}

fn as_dead_letter(stream: Stream, rejection: Rejection, now: UnixMillis) -> DeadLetter {
    DeadLetter {
        stream,
        id: RecordId::of(stream, &rejection.record.bytes).to_string(),
        received_at: rejection.record.received_at,
        reason: cut(rejection.reason),
        attempts: rejection.attempts,
        first_attempt_at: rejection.first_attempt_at,
        last_attempt_at: now,
        record: rejection.record.bytes.to_vec(),
    }
}

fn cut(mut reason: String) -> String {
    if reason.len() > MAX_REASON_BYTES {
        let end = (0..=MAX_REASON_BYTES).rfind(|&end| reason.is_char_boundary(end)).unwrap_or(0);
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

/// Keeps as many as fit, in order.
fn keep(shared: &Shared, stream: Stream, seqs: &[u64], dead_letters: &[DeadLetter]) -> Result<(), QueueError> {
    match shared.dead.add(dead_letters.to_vec()) {
        Ok(()) => {
            let ranges: Vec<_> = seqs.iter().map(|&seq| seq..seq + 1).collect();
            shared.store.finish(stream, &ranges, Disposition::DeadLettered);
            failpoint::reach("dead_noted");
            Ok(())
        }
        Err(DeadError::Full { .. }) if dead_letters.len() > 1 => {
            let half = dead_letters.len() / 2;
            keep(shared, stream, &seqs[..half], &dead_letters[..half])?;
            keep(shared, stream, &seqs[half..], &dead_letters[half..])
        }
        Err(error) => Err(shared.dead_error(error)),
    }
}

/// Keeps existing dead letters that failed once more. If they do not fit next to their earlier versions, fewer are
/// written at a time.
pub(super) fn keep_again(shared: &Shared, dead_letters: &[DeadLetter]) -> Result<(), QueueError> {
    let groups = dead_letters::groups(dead_letters, shared.dead.group_bytes());
    groups.into_iter().try_for_each(|group| keep_group_again(shared, &dead_letters[group]))
}

fn keep_group_again(shared: &Shared, dead_letters: &[DeadLetter]) -> Result<(), QueueError> {
    match shared.dead.add(dead_letters.to_vec()) {
        Err(DeadError::Full { .. }) if dead_letters.len() > 1 => {
            let (first, second) = dead_letters.split_at(dead_letters.len() / 2);
            keep_group_again(shared, first)?;
            keep_group_again(shared, second)
        }
        kept => kept.map_err(|error| shared.dead_error(error)),
    }
}
