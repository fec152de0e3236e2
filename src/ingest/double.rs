//! A spool in memory, for tests: takes, refuses, hangs, fails, as told.

use std::sync::Arc;

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
    Hang,
}

#[derive(Debug)]
pub(crate) struct MemorySpool {
    batches: Mutex<Vec<RecordBatch>>,
    mood: tokio::sync::watch::Sender<Mood>,
}

impl MemorySpool {
    pub(crate) fn new() -> Arc<Self> {
        let mood = tokio::sync::watch::Sender::new(Mood::Takes);
        Arc::new(Self { batches: Mutex::default(), mood })
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
}

#[async_trait]
impl Append for MemorySpool {
    async fn append(&self, batch: RecordBatch) -> Result<(), CannotAppend> {
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Hang).await.expect("the sender lives in self");
        match mood {
            Mood::Takes | Mood::Hang => self.batches.lock().push(batch),
            Mood::Full => return Err(CannotAppend { reason: Refused::Full, message: "the spool is full".into() }),
        }
        Ok(())
    }
}
