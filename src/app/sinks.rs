//! A sink at work: its spool, its worker, and what either can be told.

use std::{
    path::Path,
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
    record::{RecordBatch, SinkName, Stream},
    sink::{Sink, file::FileSink, mongodb::MongoSink, redis::RedisSink},
    spool::{Appended, OpenError, Spool},
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

/// A spool that can be opened anew, with other limits, while senders wait instead of failing.
pub(super) struct Slot {
    name: SinkName,
    spool: RwLock<Option<Arc<Spool>>>,
    /// Why the last batch was not kept, until one is kept again.
    refused: Mutex<Option<(Instant, Refusing)>>,
}

impl Slot {
    /// Opens a sink's spool.
    pub(super) async fn open(
        name: &SinkName,
        data_dir: &Path,
        config: &SpoolConfig,
    ) -> Result<Arc<Self>, SinkStartError> {
        let spool = open(name, data_dir, config).await?;
        Ok(Arc::new(Self { name: name.clone(), spool: RwLock::new(Some(spool)), refused: Mutex::default() }))
    }

    /// Closes the spool and opens it with other options; where those do not work, with the old ones.
    pub(super) async fn reopen(
        &self,
        data_dir: &Path,
        new: &SpoolConfig,
        old: &SpoolConfig,
    ) -> Result<(), SinkStartError> {
        let mut slot = self.spool.write().await;
        if let Some(spool) = slot.take() {
            spool.close().await;
        }
        match open(&self.name, data_dir, new).await {
            Ok(spool) => {
                *slot = Some(spool);
                Ok(())
            }
            Err(error) => {
                *slot = open(&self.name, data_dir, old).await.ok();
                Err(error)
            }
        }
    }

    /// The spool, unless it is closed.
    pub(super) async fn get(&self) -> Option<Arc<Spool>> {
        self.spool.read().await.clone()
    }

    /// The spool, unless it is closed or being opened anew right now.
    pub(super) fn get_now(&self) -> Option<Arc<Spool>> {
        self.spool.try_read().ok().and_then(|spool| spool.clone())
    }

    /// Why it keeps no records, where it did not keep some just now and kept none since.
    pub(super) fn refusal(&self) -> Option<Refusing> {
        let refused = self.refused.lock();
        refused.as_ref().filter(|(at, _)| at.elapsed() < REFUSAL).map(|(_, refusing)| refusing.clone())
    }

    /// Closes it for good.
    pub(super) async fn close(&self) {
        if let Some(spool) = self.spool.write().await.take() {
            spool.close().await;
        }
    }
}

#[async_trait]
impl Append for Slot {
    async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        let Some(spool) = self.get().await else {
            return Err(CannotAppend {
                reason: Refused::Unavailable,
                message: "its spool is closing: try again later".to_owned(),
            });
        };
        let result = Append::append(&*spool, batch).await;
        match &result {
            // Too much for a spool says nothing of what else it takes.
            Err(error) if error.reason == Refused::TooLarge => {}
            _ => *self.refused.lock() = Refusing::of_append(&result).map(|refusing| (Instant::now(), refusing)),
        }
        result
    }
}

async fn open(name: &SinkName, data_dir: &Path, config: &SpoolConfig) -> Result<Arc<Spool>, SinkStartError> {
    let (folder, options) = (data_dir.join(name.as_str()), config.options(name));
    let opened = tokio::task::spawn_blocking(move || Spool::open(&folder, options)).await;
    match opened {
        Ok(Ok(spool)) => Ok(Arc::new(spool)),
        Ok(Err(source)) => Err(SinkStartError::Spool { name: name.clone(), source }),
        Err(panic) => Err(SinkStartError::Options { name: name.clone(), message: panic.to_string() }),
    }
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
    /// Starts delivering from an open spool.
    pub(super) async fn start(
        config: Arc<SinkConfig>,
        slot: Arc<Slot>,
        encoder: &Arc<Encoder>,
    ) -> Result<Arc<Self>, SinkStartError> {
        let sink = build(&config, encoder)?;
        let Some(spool) = slot.get().await else {
            let message = "its spool is closed".to_owned();
            return Err(SinkStartError::Options { name: config.name.clone(), message });
        };
        let stop = CancellationToken::new();
        let worker = Worker::spawn(&config.name, spool, Arc::clone(&sink), config.flush.clone(), stop.clone());
        Ok(Arc::new(Self { config, slot, sink, worker: Mutex::new(Some(worker)), stop }))
    }

    /// What the intake needs to know of it.
    pub(super) fn target(&self) -> ingest::Target {
        ingest::Target {
            name: self.config.name.clone(),
            required: self.config.required,
            filter: filter(&self.config),
            spool: Arc::clone(&self.slot) as Arc<dyn Append>,
        }
    }

    /// The worker's figures; `None` once it was stopped.
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
