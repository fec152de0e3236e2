//! What a store is checked against: the segments that it knows, its queue, and what is still to be delivered.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    record::{PerStream, Stream},
    spool::{
        journal::{block::Kind, segment::Damage},
        queue::{Entry, QueueFailed, QueueStore, Recorded, memory::MemoryQueue, ranges::RangeSet},
        store::{Store, pending, settling::Findings, state::Segment},
        tools::queue_copy::NoCopy,
    },
};

/// What was found in a store that no process has open.
#[derive(Debug)]
pub(crate) struct StoppedStore {
    pub(crate) findings: Findings,
    /// The queue on disk; `None` if there is none.
    pub(crate) queue: Result<Option<MemoryQueue>, NoCopy>,
}

/// The contents of the queue.
#[derive(Debug, Default)]
pub(super) struct QueueContents {
    pub(super) recorded: Recorded,
    /// By segment and stream, in order.
    pub(super) entries: BTreeMap<u64, PerStream<Vec<(u64, Entry)>>>,
}

/// A store to check.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) store: &'a Store,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Segments that are being deleted, with truncated files.
    pub(super) done: Vec<u64>,
    /// The sequence numbers after the streams' last records.
    pub(super) next: PerStream<u64>,
    /// The queue; `None` if there is none.
    pub(super) queue: Result<Option<QueueContents>, NoCopy>,
    /// It is on disk.
    pub(super) queue_is_on_disk: bool,
    /// What a torn write left, and in which segment.
    pub(super) torn: Option<(u64, Damage)>,
    /// Records that a start counts as lost, by segment.
    lost: BTreeMap<u64, PerStream<RangeSet>>,
    /// Segments that returned too late.
    pub(super) late: Vec<u64>,
    pub(super) is_live: bool,
}

impl<'a> Subject<'a> {
    /// A store that no process has open.
    pub(super) fn stopped(store: &'a Store, found: &StoppedStore) -> Self {
        let contents = |queue| QueueContents::of(queue).map_err(|error| NoCopy::NotReadable(error.to_string()));
        let queue = match &found.queue {
            Ok(queue) => queue.as_ref().map(|queue| contents(queue)).transpose(),
            Err(error) => Err(error.clone()),
        };
        let mut subject = Self::new(store, queue, true);
        let Findings { torn, lost, late, .. } = &found.findings;
        (subject.torn, subject.lost, subject.late) = (torn.clone(), lost.clone(), late.clone());
        subject
    }

    /// A store that is checked during its work.
    pub(super) fn live(store: &'a Store) -> Self {
        // Later changes of segments and queue follow this snapshot.
        store.enter();
        let queue = store.with_queue(QueueContents::of);
        Self { is_live: true, ..Self::new(store, Ok(Some(queue)), store.queue_health().0) }
    }

    fn new(store: &'a Store, queue: Result<Option<QueueContents>, NoCopy>, queue_is_on_disk: bool) -> Self {
        let state = store.state.lock();
        let (segments, next) = (state.segments.clone(), state.streams.each_ref().map(|stream| stream.next));
        let done = state.done.keys().copied().collect();
        drop(state);
        let lost = BTreeMap::new();
        Self {
            store,
            segments,
            done,
            next,
            queue,
            queue_is_on_disk,
            torn: None,
            lost,
            late: Vec::new(),
            is_live: false,
        }
    }

    /// True if it holds dead letters.
    pub(super) fn holds_dead_letters(&self) -> bool {
        self.store.options.kind == Kind::DeadLetters
    }

    /// The segments that exist, or that hold something to be delivered.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.segments.keys().chain(self.lost.keys()).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// How many of these records in a segment are still to be delivered.
    pub(super) fn pending(&self, segment: u64, stream: Stream, seqs: &Range<u64>) -> u64 {
        let lost = self.lost.get(&segment).map(|lost| lost[stream as usize].overlap(seqs)).unwrap_or_default();
        let mut count = lost.into_iter().map(|range| range.end - range.start).sum();
        let mut at = seqs.start;
        while let Some((key, entry)) = self.store.entry_from(stream, at) {
            let of_entry = entry.seqs(key);
            let from = of_entry.start.max(at);
            if from >= seqs.end || entry.segment > segment {
                break;
            }
            if entry.segment == segment {
                count += of_entry.end.min(seqs.end) - from;
            }
            at = of_entry.end;
        }
        count
    }
}

impl QueueContents {
    fn of(queue: &dyn QueueStore) -> Result<Self, QueueFailed> {
        let mut contents = Self { recorded: queue.recorded()?, ..Self::default() };
        pending::each_entry(queue, &mut |stream, key, entry| {
            contents.entries.entry(entry.segment).or_default()[stream as usize].push((key, *entry));
        })?;
        Ok(contents)
    }

    /// Entries of a segment.
    pub(super) fn entries_of(&self, segment: u64) -> PerStream<&[(u64, Entry)]> {
        self.entries.get(&segment).map_or([&[]; Stream::ALL.len()], |entries| entries.each_ref().map(Vec::as_slice))
    }
}
