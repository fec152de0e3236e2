//! A sink at work: its spool, its worker, and what either can be told.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use super::refusing::Refusing;
use crate::{
    config::{SinkConfig, SpoolConfig, Target},
    document::Encoder,
    flush::{FlushState, FlushStatus, Handle, Worker},
    ingest::{self, Append, CannotAppend, Filter, Refused},
    record::{RecordBatch, SinkName, Stream, UnixMillis, now_millis},
    sink::{Sink, file::FileSink, mongodb::MongoSink, redis::RedisSink},
    spool::{self, Appended, OpenError, Spool, SpoolStatus, inspect},
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
    /// Its options cannot work.
    #[error("sink {name}: {message}")]
    Options {
        /// The sink.
        name: SinkName,
        /// Why.
        message: String,
    },
}

/// A spool that kept whatever came for this long is taken for recovered: those it refused come again sooner.
const REFUSAL: Duration = Duration::from_secs(10);

/// A spool that can be opened again, with other limits, while senders wait instead of failing.
pub(super) struct Slot {
    name: SinkName,
    /// The spool's directory.
    home: PathBuf,
    /// What it missed before, being optional.
    missed: u64,
    spool: RwLock<Held>,
    /// Held while it is tried again: one attempt at a time, however long the disk takes.
    trying: tokio::sync::Mutex<()>,
    /// Why the last batch was not kept, until one is kept again.
    refused: Mutex<Option<(Instant, Refusing)>>,
}

/// What a slot holds.
enum Held {
    Open(Arc<Spool>),
    NotOpen(Arc<NotOpen>),
    /// For good.
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

/// What came of trying to open a spool again.
struct Tried<'a> {
    held: Held,
    _one_at_a_time: tokio::sync::MutexGuard<'a, ()>,
}

impl Tried<'_> {
    async fn let_go(self) {
        if let Held::Open(spool) = self.held {
            spool.close().await;
        }
    }
}

/// A spool that does not open.
pub(super) struct NotOpen {
    pub(super) error: OpenError,
    pub(super) since: UnixMillis,
    /// What can be seen of it from outside.
    pub(super) figures: Option<SpoolStatus>,
}

impl Slot {
    async fn new(name: &SinkName, data_dir: &Path, held: Held) -> Arc<Self> {
        let (spool, trying, refused) = (RwLock::new(held), tokio::sync::Mutex::default(), Mutex::default());
        let home = data_dir.join(name.as_str());
        let path = home.clone();
        let missed = tokio::task::spawn_blocking(move || spool::missed(&path)).await.unwrap_or_default();
        Arc::new(Self { name: name.clone(), home, missed, spool, trying, refused })
    }

    /// Opens a sink's spool.
    pub(super) async fn open(
        name: &SinkName,
        data_dir: &Path,
        config: &SpoolConfig,
    ) -> Result<Arc<Self>, SinkStartError> {
        match open(name, data_dir, config).await {
            Ok(spool) => Ok(Self::new(name, data_dir, Held::Open(spool)).await),
            Err(source) => Err(SinkStartError::Spool { name: name.clone(), source }),
        }
    }

    /// Opens a sink's spool; where it does not open, the slot says why. A spool that another process has open is an error all
    /// the same: two processes are at work.
    pub(super) async fn open_or_tell(
        name: &SinkName,
        data_dir: &Path,
        config: &SpoolConfig,
    ) -> Result<Arc<Self>, SinkStartError> {
        match Self::open(name, data_dir, config).await {
            Err(SinkStartError::Spool { source, .. }) if !matches!(source, OpenError::InUse { .. }) => {
                let held = Held::NotOpen(not_open(name, data_dir, config, source).await);
                Ok(Self::new(name, data_dir, held).await)
            }
            opened => opened,
        }
    }

    /// Keeps out other attempts to open the spool, for as long as what it answers is held; `None` where one is under way.
    pub(super) fn begin_restart(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.trying.try_lock().ok()
    }

    /// Closes the spool and opens it with other options; where those do not work, with the old ones.
    pub(super) async fn reopen(
        &self,
        data_dir: &Path,
        new: &SpoolConfig,
        old: &SpoolConfig,
    ) -> Result<(), SinkStartError> {
        let mut slot = self.spool.write().await;
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

    /// Tries to open a spool that did not open before, while senders are refused; the slot stays as it is. `None` where it
    /// fails as before, is being tried already, or is not such a one.
    async fn try_again(&self, data_dir: &Path, config: &SpoolConfig) -> Option<Tried<'_>> {
        let one_at_a_time = self.trying.try_lock().ok()?;
        let before = self.not_open().await?;
        let held = match open(&self.name, data_dir, config).await {
            Ok(spool) => Held::Open(spool),
            // The same again needs no other look.
            Err(error) if error.to_string() == before.error.to_string() => return None,
            Err(error) => Held::NotOpen(not_open(&self.name, data_dir, config, error).await),
        };
        Some(Tried { held, _one_at_a_time: one_at_a_time })
    }

    /// Takes over what came of an attempt; the spool, where it is open now.
    async fn take_over(&self, tried: Tried<'_>) -> Option<Arc<Spool>> {
        let mut slot = self.spool.write().await;
        if slot.not_open().is_some() {
            let opened = tried.held.spool().cloned();
            *slot = tried.held;
            return opened;
        }
        drop(slot);
        // It was closed for good meanwhile.
        tried.let_go().await;
        None
    }

    /// The spool, if it is open.
    pub(super) async fn get(&self) -> Option<Arc<Spool>> {
        self.spool.read().await.spool().cloned()
    }

    /// The spool, if it is open and not being opened with other limits right now.
    pub(super) fn get_now(&self) -> Option<Arc<Spool>> {
        self.spool.try_read().ok().and_then(|held| held.spool().cloned())
    }

    /// Why it does not open.
    pub(super) async fn not_open(&self) -> Option<Arc<NotOpen>> {
        self.spool.read().await.not_open().cloned()
    }

    /// The same, unless it is being opened with other limits right now.
    pub(super) fn not_open_now(&self) -> Option<Arc<NotOpen>> {
        self.spool.try_read().ok().and_then(|held| held.not_open().cloned())
    }

    /// Why it keeps no records, where it did not keep some just now and kept none since.
    pub(super) fn refusal(&self) -> Option<Refusing> {
        let refused = self.refused.lock();
        refused.as_ref().filter(|(at, _)| at.elapsed() < REFUSAL).map(|(_, refusing)| refusing.clone())
    }

    /// Closes it for good.
    pub(super) async fn close(&self) {
        let held = std::mem::replace(&mut *self.spool.write().await, Held::Closed);
        if let Held::Open(spool) = held {
            spool.close().await;
        }
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
            tracing::warn!(%sink, %spool, %error, records, "what this optional sink lost is counted until the process ends, not on disk");
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
            // Too much for a spool says nothing of what else it takes.
            Err(error) if error.reason == Refused::TooLarge => {}
            _ => *self.refused.lock() = Refusing::of_append(&result).map(|refusing| (Instant::now(), refusing)),
        }
        result
    }
}

async fn open(name: &SinkName, data_dir: &Path, config: &SpoolConfig) -> Result<Arc<Spool>, OpenError> {
    let (directory, options) = (data_dir.join(name.as_str()), config.options(name));
    let path = directory.clone();
    let opened = tokio::task::spawn_blocking(move || Spool::open(&directory, options)).await;
    opened.unwrap_or_else(|panic| Err(OpenError::Io { path, source: io::Error::other(panic) })).map(Arc::new)
}

/// Looks at a spool that does not open, from outside.
async fn not_open(name: &SinkName, data_dir: &Path, config: &SpoolConfig, error: OpenError) -> Arc<NotOpen> {
    tracing::error!(
        sink = %name,
        %error,
        "the spool does not open: the sink stands still, the others go on; `livekit-spool reload` tries again"
    );
    let (directory, options) = (data_dir.join(name.as_str()), config.options(name));
    let looked = tokio::task::spawn_blocking(move || inspect(&directory, options).ok()).await;
    Arc::new(NotOpen { error, since: now_millis(), figures: looked.ok().flatten() })
}

/// A sink at work.
pub(super) struct Running {
    pub(super) config: Arc<SinkConfig>,
    pub(super) slot: Arc<Slot>,
    pub(super) sink: Arc<dyn Sink>,
    worker: Mutex<Option<Handle>>,
    stop: CancellationToken,
}

impl Running {
    /// Starts delivering from a spool, once it is open.
    pub(super) async fn start(
        config: Arc<SinkConfig>,
        slot: Arc<Slot>,
        encoder: &Arc<Encoder>,
    ) -> Result<Arc<Self>, SinkStartError> {
        let sink = build(&config, encoder)?;
        let running = Self { config, slot, sink, worker: Mutex::default(), stop: CancellationToken::new() };
        if let Some(spool) = running.slot.get().await {
            running.deliver_from(spool);
        } else if running.slot.not_open().await.is_none() {
            let message = "its spool is closed".to_owned();
            return Err(SinkStartError::Options { name: running.config.name.clone(), message });
        }
        Ok(Arc::new(running))
    }

    fn deliver_from(&self, spool: Arc<Spool>) {
        let mut worker = self.worker.lock();
        if !self.stop.is_cancelled() {
            let (name, flush, stop) = (&self.config.name, self.config.flush.clone(), self.stop.clone());
            *worker = Some(Worker::spawn(name, spool, Arc::clone(&self.sink), flush, stop));
        }
    }

    /// Opens its spool, which did not open before, and starts delivering; whether it did. `in_force` is awaited once the
    /// spool is open, which may take as long as the disk likes, and what it answers is held until the sink delivers; `None`
    /// where another one took this one's place meanwhile: that one opens the spool with its own options.
    pub(super) async fn open_again<G>(&self, data_dir: &Path, in_force: impl Future<Output = Option<G>>) -> bool {
        let Some(tried) = self.slot.try_again(data_dir, &self.config.spool).await else { return false };
        let Some(_in_force) = in_force.await else {
            tried.let_go().await;
            return false;
        };
        let Some(spool) = self.slot.take_over(tried).await else { return false };
        self.deliver_from(spool);
        tracing::info!(sink = %self.config.name, "the spool is open again: the sink takes records and delivers");
        true
    }

    /// What the intake needs to know of it.
    pub(super) fn target(&self) -> ingest::Target {
        ingest::Target {
            name: self.config.name.clone(),
            required: self.config.required,
            filter: filter(&self.config),
            spool: Arc::clone(&self.slot) as Arc<dyn Append>,
            missed: self.slot.missed,
        }
    }

    /// The worker's figures; `None` where there is none: its spool does not open, or it was stopped.
    pub(super) fn status(&self) -> Option<FlushStatus> {
        self.worker.lock().as_ref().map(Handle::status)
    }

    /// Tells the worker something; nothing where it was stopped.
    pub(super) fn tell(&self, what: impl FnOnce(&Handle)) {
        if let Some(worker) = self.worker.lock().as_ref() {
            what(worker);
        }
    }

    /// Whether the user paused it.
    pub(super) fn is_paused(&self) -> bool {
        self.status().is_some_and(|status| status.state == FlushState::Paused)
    }

    /// Lets the worker flush once more and end.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        let worker = self.worker.lock().take();
        if let Some(worker) = worker {
            worker.stopped().await;
        }
    }
}

/// What a sink gets of all that comes in.
pub(super) fn filter(config: &SinkConfig) -> Filter {
    use livekit_protocol::AnalyticsEventType as Type;
    let types = || config.event_types.iter().filter_map(|name| Type::from_str_name(name)).map(|kind| kind as i32);
    Filter {
        streams: (config.streams.len() < Stream::ALL.len()).then(|| config.streams.clone()),
        event_types: (!config.event_types.is_empty()).then(|| types().collect()),
    }
}

/// The sink itself, not yet reached.
pub(super) fn build(config: &SinkConfig, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, SinkStartError> {
    let failed = |message: String| SinkStartError::Options { name: config.name.clone(), message };
    Ok(match &config.target {
        Target::Mongodb(options) => {
            Arc::new(MongoSink::new(options.clone(), Arc::clone(encoder)).map_err(|error| failed(error.to_string()))?)
        }
        Target::Redis(options) => {
            Arc::new(RedisSink::new(options.clone(), Arc::clone(encoder)).map_err(|error| failed(error.to_string()))?)
        }
        Target::File(options) => {
            Arc::new(FileSink::new(options.clone(), Arc::clone(encoder)).map_err(|error| failed(error.to_string()))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{config, document::DocumentOptions};

    /// A file sink whose spool does not open: there is a file in its place.
    async fn standing_still(folder: &Path) -> Arc<Running> {
        let text = format!("sinks:\n  - {{ name: files, type: file, path: {} }}\n", folder.join("out").display());
        let config = config::parse(Some(("c.yaml", &text)), &|_| None).unwrap().sinks.remove(0);
        fs::write(folder.join("files"), "").unwrap();
        let slot = Slot::open_or_tell(&config.name, folder, &config.spool).await.unwrap();
        let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
        let sink = Running::start(Arc::new(config), slot, &encoder).await.unwrap();
        assert!(sink.slot.not_open().await.is_some() && sink.status().is_none());
        sink
    }

    #[tokio::test]
    async fn a_spool_that_opens_again_is_left_to_the_sink_that_is_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let sink = standing_still(folder.path()).await;
        let in_force = || async { Some(()) };
        assert!(!sink.open_again(folder.path(), in_force()).await, "the file is still there");
        fs::remove_file(folder.path().join("files")).unwrap();
        assert!(!sink.open_again(folder.path(), async { None::<()> }).await, "another one took its place");
        assert!(sink.slot.not_open().await.is_some());
        let meanwhile = async {
            assert!(!sink.open_again(folder.path(), in_force()).await, "it is being tried already");
            Some(())
        };
        assert!(sink.open_again(folder.path(), meanwhile).await, "and was let go before");
        assert!(sink.slot.get().await.is_some() && sink.status().is_some());
        sink.stop().await;
        sink.slot.close().await;
    }

    #[tokio::test]
    async fn a_slot_that_was_closed_while_its_spool_opened_stays_closed() {
        let folder = tempfile::tempdir().unwrap();
        let sink = standing_still(folder.path()).await;
        fs::remove_file(folder.path().join("files")).unwrap();
        let closed = async {
            sink.stop().await;
            sink.slot.close().await;
            Some(())
        };
        assert!(!sink.open_again(folder.path(), closed).await);
        assert!(sink.slot.get().await.is_none() && sink.status().is_none());
        Slot::open(&sink.config.name, folder.path(), &sink.config.spool).await.unwrap().close().await;
    }
}
