//! The books: where each stream stands, which segments there are, what is handed out. In memory, bounded by what is
//! handed out and by what the queue has not entered yet; never by the backlog.

use std::{collections::BTreeMap, ops::Range};

use super::{
    block::{Header, Kind},
    passed::PassedBytes,
    ranges::RangeSet,
    state::{Checkpoint, DropReason, Fate, Note, Progress, Run, SavedState, Size},
};
use crate::record::{Stream, UnixMillis};

const STREAMS: usize = Stream::ALL.len();
/// A run grows up to this many bytes of journal.
const RUN_BYTES: u64 = 256 << 10;

/// Everything the spool knows without looking at the disk.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) streams: [StreamBooks; STREAMS],
    /// By number, oldest first.
    pub(crate) segments: BTreeMap<u64, SegmentBooks>,
    /// The journal is synced and in these books up to here: segment, offset.
    pub(crate) position: (u64, u64),
}

/// A stream's part of the books.
#[derive(Debug, Default)]
pub(crate) struct StreamBooks {
    /// With what was acknowledged just now.
    pub(crate) live: Progress,
    /// As the synced journal tells it.
    pub(crate) durable: Progress,
    /// Records before it were handed out at least once.
    pub(crate) cursor: u64,
    /// Handed out and given back.
    pub(crate) returned: RangeSet,
    /// Blocks with records that were handed out and are not all done.
    pub(crate) in_flight: BTreeMap<u64, BlockPlace>,
    /// The run that still grows.
    pub(crate) tail: Option<(u64, Run)>,
    /// Finished runs that the queue does not have yet.
    pub(crate) sealed: BTreeMap<u64, Run>,
    /// Bytes of records not yet handed out.
    pub(crate) waiting_bytes: u64,
    /// Bytes that came and went since the start.
    pub(crate) passed: PassedBytes,
}

/// Where a block lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockPlace {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) header: Header,
}

impl BlockPlace {
    fn size(&self) -> Size {
        Size { blocks: 1, bytes: self.header.block_len(), raw: u64::from(self.header.raw_len) }
    }
}

/// A segment's part of the books.
#[derive(Debug, Clone)]
pub(crate) struct SegmentBooks {
    /// Bytes it takes on disk.
    pub(crate) bytes: u64,
    /// The ordinals that the streams' first records in it have (or would have).
    pub(crate) first: [u64; STREAMS],
}

impl Books {
    pub(crate) fn stream(&mut self, stream: Stream) -> &mut StreamBooks {
        &mut self.streams[stream as usize]
    }

    /// The newest segment.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.segments.last_key_value().map(|(&segment, _)| segment)
    }

    /// The ordinals of a stream that lie in a segment, as far as is known.
    pub(crate) fn ordinals_of(&self, segment: u64, stream: Stream) -> Range<u64> {
        let i = stream as usize;
        let start = self.segments.get(&segment).map_or(0, |books| books.first[i]);
        let end =
            self.segments.range(segment + 1..).next().map_or(self.streams[i].live.next, |(_, next)| next.first[i]);
        start..end.max(start)
    }

    /// The segment in which a stream's ordinal should lie.
    pub(crate) fn segment_of(&self, stream: Stream, ordinal: u64) -> Option<u64> {
        self.segments
            .iter()
            .rev()
            .find(|(_, books)| books.first[stream as usize] <= ordinal)
            .map(|(&segment, _)| segment)
    }

    /// Where the synced part of a segment that is being written ends; `None` where all of the file is.
    pub(crate) fn written_end(&self, segment: u64) -> Option<u64> {
        (segment == self.position.0).then_some(self.position.1)
    }

    /// The segments that nothing needs any more: all delivered, and a newer segment knows it.
    pub(crate) fn deletable(&self) -> Vec<u64> {
        let Some(newest) = self.newest() else { return Vec::new() };
        let done = |segment: u64| {
            Stream::ALL
                .into_iter()
                .all(|stream| self.streams[stream as usize].durable.is_done(&self.ordinals_of(segment, stream)))
        };
        self.segments.keys().copied().filter(|&segment| segment < newest && done(segment)).collect()
    }

    /// Bytes of all segments.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// Enters a block of records that is durable now.
    pub(crate) fn enter_block(&mut self, segment: u64, offset: u64, header: &Header) {
        let place = BlockPlace { segment, offset, header: *header };
        let stream = self.stream(header.stream);
        stream.live.append(&header.ordinals(), place.size());
        stream.durable.append(&header.ordinals(), place.size());
        stream.waiting_bytes += u64::from(header.raw_len);
        stream.passed.appended += u64::from(header.raw_len);
        stream.enter_run(&place);
    }

    /// Enters notes that are durable now.
    pub(crate) fn enter_notes(&mut self, notes: &[Note]) {
        for note in notes {
            self.stream(note.stream).durable.apply(note);
        }
    }

    /// Takes in what became of records just now; answers how many of them it is news of, and the note for the journal.
    pub(crate) fn finish(&mut self, stream: Stream, ranges: &[Range<u64>], fate: Fate) -> Option<(u64, Note)> {
        self.stream(stream).finish(stream, ranges, fate)
    }

    /// Drops all that a stream holds; answers the note for the journal, if there was anything.
    pub(crate) fn purge(&mut self, stream: Stream) -> Option<Note> {
        let books = self.stream(stream);
        let (all, size) = (books.live.head..books.live.next, books.live.size);
        let (_, mut note) = books.finish(stream, &[all], Fate::Dropped(DropReason::Purged))?;
        // Blocks that were never handed out are gone too.
        books.passed.leave(note.fate, size.raw.saturating_sub(note.size.raw));
        note.size = size;
        books.waiting_bytes = 0;
        Some(note)
    }

    /// A checkpoint of what is durable.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let [a, b, c] = &self.streams;
        Checkpoint {
            position: self.position,
            state: SavedState::new(self.position.0, [&a.durable, &b.durable, &c.durable]),
            tails: [a.tail, b.tail, c.tail],
        }
    }
}

impl StreamBooks {
    /// Starts from what was read from disk.
    pub(crate) fn restore(&mut self, progress: Progress) {
        self.cursor = progress.head;
        self.waiting_bytes = progress.size.raw;
        self.passed = PassedBytes::default();
        self.live = progress.clone();
        self.durable = progress;
    }

    /// Enters a block of a segment that is walked over, if it holds records.
    pub(crate) fn enter_run_of(&mut self, segment: u64, offset: u64, header: &Header) {
        if header.kind == Kind::Records {
            self.enter_run(&BlockPlace { segment, offset, header: *header });
        }
    }

    /// All runs in memory.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, Run)> + '_ {
        self.sealed.iter().map(|(&key, &run)| (key, run)).chain(self.tail)
    }

    fn enter_run(&mut self, place: &BlockPlace) {
        let end = place.offset + place.header.block_len();
        let ordinals = place.header.ordinals();
        if let Some((key, run)) = &mut self.tail {
            if run.segment == place.segment && end - run.offset <= RUN_BYTES && *key < ordinals.end {
                run.len = end - run.offset;
                run.records = ordinals.end - *key;
                return;
            }
            self.sealed.insert(*key, *run);
        }
        let run = Run {
            segment: place.segment,
            offset: place.offset,
            len: place.header.block_len(),
            records: u64::from(place.header.count),
            oldest: place.header.received_at,
        };
        self.tail = Some((ordinals.start, run));
    }

    fn finish(&mut self, stream: Stream, ranges: &[Range<u64>], fate: Fate) -> Option<(u64, Note)> {
        let mut note = Note {
            stream,
            fate,
            ranges: ranges.iter().map(|range| (range.start, range.end - range.start)).collect(),
            unnumbered: 0,
            size: Size::default(),
        };
        let finished = self.live.apply(&note);
        for range in ranges {
            self.returned.remove(range);
            let from = self.in_flight.range(..=range.start).next_back().map_or(range.start, |(&key, _)| key);
            let done: Vec<u64> = self
                .in_flight
                .range(from..range.end)
                .filter(|(_, place)| self.live.is_done(&place.header.ordinals()))
                .map(|(&key, _)| key)
                .collect();
            for key in done {
                if let Some(place) = self.in_flight.remove(&key) {
                    note.size.add(place.size());
                }
            }
        }
        self.live.take_off(note.size);
        self.passed.leave(fate, note.size.raw);
        (finished > 0 || note.size != Size::default()).then_some((finished, note))
    }

    /// The run in memory that holds `ordinal`.
    pub(crate) fn run_at(&self, ordinal: u64) -> Option<(u64, Run)> {
        let holds = |(key, run): &(u64, Run)| (*key..*key + run.records).contains(&ordinal);
        self.tail
            .filter(holds)
            .or_else(|| self.sealed.range(..=ordinal).next_back().map(|(&key, &run)| (key, run)).filter(holds))
    }

    /// The next ordinals to hand out: what was given back first, then what is new.
    pub(crate) fn next_open(&self) -> Option<Range<u64>> {
        self.returned.first().or_else(|| self.live.first_open(self.cursor))
    }

    /// Notes that records were handed out.
    pub(crate) fn hand_out(&mut self, ordinals: &Range<u64>, bytes: u64) {
        self.returned.remove(ordinals);
        self.cursor = self.cursor.max(ordinals.end);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        if self.waiting().0 == 0 {
            self.waiting_bytes = 0;
        }
    }

    /// Takes records back that were handed out and are not done.
    pub(crate) fn take_back(&mut self, ordinals: &Range<u64>) {
        let mut from = ordinals.start;
        while let Some(open) = self.live.first_open(from) {
            let back = open.start..open.end.min(ordinals.end).min(self.cursor);
            if back.is_empty() {
                break;
            }
            let records = self.live.records().max(1);
            let estimate = self.live.size.raw / records * (back.end - back.start);
            self.waiting_bytes += estimate;
            from = back.end;
            self.returned.insert(back);
        }
    }

    /// Records and bytes not handed out.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        let from = self.cursor.max(self.live.head);
        let fresh = (self.live.next - from.min(self.live.next)) - self.live.above.count_from(from);
        (fresh + self.returned.len(), self.waiting_bytes)
    }

    /// When the first record that is still to be delivered was received, if that is known without reading.
    pub(crate) fn oldest_in_flight(&self) -> Option<UnixMillis> {
        self.in_flight.first_key_value().map(|(_, place)| place.header.received_at)
    }
}
