//! A queue in memory for the worker's tests.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    record::{QueuedRecord, Stream, UnixMillis},
    spool::{Lease, LeaseLimit, Queue, QueueError, Rejection},
};

/// A queue in memory, of events only.
#[derive(Default)]
pub(super) struct MemoryQueue {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<u64, QueuedRecord>,
    leased: BTreeMap<u64, QueuedRecord>,
    next: u64,
    dead: Vec<Rejection>,
    dead_full: bool,
    refuse_acknowledgements: bool,
    /// Acknowledgements are accepted, and not flushed yet.
    hold_flushes: bool,
    unflushed: u64,
    redelivers_since: Option<UnixMillis>,
    refuse_leases: bool,
    /// The next call of `waiting` panics, once something is leased.
    panic_in_inspection: bool,
    hang: Hang,
    /// A thread is blocked by it.
    hanging: bool,
}

/// An operation that blocks until it is released.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Hang {
    #[default]
    Nothing,
    Leases,
    Acknowledgements,
}

impl MemoryQueue {
    pub(super) fn with(records: u64) -> Arc<Self> {
        let queue = Arc::new(Self::default());
        queue.push(records);
        queue
    }

    pub(super) fn push(&self, records: u64) {
        let mut inner = self.inner.lock();
        for _ in 0..records {
            let seq = inner.next;
            inner.next += 1;
            let bytes = Bytes::from(format!("record {seq}"));
            inner.waiting.insert(seq, QueuedRecord { seq, received_at: 0, bytes });
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Records that were ever added.
    pub(super) fn pushed(&self) -> u64 {
        self.inner.lock().next
    }

    /// Records that are neither delivered nor dead letters.
    pub(super) fn backlog(&self) -> usize {
        let inner = self.inner.lock();
        inner.waiting.len() + inner.leased.len()
    }

    pub(super) fn leased(&self) -> usize {
        self.inner.lock().leased.len()
    }

    /// How many of the leased records still share their memory with the queue's.
    pub(super) fn shared(&self) -> usize {
        self.inner.lock().leased.values().filter(|record| !record.bytes.is_unique()).count()
    }

    pub(super) fn dead(&self) -> Vec<Rejection> {
        self.inner.lock().dead.clone()
    }

    pub(super) fn fill_dead_letters(&self, full: bool) {
        self.inner.lock().dead_full = full;
    }

    pub(super) fn refuse_acknowledgements(&self, refuse: bool) {
        self.inner.lock().refuse_acknowledgements = refuse;
    }

    /// While flushes are held, acknowledgements are not durable; releasing them makes them durable.
    pub(super) fn hold_flushes(&self, hold: bool) {
        let mut inner = self.inner.lock();
        inner.hold_flushes = hold;
        inner.unflushed = 0;
    }

    /// Behaves as if the queue had been rebuilt from the journal.
    pub(super) fn redeliver_since(&self, since: Option<UnixMillis>) {
        self.inner.lock().redelivers_since = since;
    }

    pub(super) fn refuse_leases(&self, refuse: bool) {
        self.inner.lock().refuse_leases = refuse;
    }

    pub(super) fn panic_in_inspection(&self) {
        self.inner.lock().panic_in_inspection = true;
    }

    /// Simulates a disk that does not answer, or answers again.
    pub(super) fn hang(&self, hang: Hang) {
        self.inner.lock().hang = hang;
    }

    /// True once a thread is blocked by the hanging operation.
    pub(super) fn is_hanging(&self) -> bool {
        self.inner.lock().hanging
    }

    /// Blocks its thread while `what` hangs.
    fn wait_while(&self, what: Hang) {
        while self.inner.lock().hang == what {
            self.inner.lock().hanging = true;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn broken() -> QueueError {
        QueueError::Io { path: "journal".to_owned(), source: std::io::Error::other("injected") }
    }
}

fn among(ranges: &[Range<u64>], seq: u64) -> bool {
    ranges.iter().any(|range| range.contains(&seq))
}

#[async_trait]
impl Queue for MemoryQueue {
    fn lease(&self, stream: Stream, limit: LeaseLimit) -> Result<Option<Lease>, QueueError> {
        self.wait_while(Hang::Leases);
        let mut inner = self.inner.lock();
        if inner.refuse_leases {
            return Err(Self::broken());
        }
        if stream != Stream::Events || inner.waiting.is_empty() {
            return Ok(None);
        }
        let (mut records, mut bytes): (Vec<QueuedRecord>, usize) = (Vec::new(), 0);
        while let Some(entry) = inner.waiting.first_entry() {
            bytes += entry.get().bytes.len();
            if !records.is_empty() && (records.len() == limit.records || bytes > limit.bytes) {
                break;
            }
            records.push(entry.remove());
        }
        inner.leased.extend(records.iter().map(|record| (record.seq, record.clone())));
        Ok(Some(Lease { stream, records }))
    }

    fn release(&self, _: Stream, seqs: &[Range<u64>]) {
        let mut inner = self.inner.lock();
        let back: Vec<u64> = inner.leased.keys().copied().filter(|&seq| among(seqs, seq)).collect();
        for seq in back {
            if let Some(record) = inner.leased.remove(&seq) {
                inner.waiting.insert(seq, record);
            }
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    fn acknowledge(&self, _: Stream, seqs: &[Range<u64>]) -> Result<(), QueueError> {
        self.wait_while(Hang::Acknowledgements);
        let mut inner = self.inner.lock();
        if inner.refuse_acknowledgements {
            return Err(Self::broken());
        }
        let before = inner.leased.len();
        inner.leased.retain(|&seq, _| !among(seqs, seq));
        if inner.hold_flushes {
            inner.unflushed += (before - inner.leased.len()) as u64;
        }
        Ok(())
    }

    fn dead_letter(&self, _: Stream, rejections: Vec<Rejection>) -> Result<(), QueueError> {
        let mut inner = self.inner.lock();
        if inner.dead_full {
            return Err(QueueError::DeadLettersFull { sink: "fake".to_owned(), dead_letters: 1, bytes: 1 });
        }
        for rejection in rejections {
            inner.leased.remove(&rejection.record.seq);
            inner.dead.push(rejection);
        }
        Ok(())
    }

    async fn ready(&self, stream: Stream) {
        loop {
            let changed = self.changed.notified();
            if self.waiting(stream).0 > 0 {
                return;
            }
            changed.await;
        }
    }

    fn waiting(&self, stream: Stream) -> (u64, u64) {
        if stream != Stream::Events {
            return (0, 0);
        }
        let mut inner = self.inner.lock();
        if !inner.leased.is_empty() {
            assert!(!std::mem::take(&mut inner.panic_in_inspection), "a bug of these tests");
        }
        (inner.waiting.len() as u64, inner.waiting.values().map(|record| record.bytes.len() as u64).sum())
    }

    fn unflushed(&self, _: Stream) -> u64 {
        self.inner.lock().unflushed
    }

    fn redelivers_since(&self) -> Option<UnixMillis> {
        self.inner.lock().redelivers_since
    }
}
