//! Segments that are read again beside the work: all of them for a twin in memory, where the queue's files have failed, and those
//! that could not be read when they were to be.
//!
//! What was done out of order is not known then, and comes again. What was lost is counted once.

use std::io;

use super::{
    State, Store, Unread,
    entering::Entries,
    recovery::Pending,
    walk::{Start, Walked, walk},
};
use crate::{
    record::Stream,
    spool::{
        journal::{
            codec::Unpacker,
            front::{Front, PerStream},
            scan::{self, Extent, FrontFound},
            segment::{self, Damage},
        },
        queue::{Change, Disposition, DropReason, Entry, Progress, QueueFailed, QueueStore, memory::MemoryQueue},
    },
};

/// Fills a twin in memory from a store's journal, and makes the store's state agree with it. The queue is locked meanwhile.
pub(super) fn twin(store: &Store) -> MemoryQueue {
    let twin = MemoryQueue::default();
    let (segments, floor, next) = {
        let mut state = store.state.lock();
        state.unentered.clear();
        let floor = state.streams.each_ref().map(|stream| stream.ack_floor);
        (state.segments.clone(), floor, state.streams.each_ref().map(|stream| stream.next))
    };
    let mut entries = Entries::new(store.options.max_entry_span);
    let mut change = Change { next: Some(next), ..Change::default() };
    let mut unread = Vec::new();
    let (mut expected, mut lost, mut since) = (floor, PerStream::<u64>::default(), None);
    for (&segment, known) in &segments {
        let extent = Extent { segment, from: 0, end: known.end, synced: u64::MAX, is_last: false };
        // What could not be read before was not done before either: the streams' floor is beyond it.
        let floor = known.unread.map_or(floor, |unread| unread.floor);
        let start = Start { extent, progress: Progress::default(), floor, expected, next: None };
        match walk(store.disk.as_ref(), &store.journal(), start, &mut entries) {
            Ok(walked) => {
                store.keep_damage(segment, &walked.damage);
                unread.push((segment, None));
                expected = walked.next;
                since = [since, walked.oldest].into_iter().flatten().min();
                lost.iter_mut().zip(&walked.lost).for_each(|(lost, more)| *lost += more.len());
                change.segments.push((segment, Some(walked.progress_of(known.held))));
            }
            Err(error) => {
                let path = segment::path(&store.journal(), segment);
                store.reports.error(format!("{}: {}; it is read again later", path.display(), io::Error::from(error)));
                change.segments.push((segment, Some(Progress::default())));
                let (end, held) = (known.end, Some(known.held));
                unread.push((segment, Some(Unread { start: 0, end, held, floor, expected, doubted: false })));
            }
        }
    }
    change.entries = entries.take();
    let mut pending = Pending::default();
    for (stream, key, entry) in &change.entries {
        entry.iter().for_each(|entry| pending.add(*stream, *key, entry));
    }
    let mut state = store.state.lock();
    for (segment, progress) in &change.segments {
        if let (Some(known), Some(progress)) = (state.segments.get_mut(segment), progress) {
            known.progress = *progress;
        }
    }
    for (segment, unread) in unread {
        if let Some(known) = state.segments.get_mut(&segment) {
            known.unread = unread;
        }
    }
    // What was synced meanwhile, and is entered next.
    state.unentered.iter().for_each(|group| pending.add_group(group));
    state.take_over(pending, &change.entries, lost);
    state.expect_redeliveries(since);
    change.totals = Some(state.streams.each_ref().map(|stream| stream.totals.clone()));
    drop(state);
    // Memory takes every change.
    let _ = twin.apply(&change);
    twin
}

impl State {
    /// Goes on with the entries of a queue that was made again. What was done out of order is among them, and counts no more;
    /// what was leased once and is not now is released.
    fn take_over(&mut self, pending: Pending, entries: &[(Stream, u64, Option<Entry>)], lost: PerStream<u64>) {
        let before = self.streams.each_ref().map(|stream| stream.records);
        self.take_pending(pending);
        for (stream, (before, lost)) in self.streams.iter_mut().zip(before.into_iter().zip(lost)) {
            let again = (stream.records + lost).saturating_sub(before);
            stream.totals.delivered = stream.totals.delivered.saturating_sub(again);
            stream.totals.count(Disposition::Dropped(DropReason::Damaged), lost);
        }
        for (stream, key, entry) in entries {
            let Some(entry) = entry else { continue };
            let stream = &mut self.streams[*stream as usize];
            let seqs = entry.seqs(*key);
            if seqs.start < stream.cursor {
                stream.released.insert(seqs.start..seqs.end.min(stream.cursor));
            }
        }
        for stream in &mut self.streams {
            for leased in stream.leased.iter().collect::<Vec<_>>() {
                stream.released.remove(&leased);
            }
        }
    }
}

impl Store {
    /// Enters the segments that could not be read when they were to be walked; true where one was.
    pub(crate) fn read_again(&self) -> bool {
        let unread: Vec<u64> = {
            let state = self.state.lock();
            state.segments.iter().filter(|(_, known)| known.unread.is_some()).map(|(&segment, _)| segment).collect()
        };
        unread.iter().filter(|segment| self.read_segment_again(**segment)).count() > 0
    }

    fn read_segment_again(&self, segment: u64) -> bool {
        let Some(unread) = self.state.lock().segments.get(&segment).and_then(|known| known.unread) else {
            return false;
        };
        let extent = Extent { segment, from: unread.start, end: unread.end, synced: u64::MAX, is_last: false };
        let Unread { floor, mut expected, .. } = unread;
        if let Some(front) = self.front(segment) {
            expected.iter_mut().zip(front.first).for_each(|(expected, first)| *expected = (*expected).max(first));
        }
        let start = Start { extent, progress: Progress::default(), floor, expected, next: None };
        let mut entries = Entries::new(self.options.max_entry_span);
        // Nobody waits for the queue meanwhile: a medium that fails takes long to say so. It has been said that it cannot be read.
        let Ok(walked) = walk(self.disk.as_ref(), &self.journal(), start, &mut entries) else { return false };
        // The medium may be coming back just now.
        if !unread.doubted && walked.damage.iter().any(|damage| damage.unreadable) {
            if let Some(known) = self.state.lock().segments.get_mut(&segment) {
                known.unread = Some(Unread { doubted: true, ..unread });
            }
            return false;
        }
        self.keep_damage(segment, &walked.damage);
        let entries = entries.take();
        self.with_queue(|queue| self.enter_again(queue, segment, unread, &walked, &entries))
    }

    /// Copies damage to the quarantine, once.
    fn keep_damage(&self, segment: u64, damage: &[Damage]) {
        let path = segment::path(&self.journal(), segment);
        let Ok(file) = self.disk.open(&path) else { return };
        damage.iter().for_each(|damage| self.quarantine.keep(&path, segment, file.as_ref(), damage));
    }

    fn front(&self, segment: u64) -> Option<Front> {
        let mut unpacker = Unpacker::new(None).ok()?;
        match scan::front(self.disk.as_ref(), &self.journal(), segment, &mut unpacker) {
            Ok(FrontFound::Whole(front)) => Some(*front),
            _ => None,
        }
    }

    /// Enters what was read of a segment, unless that was done meanwhile with a queue that was made again.
    fn enter_again(
        &self,
        queue: &dyn QueueStore,
        segment: u64,
        unread: Unread,
        walked: &Walked,
        entries: &[(Stream, u64, Option<Entry>)],
    ) -> Result<bool, QueueFailed> {
        let known = self.state.lock().segments.get(&segment).copied();
        let Some(known) = known.filter(|known| known.unread == Some(unread)) else { return Ok(false) };
        let read = walked.progress_of(unread.held.unwrap_or_default());
        let progress = Progress {
            entered_to: known.progress.entered_to.max(read.entered_to),
            entered: known.progress.entered + read.entered,
            done: known.progress.done + read.done,
        };
        let change =
            Change { entries: entries.to_vec(), segments: vec![(segment, Some(progress))], ..Change::default() };
        queue.apply(&change)?;
        let mut firsts = PerStream::default();
        for stream in Stream::ALL {
            firsts[stream as usize] = queue.entry_from(stream, 0)?;
        }
        let mut state = self.state.lock();
        if let Some(known) = state.segments.get_mut(&segment) {
            (known.progress, known.unread) = (progress, None);
            if unread.held.is_none() {
                known.held = progress.entered;
            }
        }
        for (stream, key, entry) in &change.entries {
            let Some(entry) = entry else { continue };
            let seqs = entry.seqs(*key);
            let stream = &mut state.streams[*stream as usize];
            stream.records += entry.records;
            stream.size.add(entry.size);
            if seqs.start < stream.cursor {
                stream.released.insert(seqs.start..seqs.end.min(stream.cursor));
            }
        }
        for (stream, lost) in Stream::ALL.into_iter().zip(&walked.lost) {
            state.streams[stream as usize].totals.count(Disposition::Dropped(DropReason::Damaged), lost.len());
            state.stand_at(stream, firsts[stream as usize]);
        }
        // What of it was done out of order is not known.
        state.expect_redeliveries(walked.oldest);
        drop(state);
        self.mark_changed();
        Ok(true)
    }
}
