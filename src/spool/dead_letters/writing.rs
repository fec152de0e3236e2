//! Adds and removes dead letters.

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
};

use super::{
    DeadError, DeadFilter, DeadLetter, DeadLetters, Key, State,
    index::{Fingerprint, Location},
};
use crate::{
    record::{PerStream, RecordBatch, RecordBatchBuilder, Stream, now_millis},
    spool::{FullLimit, encoding::encode, failpoint, journal::writer::Refusal},
};

impl DeadLetters {
    /// Adds dead letters durably, in one group: all of them, or none if they do not fit. A dead letter replaces an
    /// earlier one with the same key and keeps its history. A single dead letter is kept whatever its length.
    pub(crate) fn add(&self, dead_letters: Vec<DeadLetter>) -> Result<(), DeadError> {
        let inner = &mut *self.inner.lock();
        self.settle(inner)?;
        let (dead_letters, fresh) = self.with_history(inner, dead_letters)?;
        if dead_letters.is_empty() {
            return Ok(());
        }
        if fresh > 0 && inner.index.len() + fresh > self.limits.max_dead_letters {
            return Err(DeadError::Full { over: 0 });
        }
        // Dead letters that replace earlier ones may use some reserved space: the earlier ones become garbage.
        let kept_free = if fresh > 0 { self.limits.spare_bytes } else { self.limits.segment_bytes };
        let limit = self.limits.max_bytes - kept_free;
        let over = match self.append(inner, &dead_letters, limit) {
            Err(DeadError::Full { over }) => over,
            kept => return kept,
        };
        let garbage = self.garbage();
        if garbage >= over && garbage > inner.residue {
            let enough = self.bytes().saturating_sub(over);
            self.compact(inner, enough)?;
            match self.append(inner, &dead_letters, limit) {
                // Do not try again for the same garbage.
                Err(DeadError::Full { .. }) => inner.residue = self.garbage(),
                kept => return kept,
            }
        }
        if dead_letters.len() > 1 || (fresh > 0 && !inner.index.is_empty()) {
            return Err(DeadError::Full { over });
        }
        self.append_beyond(inner, &dead_letters)
    }

    /// Appends one dead letter although the quota has no space for it: it is the only one, or it replaces an earlier
    /// one.
    fn append_beyond(&self, inner: &mut State, dead_letter: &[DeadLetter]) -> Result<(), DeadError> {
        self.reclaim(inner)?;
        self.append(inner, dead_letter, u64::MAX)?;
        self.store.retain();
        let (bytes, max) = (self.bytes(), self.limits.max_bytes);
        if bytes > max {
            self.store.reports.warn(&format!(
                "spool {}: a dead letter is longer than the quota of {max} bytes: it is kept ({bytes} bytes), and no \
                 other is kept until it is retried or dropped",
                self.store.home.display()
            ));
        }
        Ok(())
    }

    /// Adds the history of earlier attempts; returns how many dead letters are new.
    fn with_history(
        &self,
        inner: &mut State,
        dead_letters: Vec<DeadLetter>,
    ) -> Result<(Vec<DeadLetter>, u64), DeadError> {
        let (mut merged, mut fresh): (Vec<DeadLetter>, _) = (Vec::with_capacity(dead_letters.len()), 0);
        let mut positions: HashMap<Key, usize> = HashMap::new();
        for mut dead_letter in dead_letters {
            if let Some(&position) = positions.get(&dead_letter.key()) {
                dead_letter.add_history(&merged[position]);
                merged[position] = dead_letter;
                continue;
            }
            match inner.index.get(dead_letter.stream, &dead_letter.id) {
                None => fresh += 1,
                Some((_, location)) => {
                    if let Some(earlier) = self.read(inner, location)? {
                        dead_letter.add_history(&earlier);
                    }
                }
            }
            positions.insert(dead_letter.key(), merged.len());
            merged.push(dead_letter);
        }
        Ok((merged, fresh))
    }

    /// Appends dead letters as one group, and removes those that they replace.
    pub(super) fn append(&self, inner: &mut State, dead_letters: &[DeadLetter], limit: u64) -> Result<(), DeadError> {
        if dead_letters.is_empty() {
            return Ok(());
        }
        let batches = batches(dead_letters);
        loop {
            failpoint::reach("dead_write");
            let group = self.store.pack(&batches, false).map_err(|error| self.io_error(error))?;
            let mut over = 0;
            let admit = |bytes: u64| {
                let used = self.bytes();
                over = used.saturating_add(bytes).saturating_sub(limit);
                if over == 0 { Ok(0) } else { Err(FullLimit::Quota { used, max: limit }) }
            };
            match self.store.commit(group, admit) {
                Err(Refusal::Stale) => {}
                Err(Refusal::Full(_)) => return Err(DeadError::Full { over }),
                Err(Refusal::Io(error)) => return Err(self.io_error(error)),
                Err(Refusal::Moved) => return Err(self.moved()),
                Ok(_) => break,
            }
        }
        failpoint::reach("dead_written");
        let mut next = self.store.state.lock().streams.each_ref().map(|stream| stream.next);
        for batch in &batches {
            next[batch.stream as usize] -= u64::from(batch.count());
        }
        let mut replaced: PerStream<Vec<Range<u64>>> = PerStream::default();
        for dead_letter in dead_letters {
            let stream = dead_letter.stream;
            let location =
                Location { last_attempt_at: dead_letter.last_attempt_at, stream, seq: next[stream as usize] };
            next[stream as usize] += 1;
            if let Some(earlier) = inner.index.insert(&dead_letter.id, location) {
                replaced[stream as usize].push(earlier.seq..earlier.seq + 1);
            }
        }
        self.finish(&replaced);
        Ok(())
    }

    /// Removes dead letters durably; returns how many there were. If the queue is in memory, a restart may bring some
    /// back: that is reported.
    pub(crate) fn remove(&self, keys: &[Key]) -> Result<u64, DeadError> {
        let inner = &mut *self.inner.lock();
        self.settle(inner)?;
        let keys: HashSet<&Key> = keys.iter().collect();
        let gone: Vec<_> = keys.into_iter().filter_map(|(stream, id)| inner.index.get(*stream, id)).collect();
        if !self.take_out(inner, &gone) {
            let error = DeadError::NotDurable { path: self.store.home.clone(), removed: gone.len() as u64 };
            self.store.reports.error(error.to_string());
        }
        Ok(gone.len() as u64)
    }

    /// Removes the dead letters that match a filter; returns how many there were.
    ///
    /// # Errors
    /// When they cannot be read; or, with [`DeadError::NotDurable`], when they are removed but a restart may bring some
    /// back.
    pub(crate) fn drop_matching(&self, filter: &DeadFilter) -> Result<u64, DeadError> {
        let inner = &mut *self.inner.lock();
        self.settle(inner)?;
        let mut gone = inner.index.matching(filter, &HashSet::new());
        if filter.reason.is_some() {
            let mut meant = Vec::new();
            for (key, location) in gone {
                if self.read(inner, location)?.is_some_and(|dead_letter| filter.matches(&dead_letter)) {
                    meant.push((key, location));
                }
            }
            gone = meant;
        }
        let removed = gone.len() as u64;
        if !self.take_out(inner, &gone) {
            return Err(DeadError::NotDurable { path: self.store.home.clone(), removed });
        }
        Ok(removed)
    }

    /// Removes dead letters from index and queue; true if that is durable.
    fn take_out(&self, inner: &mut State, gone: &[(Fingerprint, Location)]) -> bool {
        if gone.is_empty() {
            return true;
        }
        let mut seqs: PerStream<Vec<Range<u64>>> = PerStream::default();
        for (key, Location { stream, seq, .. }) in gone {
            inner.index.remove(*key);
            seqs[*stream as usize].push(*seq..*seq + 1);
        }
        self.finish(&seqs);
        self.store.flush();
        failpoint::reach("dead_delete");
        // If the queue failed here, it was rebuilt from the journal. The dead letters are removed nevertheless; the
        // next removal tries again.
        if let Err(error) = self.settle(inner).and_then(|()| self.reclaim(inner)) {
            self.store.reports.warn(&format!("could not free the space of removed dead letters yet: {error}"));
        }
        if self.store.queue_health().0 {
            return true;
        }
        // Without a queue on disk, what was in deleted segments is removed for good.
        self.store.state.lock().segments.values().all(|segment| segment.held == 0)
    }

    pub(super) fn io_error(&self, source: io::Error) -> DeadError {
        DeadError::Io { path: self.store.journal(), source }
    }

    pub(super) fn moved(&self) -> DeadError {
        self.io_error(io::Error::other(
            "the directory was moved, replaced or removed under the running process: put it back, or restart",
        ))
    }
}

/// Dead letters as batches, each stream's in order.
fn batches(dead_letters: &[DeadLetter]) -> Vec<RecordBatch> {
    let mut batches: Vec<RecordBatch> = Vec::new();
    for stream in Stream::ALL {
        let mut builder = RecordBatchBuilder::new(stream);
        dead_letters
            .iter()
            .filter(|dead_letter| dead_letter.stream == stream)
            .for_each(|dead_letter| builder.push(&encode(dead_letter)));
        if !builder.is_empty() {
            batches.push(builder.build(now_millis()));
        }
    }
    batches
}
