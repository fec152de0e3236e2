//! A queue whose saves fail or hang: it is given up, and costs no record.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Condvar;

use super::{
    memory::{MemoryDisk, MemoryIndex, over},
    *,
};
use crate::spool::{
    ages::Times,
    queue::{Changes, Index, IndexError},
    state::{Checkpoint, Run},
};

/// What saving does.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Saves {
    #[default]
    Work,
    Fail,
    Hang,
}

/// A queue whose saves go wrong on demand.
#[derive(Debug, Default)]
struct FaultyIndex {
    index: MemoryIndex,
    saves: Mutex<Saves>,
    changed: Condvar,
    /// A save hangs, or hung.
    hanging: AtomicBool,
}

impl FaultyIndex {
    fn set(&self, saves: Saves) {
        *self.saves.lock() = saves;
        self.changed.notify_all();
    }
}

impl Index for FaultyIndex {
    fn checkpoint(&self) -> Result<Option<Checkpoint>, IndexError> {
        self.index.checkpoint()
    }

    fn times(&self) -> Option<Times> {
        None
    }

    fn rewind(&self, checkpoint: &Checkpoint) -> Result<(), IndexError> {
        self.index.rewind(checkpoint)
    }

    fn run_at(&self, stream: Stream, ordinal: u64) -> Result<Option<(u64, Run)>, IndexError> {
        self.index.run_at(stream, ordinal)
    }

    fn runs_from(&self, stream: Stream, ordinal: u64, limit: usize) -> Result<Vec<(u64, Run)>, IndexError> {
        self.index.runs_from(stream, ordinal, limit)
    }

    fn save(&self, changes: &Changes) -> Result<(), IndexError> {
        let mut saves = self.saves.lock();
        while *saves == Saves::Hang {
            self.hanging.store(true, Ordering::Relaxed);
            self.changed.wait(&mut saves);
        }
        if *saves == Saves::Fail {
            return Err(IndexError("the disk is full".into()));
        }
        drop(saves);
        self.index.save(changes)
    }
}

#[tokio::test]
async fn a_queue_that_fails_costs_nothing() {
    let disk = MemoryDisk::new();
    let index = Arc::new(FaultyIndex::default());
    let spool = over(&disk, Some(Arc::clone(&index) as Arc<dyn Index>));
    for batch in 0..20 {
        spool.append(big_batch(batch * 100..(batch + 1) * 100)).await.expect("taken");
    }
    index.set(Saves::Fail);
    for batch in 20..40 {
        spool.append(big_batch(batch * 100..(batch + 1) * 100)).await.expect("taken");
    }
    eventually("the queue is given up", || spool.status().last_error.is_some()).await;
    let all: Vec<String> = (0..4000).map(big_record).collect();
    assert!(texts(&lease_all(&spool, Stream::Events)) == all);
    spool.acknowledge(Stream::Events, &[0..4000]).expect("noted");
    eventually("segments are deleted without a queue", || spool.status().segments <= 1).await;
    spool.close().await;
}

#[tokio::test]
async fn a_queue_that_hangs_holds_up_neither_intake_nor_delivery_and_is_given_up() {
    let disk = MemoryDisk::new();
    let index = Arc::new(FaultyIndex::default());
    let spool = over(&disk, Some(Arc::clone(&index) as Arc<dyn Index>));
    spool.append(big_batch(0..100)).await.expect("taken");
    index.set(Saves::Hang);
    spool.append(big_batch(100..200)).await.expect("taken");
    eventually("a save hangs", || index.hanging.load(Ordering::Relaxed)).await;
    for batch in 2..40 {
        spool.append(big_batch(batch * 100..(batch + 1) * 100)).await.expect("taken while the save hangs");
    }
    let all: Vec<String> = (0..4000).map(big_record).collect();
    assert!(texts(&lease_all(&spool, Stream::Events)) == all);
    spool.acknowledge(Stream::Events, &[0..4000]).expect("noted");
    eventually("the queue is given up", || spool.status().last_error.is_some()).await;
    eventually("segments are deleted without a queue", || spool.status().segments <= 1).await;
    index.set(Saves::Work);
    spool.close().await;
    let spool = over(&disk, None);
    assert_eq!((spool.status().records(), spool.status().streams[&Stream::Events].delivered), (0, 4000));
    spool.close().await;
}
