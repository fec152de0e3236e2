//! Compaction: frees the space of dead letters that are gone.
//!
//! A segment is deleted when no dead letter in it is left. When removed dead letters take more space than the remaining
//! ones, the rest of a segment is appended again and the segment is deleted: those with the least left come first.

use std::{collections::BTreeMap, ops::Range};

use super::{DeadError, DeadLetters, State};
use crate::{
    record::Stream,
    spool::{journal::writer::Refusal, queue::Size},
};

/// Less garbage than this in a segment, or than an eighth of it, is not worth a compaction.
const MIN_GARBAGE_BYTES: u64 = 4 << 10;
/// Without dead letters, this much may remain until the next one arrives.
const IDLE_BYTES: u64 = 64 << 10;

/// The dead letters left in a segment.
#[derive(Debug, Default)]
struct Left {
    size: Size,
    seqs: Vec<(Stream, Range<u64>)>,
}

impl DeadLetters {
    /// Bytes of blocks that belong to dead letters that are gone.
    pub(super) fn garbage(&self) -> u64 {
        self.bytes().saturating_sub(self.live_bytes())
    }

    fn live_bytes(&self) -> u64 {
        self.store.state.lock().streams.iter().map(|stream| stream.size.bytes).sum()
    }

    /// Frees space where dead letters were removed, as far as it is worth the work.
    pub(super) fn reclaim(&self, inner: &mut State) -> Result<(), DeadError> {
        self.store.retain();
        if inner.index.is_empty() {
            // Without a queue on disk, only this makes the removal durable.
            if self.bytes() > IDLE_BYTES.min(self.limits.segment_bytes) || !self.store.queue_health().0 {
                self.begin_segment()?;
                self.store.retain();
            }
            return Ok(());
        }
        let live = self.live_bytes();
        if self.bytes() > 2 * live + self.limits.spare_bytes {
            self.compact(inner, live + live / 2 + self.limits.spare_bytes)?;
        }
        Ok(())
    }

    /// Appends the rest of segments again, so that these can be deleted, until at most `enough` bytes are used.
    pub(super) fn compact(&self, inner: &mut State, enough: u64) -> Result<(), DeadError> {
        let mut segments = self.what_is_left();
        segments.sort_by_key(|(allocated, _, left)| left.size.bytes.saturating_mul(1000) / (*allocated).max(1));
        for (allocated, segment, left) in segments {
            if self.bytes() <= enough {
                break;
            }
            if allocated.saturating_sub(left.size.bytes) < (self.limits.segment_bytes / 8).max(MIN_GARBAGE_BYTES) {
                continue;
            }
            if self.store.active_segment() == Some(segment) {
                self.begin_segment()?;
            }
            match self.move_dead_letters(inner, &left) {
                // There is no space for these; there may be for those of another segment.
                Err(DeadError::Full { .. }) => {}
                moved => moved?,
            }
            self.store.retain();
        }
        Ok(())
    }

    /// Segments, with their bytes on the medium and the dead letters left in them.
    fn what_is_left(&self) -> Vec<(u64, u64, Left)> {
        let mut by_segment: BTreeMap<u64, Left> = BTreeMap::new();
        for stream in Stream::ALL {
            let mut at = 0;
            while let Some((key, entry)) = self.store.entry_from(stream, at) {
                let seqs = entry.seqs(key);
                at = seqs.end;
                let left = by_segment.entry(entry.segment).or_default();
                left.size.add(entry.size);
                left.seqs.push((stream, seqs));
            }
        }
        let state = self.store.state.lock();
        let readable = state.segments.iter().filter(|(_, known)| known.unread.is_none());
        readable
            .map(|(&segment, known)| (known.allocated, segment, by_segment.remove(&segment).unwrap_or_default()))
            .collect()
    }

    fn move_dead_letters(&self, inner: &mut State, left: &Left) -> Result<(), DeadError> {
        // A dead letter longer than the quota is alone in it: then the moved ones exceed the quota too, for a moment.
        let limit = if self.bytes() > self.limits.max_bytes { u64::MAX } else { self.limits.max_bytes };
        let (mut group, mut bytes) = (Vec::new(), 0);
        for (stream, seqs) in &left.seqs {
            let mut moved = Ok(());
            self.each(inner, *stream, seqs.clone(), &|_| true, &mut |inner, _, dead_letter| {
                bytes += dead_letter.approximate_bytes();
                group.push(dead_letter);
                if bytes >= self.limits.group_bytes {
                    moved = self.append(inner, &std::mem::take(&mut group), limit);
                    bytes = 0;
                }
                moved.is_ok()
            })?;
            moved?;
        }
        self.append(inner, &group, limit)
    }

    /// Seals the segment that is being written, so that it can be deleted: writes the next segment's front, or waits
    /// for space for it.
    pub(super) fn begin_segment(&self) -> Result<(), DeadError> {
        match self.store.roll() {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.is_no_space() => {
                self.store.seal();
                Ok(())
            }
            Err(Refusal::Io(error)) => Err(self.io_error(error)),
            Err(_) => Err(self.moved()),
        }
    }
}
