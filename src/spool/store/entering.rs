//! Enters synced groups into the queue. Small neighbours share an entry, so that a trickle of records makes few.

use super::{
    Store,
    state::{Group, State, size_of},
};
use crate::{
    record::{PerStream, Stream},
    spool::{
        journal::block::Header,
        queue::{Change, Entry, QueueFailed, QueueStore},
    },
};

/// The length up to which an entry's extent of the journal grows.
const MAX_ENTRY_BYTES: u64 = 256 << 10;

/// Entries that are being built: the last one of each stream may still grow.
#[derive(Debug)]
pub(super) struct Entries {
    max_span: u32,
    tails: PerStream<Option<(u64, Entry)>>,
    made: Vec<(Stream, u64, Option<Entry>)>,
}

impl Entries {
    /// Continues after the last entries of a queue.
    pub(super) fn behind(queue: &dyn QueueStore, max_span: u32) -> Result<Self, QueueFailed> {
        let mut entries = Self::new(max_span);
        for stream in Stream::ALL {
            entries.tails[stream as usize] = queue.entry_before(stream, u64::MAX)?;
        }
        Ok(entries)
    }

    /// Begins with new entries.
    pub(super) const fn new(max_span: u32) -> Self {
        Self { max_span, tails: [None; Stream::ALL.len()], made: Vec::new() }
    }

    /// Enters a block's records from `from` on.
    pub(super) fn add(&mut self, segment: u64, offset: u64, header: &Header, from: u64) {
        let seqs = header.seqs();
        let key = from.max(seqs.start);
        let records = seqs.end.saturating_sub(key);
        if records == 0 {
            return;
        }
        let size = size_of(header).share(records, u64::from(header.count));
        let end = offset + header.block_len();
        let tail = &mut self.tails[header.stream as usize];
        if let Some((first, entry)) = tail {
            let later = u32::try_from(header.received_at.saturating_sub(entry.received_at));
            if let Ok(span) = later
                && entry.segment == segment
                && entry.seqs(*first).end == key
                && end.saturating_sub(entry.offset) <= MAX_ENTRY_BYTES
                && span <= self.max_span
            {
                entry.len = end - entry.offset;
                entry.records += records;
                entry.span = entry.span.max(span);
                entry.size.add(size);
                let grown = (header.stream, *first, Some(*entry));
                match self.made.iter_mut().rev().find(|(stream, ..)| *stream == header.stream) {
                    Some(made) if made.1 == *first => *made = grown,
                    _ => self.made.push(grown),
                }
                return;
            }
        }
        let entry =
            Entry { segment, offset, len: end - offset, records, received_at: header.received_at, span: 0, size };
        *tail = Some((key, entry));
        self.made.push((header.stream, key, Some(entry)));
    }

    /// The entries that are new or have grown.
    pub(super) fn take(&mut self) -> Vec<(Stream, u64, Option<Entry>)> {
        std::mem::take(&mut self.made)
    }
}

impl Store {
    /// Enters the published groups.
    pub(crate) fn enter(&self) {
        self.with_queue(|queue| self.enter_into(queue));
    }

    pub(super) fn enter_into(&self, queue: &dyn QueueStore) -> Result<(), QueueFailed> {
        let (groups, mut change) = {
            let mut state = self.state.lock();
            if state.unentered.is_empty() {
                return Ok(());
            }
            let groups = std::mem::take(&mut state.unentered);
            let next = Some(state.streams.each_ref().map(|stream| stream.next));
            (groups, Change { next, ..Change::default() })
        };
        let mut entries = Entries::behind(queue, self.options.max_entry_span)?;
        for group in &groups {
            for (offset, header) in &group.blocks {
                entries.add(group.segment, *offset, header, header.seq);
            }
        }
        change.entries = entries.take();
        let mut state = self.state.lock();
        for group in groups {
            state.record_entered(group, &mut change);
        }
        drop(state);
        // If this fails, the queue is replaced by one that has everything that is synced.
        queue.apply(&change)?;
        self.mark_changed();
        Ok(())
    }
}

impl State {
    fn record_entered(&mut self, group: Group, change: &mut Change) {
        let Some(segment) = self.segments.get_mut(&group.segment) else { return };
        segment.progress.entered_to = group.end;
        segment.progress.entered += group.blocks.iter().map(|(_, header)| u64::from(header.count)).sum::<u64>();
        match change.segments.last_mut() {
            Some((last, progress)) if *last == group.segment => *progress = Some(segment.progress_to_record()),
            _ => change.segments.push((group.segment, Some(segment.progress_to_record()))),
        }
    }
}
