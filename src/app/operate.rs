//! The operations on a sink, of a running process and of a stopped one's directory.

use std::{sync::Arc, time::Duration};

use super::{
    App, NoSuchSink,
    dead_letters::{self, Retried, blocking},
    directory::{DataDirectory, DirectoryError},
    paths::{PathInSpool, check_paths},
    remove::RemoveError,
    sinks::{Running, build},
    slot::{SinkStartError, Slot},
    snapshot,
    spools::spool_options,
};
use crate::{
    config::{Config, SinkConfig},
    document::Encoder,
    flush::Handle,
    ingest::Refusal,
    inspect::Source,
    record::SinkName,
    spool::{self, Contents, DeadFilter, OpenError, QueueError, Spool, VerifyReport},
    status::SinkStatus,
    tasks,
};

/// How often a drain checks whether it is done.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// There is no such sink.
    #[error(transparent)]
    NoSuchSink(#[from] NoSuchSink),
    /// Its spool is closed, or being reopened with other limits.
    #[error("the spool of sink {0} is closed: try again in a moment")]
    Closed(String),
    /// Its spool does not open.
    #[error("the spool of sink {sink} does not open: {reason}")]
    NotOpen {
        /// The sink.
        sink: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A part of a spool that is to be removed cannot be read.
    #[error(
        "could not remove the spool of sink {sink}: {reason}: purge again when that can be read, or remove its directory in \
         the data_dir yourself"
    )]
    Unread {
        /// The sink.
        sink: String,
        /// Which segments, and what that means.
        reason: String,
    },
    /// The spool cannot be read or written.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A bug.
    #[error("internal error: {0}")]
    Panicked(String),
    /// The spool does not accept records.
    #[error(transparent)]
    Append(#[from] Refusal),
    /// The spool does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The sink does not start.
    #[error(transparent)]
    Start(#[from] SinkStartError),
    /// The data directory is in use.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A spool's directory could not be removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// A file sink would write into a spool's directory.
    #[error(transparent)]
    PathInSpool(#[from] PathInSpool),
}

impl App {
    pub(super) async fn spool(&self, name: &str) -> Result<Arc<Spool>, OperateError> {
        let sink = self.running(name).await?;
        sink.slot.get().await.ok_or_else(|| OperateError::Closed(name.to_owned()))
    }

    /// A sink whose spool is open.
    async fn running(&self, name: &str) -> Result<Arc<Running>, OperateError> {
        let sink = self.find(name)?;
        match sink.slot.not_open().await {
            Some(why) => Err(OperateError::NotOpen { sink: name.to_owned(), reason: why.error.to_string() }),
            None => Ok(sink),
        }
    }

    /// A sink whose spool is not open: it is read from disk, as a stopped process's is.
    async fn at_rest(&self, name: &str) -> Option<SinkName> {
        let is_orphaned = self.orphaned.lock().iter().any(|sink| sink.name == name);
        let not_open = match self.sink(name) {
            Some(sink) => sink.slot.not_open().await.is_some(),
            None => false,
        };
        SinkName::new(name).ok().filter(|_| is_orphaned || not_open)
    }

    /// The source for inspecting a sink's records; also of an orphaned spool.
    ///
    /// # Errors
    /// When there is no such sink, or its spool cannot be read.
    pub async fn source(&self, name: &str) -> Result<Source, OperateError> {
        match self.at_rest(name).await {
            Some(sink) => look_at(&self.config(), &sink).await,
            None => Ok(Source::Open(self.spool(name).await?)),
        }
    }

    /// Stops delivering to a sink; its spool continues to accept records.
    ///
    /// # Errors
    /// When there is no such sink, or its spool does not open.
    pub async fn pause(&self, sink: &str) -> Result<(), OperateError> {
        self.running(sink).await?.notify(Handle::pause);
        Ok(())
    }

    /// Delivers to a sink again.
    ///
    /// # Errors
    /// When there is no such sink, or its spool does not open.
    pub async fn resume(&self, sink: &str) -> Result<(), OperateError> {
        self.running(sink).await?.notify(Handle::resume);
        Ok(())
    }

    /// Delivers the backlog now, without waiting for a full batch or for the backoff to end.
    ///
    /// # Errors
    /// When there is no such sink, or its spool does not open.
    pub async fn flush(&self, sink: &str) -> Result<(), OperateError> {
        self.running(sink).await?.notify(Handle::flush_now);
        Ok(())
    }

    /// Sends dead letters of a sink again.
    ///
    /// # Errors
    /// When there is no such sink, or its dead letters cannot be read or written.
    pub async fn retry_dead_letters(&self, name: &str, filter: DeadFilter) -> Result<Retried, OperateError> {
        let sink = self.running(name).await?;
        let retried = dead_letters::retry(&self.spool(name).await?, &*sink.sink, filter).await?;
        sink.notify(Handle::flush_now);
        Ok(retried)
    }

    /// Removes dead letters of a sink for good; returns how many.
    ///
    /// # Errors
    /// When there is no such sink, or its dead letters cannot be written.
    pub async fn drop_dead_letters(&self, name: &str, filter: DeadFilter) -> Result<u64, OperateError> {
        let sink = self.running(name).await?;
        let dropped = blocking(&self.spool(name).await?, move |spool| spool.drop_dead_letters(&filter)).await?;
        sink.notify(Handle::flush_now);
        Ok(dropped)
    }

    /// Checks everything that a sink's spool has on disk, while it is in use.
    ///
    /// # Errors
    /// When there is no such sink, or its spool cannot be read.
    pub async fn verify(&self, name: &str) -> Result<VerifyReport, OperateError> {
        if let Some(sink) = self.at_rest(name).await {
            let (directory, options) = (self.data_dir().join(name), spool_options(&self.config(), &sink));
            let verified = tasks::run_blocking(move || spool::verify(&directory, options)).await;
            return Ok(verified.map_err(|panic| OperateError::Panicked(panic.to_string()))??);
        }
        Ok(blocking(&self.spool(name).await?, |spool| spool.verify()).await?)
    }

    /// Whether an operator has paused a sink.
    ///
    /// # Errors
    /// When there is no such sink.
    pub fn is_paused(&self, sink: &str) -> Result<bool, NoSuchSink> {
        Ok(self.find(sink)?.is_paused())
    }
}

/// The source for inspecting a stopped sink's spool.
///
/// # Errors
/// When it cannot be read.
pub async fn look_at(config: &Config, sink: &SinkName) -> Result<Source, OperateError> {
    let (directory, options) = (config.data_dir.join(sink.as_str()), spool_options(config, sink));
    let inspected = tasks::run_blocking(move || Contents::of_stopped(&directory, options)).await;
    Ok(Source::Stopped(inspected.map_err(|panic| OperateError::Panicked(panic.to_string()))??))
}

/// The sinks of a stopped process, locked and open for an operation.
pub struct Stopped {
    pub(super) config: Config,
    pub(super) data: DataDirectory,
    encoder: Arc<Encoder>,
}

impl Stopped {
    /// Locks the data directory; does not create it.
    ///
    /// # Errors
    /// When it does not exist, or a process uses it.
    pub fn open(config: Config) -> Result<Self, OperateError> {
        let data = DataDirectory::open_existing(&config.data_dir)?;
        let encoder = Arc::new(Encoder::new(config.documents.clone()));
        Ok(Self { config, data, encoder })
    }

    fn sink(&self, name: &str) -> Result<&SinkConfig, NoSuchSink> {
        self.config.sinks.iter().find(|sink| sink.name.as_str() == name).ok_or_else(|| self.no_such_sink(name))
    }

    pub(super) fn no_such_sink(&self, name: &str) -> NoSuchSink {
        let names = self.config.sinks.iter().map(|sink| sink.name.to_string()).collect();
        NoSuchSink { name: name.to_owned(), names }
    }

    /// As [`App::drop_dead_letters`].
    ///
    /// # Errors
    /// As there.
    pub async fn drop_dead_letters(&self, name: &str, filter: DeadFilter) -> Result<u64, OperateError> {
        self.with_spool(name, async |spool| Ok(blocking(spool, move |spool| spool.drop_dead_letters(&filter)).await?))
            .await
    }

    /// As [`App::retry_dead_letters`].
    ///
    /// # Errors
    /// As there.
    pub async fn retry_dead_letters(&self, name: &str, filter: DeadFilter) -> Result<Retried, OperateError> {
        let sink = self.sink(name)?;
        check_paths(&self.config.sinks, self.data.path())?;
        let sink = build(sink, &self.encoder)?;
        if let Err(error) = sink.initialize().await {
            return Ok(Retried { stopped_by: Some(error.message), ..Retried::default() });
        }
        let done = self.with_spool(name, async |spool| Ok(dead_letters::retry(spool, &*sink, filter).await?)).await;
        sink.close().await;
        done
    }

    pub(super) async fn with_spool<T>(
        &self,
        name: &str,
        work: impl AsyncFnOnce(&Arc<Spool>) -> Result<T, OperateError>,
    ) -> Result<T, OperateError> {
        let sink = self.sink(name)?;
        let slot = Slot::open(&sink.name, self.data.path(), &sink.spool).await?;
        let result = match slot.get().await {
            Some(spool) => work(&spool).await,
            None => Err(OperateError::Closed(name.to_owned())),
        };
        slot.close().await;
        result
    }

    /// Delivers the backlog of a sink (or of all) until nothing is left or `timeout` is over. `progress` is called with the
    /// number of records left. Returns true if nothing is left and all of it could be read. With all sinks, one whose spool
    /// does not open does not delay the others.
    ///
    /// # Errors
    /// When a sink does not start.
    pub async fn drain(
        &self,
        name: Option<&str>,
        timeout: Option<Duration>,
        mut progress: impl FnMut(&[SinkStatus]),
    ) -> Result<bool, OperateError> {
        let chosen: Vec<&SinkConfig> = match name {
            Some(name) => vec![self.sink(name)?],
            None => self.config.sinks.iter().collect(),
        };
        check_paths(&self.config.sinks, self.data.path())?;
        let mut sinks = Vec::new();
        for sink in chosen {
            let slot = match name {
                Some(_) => Slot::open(&sink.name, self.data.path(), &sink.spool).await?,
                None => Slot::open_or_tell(&sink.name, self.data.path(), &sink.spool).await?,
            };
            sinks.push(Running::start(Arc::new(sink.clone()), slot, &self.encoder).await?);
        }
        sinks.iter().for_each(|sink| sink.notify(Handle::flush_now));
        let begun = tokio::time::Instant::now();
        let is_empty = loop {
            let rates = parking_lot::Mutex::new(super::rates::Rates::default());
            let figures: Vec<SinkStatus> =
                sinks.iter().map(|sink| snapshot::of_running(sink, &rates, 0).status).collect();
            progress(&figures);
            let is_open = |sink: &&Arc<Running>| sink.slot.not_open_now().is_none();
            let mut open = sinks.iter().zip(&figures).filter(|(sink, _)| is_open(sink));
            if open.all(|(_, figures)| figures.is_drained()) {
                break sinks.iter().all(|sink| is_open(&sink));
            }
            if timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
                break false;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        };
        for sink in sinks {
            sink.stop_and_close().await;
        }
        Ok(is_empty)
    }
}
