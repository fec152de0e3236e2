//! The queue in memory: used while sled cannot be, and filled from the journal. About a hundred bytes for 256 KiB of
//! journal.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{Change, Entry, QueueFailed, QueueStore, Recorded};
use crate::record::{PerStream, Stream};

/// A queue that does not outlast the process.
#[derive(Debug, Default)]
pub(crate) struct MemoryQueue(Mutex<Contents>);

#[derive(Debug, Default, Clone)]
struct Contents {
    entries: PerStream<BTreeMap<u64, Entry>>,
    recorded: Recorded,
}

impl MemoryQueue {
    /// A copy of everything that another queue holds.
    ///
    /// # Errors
    /// When that one cannot be read.
    pub(crate) fn copy_of(other: &dyn QueueStore) -> Result<Self, QueueFailed> {
        let mut contents = Contents { recorded: other.recorded()?, ..Contents::default() };
        for stream in Stream::ALL {
            let mut at = 0;
            while let Some((key, entry)) = other.entry_from(stream, at)? {
                contents.entries[stream as usize].insert(key, entry);
                at = entry.seqs(key).end.max(at + 1);
            }
        }
        Ok(Self(Mutex::new(contents)))
    }

    /// A copy.
    pub(crate) fn duplicate(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }

    /// Its whole contents as one change to an empty queue.
    pub(crate) fn as_change(&self) -> Change {
        let contents = self.0.lock();
        let Recorded { segments, totals, next, clock } = contents.recorded.clone();
        let of = |stream: Stream| {
            contents.entries[stream as usize].iter().map(move |(&key, &entry)| (stream, key, Some(entry)))
        };
        Change {
            entries: Stream::ALL.into_iter().flat_map(of).collect(),
            segments: segments.into_iter().map(|(segment, progress)| (segment, Some(progress))).collect(),
            totals: Some(totals),
            next: Some(next),
            clock,
        }
    }
}

impl QueueStore for MemoryQueue {
    fn recorded(&self) -> Result<Recorded, QueueFailed> {
        Ok(self.0.lock().recorded.clone())
    }

    fn entry_from(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        let contents = self.0.lock();
        let entries = &contents.entries[stream as usize];
        let before = entries.range(..=seq).next_back().filter(|(key, entry)| entry.seqs(**key).contains(&seq));
        Ok(before.or_else(|| entries.range(seq..).next()).map(|(&key, &entry)| (key, entry)))
    }

    fn entry_before(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        Ok(self.0.lock().entries[stream as usize].range(..seq).next_back().map(|(&key, &entry)| (key, entry)))
    }

    fn apply(&self, change: &Change) -> Result<(), QueueFailed> {
        let mut contents = self.0.lock();
        for (stream, key, entry) in &change.entries {
            let entries = &mut contents.entries[*stream as usize];
            match entry {
                Some(entry) => _ = entries.insert(*key, *entry),
                None => _ = entries.remove(key),
            }
        }
        contents.recorded.change(change);
        Ok(())
    }

    fn flush(&self) -> Result<(), QueueFailed> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}
