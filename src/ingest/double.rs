//! A spool in memory, for tests: takes at once or at a disk's speed, refuses, hangs, as told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Append, CannotAppend, Refused};
use crate::{
    record::RecordBatch,
    spool::{Appended, FullLimit},
};

/// How it behaves from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Takes,
    /// As fast as a disk that writes 50 MiB/s, one batch after another.
    Slow,
    Full,
    /// Full, and drops what comes: it counts that as missed.
    DropsNewest,
    NeverFits,
    Hang,
}

/// 50 MiB/s.
const SLOW_PER_BYTE: Duration = Duration::from_nanos(19);

#[derive(Debug)]
pub(crate) struct MemorySpool {
    batches: Mutex<Vec<RecordBatch>>,
    disk: tokio::sync::Mutex<()>,
    mood: tokio::sync::watch::Sender<Mood>,
    missed: AtomicU64,
}

impl MemorySpool {
    pub(crate) fn new() -> Arc<Self> {
        let mood = tokio::sync::watch::Sender::new(Mood::Takes);
        Arc::new(Self {
            batches: Mutex::default(),
            disk: tokio::sync::Mutex::default(),
            mood,
            missed: AtomicU64::default(),
        })
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// What was noted as missed.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    pub(crate) fn batches(&self) -> Vec<RecordBatch> {
        self.batches.lock().clone()
    }

    pub(crate) fn records(&self) -> u64 {
        self.batches.lock().iter().map(|batch| u64::from(batch.count())).sum()
    }
}

#[async_trait]
impl Append for MemorySpool {
    async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Hang).await.expect("the sender lives in self");
        let refused = |reason, message: &str| Err(CannotAppend { reason, message: message.to_owned() });
        match mood {
            Mood::Full => return refused(Refused::Full, "the spool is full"),
            Mood::DropsNewest => {
                self.missed.fetch_add(u64::from(batch.count()), Relaxed);
                return Ok(Appended::Dropped { limit: FullLimit::NoSpace });
            }
            Mood::NeverFits => return refused(Refused::TooLarge, "it never fits"),
            Mood::Slow => {
                let _one_at_a_time = self.disk.lock().await;
                let bytes = u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX);
                tokio::time::sleep(SLOW_PER_BYTE * bytes).await;
                self.batches.lock().push(batch);
            }
            Mood::Takes | Mood::Hang => self.batches.lock().push(batch),
        }
        Ok(Appended::Kept)
    }

    fn drops_newest(&self) -> bool {
        *self.mood.borrow() == Mood::DropsNewest
    }

    fn count_missed(&self, records: u64) {
        self.missed.fetch_add(records, Relaxed);
    }
}
