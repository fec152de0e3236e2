//! The slot of a sink's spool: open, not open (and why), or closed for good. Senders append through it, and wait while the
//! spool is reopened with other limits.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockWriteGuard};

use super::refusing::Refusing;
use crate::{
    ingest::{Append, CannotAppend, Refused},
    record::{RecordBatch, SinkName, UnixMillis, now_millis},
    spool::{self, Appended, OpenError, Spool, SpoolOptions, SpoolStatus, inspect},
    tasks,
};

/// Why a sink cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SinkStartError {
    /// Its spool does not open.
    #[error("sink {name}: {source}")]
    Spool {
        /// The sink.
        name: SinkName,
        /// Why.
        source: OpenError,
    },
    /// Its options cannot be used.
    #[error("sink {name}: {message}")]
    Options {
        /// The sink.
        name: SinkName,
        /// Why.
        message: String,
    },
}

/// A spool that kept every batch for this long counts as recovered: senders that were refused retry sooner than this.
const REFUSAL: Duration = Duration::from_secs(10);

/// A spool that can be reopened with other limits while senders wait instead of failing.
pub(super) struct Slot {
    name: SinkName,
    /// The spool's directory.
    home: PathBuf,
    /// Records that it missed before, if the sink is optional.
    pub(super) missed: u64,
    spool: RwLock<Held>,
    /// Held during an attempt to open it: one attempt at a time, however long the disk takes.
    trying: tokio::sync::Mutex<()>,
    /// Why the last batch was not kept, until a batch is kept again.
    refused: Mutex<Option<(Instant, Refusing)>>,
    /// The spool's figures before the last change of the slot; once it is closed, the last ones.
    before: Mutex<Option<SpoolStatus>>,
}

/// The state of a slot.
#[derive(Clone)]
enum Held {
    Open(Arc<Spool>),
    NotOpen(Arc<NotOpen>),
    /// Closed for good.
    Closed,
}

impl Held {
    const fn spool(&self) -> Option<&Arc<Spool>> {
        if let Self::Open(spool) = self { Some(spool) } else { None }
    }

    const fn not_open(&self) -> Option<&Arc<NotOpen>> {
        if let Self::NotOpen(why) = self { Some(why) } else { None }
    }
}

/// The result of an attempt to open a spool again.
pub(super) struct Tried<'a> {
    held: Held,
    _one_at_a_time: tokio::sync::MutexGuard<'a, ()>,
}

impl Tried<'_> {
    pub(super) async fn release(self) {
        if let Held::Open(spool) = self.held {
            spool.close().await;
        }
    }
}

/// A spool that does not open.
pub(super) struct NotOpen {
    pub(super) error: OpenError,
    pub(super) since: UnixMillis,
    /// What can be read of it from its files.
    pub(super) figures: Option<SpoolStatus>,
}

impl Slot {
    async fn new(name: &SinkName, data_dir: &Path, held: Held) -> Arc<Self> {
        let (spool, trying) = (RwLock::new(held), tokio::sync::Mutex::default());
        let (refused, before) = (Mutex::default(), Mutex::default());
        let home = data_dir.join(name.as_str());
        let path = home.clone();
        let missed = tasks::run_blocking(move || spool::missed(&path)).await.unwrap_or_default();
        Arc::new(Self { name: name.clone(), home, missed, spool, trying, refused, before })
    }

    /// Opens a sink's spool.
    pub(super) async fn open(
        name: &SinkName,
        data_dir: &Path,
        options: &SpoolOptions,
    ) -> Result<Arc<Self>, SinkStartError> {
        match open(name, data_dir, options).await {
            Ok(spool) => Ok(Self::new(name, data_dir, Held::Open(spool)).await),
            Err(source) => Err(SinkStartError::Spool { name: name.clone(), source }),
        }
    }

    /// Opens a sink's spool; if it does not open, the slot keeps the reason. A spool that another process has open is an
    /// error: two processes use the same directory.
    pub(super) async fn open_or_tell(
        name: &SinkName,
        data_dir: &Path,
        options: &SpoolOptions,
    ) -> Result<Arc<Self>, SinkStartError> {
        match Self::open(name, data_dir, options).await {
            Err(SinkStartError::Spool { source, .. }) if !matches!(source, OpenError::InUse { .. }) => {
                let held = Held::NotOpen(not_open(name, data_dir, options, source).await);
                Ok(Self::new(name, data_dir, held).await)
            }
            opened => opened,
        }
    }

    /// Prevents other attempts to open the spool while the returned guard is held; `None` if an attempt is in progress.
    pub(super) fn begin_restart(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.trying.try_lock().ok()
    }

    /// Closes the spool and opens it with other options; if those do not work, with the old ones.
    pub(super) async fn reopen(
        &self,
        data_dir: &Path,
        new: &SpoolOptions,
        old: &SpoolOptions,
    ) -> Result<(), SinkStartError> {
        let mut slot = self.begin_change().await;
        if let Held::Open(spool) = std::mem::replace(&mut *slot, Held::Closed) {
            spool.close().await;
        }
        match open(&self.name, data_dir, new).await {
            Ok(spool) => {
                *slot = Held::Open(spool);
                Ok(())
            }
            Err(source) => {
                *slot = match open(&self.name, data_dir, old).await {
                    Ok(spool) => Held::Open(spool),
                    Err(error) => Held::NotOpen(not_open(&self.name, data_dir, old, error).await),
                };
                Err(SinkStartError::Spool { name: self.name.clone(), source })
            }
        }
    }

    /// Tries to open a spool that did not open before, while senders are refused; does not change the slot. `None` if it
    /// fails with the same error, another attempt is in progress, or the slot holds no such spool.
    pub(super) async fn try_again(&self, data_dir: &Path, options: &SpoolOptions) -> Option<Tried<'_>> {
        let one_at_a_time = self.trying.try_lock().ok()?;
        let before = self.not_open().await?;
        let held = match open(&self.name, data_dir, options).await {
            Ok(spool) => Held::Open(spool),
            // The same error: what is known of the files is still right.
            Err(error) if error.to_string() == before.error.to_string() => return None,
            Err(error) => Held::NotOpen(not_open(&self.name, data_dir, options, error).await),
        };
        Some(Tried { held, _one_at_a_time: one_at_a_time })
    }

    /// Stores the result of an attempt; returns the spool if it is open now.
    pub(super) async fn take_over(&self, tried: Tried<'_>) -> Option<Arc<Spool>> {
        let mut slot = self.begin_change().await;
        if slot.not_open().is_some() {
            let opened = tried.held.spool().cloned();
            *slot = tried.held;
            return opened;
        }
        drop(slot);
        // It was closed for good in the meantime.
        tried.release().await;
        None
    }

    /// The spool, if it is open.
    pub(super) async fn get(&self) -> Option<Arc<Spool>> {
        self.spool.read().await.spool().cloned()
    }

    /// The spool, if it is open and not being reopened right now.
    fn get_now(&self) -> Option<Arc<Spool>> {
        self.spool.try_read().ok().and_then(|held| held.spool().cloned())
    }

    /// The spool's figures, also while the slot is changed, and once it is closed: a stop or a reload must not show a backlog
    /// of 0. Reading them can read the disk.
    pub(super) fn figures(&self) -> Option<SpoolStatus> {
        let held = self.spool.try_read().map_or(Held::Closed, |held| held.clone());
        match held {
            Held::Open(spool) => Some(spool.status()),
            Held::NotOpen(why) => why.figures.clone(),
            Held::Closed => self.before.lock().clone(),
        }
    }

    /// Waits until the slot can be changed.
    async fn begin_change(&self) -> RwLockWriteGuard<'_, Held> {
        let held = self.spool.read().await.clone();
        match held {
            Held::Open(spool) => self.remember(spool).await,
            Held::NotOpen(why) => *self.before.lock() = why.figures.clone(),
            Held::Closed => {}
        }
        self.spool.write().await
    }

    async fn remember(&self, spool: Arc<Spool>) {
        let figures = tasks::run_blocking(move || spool.status()).await.ok();
        *self.before.lock() = figures;
    }

    /// Why it does not open.
    pub(super) async fn not_open(&self) -> Option<Arc<NotOpen>> {
        self.spool.read().await.not_open().cloned()
    }

    /// The same; `None` while the spool is being reopened.
    pub(super) fn not_open_now(&self) -> Option<Arc<NotOpen>> {
        self.spool.try_read().ok().and_then(|held| held.not_open().cloned())
    }

    /// Why it keeps no records, if it did not keep the last batch.
    pub(super) fn refusal(&self) -> Option<Refusing> {
        let refused = self.refused.lock();
        refused.as_ref().filter(|(at, _)| at.elapsed() < REFUSAL).map(|(_, refusing)| refusing.clone())
    }

    /// Closes it for good; returns how many records are left in it.
    pub(super) async fn close(&self) -> u64 {
        let mut slot = self.begin_change().await;
        if let Held::Open(spool) = std::mem::replace(&mut *slot, Held::Closed) {
            spool.close().await;
            // It has made durable what was still waiting.
            self.remember(spool).await;
        }
        self.before.lock().as_ref().map_or(0, SpoolStatus::records)
    }
}

#[async_trait]
impl Append for Slot {
    async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        self.append_to(batch, false).await
    }

    async fn append_alone(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        self.append_to(batch, true).await
    }

    fn drops_newest(&self) -> bool {
        self.get_now().is_some_and(|spool| spool.drops_newest())
    }

    fn count_missed(&self, records: u64) {
        let counted = match &*self.spool.blocking_read() {
            Held::Open(spool) => {
                spool.count_missed(records);
                Ok(())
            }
            Held::NotOpen(_) | Held::Closed => spool::add_missed(&self.home, records),
        };
        if let Err(error) = counted {
            let (sink, spool) = (&self.name, self.home.display());
            tracing::warn!(
                %sink, %spool, %error, records,
                "could not count this optional sink's lost records on disk: they are counted until the process ends"
            );
        }
    }
}

impl Slot {
    async fn append_to(&self, batch: RecordBatch, alone: bool) -> Result<Appended, CannotAppend> {
        let refuse = |message| Err(CannotAppend { reason: Refused::Unavailable, message });
        let spool = match &*self.spool.read().await {
            Held::Open(spool) => Arc::clone(spool),
            Held::NotOpen(why) => return refuse(format!("its spool does not open: {}", why.error.cause())),
            Held::Closed => return refuse("its spool is closing: try again later".to_owned()),
        };
        let result = if alone { spool.append_alone(batch).await } else { Append::append(&*spool, batch).await };
        match &result {
            // A batch larger than the spool says nothing about other batches.
            Err(error) if error.reason == Refused::TooLarge => {}
            _ => *self.refused.lock() = Refusing::of_append(&result).map(|refusing| (Instant::now(), refusing)),
        }
        result
    }
}

async fn open(name: &SinkName, data_dir: &Path, options: &SpoolOptions) -> Result<Arc<Spool>, OpenError> {
    let (directory, options) = (data_dir.join(name.as_str()), options.for_sink(name));
    let path = directory.clone();
    let opened = tasks::run_blocking(move || Spool::open(&directory, options)).await;
    opened.unwrap_or_else(|panic| Err(OpenError::Io { path, source: io::Error::other(panic) })).map(Arc::new)
}

/// Reads the figures of a spool that does not open from its files.
async fn not_open(name: &SinkName, data_dir: &Path, options: &SpoolOptions, error: OpenError) -> Arc<NotOpen> {
    tracing::error!(
        sink = %name,
        %error,
        "could not open the spool: this sink does not deliver, the others continue; `livekit-spool reload` tries again"
    );
    let (directory, options) = (data_dir.join(name.as_str()), options.for_sink(name));
    let inspected = tasks::run_blocking(move || inspect(&directory, options).ok()).await;
    Arc::new(NotOpen { error, since: now_millis(), figures: inspected.ok().flatten() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RecordBatchBuilder, Stream};

    #[tokio::test]
    async fn a_spool_that_is_reopened_or_closed_shows_its_last_figures() {
        let directory = tempfile::tempdir().unwrap();
        let (name, options) = ("files".parse().unwrap(), SpoolOptions::default());
        let slot = Slot::open(&name, directory.path(), &options).await.unwrap();
        let append = async || {
            let mut batch = RecordBatchBuilder::new(Stream::Events);
            batch.push(b"\xCA\x01\x04AE_1");
            slot.append(batch.build(0)).await.unwrap();
        };
        let records = || slot.figures().map(|figures| figures.records());
        append().await;
        {
            let _change = slot.begin_change().await;
            assert_eq!(records(), Some(1));
        }
        append().await;
        let too_small = SpoolOptions { max_bytes: 1, ..options.clone() };
        assert!(slot.reopen(directory.path(), &too_small, &options).await.is_err());
        assert_eq!(records(), Some(2));
        append().await;
        assert_eq!(slot.close().await, 3);
        assert_eq!(records(), Some(3));
    }
}
