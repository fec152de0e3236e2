//! Delivery: the flusher leases records in order and reports the result of each. Leases are kept in memory only.

use std::ops::Range;

use async_trait::async_trait;

use super::{
    Spool,
    delivery::{Lease, LeaseLimit, Queue, QueueError, Rejection},
    queue::Entry,
    rejecting,
    shared::Shared,
    store::reader::{Lookup, Reader},
    totals::{Disposition, DropReason},
};
use crate::record::{QueuedRecord, Stream, UnixMillis};

/// This many records that are done and not flushed trigger an early flush of the queue.
const MAX_UNFLUSHED: u64 = 50_000;

impl Shared {
    /// Leases the next records of a stream, released ones first.
    ///
    /// # Errors
    /// When the next segment cannot be read now. A segment that could not be read for a while is skipped if there are
    /// others.
    pub(crate) fn lease(&self, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError> {
        let mut reader = self.readers[stream as usize].lock();
        match self.lease_through(&mut reader, stream, limit, true)? {
            None if reader.passes_over_some() => self.lease_through(&mut reader, stream, limit, false),
            lease => Ok(lease),
        }
    }

    fn lease_through(
        &self,
        reader: &mut Reader,
        stream: Stream,
        limit: LeaseLimit,
        passing_over: bool,
    ) -> Result<Option<Lease>, QueueError> {
        let mut records: Vec<QueuedRecord> = Vec::new();
        let (mut bytes, mut from) = (0, 0);
        while records.len() < limit.records.max(1) && (records.is_empty() || bytes < limit.bytes) {
            let Some((key, entry, wanted)) = self.next_to_lease(stream, from) else { break };
            if passing_over && reader.passes_over(entry.segment) {
                self.pass_over(stream, &wanted);
                from = wanted.end;
                continue;
            }
            let lookup = match reader.seek(&self.store, key, &entry, wanted.start) {
                Ok(lookup) => lookup,
                // It was purged or dropped meanwhile.
                Err(_) if self.is_gone(stream, key, &entry) => continue,
                Err(_) if passing_over && reader.passes_over(entry.segment) => continue,
                // Return what was read so far; the error occurs again at the next call.
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(error),
            };
            let lost = match lookup {
                Lookup::Lost(lost) => lost,
                Lookup::Block => {
                    let before = records.len();
                    let full = take(reader, &wanted, limit, &mut records, &mut bytes);
                    self.record_leased(stream, &records[before..]);
                    if full {
                        break;
                    }
                    if records.len() > before {
                        continue;
                    }
                    // The block holds fewer records than its header says.
                    wanted.start..reader.block_seqs().map_or(wanted.end, |seqs| seqs.end)
                }
            };
            self.lose(stream, lost.start..lost.end.min(wanted.end), &entry);
        }
        Ok((!records.is_empty()).then_some(Lease { stream, records }))
    }

    /// The next entry at or after `from` that is not leased, and its unleased part.
    fn next_to_lease(&self, stream: Stream, from: u64) -> Option<(u64, Entry, Range<u64>)> {
        loop {
            let (released, cursor) = {
                let state = self.store.state.lock();
                let stream = &state.streams[stream as usize];
                (stream.released.first_from(from), stream.cursor.max(from))
            };
            let wanted = released.clone().unwrap_or(cursor..u64::MAX);
            let found = self.store.entry_from(stream, wanted.start);
            let part = found.map(|(key, entry)| {
                let seqs = entry.seqs(key);
                (key, entry, seqs.start.max(wanted.start)..seqs.end.min(wanted.end))
            });
            match part.filter(|(_, _, part)| !part.is_empty()) {
                Some(part) => return Some(part),
                None => {
                    // Done since it was released.
                    let released = released?;
                    self.store.state.lock().streams[stream as usize].released.remove(&released);
                }
            }
        }
    }

    fn record_leased(&self, stream: Stream, records: &[QueuedRecord]) {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        let seqs = first.seq..last.seq + 1;
        let mut state = self.store.state.lock();
        let stream = &mut state.streams[stream as usize];
        stream.released.remove(&seqs);
        stream.cursor = stream.cursor.max(seqs.end);
        stream.leased.insert(seqs);
    }

    /// Allows later records to be leased before these.
    fn pass_over(&self, stream: Stream, seqs: &Range<u64>) {
        let mut state = self.store.state.lock();
        let stream = &mut state.streams[stream as usize];
        stream.released.insert(seqs.clone());
        stream.cursor = stream.cursor.max(seqs.end);
    }

    fn is_gone(&self, stream: Stream, key: u64, entry: &Entry) -> bool {
        self.store.entry_from(stream, key).is_none_or(|found| found != (key, *entry))
    }

    /// Counts records as lost that the journal no longer holds.
    fn lose(&self, stream: Stream, lost: Range<u64>, entry: &Entry) {
        let records = self.store.finish(stream, std::slice::from_ref(&lost), Disposition::Dropped(DropReason::Damaged));
        let mut state = self.store.state.lock();
        let of_stream = &mut state.streams[stream as usize];
        // Gone already, or lost now: either way it is not searched for again.
        of_stream.released.remove(&lost);
        drop(state);
        if records > 0 {
            self.reports.error(format!(
                "spool {}: {records} {stream} are lost (sequence numbers {} to {}): segment {} no longer holds them; see \
                 quarantine/",
                self.home.display(),
                lost.start,
                lost.end - 1,
                entry.segment,
            ));
        }
    }
}

/// Takes records of the open block; true if the limit is reached.
fn take(
    reader: &mut Reader,
    wanted: &Range<u64>,
    limit: LeaseLimit,
    records: &mut Vec<QueuedRecord>,
    bytes: &mut usize,
) -> bool {
    let mut seq = wanted.start;
    while let Some(record) = reader.take(seq, wanted.end) {
        let over = records.len() >= limit.records.max(1) || *bytes + record.bytes.len() > limit.bytes;
        if over && !records.is_empty() {
            reader.put_back(record.seq);
            return true;
        }
        *bytes += record.bytes.len();
        seq = record.seq + 1;
        records.push(QueuedRecord { seq: record.seq, received_at: record.received_at, bytes: record.bytes });
    }
    false
}

#[async_trait]
impl Queue for Spool {
    fn lease(&self, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError> {
        self.shared.lease(stream, limit)
    }

    fn release(&self, stream: Stream, seqs: &[Range<u64>]) {
        self.shared.store.release(stream, seqs);
        self.shared.ready[stream as usize].notify_waiters();
    }

    fn acknowledge(&self, stream: Stream, seqs: &[Range<u64>]) -> Result<(), QueueError> {
        self.shared.store.finish(stream, seqs, Disposition::Delivered);
        if self.unflushed(stream) >= MAX_UNFLUSHED {
            self.shared.maintenance.wake();
        }
        Ok(())
    }

    fn dead_letter(&self, stream: Stream, rejections: Vec<Rejection>) -> Result<(), QueueError> {
        rejecting::dead_letter(&self.shared, stream, rejections)
    }

    async fn ready(&self, stream: Stream) {
        loop {
            let notified = self.shared.ready[stream as usize].notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.waiting(stream).0 > 0 {
                return;
            }
            notified.await;
        }
    }

    fn waiting(&self, stream: Stream) -> (u64, u64) {
        self.shared.store.state.lock().streams[stream as usize].waiting()
    }

    fn unflushed(&self, stream: Stream) -> u64 {
        self.shared.store.state.lock().streams[stream as usize].unflushed
    }

    fn redelivers_since(&self) -> Option<UnixMillis> {
        self.shared.store.state.lock().redeliveries.map(|redeliveries| redeliveries.since)
    }
}
