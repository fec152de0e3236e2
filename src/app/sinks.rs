//! A running sink: its spool, its worker, and the commands to both.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::slot::{SinkStartError, Slot};
use crate::{
    config::SinkConfig,
    document::Encoder,
    flush::{FlushStatus, Handle, SinkState, Worker},
    ingest::{self, Append, Filter},
    record::Stream,
    sink::Sink,
    spool::Spool,
};

/// A running sink.
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

    /// Opens its spool, which did not open before, and starts delivering; returns whether it did. `in_force` is awaited once
    /// the spool is open (that can take long), and its result is held until the sink delivers. `None` means that another
    /// sink took this one's place in the meantime: that one opens the spool with its own options.
    pub(super) async fn open_again<G>(&self, data_dir: &Path, in_force: impl Future<Output = Option<G>>) -> bool {
        let Some(tried) = self.slot.try_again(data_dir, &self.config.spool).await else { return false };
        let Some(_in_force) = in_force.await else {
            tried.release().await;
            return false;
        };
        let Some(spool) = self.slot.take_over(tried).await else { return false };
        self.deliver_from(spool);
        tracing::info!(sink = %self.config.name, "the spool is open again: the sink accepts records and delivers");
        true
    }

    /// The sink as a target of ingest.
    pub(super) fn target(&self) -> ingest::Target {
        ingest::Target {
            name: self.config.name.clone(),
            required: self.config.required,
            filter: filter(&self.config),
            spool: Arc::clone(&self.slot) as Arc<dyn Append>,
            missed: self.slot.missed,
        }
    }

    /// The worker's figures; `None` if there is no worker: the spool does not open, or the worker was stopped.
    pub(super) fn status(&self) -> Option<FlushStatus> {
        self.worker.lock().as_ref().map(Handle::status)
    }

    /// Sends a command to the worker; does nothing if it was stopped.
    pub(super) fn notify(&self, what: impl FnOnce(&Handle)) {
        if let Some(worker) = self.worker.lock().as_ref() {
            what(worker);
        }
    }

    /// Whether an operator paused it.
    pub(super) fn is_paused(&self) -> bool {
        self.status().is_some_and(|status| status.state == SinkState::Paused)
    }

    /// Stops the worker after a last flush.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        let worker = self.worker.lock().take();
        if let Some(worker) = worker {
            worker.stopped().await;
        }
    }

    /// Stops the worker, then closes the spool for good.
    pub(super) async fn stop_and_close(&self) {
        self.stop().await;
        self.slot.close().await;
    }
}

/// Which of the accepted records a sink gets.
pub(super) fn filter(config: &SinkConfig) -> Filter {
    use livekit_protocol::AnalyticsEventType as Type;
    let types = || config.event_types.iter().filter_map(|name| Type::from_str_name(name)).map(|kind| kind as i32);
    Filter {
        streams: (config.streams.len() < Stream::ALL.len()).then(|| config.streams.clone()),
        event_types: (!config.event_types.is_empty()).then(|| types().collect()),
    }
}

/// The sink itself, not connected yet.
pub(super) fn build(config: &SinkConfig, encoder: &Arc<Encoder>) -> Result<Arc<dyn Sink>, SinkStartError> {
    config
        .target
        .build(encoder)
        .map_err(|error| SinkStartError::Options { name: config.name.clone(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{config, document::DocumentOptions};

    /// A file sink whose spool does not open: there is a file in its place.
    async fn standing_still(directory: &Path) -> Arc<Running> {
        let text = format!("sinks:\n  - {{ name: files, type: file, path: {} }}\n", directory.join("out").display());
        let config = config::parse(Some(("c.yaml", &text)), &|_| None).unwrap().sinks.remove(0);
        fs::write(directory.join("files"), "").unwrap();
        let slot = Slot::open_or_tell(&config.name, directory, &config.spool).await.unwrap();
        let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
        let sink = Running::start(Arc::new(config), slot, &encoder).await.unwrap();
        assert!(sink.slot.not_open().await.is_some() && sink.status().is_none());
        sink
    }

    #[tokio::test]
    async fn a_spool_that_opens_again_is_left_to_the_sink_that_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let sink = standing_still(directory.path()).await;
        let in_force = || async { Some(()) };
        assert!(!sink.open_again(directory.path(), in_force()).await, "the file is still there");
        fs::remove_file(directory.path().join("files")).unwrap();
        assert!(!sink.open_again(directory.path(), async { None::<()> }).await, "another one took its place");
        assert!(sink.slot.not_open().await.is_some());
        let meanwhile = async {
            assert!(!sink.open_again(directory.path(), in_force()).await, "it is being tried already");
            Some(())
        };
        assert!(sink.open_again(directory.path(), meanwhile).await, "and the guard was released before");
        assert!(sink.slot.get().await.is_some() && sink.status().is_some());
        sink.stop_and_close().await;
    }

    #[tokio::test]
    async fn a_slot_that_was_closed_while_its_spool_opened_stays_closed() {
        let directory = tempfile::tempdir().unwrap();
        let sink = standing_still(directory.path()).await;
        fs::remove_file(directory.path().join("files")).unwrap();
        let closed = async {
            sink.stop_and_close().await;
            Some(())
        };
        assert!(!sink.open_again(directory.path(), closed).await);
        assert!(sink.slot.get().await.is_none() && sink.status().is_none());
        Slot::open(&sink.config.name, directory.path(), &sink.config.spool).await.unwrap().close().await;
    }
}
