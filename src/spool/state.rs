//! What the journal knows besides the records: how far each stream is, what became of its records, how much is left.
//!
//! Every segment begins with a whole [`SavedState`]; [`Note`]s after it say what changed. So the newest segment alone
//! tells the state, and an older one can go as soon as its records are gone.

use std::{collections::BTreeMap, ops::Range};

use bincode::{Decode, Encode, config};
use serde::{Deserialize, Serialize};

use super::{block::MAX_PAYLOAD_BYTES, ranges::RangeSet};
use crate::record::Stream;

/// Why records left a queue without being delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The spool was full and `when_full: drop_oldest` made room.
    Oldest,
    /// The spool was full and `when_full: drop_newest` did not take them.
    Newest,
    /// They were older than `max_age`.
    Expired,
    /// Someone purged the queue.
    Purged,
    /// The medium damaged or lost them.
    Damaged,
}

impl DropReason {
    /// All reasons, in the order they are counted in.
    pub const ALL: [Self; 5] = [Self::Oldest, Self::Newest, Self::Expired, Self::Purged, Self::Damaged];

    /// The reason's name, as JSON and metrics show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
            Self::Expired => "expired",
            Self::Purged => "purged",
            Self::Damaged => "damaged",
        }
    }
}

/// What became of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) enum Fate {
    /// The sink has them.
    Delivered,
    /// They are dead letters now.
    SetAside,
    /// They are gone.
    Dropped(DropReason),
    /// Their write was refused to the caller; the ordinals are not used again.
    Void,
}

impl Fate {
    /// Adds records, or their bytes, to the sum that they go by. A reason is not listed before something was dropped for it.
    pub(crate) fn add(
        self,
        amount: u64,
        delivered: &mut u64,
        set_aside: &mut u64,
        dropped: &mut BTreeMap<DropReason, u64>,
    ) {
        match self {
            _ if amount == 0 => {}
            Self::Delivered => *delivered += amount,
            Self::SetAside => *set_aside += amount,
            Self::Dropped(reason) => *dropped.entry(reason).or_default() += amount,
            Self::Void => {}
        }
    }
}

/// What became of some records of a stream, and what of the backlog's size went with them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Note {
    pub(crate) stream: Stream,
    pub(crate) fate: Fate,
    /// (first ordinal, how many)
    pub(crate) ranges: Vec<(u64, u64)>,
    /// Records without an ordinal: those never taken.
    pub(crate) unnumbered: u64,
    pub(crate) size: Size,
}

/// A size of backlog: blocks that still hold a record to deliver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Size {
    pub(crate) blocks: u64,
    /// On disk, headers included.
    pub(crate) bytes: u64,
    /// Unpacked payloads.
    pub(crate) raw: u64,
}

impl Size {
    pub(crate) const fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.raw += other.raw;
    }

    const fn subtract(&mut self, other: Self) {
        self.blocks = self.blocks.saturating_sub(other.blocks);
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.raw = self.raw.saturating_sub(other.raw);
    }
}

/// Records counted since the spool was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Totals {
    /// Acknowledged by the sink.
    pub delivered: u64,
    /// Set aside as dead letters.
    pub set_aside: u64,
    /// Dropped, by reason; absent means none.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Totals {
    fn count(&mut self, fate: Fate, records: u64) {
        fate.add(records, &mut self.delivered, &mut self.set_aside, &mut self.dropped);
    }
}

/// How far a stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The ordinal that the next record gets.
    pub(crate) next: u64,
    /// All before it are done.
    pub(crate) head: u64,
    /// Done at or after the head, out of order.
    pub(crate) above: RangeSet,
    pub(crate) size: Size,
    pub(crate) totals: Totals,
}

impl Progress {
    /// Records still to be delivered.
    pub(crate) const fn records(&self) -> u64 {
        self.next - self.head - self.above.len()
    }

    /// Takes in records that were appended.
    pub(crate) fn append(&mut self, ordinals: &Range<u64>, size: Size) {
        self.next = self.next.max(ordinals.end);
        self.size.add(size);
    }

    pub(crate) fn is_done(&self, range: &Range<u64>) -> bool {
        let rest = range.start.max(self.head)..range.end;
        rest.is_empty() || self.above.covers(&rest)
    }

    /// The first ordinal at or after `from` that is not done, and where the next done one (or the end) stands.
    pub(crate) fn first_open(&self, from: u64) -> Option<Range<u64>> {
        let mut start = from.max(self.head);
        if let Some(done) = self.above.range_at(start) {
            start = done.end;
        }
        let end = self.above.range_after(start).map_or(self.next, |done| done.start.min(self.next));
        (start < end).then_some(start..end)
    }

    /// The last ordinals before `before` that are not done, back to the done one (or the head) in front of them.
    pub(crate) fn last_open(&self, before: u64) -> Option<Range<u64>> {
        let mut end = before.min(self.next);
        if let Some(done) = end.checked_sub(1).and_then(|last| self.above.range_at(last)) {
            end = done.start;
        }
        let start = self.above.range_before(end).map_or(self.head, |done| done.end);
        (start < end).then_some(start..end)
    }

    /// Takes in a note; answers how many records it finished that were not yet.
    pub(crate) fn apply(&mut self, note: &Note) -> u64 {
        let mut finished = note.unnumbered;
        for &(start, count) in &note.ranges {
            let range = start.max(self.head)..start.saturating_add(count);
            self.next = self.next.max(range.end);
            finished += self.above.insert(range);
        }
        if let Some(first) = self.above.range_at(self.head) {
            self.above.remove(&first);
            self.head = first.end;
        }
        self.totals.count(note.fate, finished);
        self.take_off(note.size);
        finished
    }

    /// Takes finished blocks off the backlog's size.
    pub(crate) fn take_off(&mut self, size: Size) {
        self.size.subtract(size);
        if self.records() == 0 {
            // What damage cost in blocks and bytes is estimated; here the truth is known.
            self.size = Size::default();
        }
    }

    fn save(&self) -> SavedStream {
        SavedStream {
            next: self.next,
            head: self.head,
            above: self.above.iter().map(|range| (range.start, range.end - range.start)).collect(),
            size: self.size,
            totals: self.totals.clone(),
        }
    }

    fn load(saved: SavedStream) -> Self {
        let above = saved.above.into_iter().map(|(start, count)| start..start.saturating_add(count)).collect();
        let mut progress = Self { next: saved.next, head: saved.head, above, size: saved.size, totals: saved.totals };
        progress.next = progress.next.max(progress.head).max(progress.above.iter().last().map_or(0, |range| range.end));
        progress
    }
}

/// The state as it is stored at the front of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedState {
    /// The segment it stands in.
    pub(crate) segment: u64,
    streams: [SavedStream; Stream::ALL.len()],
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedStream {
    next: u64,
    head: u64,
    above: Vec<(u64, u64)>,
    size: Size,
    totals: Totals,
}

impl SavedState {
    pub(crate) fn new(segment: u64, streams: [&Progress; Stream::ALL.len()]) -> Self {
        Self { segment, streams: streams.map(Progress::save) }
    }

    pub(crate) fn into_progress(self) -> [Progress; Stream::ALL.len()] {
        self.streams.map(Progress::load)
    }

    /// The ordinals that the streams' first records in this segment have.
    pub(crate) fn first_ordinals(&self) -> [u64; Stream::ALL.len()] {
        std::array::from_fn(|i| self.streams[i].next)
    }
}

/// Where a run of blocks lies: what a queue's entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Run {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// Bytes from the first block's start to the last one's end; blocks of other streams may lie between.
    pub(crate) len: u64,
    /// Ordinals it spans, counted from its key.
    pub(crate) records: u64,
    /// When its first record was received.
    pub(crate) oldest: i64,
}

impl Run {
    pub(crate) const fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// How far the queue has followed the journal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Checkpoint {
    /// The journal up to this place is in it: segment, offset.
    pub(crate) position: (u64, u64),
    pub(crate) state: SavedState,
    /// The last run of each stream, still growing: key, run.
    pub(crate) tails: [Option<(u64, Run)>; Stream::ALL.len()],
}

/// Notes waiting to be written, melted together.
#[derive(Debug, Default)]
pub(crate) struct PendingNotes {
    notes: BTreeMap<(Stream, Fate), (RangeSet, u64, Size)>,
}

impl PendingNotes {
    pub(crate) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    pub(crate) fn add(&mut self, note: &Note) {
        let (ranges, unnumbered, size) = self.notes.entry((note.stream, note.fate)).or_default();
        for &(start, count) in &note.ranges {
            ranges.insert(start..start.saturating_add(count));
        }
        *unnumbered += note.unnumbered;
        size.add(note.size);
    }

    pub(crate) fn take(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
            .into_iter()
            .map(|((stream, fate), (ranges, unnumbered, size))| Note {
                stream,
                fate,
                ranges: ranges.iter().map(|range| (range.start, range.end - range.start)).collect(),
                unnumbered,
                size,
            })
            .collect()
    }
}

/// Bytes of a note, a state, a queue entry: bincode with variable-width integers.
pub(crate) fn encode<T: Encode>(value: &T) -> Vec<u8> {
    match bincode::encode_to_vec(value, config::standard()) {
        Ok(bytes) => bytes,
        // Only a failing `Encode` or writer can fail; neither the derived ones nor a Vec do.
        Err(error) => unreachable!("encoding to memory failed: {error}"),
    }
}

/// Reads what [`encode`] wrote; all of the bytes have to be used.
pub(crate) fn decode<T: Decode<()>>(bytes: &[u8]) -> Option<T> {
    let limited = config::standard().with_limit::<{ MAX_PAYLOAD_BYTES as usize }>();
    let (value, used) = bincode::decode_from_slice(bytes, limited).ok()?;
    (used == bytes.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(ranges: &[(u64, u64)]) -> Note {
        Note {
            stream: Stream::Events,
            fate: Fate::Delivered,
            ranges: ranges.to_vec(),
            unnumbered: 0,
            size: Size::default(),
        }
    }

    #[test]
    fn the_head_moves_only_over_what_is_done() {
        let mut progress = Progress::default();
        progress.append(&(0..10), Size { blocks: 1, bytes: 100, raw: 200 });
        assert_eq!(progress.apply(&delivered(&[(5, 2)])), 2);
        assert_eq!((progress.head, progress.records()), (0, 8));
        assert_eq!(progress.first_open(0), Some(0..5));
        assert_eq!(progress.apply(&delivered(&[(0, 6)])), 5, "what was done before counts once");
        assert_eq!((progress.head, progress.records()), (7, 3));
        assert_eq!(progress.first_open(0), Some(7..10));
        assert_eq!(progress.totals.delivered, 7);
    }

    #[test]
    fn open_ordinals_are_the_same_from_both_ends() {
        let mut progress = Progress::default();
        progress.append(&(0..30), Size::default());
        progress.apply(&delivered(&[(0, 3), (7, 2), (20, 1), (28, 2)]));
        let (mut forwards, mut at) = (Vec::new(), 0);
        while let Some(open) = progress.first_open(at) {
            at = open.end;
            forwards.push(open);
        }
        let (mut backwards, mut before) = (Vec::new(), u64::MAX);
        while let Some(open) = progress.last_open(before) {
            before = open.start;
            backwards.insert(0, open);
        }
        assert_eq!(forwards, [3..7, 9..20, 21..28]);
        assert_eq!(backwards, forwards);
        assert_eq!(progress.last_open(12), Some(9..12));
        assert_eq!(progress.last_open(3), None);
    }

    #[test]
    fn a_saved_state_comes_back_as_it_was() {
        let mut progress = Progress::default();
        progress.append(&(0..100), Size { blocks: 3, bytes: 100, raw: 200 });
        progress.apply(&delivered(&[(0, 7), (20, 5)]));
        let saved = SavedState::new(9, [&progress, &Progress::default(), &Progress::default()]);
        let bytes = encode(&saved);
        let back: SavedState = decode(&bytes).expect("what was encoded");
        assert_eq!(back, saved);
        assert_eq!(back.into_progress()[0], progress);
        assert_eq!(decode::<SavedState>(&bytes[..bytes.len() - 1]), None);
    }
}
