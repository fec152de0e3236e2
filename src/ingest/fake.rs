//! A fake spool in memory, for tests: accepts at once or at a disk's speed, refuses, or hangs.

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

/// Its behaviour from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Accepts,
    /// As fast as a disk that writes 50 MiB/s, one batch after another.
    Slow,
    Full,
    /// Full, and drops new records: it counts them as missed.
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
    mode: tokio::sync::watch::Sender<Mode>,
    missed: AtomicU64,
}

impl MemorySpool {
    pub(crate) fn new() -> Arc<Self> {
        let mode = tokio::sync::watch::Sender::new(Mode::Accepts);
        Arc::new(Self {
            batches: Mutex::default(),
            disk: tokio::sync::Mutex::default(),
            mode,
            missed: AtomicU64::default(),
        })
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The records counted as missed.
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
        let mut mode = self.mode.subscribe();
        let mode = *mode.wait_for(|mode| *mode != Mode::Hang).await.expect("the sender lives in self");
        let refused = |reason, message: &str| Err(CannotAppend { reason, message: message.to_owned() });
        match mode {
            Mode::Full => return refused(Refused::Full, "the spool is full"),
            Mode::DropsNewest => {
                self.missed.fetch_add(u64::from(batch.count()), Relaxed);
                return Ok(Appended::Dropped { limit: FullLimit::NoSpace });
            }
            Mode::NeverFits => return refused(Refused::TooLarge, "it never fits"),
            Mode::Slow => {
                let _one_at_a_time = self.disk.lock().await;
                let bytes = u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX);
                tokio::time::sleep(SLOW_PER_BYTE * bytes).await;
                self.batches.lock().push(batch);
            }
            Mode::Accepts | Mode::Hang => self.batches.lock().push(batch),
        }
        Ok(Appended::Kept)
    }

    fn drops_newest(&self) -> bool {
        *self.mode.borrow() == Mode::DropsNewest
    }

    fn count_missed(&self, records: u64) {
        self.missed.fetch_add(records, Relaxed);
    }
}
