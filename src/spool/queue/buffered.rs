//! Buffers changes in memory; the next flush writes them to the queue below together.
//!
//! sled writes twice for a transaction however small it is, and what is removed before the flush that would have
//! written it never needs to be written. Durability does not change: unflushed changes may be lost either way.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use parking_lot::Mutex;

use super::{Change, Entry, QueueFailed, QueueStore, Queues, Recorded};
use crate::record::{PerStream, Stream};

/// After this many changes they are written without a flush: a lookup has to skip the removed entries.
const MAX_CHANGES: usize = 1024;

/// Opens queues that buffer their changes.
#[derive(Debug, Clone)]
pub(crate) struct BufferedQueues<Q>(pub(crate) Q);

impl<Q: Queues> Queues for BufferedQueues<Q> {
    fn spent(&self) -> Option<QueueFailed> {
        self.0.spent()
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn QueueStore>, QueueFailed> {
        Ok(Arc::new(BufferedQueue { beneath: self.0.open(directory)?, changes: Mutex::default() }))
    }
}

#[derive(Debug)]
struct BufferedQueue {
    beneath: Arc<dyn QueueStore>,
    changes: Mutex<Changes>,
}

/// The last change of each key.
#[derive(Debug, Default)]
struct Changes {
    entries: PerStream<BTreeMap<u64, Option<Entry>>>,
    rest: Change,
}

impl Changes {
    fn add(&mut self, change: &Change) {
        for (stream, key, entry) in &change.entries {
            self.entries[*stream as usize].insert(*key, *entry);
        }
        let rest = &mut self.rest;
        for (segment, progress) in &change.segments {
            match rest.segments.iter_mut().find(|(known, _)| known == segment) {
                Some(known) => known.1 = *progress,
                None => rest.segments.push((*segment, *progress)),
            }
        }
        rest.totals = change.totals.clone().or(rest.totals.take());
        rest.next = change.next.or(rest.next);
        rest.clock = change.clock.clone().or(rest.clock.take());
    }

    fn len(&self) -> usize {
        self.entries.iter().map(BTreeMap::len).sum::<usize>() + self.rest.segments.len()
    }

    /// Writes the changes to a queue. If that fails, they stay buffered and visible.
    fn pass_on(&mut self, queue: &dyn QueueStore) -> Result<(), QueueFailed> {
        let of = |stream: Stream| self.entries[stream as usize].iter().map(move |(&key, &entry)| (stream, key, entry));
        let entries = Stream::ALL.into_iter().flat_map(of).collect();
        queue.apply(&Change { entries, ..self.rest.clone() })?;
        *self = Self::default();
        Ok(())
    }
}

impl QueueStore for BufferedQueue {
    fn recorded(&self) -> Result<Recorded, QueueFailed> {
        let changes = self.changes.lock();
        let mut recorded = self.beneath.recorded()?;
        recorded.change(&changes.rest);
        Ok(recorded)
    }

    fn entry_from(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        let changes = self.changes.lock();
        let changed = &changes.entries[stream as usize];
        let over = changed.range(..=seq).rev().find_map(live).filter(|(key, entry)| entry.seqs(*key).contains(&seq));
        if over.is_some() {
            return Ok(over);
        }
        let own = changed.range(seq..).find_map(live);
        let mut at = seq;
        while own.is_none_or(|(key, _)| at <= key) {
            let Some((key, entry)) = self.beneath.entry_from(stream, at)? else { break };
            if !changed.contains_key(&key) {
                return Ok(own.filter(|(own, _)| *own < key).or(Some((key, entry))));
            }
            at = entry.seqs(key).end;
        }
        Ok(own)
    }

    fn entry_before(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        let changes = self.changes.lock();
        let changed = &changes.entries[stream as usize];
        let own = changed.range(..seq).rev().find_map(live);
        let mut at = seq;
        while own.is_none_or(|(key, _)| key < at) {
            let Some((key, entry)) = self.beneath.entry_before(stream, at)? else { break };
            if !changed.contains_key(&key) {
                return Ok(own.filter(|(own, _)| *own > key).or(Some((key, entry))));
            }
            at = key;
        }
        Ok(own)
    }

    fn apply(&self, change: &Change) -> Result<(), QueueFailed> {
        let mut changes = self.changes.lock();
        changes.add(change);
        if changes.len() > MAX_CHANGES { changes.pass_on(self.beneath.as_ref()) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), QueueFailed> {
        self.changes.lock().pass_on(self.beneath.as_ref())?;
        self.beneath.flush()
    }

    fn is_durable(&self) -> bool {
        self.beneath.is_durable()
    }

    fn leak(self: Arc<Self>) {
        Arc::clone(&self.beneath).leak();
        std::mem::forget(self);
    }
}

fn live((&key, entry): (&u64, &Option<Entry>)) -> Option<(u64, Entry)> {
    entry.map(|entry| (key, entry))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::memory::MemoryQueue, *};

    #[derive(Debug)]
    struct OneQueue(Arc<MemoryQueue>);

    impl Queues for OneQueue {
        fn open(&self, _: &Path) -> Result<Arc<dyn QueueStore>, QueueFailed> {
            Ok(Arc::clone(&self.0) as Arc<dyn QueueStore>)
        }
    }

    /// Entries of 10 records, at one of this many places.
    const PLACES: u64 = 12;

    fn entry(records: u64) -> Entry {
        let size = super::super::Size::default();
        Entry { segment: 1, offset: 0, len: 100, records, received_at: 0, span: 0, size }
    }

    proptest! {
        #[test]
        fn it_answers_as_a_queue_that_does_not_wait(steps in prop::collection::vec((0..PLACES, 0..5_u64), 1..80)) {
            let (beneath, plain) = (Arc::new(MemoryQueue::default()), MemoryQueue::default());
            let buffered = BufferedQueues(OneQueue(Arc::clone(&beneath))).open(Path::new("")).unwrap();
            for (place, what) in steps {
                let key = place * 10;
                let entries = match what {
                    0 => vec![(key, None)],
                    1 => vec![(key, Some(entry(10))), (key + 7, None)],
                    2 => vec![(key, Some(entry(3))), (key + 7, Some(entry(3)))],
                    3 => vec![(key, None), (key + 7, Some(entry(3)))],
                    _ => {
                        buffered.flush().unwrap();
                        prop_assert_eq!(beneath.recorded().unwrap(), plain.recorded().unwrap());
                        continue;
                    }
                };
                let entries = entries.into_iter().map(|(key, entry)| (Stream::Events, key, entry)).collect();
                let segments = vec![(place, (what > 0).then(Default::default))];
                let change = Change { entries, segments, next: Some([key; 3]), ..Change::default() };
                buffered.apply(&change).unwrap();
                plain.apply(&change).unwrap();
                prop_assert_eq!(buffered.recorded().unwrap(), plain.recorded().unwrap());
                for seq in 0..PLACES * 10 + 2 {
                    let (from, before) = (buffered.entry_from(Stream::Events, seq), buffered.entry_before(Stream::Events, seq));
                    prop_assert_eq!(from.unwrap(), plain.entry_from(Stream::Events, seq).unwrap(), "from {}", seq);
                    prop_assert_eq!(before.unwrap(), plain.entry_before(Stream::Events, seq).unwrap(), "before {}", seq);
                }
            }
        }
    }
}
