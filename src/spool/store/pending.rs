//! The whole contents of a queue: iterate, add up, change or clear them.

use super::state::{Group, State, size_of};
use crate::{
    record::{PerStream, Stream, UnixMillis},
    spool::queue::{Change, Entry, QueueFailed, QueueStore, Recorded, Size},
};

/// How many entries one change covers.
const MAX_ENTRIES: usize = 1000;

/// Sums of what is to be delivered.
#[derive(Debug, Default)]
pub(super) struct Pending {
    streams: PerStream<(u64, Size)>,
    first: PerStream<Option<(u64, UnixMillis)>>,
}

impl Pending {
    pub(super) fn add(&mut self, stream: Stream, key: u64, entry: &Entry) {
        self.add_records(stream, key, entry.records, entry.size, entry.received_at);
    }

    /// Adds records that are synced and not entered.
    pub(super) fn add_group(&mut self, group: &Group) {
        for (_, header) in &group.blocks {
            self.add_records(header.stream, header.seq, header.count.into(), size_of(header), header.received_at);
        }
    }

    fn add_records(&mut self, stream: Stream, first: u64, records: u64, size: Size, received_at: UnixMillis) {
        let (all, all_size) = &mut self.streams[stream as usize];
        *all += records;
        all_size.add(size);
        self.first[stream as usize].get_or_insert((first, received_at));
    }
}

impl State {
    /// Makes the streams agree with all entries of the queue.
    pub(super) fn take_pending(&mut self, pending: Pending) {
        let found = pending.streams.into_iter().zip(pending.first);
        for (stream, ((records, size), first)) in self.streams.iter_mut().zip(found) {
            (stream.records, stream.size) = (records, size);
            stream.ack_floor = first.map_or(stream.next, |(key, _)| key);
            stream.oldest = first.map(|(_, received_at)| received_at);
        }
    }
}

/// All entries of a queue, in order.
pub(crate) fn each_entry(
    queue: &dyn QueueStore,
    visit: &mut dyn FnMut(Stream, u64, &Entry),
) -> Result<(), QueueFailed> {
    for stream in Stream::ALL {
        let mut at = 0;
        while let Some((key, entry)) = queue.entry_from(stream, at)? {
            visit(stream, key, &entry);
            at = entry.seqs(key).end.max(at + 1);
        }
    }
    Ok(())
}

/// Clears a queue. Its segments are removed last: after an interruption, it is found again to belong to another
/// journal.
pub(super) fn clear(queue: &dyn QueueStore, recorded: &Recorded) -> Result<(), QueueFailed> {
    let mut change =
        Change { totals: Some(PerStream::default()), next: Some(PerStream::default()), ..Change::default() };
    each_entry(queue, &mut |stream, key, _| change.entries.push((stream, key, None)))?;
    change.segments.extend(recorded.segments.keys().map(|&segment| (segment, None)));
    apply_in_parts(queue, change)
}

/// Applies a change of any length, its entries before their counts: after an interruption, the next start walks again.
pub(super) fn apply_in_parts(queue: &dyn QueueStore, mut change: Change) -> Result<(), QueueFailed> {
    let entries = std::mem::take(&mut change.entries);
    if entries.len() <= MAX_ENTRIES {
        return queue.apply(&Change { entries, ..change });
    }
    for part in entries.chunks(MAX_ENTRIES) {
        queue.apply(&Change { entries: part.to_vec(), ..Change::default() })?;
    }
    queue.apply(&change)
}
