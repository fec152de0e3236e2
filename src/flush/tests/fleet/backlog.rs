//! A forwarder's queue with a backlog of any size: records are created when they are leased.

use std::{collections::VecDeque, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    record::{QueuedRecord, Stream, UnixMillis},
    spool::{Lease, LeaseLimit, Queue, QueueError, Rejection},
};

/// The bytes of each record.
static RECORD: [u8; 200] = [0; 200];

/// A queue of events that only shrinks.
pub(super) struct Backlog(Mutex<State>);

struct State {
    /// Not leased, in order; released records come first.
    waiting: VecDeque<Range<u64>>,
    acknowledged: u64,
}

impl Backlog {
    pub(super) fn of(records: u64) -> Self {
        Self(Mutex::new(State { waiting: [0..records].into(), acknowledged: 0 }))
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.0.lock().waiting.is_empty()
    }

    /// Records that were delivered.
    pub(super) fn acknowledged(&self) -> u64 {
        self.0.lock().acknowledged
    }
}

#[async_trait]
impl Queue for Backlog {
    fn lease(&self, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError> {
        let mut state = self.0.lock();
        let Some(first) = state.waiting.front_mut().filter(|_| stream == Stream::Events) else { return Ok(None) };
        let most = limit.records.min(limit.bytes / RECORD.len()).max(1) as u64;
        let leased = first.start..first.end.min(first.start + most);
        first.start = leased.end;
        if first.is_empty() {
            state.waiting.pop_front();
        }
        let record = |seq| QueuedRecord { seq, received_at: 0, bytes: Bytes::from_static(&RECORD) };
        Ok(Some(Lease { stream, records: leased.map(record).collect() }))
    }

    fn release(&self, _: Stream, seqs: &[Range<u64>]) {
        let mut state = self.0.lock();
        for range in seqs.iter().rev() {
            state.waiting.push_front(range.clone());
        }
    }

    fn acknowledge(&self, _: Stream, seqs: &[Range<u64>]) -> Result<(), QueueError> {
        self.0.lock().acknowledged += seqs.iter().map(|range| range.end - range.start).sum::<u64>();
        Ok(())
    }

    fn dead_letter(&self, _: Stream, _: Vec<Rejection>) -> Result<(), QueueError> {
        unreachable!("this server rejects nothing")
    }

    async fn ready(&self, stream: Stream) {
        if self.waiting(stream).0 == 0 {
            // Nothing is ever added.
            std::future::pending::<()>().await;
        }
    }

    fn waiting(&self, stream: Stream) -> (u64, u64) {
        if stream != Stream::Events {
            return (0, 0);
        }
        let records = self.0.lock().waiting.iter().map(|range| range.end - range.start).sum::<u64>();
        (records, records * RECORD.len() as u64)
    }

    fn unflushed(&self, _: Stream) -> u64 {
        0
    }

    fn redelivers_since(&self) -> Option<UnixMillis> {
        None
    }
}
