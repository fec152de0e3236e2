//! Reads dead letters: fills the index, lists, detects losses.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
};

use super::{
    DeadError, DeadFilter, DeadLetter, DeadLetters, Key, State,
    index::{Fingerprint, Location},
};
use crate::{
    record::{PerStream, Stream},
    spool::{
        delivery::QueueError,
        encoding::decode,
        queue::Entry,
        store::reader::Lookup,
        totals::{Disposition, DropReason},
    },
};

/// A list ends at about this many bytes of records.
const MAX_LISTED_BYTES: usize = 64 << 20;

impl DeadLetters {
    /// Fails if dead letters are encrypted with a key that is not configured; checks the first one of each stream.
    pub(crate) fn check_key(&self) -> Result<(), DeadError> {
        let mut inner = self.inner.lock();
        for stream in Stream::ALL {
            let Some((key, entry)) = self.store.entry_from(stream, 0) else { continue };
            if let Err(error @ QueueError::NoKey { .. }) =
                inner.readers[stream as usize].seek(&self.store, key, &entry, key)
            {
                return Err(read_error(error));
            }
        }
        Ok(())
    }

    /// The dead letters that match a filter and are not among `except`: at most `limit` of them after the first `skip`,
    /// fewer if their records are long; those with the oldest last attempt first.
    pub(crate) fn list(
        &self,
        filter: &DeadFilter,
        except: &HashSet<Key>,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DeadError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        self.each_listed(filter, except, (skip, limit), &|| false, &mut |dead_letter| {
            bytes += dead_letter.record.len();
            found.push(dead_letter);
            bytes < MAX_LISTED_BYTES
        })?;
        Ok(found)
    }

    /// The same dead letters one by one, until `each` returns false or `is_over` returns true. `is_over` is called
    /// before each dead letter is read, whether it matches or not. `each` may be slow: nothing is locked meanwhile, and
    /// a dead letter that is removed before its turn is skipped.
    pub(crate) fn each_listed(
        &self,
        filter: &DeadFilter,
        except: &HashSet<Key>,
        (skip, limit): (usize, usize),
        is_over: &dyn Fn() -> bool,
        each: &mut dyn FnMut(DeadLetter) -> bool,
    ) -> Result<(), DeadError> {
        let keys: Vec<Fingerprint> = {
            let inner = &mut *self.inner.lock();
            self.settle(inner)?;
            inner.index.matching(filter, except).into_iter().map(|(key, _)| key).collect()
        };
        let (mut to_skip, mut left) = (skip, limit);
        for key in keys {
            if left == 0 {
                break;
            }
            if to_skip > 0 && filter.reason.is_none() {
                to_skip -= 1;
                continue;
            }
            if is_over() {
                break;
            }
            let dead_letter = {
                let inner = &mut *self.inner.lock();
                match inner.index.at(key) {
                    Some(location) => self.read(inner, location)?,
                    None => None,
                }
            };
            match dead_letter.filter(|dead_letter| filter.matches(dead_letter)) {
                Some(_) if to_skip > 0 => to_skip -= 1,
                Some(dead_letter) => {
                    left -= 1;
                    if !each(dead_letter) {
                        break;
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Makes the index agree with the queue: fills it at first, and later adds segments that could not be read then. If
    /// the queue was rebuilt from the journal, removed dead letters are in it again, and are removed again.
    pub(super) fn settle(&self, inner: &mut State) -> Result<(), DeadError> {
        let failures = self.store.queue_health().1;
        if !inner.is_loaded {
            inner.queue_failures = failures;
            inner.unread = self.unread_segments();
            self.load(inner, &|_| true)?;
            inner.is_loaded = true;
            return Ok(());
        }
        if inner.queue_failures != failures {
            inner.queue_failures = failures;
            self.remove_again(inner);
            inner.unread.extend(self.unread_segments());
        }
        let unread = self.unread_segments();
        let readable: BTreeSet<u64> = inner.unread.difference(&unread).copied().collect();
        if !readable.is_empty() {
            self.load(inner, &|entry| readable.contains(&entry.segment))?;
            inner.unread = unread;
        }
        Ok(())
    }

    fn unread_segments(&self) -> BTreeSet<u64> {
        self.store.unread_segments().into_iter().collect()
    }

    /// Adds the dead letters of entries to the index; an earlier one with the same key leaves the queue.
    fn load(&self, inner: &mut State, wanted: &dyn Fn(&Entry) -> bool) -> Result<(), DeadError> {
        let mut replaced: PerStream<Vec<Range<u64>>> = PerStream::default();
        for stream in Stream::ALL {
            self.each(inner, stream, 0..u64::MAX, wanted, &mut |inner, location, dead_letter| {
                if let Some(earlier) = inner.index.insert(&dead_letter.id, location) {
                    replaced[stream as usize].push(earlier.seq..earlier.seq + 1);
                }
                true
            })?;
        }
        self.finish(&replaced);
        Ok(())
    }

    /// Removes what is in the queue and not in the index, unless the index does not know all dead letters yet.
    fn remove_again(&self, inner: &State) {
        let mut removed: PerStream<Vec<Range<u64>>> = PerStream::default();
        for stream in Stream::ALL {
            let dead_letters = inner.index.seqs(stream);
            let mut at = 0;
            while let Some((key, entry)) = self.store.entry_from(stream, at) {
                let seqs = entry.seqs(key);
                at = seqs.end;
                if inner.unread.contains(&entry.segment) {
                    continue;
                }
                let mut from = seqs.start;
                for dead_letter in dead_letters.overlap(&seqs) {
                    removed[stream as usize].push(from..dead_letter.start);
                    from = dead_letter.end;
                }
                removed[stream as usize].push(from..seqs.end);
            }
        }
        self.finish(&removed);
    }

    /// Removes from the queue the dead letters that are gone.
    pub(super) fn finish(&self, seqs: &PerStream<Vec<Range<u64>>>) {
        for stream in Stream::ALL {
            if !seqs[stream as usize].is_empty() {
                self.store.finish(stream, &seqs[stream as usize], Disposition::Delivered);
            }
        }
    }

    /// Reads the dead letters of a stream in wanted entries, in order, until `visit` returns false.
    pub(super) fn each(
        &self,
        inner: &mut State,
        stream: Stream,
        seqs: Range<u64>,
        wanted: &dyn Fn(&Entry) -> bool,
        visit: &mut dyn FnMut(&mut State, Location, DeadLetter) -> bool,
    ) -> Result<(), DeadError> {
        let mut at = seqs.start;
        while at < seqs.end
            && let Some((key, entry)) = self.store.entry_from(stream, at)
        {
            let part = at.max(key)..entry.seqs(key).end.min(seqs.end);
            if part.is_empty() {
                return Ok(());
            }
            if !wanted(&entry) {
                at = part.end;
                continue;
            }
            let lookup = inner.readers[stream as usize].seek(&self.store, key, &entry, part.start);
            if let Lookup::Lost(lost) = lookup.map_err(read_error)? {
                at = self.lose(inner, stream, lost.start..lost.end.min(part.end));
                continue;
            }
            let mut next = part.start;
            while let Some(record) = inner.readers[stream as usize].take(next, part.end) {
                next = record.seq + 1;
                let Some(dead_letter) = decode::<DeadLetter>(&record.bytes) else {
                    self.lose(inner, stream, record.seq..next);
                    continue;
                };
                let location = Location { last_attempt_at: dead_letter.last_attempt_at, stream, seq: record.seq };
                if !visit(inner, location, dead_letter) {
                    return Ok(());
                }
            }
            // A block that holds fewer dead letters than its header says.
            at = if next > part.start { next } else { self.lose(inner, stream, part) };
        }
        Ok(())
    }

    /// Counts dead letters as lost; returns where to continue.
    fn lose(&self, inner: &mut State, stream: Stream, lost: Range<u64>) -> u64 {
        inner.index.forget(stream, &lost);
        if !self.store.is_read_only() {
            let dead_letters =
                self.store.finish(stream, std::slice::from_ref(&lost), Disposition::Dropped(DropReason::Damaged));
            self.store.reports.error(format!(
                "spool {}: at least {dead_letters} dead letters of {stream} are lost to damage; see quarantine/",
                self.store.home.display()
            ));
        }
        lost.end
    }

    /// A dead letter of the index; `None` if it is lost.
    pub(super) fn read(&self, inner: &mut State, location: Location) -> Result<Option<DeadLetter>, DeadError> {
        let Location { stream, seq, .. } = location;
        let reader = &mut inner.readers[stream as usize];
        // Neighbours are in the same block.
        if reader.block_seqs().is_some_and(|seqs| seqs.contains(&seq))
            && let Some(dead_letter) = reader.take(seq, seq + 1).and_then(|record| decode(&record.bytes))
        {
            return Ok(Some(dead_letter));
        }
        let mut found = None;
        self.each(inner, stream, seq..seq + 1, &|_| true, &mut |_, _, dead_letter| {
            found = Some(dead_letter);
            false
        })?;
        Ok(found)
    }
}

fn read_error(error: QueueError) -> DeadError {
    match error {
        QueueError::Io { path, source } => DeadError::Io { path: path.into(), source },
        QueueError::NoKey { path, key } => DeadError::NoKey { path: path.into(), key },
        QueueError::DeadLettersFull { .. } => unreachable!("reading needs no space"),
    }
}
