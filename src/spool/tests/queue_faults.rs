//! A queue whose changes or flushes fail or hang: it is replaced, and costs no record. What it may redeliver is reported, until it
//! is done.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Condvar;

use super::{
    memory::{MemoryDisk, over},
    *,
};
use crate::spool::queue::{Change, Entry, QueueFailed, QueueStore, Recorded, memory::MemoryQueue};

/// What changing and flushing do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Work,
    Fail,
    Hang,
    /// A flush takes until something else is set.
    Slow,
}

/// A flush that hangs is given up after this long, as one of sled's is.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// A queue that goes wrong on demand.
#[derive(Debug, Default)]
struct FaultyQueue {
    queue: MemoryQueue,
    mood: Mutex<Mood>,
    changed: Condvar,
    /// A flush hangs, or hung.
    hanging: AtomicBool,
}

impl FaultyQueue {
    fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
        self.changed.notify_all();
    }

    fn check(&self) -> Result<(), QueueFailed> {
        if *self.mood.lock() == Mood::Fail { Err(QueueFailed("the disk is full".into())) } else { Ok(()) }
    }
}

impl QueueStore for FaultyQueue {
    fn recorded(&self) -> Result<Recorded, QueueFailed> {
        self.queue.recorded()
    }

    fn entry_from(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        self.check()?;
        self.queue.entry_from(stream, seq)
    }

    fn entry_before(&self, stream: Stream, seq: u64) -> Result<Option<(u64, Entry)>, QueueFailed> {
        self.check()?;
        self.queue.entry_before(stream, seq)
    }

    fn apply(&self, change: &Change) -> Result<(), QueueFailed> {
        self.check()?;
        self.queue.apply(change)
    }

    fn flush(&self) -> Result<(), QueueFailed> {
        let mut mood = self.mood.lock();
        if *mood == Mood::Hang {
            self.hanging.store(true, Ordering::Relaxed);
            self.changed.wait_for(&mut mood, FLUSH_TIMEOUT);
            return Err(QueueFailed("no answer".into()));
        }
        while *mood == Mood::Slow {
            self.hanging.store(true, Ordering::Relaxed);
            self.changed.wait(&mut mood);
        }
        drop(mood);
        self.check()
    }

    fn is_durable(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_queue_that_fails_costs_nothing() {
    let disk = MemoryDisk::new();
    let queue = Arc::new(FaultyQueue::default());
    let spool = over(&disk, Some(Arc::clone(&queue) as Arc<dyn QueueStore>));
    for batch in 0..20 {
        spool.append(big_batch(batch * 100..(batch + 1) * 100)).await.expect("accepted");
    }
    queue.set(Mood::Fail);
    for batch in 20..40 {
        spool.append(big_batch(batch * 100..(batch + 1) * 100)).await.expect("accepted");
    }
    eventually("the queue is replaced", || spool.status().last_error.is_some()).await;
    let all: Vec<String> = (0..4000).map(big_record).collect();
    assert!(texts(&lease_all(&spool, Stream::Events)) == all);
    spool.acknowledge(Stream::Events, &[0..4000]).expect("noted");
    eventually("segments are deleted without a queue", || spool.status().segments <= 1).await;
    spool.close().await;
}

#[tokio::test]
async fn a_queue_that_hangs_delays_neither_ingest_nor_delivery_and_is_replaced() {
    let disk = MemoryDisk::new();
    let queue = Arc::new(FaultyQueue::default());
    let spool = over(&disk, Some(Arc::clone(&queue) as Arc<dyn QueueStore>));
    spool.append(big_batch(0..100)).await.expect("accepted");
    queue.set(Mood::Hang);
    spool.append(big_batch(100..200)).await.expect("accepted");
    eventually("a flush hangs", || queue.hanging.load(Ordering::Relaxed)).await;
    for batch in 2..40 {
        spool.append(big_batch(batch * 100..(batch + 1) * 100)).await.expect("accepted while the flush hangs");
    }
    let all: Vec<String> = (0..4000).map(big_record).collect();
    assert!(texts(&lease_all(&spool, Stream::Events)) == all);
    spool.acknowledge(Stream::Events, &[0..4000]).expect("noted");
    eventually("the queue is replaced", || spool.status().last_error.is_some()).await;
    eventually("segments are deleted without a queue", || spool.status().segments <= 1).await;
    queue.set(Mood::Work);
    assert_eq!((spool.status().records(), spool.status().streams[&Stream::Events].delivered), (0, 4000));
    spool.close().await;
}

#[tokio::test]
async fn what_may_be_redelivered_is_reported_until_all_that_the_journal_held_then_is_done() {
    let disk = MemoryDisk::new();
    let queue = Arc::new(FaultyQueue::default());
    let spool = over(&disk, Some(Arc::clone(&queue) as Arc<dyn QueueStore>));
    spool.append(batch(Stream::Stats, 0..10)).await.expect("accepted");
    spool.append(batch(Stream::Events, 0..20)).await.expect("accepted");
    assert_eq!(spool.redelivers_since(), None);
    queue.set(Mood::Fail);
    assert_eq!(lease_all(&spool, Stream::Events).len(), 20);
    let first = spool.redelivers_since();
    assert!(first.is_some(), "the queue was rebuilt");
    // What comes later comes once.
    spool.append(batch(Stream::Events, 20..30)).await.expect("accepted");
    assert_eq!((lease_all(&spool, Stream::Events).len(), lease_all(&spool, Stream::Stats).len()), (10, 10));
    for (stream, done) in [(Stream::Events, 5..20), (Stream::Events, 0..5), (Stream::Stats, 1..10)] {
        spool.acknowledge(stream, &[done]).expect("noted");
        assert_eq!(spool.redelivers_since(), first, "some of it waits");
    }
    spool.acknowledge(Stream::Stats, &[0..1]).expect("noted");
    assert_eq!((spool.redelivers_since(), spool.status().records()), (None, 10));
    spool.close().await;
}

#[tokio::test]
async fn a_start_without_a_queue_reports_what_may_be_redelivered_until_it_is_done() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    spool.close().await;
    let spool = open(directory.path());
    assert_eq!(spool.redelivers_since(), None, "the queue is believed");
    spool.close().await;
    fs::remove_dir_all(directory.path().join("queue")).expect("removed");
    let spool = open(directory.path());
    spool.append(batch(Stream::Events, 10..20)).await.expect("accepted");
    assert_eq!(lease_all(&spool, Stream::Events).len(), 20);
    assert!(spool.redelivers_since().is_some());
    spool.acknowledge(Stream::Events, &[0..10]).expect("noted");
    assert_eq!((spool.redelivers_since(), spool.status().records()), (None, 10));
    spool.close().await;
}

#[tokio::test]
async fn what_is_synced_while_a_queue_is_made_again_counts_and_is_delivered() {
    let disk = MemoryDisk::new();
    let queue = Arc::new(FaultyQueue::default());
    let spool = over(&disk, Some(Arc::clone(&queue) as Arc<dyn QueueStore>));
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    queue.set(Mood::Fail);
    let shared = Arc::clone(&spool.shared);
    let appends = move || {
        for batch in [batch(Stream::Events, 10..25), batch(Stream::Stats, 0..7)] {
            append_together(&shared.store, &[batch]);
        }
    };
    *disk.faults.meanwhile.0.lock() = Some(Box::new(appends));
    assert_eq!(lease_all(&spool, Stream::Events).len(), 25);
    assert!(disk.faults.meanwhile.0.lock().is_none() && spool.redelivers_since().is_some(), "the queue was rebuilt");
    assert_eq!((spool.status().records(), spool.waiting(Stream::Stats).0), (32, 7));
    // A front that is written now says nothing of what was not delivered.
    let floor = spool.shared.store.state.lock().streams.each_ref().map(|stream| stream.ack_floor);
    assert_eq!(floor[..2], [0, 0]);
    assert_eq!(lease_all(&spool, Stream::Stats).len(), 7);
    spool.acknowledge(Stream::Events, &[0..25]).expect("noted");
    spool.acknowledge(Stream::Stats, &[0..7]).expect("noted");
    assert_eq!(spool.status().records(), 0);
    spool.close().await;
}

/// Two flushes at once: the second one found nothing to flush, and what it was to make durable was not yet.
#[tokio::test]
async fn who_flushes_waits_for_a_flush_that_is_under_way() {
    let disk = MemoryDisk::new();
    let queue = Arc::new(FaultyQueue::default());
    let spool = over(&disk, Some(Arc::clone(&queue) as Arc<dyn QueueStore>));
    queue.set(Mood::Slow);
    spool.append(batch(Stream::Events, 0..10)).await.expect("accepted");
    eventually("a flush is under way", || queue.hanging.load(Ordering::Relaxed)).await;
    let shared = Arc::clone(&spool.shared);
    let flushed = std::thread::spawn(move || shared.store.flush());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let waits = !flushed.is_finished();
    queue.set(Mood::Work);
    assert!(waits, "it says that all is flushed");
    flushed.join().expect("flushed");
    spool.close().await;
}
