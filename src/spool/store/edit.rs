//! Removes records from the queue: one change removes or shrinks entries and counts exactly what it removed.

use std::{collections::BTreeMap, ops::Range};

use super::{Store, state::State};
use crate::{
    record::Stream,
    spool::{
        queue::{Change, Entry, QueueFailed, QueueStore, Size, ranges::RangeSet},
        totals::{Disposition, DropReason},
    },
};

/// How many entries one change covers.
const MAX_ENTRIES: usize = 1000;

impl Store {
    /// Removes records from the queue; returns how many of them were in it.
    pub(crate) fn finish(&self, stream: Stream, seqs: &[Range<u64>], disposition: Disposition) -> u64 {
        let seqs = in_order(seqs);
        let (mut from, mut finished) = (0, 0);
        loop {
            let (records, next) = self.with_queue(|queue| {
                self.enter_into(queue)?;
                self.finish_some(queue, stream, &seqs, from, disposition)
            });
            finished += records;
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        // Records that were no longer in the queue are no longer leased either.
        let mut state = self.state.lock();
        let of_stream = &mut state.streams[stream as usize];
        for range in &seqs {
            of_stream.leased.remove(range);
            of_stream.released.remove(range);
        }
        finished
    }

    /// Drops what a segment and those before it still hold, to make space; returns how many records that were.
    pub(crate) fn drop_segment(&self, segment: u64) -> u64 {
        let mut dropped = 0;
        for stream in Stream::ALL {
            let (mut at, mut seqs) = (0, Vec::new());
            while let Some((key, entry)) = self.entry_from(stream, at).filter(|(_, entry)| entry.segment <= segment) {
                at = entry.seqs(key).end;
                seqs.push(entry.seqs(key));
            }
            dropped += self.finish(stream, &seqs, Disposition::Dropped(DropReason::Oldest));
        }
        dropped
    }

    /// Counts records that were never accepted.
    pub(crate) fn count(&self, stream: Stream, disposition: Disposition, records: u64, raw: u64) {
        self.with_queue(|queue| {
            let mut totals = self.state.lock().streams.each_ref().map(|stream| stream.totals.clone());
            totals[stream as usize].count(disposition, records);
            queue.apply(&Change { totals: Some(totals.clone()), ..Change::default() })?;
            let mut state = self.state.lock();
            let stream = &mut state.streams[stream as usize];
            stream.totals.count(disposition, records);
            stream.byte_totals.appended += raw;
            stream.byte_totals.leave(disposition, raw);
            Ok(())
        });
        self.mark_changed();
    }

    /// Goes through the entries from `from` on; returns how many records were removed, and where to continue.
    fn finish_some(
        &self,
        queue: &dyn QueueStore,
        stream: Stream,
        seqs: &[Range<u64>],
        from: u64,
        disposition: Disposition,
    ) -> Result<(u64, Option<u64>), QueueFailed> {
        let mut edit = Edit::default();
        let mut left = seqs.iter().map(|range| range.start.max(from)..range.end).filter(|range| !range.is_empty());
        let mut at = left.next();
        let mut rest = None;
        while let Some(wanted) = at.take() {
            if edit.change.entries.len() >= MAX_ENTRIES {
                rest = Some(wanted.start);
                break;
            }
            let Some((key, entry)) = queue.entry_from(stream, wanted.start)? else { break };
            let end = entry.seqs(key).end;
            if key >= wanted.end {
                at = left.next();
                continue;
            }
            let mut hits = vec![wanted.start..wanted.end.min(end)];
            at = (wanted.end > end).then_some(end..wanted.end).or_else(|| left.next());
            while let Some(next) = at.clone().filter(|next| next.start < end) {
                hits.push(next.start..next.end.min(end));
                at = (next.end > end).then_some(end..next.end).or_else(|| left.next());
            }
            edit.cut(stream, key, &entry, &hits);
        }
        if edit.records == 0 {
            return Ok((0, rest));
        }
        self.apply(queue, stream, edit, disposition).map(|records| (records, rest))
    }

    fn apply(
        &self,
        queue: &dyn QueueStore,
        stream: Stream,
        edit: Edit,
        disposition: Disposition,
    ) -> Result<u64, QueueFailed> {
        let Edit { mut change, done, records, size, removed } = edit;
        let totals = {
            let state = self.state.lock();
            for (&segment, records) in &done {
                // A segment deleted since was done without these.
                let Some(mut known) = state.segments.get(&segment).copied() else { continue };
                known.progress.finish(stream, disposition, *records);
                change.segments.push((segment, Some(known.progress_to_record())));
            }
            let mut totals = state.streams.each_ref().map(|stream| stream.totals.clone());
            totals[stream as usize].count(disposition, records);
            totals
        };
        change.totals = Some(totals.clone());
        queue.apply(&change)?;
        let first = queue.entry_from(stream, 0)?;
        let mut state = self.state.lock();
        for (segment, records) in done {
            if let Some(known) = state.segments.get_mut(&segment) {
                known.progress.finish(stream, disposition, records);
            }
        }
        let of_stream = &mut state.streams[stream as usize];
        of_stream.records = of_stream.records.saturating_sub(records);
        of_stream.size.subtract(size);
        of_stream.unflushed += records;
        let [events, stats, node_rooms] = totals;
        of_stream.totals = match stream {
            Stream::Events => events,
            Stream::Stats => stats,
            Stream::NodeRooms => node_rooms,
        };
        of_stream.byte_totals.leave(disposition, size.raw);
        for range in &removed {
            of_stream.leased.remove(range);
            of_stream.released.remove(range);
        }
        state.stand_at(stream, first);
        state.end_redeliveries();
        drop(state);
        self.mark_changed();
        Ok(records)
    }
}

impl State {
    /// Records which entry is the first one of a stream.
    pub(super) fn stand_at(&mut self, stream: Stream, first: Option<(u64, Entry)>) {
        let unentered = self.unentered.iter().flat_map(|group| &group.blocks);
        let unentered = unentered.map(|(_, header)| header).find(|header| header.stream == stream);
        let first = first.map(|(key, entry)| (key, entry.received_at));
        let first = first.or_else(|| unentered.map(|header| (header.seq, header.received_at)));
        let stream = &mut self.streams[stream as usize];
        stream.ack_floor = first.map_or(stream.next, |(seq, _)| seq);
        stream.oldest = first.map(|(_, received_at)| received_at);
    }
}

/// The changes of one pass over the entries.
#[derive(Debug, Default)]
pub(super) struct Edit {
    pub(super) change: Change,
    /// Records removed, by segment.
    done: BTreeMap<u64, u64>,
    pub(super) records: u64,
    size: Size,
    removed: Vec<Range<u64>>,
}

impl Edit {
    /// Cuts parts out of an entry; the rest becomes entries over the same extent of the journal.
    pub(super) fn cut(&mut self, stream: Stream, key: u64, entry: &Entry, hits: &[Range<u64>]) {
        let all = entry.seqs(key);
        let (mut at, mut left, mut size) = (all.start, 0, entry.size);
        let mut keeps_key = false;
        for end in
            hits.iter().map(|hit| hit.start).chain([all.end]).zip(hits.iter().map(|hit| hit.end).chain([all.end]))
        {
            let piece = at..end.0;
            at = end.1;
            if piece.is_empty() {
                continue;
            }
            let records = piece.end - piece.start;
            let share = entry.size.share(records, entry.records);
            size.subtract(share);
            left += records;
            keeps_key |= piece.start == key;
            self.change.entries.push((stream, piece.start, Some(Entry { records, size: share, ..*entry })));
        }
        if !keeps_key {
            self.change.entries.push((stream, key, None));
        }
        let removed = entry.records - left;
        *self.done.entry(entry.segment).or_default() += removed;
        self.records += removed;
        self.size.add(size);
        self.removed.extend(hits.iter().cloned());
    }
}

/// Ranges in order, without overlaps.
fn in_order(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    ranges.iter().cloned().collect::<RangeSet>().iter().collect()
}
