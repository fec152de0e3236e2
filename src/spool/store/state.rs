//! A store's state in memory: its streams, its segments, and the groups that are synced and not yet entered.
//!
//! Bounded by the leases and by the number of segments. It changes after something is durable or in the queue, never
//! before.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use crate::{
    record::{PerStream, UnixMillis},
    spool::{
        journal::{block::Header, front::Ending, packing::FrontFacts, scan::Extent, writer::Committed},
        queue::{Progress, Size, ranges::RangeSet},
        totals::{ByteTotals, Totals},
    },
};

/// The state in memory. Bounded by the leases and by the number of segments.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) streams: PerStream<StreamState>,
    /// By number, oldest first.
    pub(crate) segments: BTreeMap<u64, Segment>,
    /// Segments that are proven to be no longer needed, with truncated files: to be unlinked.
    pub(crate) done: BTreeMap<u64, ()>,
    /// The highest number of a published segment, or of one found at the start. Segments being written have higher
    /// ones.
    pub(crate) newest: u64,
    /// A synced front says that segments before this one are no longer needed.
    pub(crate) needed_from: u64,
    /// The segment with the newest synced front, which the next start uses.
    pub(crate) newest_front: u64,
    /// Groups that are synced and not entered into the queue.
    pub(crate) unentered: VecDeque<Group>,
    /// What may be redelivered beyond [`StreamState::unflushed`]: the queue was rebuilt from the journal.
    pub(crate) redeliveries: Option<Redeliveries>,
}

/// Records that may be redelivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Redeliveries {
    /// They were received at this time or later.
    pub(crate) since: UnixMillis,
    /// They have lower sequence numbers than these.
    until: PerStream<u64>,
}

/// A stream's part of the state.
#[derive(Debug, Default, Clone)]
pub(crate) struct StreamState {
    /// The sequence number of the next record.
    pub(crate) next: u64,
    /// All before it are done.
    pub(crate) ack_floor: u64,
    /// Records still to be delivered, including leased ones.
    pub(crate) records: u64,
    pub(crate) size: Size,
    /// When the first of them was received.
    pub(crate) oldest: Option<UnixMillis>,
    pub(crate) totals: Totals,
    /// Bytes that arrived and left since the start.
    pub(crate) byte_totals: ByteTotals,
    /// All before it were leased at least once.
    pub(crate) cursor: u64,
    pub(crate) leased: RangeSet,
    /// Leased once and released.
    pub(crate) released: RangeSet,
    /// Records done since the queue was flushed: after a crash they are redelivered.
    pub(crate) unflushed: u64,
}

impl StreamState {
    /// Records, and approximate bytes, that are not leased.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let records = self.records.saturating_sub(self.leased.len());
        (records, self.size.share(records, self.records).raw)
    }
}

/// A segment, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Segment {
    /// Bytes that it takes on the medium.
    pub(crate) allocated: u64,
    /// The length up to which it is synced.
    pub(crate) end: u64,
    /// Records that it holds, including those lost to damage.
    pub(crate) held: u64,
    /// It is sealed.
    pub(crate) sealed: bool,
    pub(crate) progress: Progress,
    /// Some of it could not be read when it was to be walked; that will be retried.
    pub(crate) unread: Option<Unread>,
}

/// The part of a segment that is still to be walked. Groups after it are entered as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) extent: Extent,
    /// The number of its records, if known.
    pub(super) held: Option<u64>,
    /// Records before these were done when it was to be walked.
    pub(super) floor: PerStream<u64>,
    /// The lowest possible sequence numbers of the streams' next records.
    pub(crate) expected: PerStream<u64>,
    /// Since when all but some of it can be read: if that lasts, the rest is damage.
    pub(super) since: Option<Instant>,
}

impl Segment {
    /// What the queue records of it. Of a part that is still to be walked nothing is known, nor of what follows it: a
    /// start walks both.
    pub(super) fn progress_to_record(&self) -> Progress {
        match self.unread {
            Some(Unread { extent: Extent { from: 0, .. }, .. }) => self.progress.unwalked(),
            Some(Unread { extent, .. }) => Progress { entered_to: extent.from, ..self.progress },
            None => self.progress,
        }
    }
}

/// A synced group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) segment: u64,
    pub(crate) end: u64,
    /// Its blocks, with their offsets.
    pub(crate) blocks: Vec<(u64, Header)>,
}

impl State {
    /// Bytes that all segments take.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.allocated).sum()
    }

    /// True if the segment that is being written is longer than this, and seven eighths of its records are done.
    pub(crate) fn is_newest_spent(&self, bytes: u64) -> bool {
        let newest = self.segments.last_key_value().filter(|(_, known)| !known.sealed);
        newest.is_some_and(|(_, known)| known.end > bytes && known.progress.done >= known.held / 8 * 7)
    }

    /// Adds a group that is durable.
    pub(super) fn publish(&mut self, committed: Committed) {
        let Committed { segment, blocks, front, end, allocated, next, sealed, .. } = committed;
        if let Some(ended) = sealed {
            self.record_sealed(ended);
        }
        self.newest = self.newest.max(segment);
        let known = self.segments.entry(segment).or_default();
        known.end = end;
        known.progress.front = known.progress.front.or(front);
        known.allocated = allocated.next_multiple_of(PAGE_BYTES);
        known.held += blocks.iter().map(|(_, header)| u64::from(header.count)).sum::<u64>();
        for (_, header) in &blocks {
            let stream = &mut self.streams[header.stream as usize];
            stream.records += u64::from(header.count);
            stream.size.add(size_of(header));
            stream.byte_totals.appended += u64::from(header.raw_len);
            stream.oldest.get_or_insert(header.received_at);
        }
        for (stream, next) in self.streams.iter_mut().zip(next) {
            stream.next = next;
        }
        self.unentered.push_back(Group { segment, end, blocks });
    }

    /// Of what the journal holds now, records received from `since` on may be redelivered.
    pub(super) fn expect_redeliveries(&mut self, since: Option<UnixMillis>) {
        if let Some(since) = since {
            // A little earlier than before: a sink that has loaded what it delivered since then does so again, for what
            // it has delivered in between.
            let since = self.redeliveries.map_or(since, |known| since.min(known.since.saturating_sub(1)));
            let until = self.streams.each_ref().map(|stream| stream.next);
            self.redeliveries = Some(Redeliveries { since, until });
        }
        self.end_redeliveries();
    }

    /// Ends redeliveries once everything is done that the journal held then.
    pub(super) fn end_redeliveries(&mut self) {
        let Some(Redeliveries { until, .. }) = self.redeliveries else { return };
        let is_done = self.streams.iter().zip(until).all(|(stream, until)| stream.ack_floor >= until);
        if is_done && self.segments.values().all(|segment| segment.unread.is_none()) {
            self.redeliveries = None;
        }
    }

    pub(super) fn record_sealed(&mut self, Ending { segment, len, records, .. }: Ending) {
        if let Some(ended) = self.segments.get_mut(&segment) {
            (ended.sealed, ended.end, ended.held) = (true, len, records);
            ended.allocated = ended.allocated.min(len.next_multiple_of(PAGE_BYTES));
        }
    }

    pub(super) fn front_facts(&self) -> FrontFacts {
        // Without any, a segment that is being written is needed: the group that begins it may be being synced right
        // now.
        let lowest = self.segments.first_key_value().map_or(self.newest + 1, |(&segment, _)| segment);
        let unread = self.segments.values().filter_map(|segment| segment.unread.map(|unread| unread.floor));
        let floor = self.streams.each_ref().map(|stream| stream.ack_floor);
        FrontFacts {
            needed_from: lowest,
            ack_floor: unread.fold(floor, |floor, unread| std::array::from_fn(|i| floor[i].min(unread[i]))),
            totals: self.streams.each_ref().map(|stream| stream.totals.clone()),
        }
    }
}

/// The unit in which a file's space on the medium is counted.
pub(super) const PAGE_BYTES: u64 = 4096;

/// The size of a block.
pub(crate) fn size_of(header: &Header) -> Size {
    Size { blocks: 1, bytes: header.block_len(), raw: u64::from(header.raw_len) }
}
