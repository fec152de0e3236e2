//! Reads segments again during the work: all of them for a queue in memory, after the queue's files failed, and those
//! that could not be read at their first attempt.
//!
//! What was done out of order is unknown then, and is redelivered. Losses are counted once.

use std::{io, ops::Range};

use super::{
    Store,
    entering::Entries,
    pending::Pending,
    reader::UNREADABLE_TIME,
    state::{Segment, State, StreamState, Unread},
    walk::{Start, Walked, walk, walk_whole},
};
use crate::{
    record::{PerStream, Stream, instant},
    spool::{
        journal::{
            codec::Unpacker,
            front::Front,
            scan::{self, Extent, FrontFound},
            segment::{self, Damage},
        },
        queue::{Change, Entry, Progress, QueueFailed, QueueStore, memory::MemoryQueue},
    },
};

/// Fills a queue in memory from a store's journal, and makes the store's state agree with it. The queue is locked
/// meanwhile.
pub(super) fn fill_from_journal(store: &Store) -> MemoryQueue {
    let filled = MemoryQueue::default();
    let (segments, floor, next) = {
        let mut state = store.state.lock();
        state.unentered.clear();
        let floor = state.streams.each_ref().map(|stream| stream.ack_floor);
        (state.segments.clone(), floor, state.streams.each_ref().map(|stream| stream.next))
    };
    let mut change = Change { next: Some(next), ..Change::default() };
    let mut walked_segments = Vec::new();
    let (mut expected, mut lost, mut since) = (floor, PerStream::<(u64, u64)>::default(), None);
    let fronts = if store.unread_segments().is_empty() { Vec::new() } else { store.fronts() };
    for (&segment, known) in &segments {
        let whole = Extent { segment, from: 0, end: known.end, synced: u64::MAX, is_last: false };
        // An unread segment has a floor of its own: its records are not done, though the streams' ack floor is beyond them.
        let before = Unread { extent: whole, held: Some(known.held), floor, expected, since: None };
        let Unread { extent, held, floor, since: failing_since, .. } = known.unread.unwrap_or(before);
        let extent = Extent { from: 0, end: known.end, ..extent };
        let mut start = Start { extent, progress: known.progress.unwalked(), floor, expected, next: None };
        if known.unread.is_some() {
            start = corrected_by(&fronts, start);
        }
        let mut entries = Entries::new(store.options.max_entry_span);
        let mut now = Segment { unread: None, ..*known };
        match walk_whole(store.disk.as_ref(), &store.journal(), start, &mut entries) {
            Ok(walked) => {
                store.keep_damage(segment, &walked.damage);
                change.entries.extend(entries.take());
                expected = walked.next;
                since = [since, walked.oldest].into_iter().flatten().min();
                for (i, (before, now)) in lost.iter_mut().enumerate() {
                    *before += walked.counted[i];
                    *now += walked.progress.lost[i];
                }
                now.take_walked(&walked, walked.progress_of(held.unwrap_or_default()), extent.end);
            }
            Err((error, since)) => {
                let path = segment::path(&store.journal(), segment);
                store.reports.error(format!("{}: {}; it is retried later", path.display(), io::Error::from(error)));
                now.progress = known.progress.unwalked();
                now.unread = Some(Unread { extent, held, floor, expected, since: failing_since.or(since) });
            }
        }
        change.segments.push((segment, Some(now.progress)));
        walked_segments.push((segment, now));
    }
    let mut pending = Pending::default();
    for (stream, key, entry) in &change.entries {
        entry.iter().for_each(|entry| pending.add(*stream, *key, entry));
    }
    let mut state = store.state.lock();
    for (segment, now) in walked_segments {
        if let Some(known) = state.segments.get_mut(&segment) {
            let Segment { progress, unread, .. } = now;
            (known.progress, known.unread) = (progress, unread);
            // Groups may have been added to it meanwhile, unless the segment was unknown.
            if known.held == segments[&segment].held {
                (known.held, known.end) = (now.held, now.end);
            }
        }
    }
    // Records that were synced meanwhile, and are entered next.
    state.unentered.iter().for_each(|group| pending.add_group(group));
    state.take_over(pending, &change.entries, lost);
    state.expect_redeliveries(since);
    change.totals = Some(state.streams.each_ref().map(|stream| stream.totals.clone()));
    drop(state);
    // A queue in memory accepts every change.
    let _ = filled.apply(&change);
    filled
}

/// The start of a walk over a segment that could not be read, corrected by fronts that could not be read then either:
/// where it begins and ends, and what is done at least. After its end there may be a group that was refused, whose
/// sequence numbers were used again.
fn corrected_by(fronts: &[Front], mut start: Start) -> Start {
    let rise = |at_least: &mut PerStream<u64>, by: &PerStream<u64>| {
        at_least.iter_mut().zip(by).for_each(|(at_least, by)| *at_least = (*at_least).max(*by));
    };
    for front in fronts {
        rise(&mut start.floor, &front.ack_floor);
        if front.segment == start.extent.segment {
            rise(&mut start.expected, &front.first);
        }
        if let Some(ending) = front.previous.filter(|ending| ending.segment == start.extent.segment) {
            start.extent.end = start.extent.end.min(ending.len);
            start.extent.is_last = false;
            start.next = Some(ending.next);
        }
    }
    start
}

impl Segment {
    /// Records that the segment was walked up to `end`, or to its real end; its number of records is known then.
    fn take_walked(&mut self, walked: &Walked, progress: Progress, end: u64) {
        self.held = self.held.max(progress.entered);
        if walked.progress.entered_to < end {
            self.end = walked.progress.entered_to;
        }
        self.progress = progress;
    }
}

impl StreamState {
    /// Allows those of them to be leased that the cursor has passed.
    fn release_extent(&mut self, seqs: Range<u64>) {
        if seqs.start < self.cursor {
            self.released.insert(seqs.start..seqs.end.min(self.cursor));
        }
    }
}

impl State {
    /// Continues with the entries of a rebuilt queue. Records that were done out of order are among them, and count as
    /// not done; records that were leased once and are not leased now are released.
    fn take_over(&mut self, pending: Pending, entries: &[(Stream, u64, Option<Entry>)], lost: PerStream<(u64, u64)>) {
        let before = self.streams.each_ref().map(|stream| stream.records);
        self.take_pending(pending);
        for (stream, (before, lost)) in self.streams.iter_mut().zip(before.into_iter().zip(lost)) {
            let again = (stream.records + lost.1).saturating_sub(before + lost.0);
            stream.totals.delivered = stream.totals.delivered.saturating_sub(again);
            stream.totals.recount_damaged(lost.0, lost.1);
        }
        for (stream, key, entry) in entries {
            let Some(entry) = entry else { continue };
            self.streams[*stream as usize].release_extent(entry.seqs(*key));
        }
        for stream in &mut self.streams {
            for leased in stream.leased.iter().collect::<Vec<_>>() {
                stream.released.remove(&leased);
            }
        }
    }
}

impl Store {
    /// Enters the segments that could not be read before; true if one was entered.
    pub(crate) fn read_again(&self) -> bool {
        let unread = self.unread_segments();
        if unread.is_empty() {
            return false;
        }
        let fronts = self.fronts();
        unread.into_iter().filter(|segment| self.read_segment_again(*segment, &fronts)).count() > 0
    }

    /// The segments that could not be read, and have not been read since.
    pub(crate) fn unread_segments(&self) -> Vec<u64> {
        let state = self.state.lock();
        state.segments.iter().filter(|(_, known)| known.unread.is_some()).map(|(&segment, _)| segment).collect()
    }

    fn read_segment_again(&self, segment: u64, fronts: &[Front]) -> bool {
        let Some(known) = self.state.lock().segments.get(&segment).copied() else { return false };
        let Some(unread) = known.unread else { return false };
        let Unread { extent, floor, expected, since, .. } = unread;
        let progress = known.progress.unwalked();
        let start = corrected_by(fronts, Start { extent, progress, floor, expected, next: None });
        let mut entries = Entries::new(self.options.max_entry_span);
        // The queue is not locked meanwhile: a failing medium takes long to answer. The unreadable segment was reported
        // before.
        let Ok(walked) = walk(self.disk.as_ref(), &self.journal(), start, &mut entries) else { return false };
        // The medium may be recovering right now.
        if walked.damage.iter().any(|damage| damage.unreadable) {
            let since = since.unwrap_or_else(instant);
            if instant().duration_since(since) < UNREADABLE_TIME {
                if let Some(known) = self.state.lock().segments.get_mut(&segment) {
                    known.unread = Some(Unread { since: Some(since), ..unread });
                }
                return false;
            }
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

    /// The fronts that can be read.
    fn fronts(&self) -> Vec<Front> {
        let Ok(mut unpacker) = Unpacker::new(None) else { return Vec::new() };
        let journal = self.journal();
        let segments: Vec<u64> = self.state.lock().segments.keys().copied().collect();
        let front = |segment| match scan::front(self.disk.as_ref(), &journal, segment, &mut unpacker) {
            Ok(FrontFound::Whole(front, _)) => Some(*front),
            _ => None,
        };
        segments.into_iter().filter_map(front).collect()
    }

    /// Enters what was read of a segment, unless that was done meanwhile with a rebuilt queue.
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
        let lost = |i: usize| (known.progress.lost[i] + read.lost[i]).saturating_sub(walked.counted[i]);
        let progress = Progress {
            front: known.progress.front,
            entered_to: known.progress.entered_to.max(read.entered_to),
            entered: known.progress.entered + read.entered,
            done: known.progress.done + read.done,
            lost: std::array::from_fn(lost),
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
            known.take_walked(walked, progress, unread.extent.end);
            known.unread = None;
        }
        for (stream, key, entry) in &change.entries {
            let Some(entry) = entry else { continue };
            let stream = &mut state.streams[*stream as usize];
            stream.records += entry.records;
            stream.size.add(entry.size);
            stream.release_extent(entry.seqs(*key));
        }
        for (i, stream) in Stream::ALL.into_iter().enumerate() {
            state.streams[i].totals.recount_damaged(walked.counted[i], read.lost[i]);
            state.stand_at(stream, firsts[stream as usize]);
        }
        // Which of its records were done out of order is unknown.
        state.expect_redeliveries(walked.oldest);
        drop(state);
        self.mark_changed();
        Ok(true)
    }
}
