//! A spool in memory, for tests: takes, refuses, hangs, fails, as told.

use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{
    Refused,
    fanout::{Append, CannotAppend},
};
use crate::record::RecordBatch;

/// How it behaves from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Takes,
    Full,
    Broken,
    Hang,
}

#[derive(Debug)]
pub(crate) struct MemorySpool {
    batches: Mutex<Vec<RecordBatch>>,
    mood: tokio::sync::watch::Sender<Mood>,
    appends: AtomicU64,
}

impl MemorySpool {
    pub(crate) fn new() -> Arc<Self> {
        let mood = tokio::sync::watch::Sender::new(Mood::Takes);
        Arc::new(Self { batches: Mutex::default(), mood, appends: AtomicU64::new(0) })
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn batches(&self) -> Vec<RecordBatch> {
        self.batches.lock().clone()
    }

    pub(crate) fn records(&self) -> u64 {
        self.batches.lock().iter().map(|batch| u64::from(batch.count())).sum()
    }

    /// Calls so far, the hanging ones included.
    pub(crate) fn appends(&self) -> u64 {
        self.appends.load(Relaxed)
    }
}

#[async_trait]
impl Append for MemorySpool {
    async fn append(&self, batch: RecordBatch) -> Result<(), CannotAppend> {
        self.appends.fetch_add(1, Relaxed);
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Hang).await.expect("the sender lives in self");
        match mood {
            Mood::Takes | Mood::Hang => self.batches.lock().push(batch),
            Mood::Full => return Err(CannotAppend { reason: Refused::Full, message: "the spool is full".into() }),
            Mood::Broken => {
                return Err(CannotAppend { reason: Refused::Unavailable, message: "the disk is gone".into() });
            }
        }
        Ok(())
    }
}
