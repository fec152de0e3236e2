//! Replaces the sinks of the running process in a reload. A changed sink is stopped (one last flush) and started again on
//! the same spool, all changed sinks concurrently; senders wait for a spool that is reopened with other limits.
//!
//! Work that can wait for a disk runs in a task of its own. The reload waits for that task for a limited time; a result that
//! comes later is applied when it comes.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    App,
    process::warn_orphaned,
    sinks::Running,
    slot::{SinkStartError, Slot},
    snapshot,
};
use crate::{
    config::{Config, SinkConfig},
    flush::Handle,
    status::SinkStatus,
    tasks,
};

/// The least time that a reload waits for a disk. The most is `shutdown_timeout`.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a reload waits for a disk.
pub(super) fn timeout(config: &Config) -> Duration {
    config.shutdown_timeout.max(MIN_TIMEOUT)
}

/// The result of a reload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// The changes now in force, one line each; empty if nothing changed.
    pub applied: Vec<String>,
    /// The changes in the file that need a restart.
    pub needs_restart: Vec<String>,
    /// Sinks that do not deliver because their spool does not open, and why.
    #[serde(default)]
    pub failed: Vec<String>,
}

impl App {
    /// Starts the new sinks concurrently; if one of them does not start, none does.
    pub(super) async fn start_added(
        &self,
        old: &Config,
        new: &Config,
        timeout: Duration,
    ) -> Result<Vec<Arc<Running>>, SinkStartError> {
        let fresh = new.sinks.iter().filter(|sink| named(old, sink).is_none());
        let started = join_all(fresh.map(|sink| async {
            let slot = open_within(timeout, sink, &old.data_dir).await?;
            Running::start(Arc::new(sink.clone()), slot, &self.encoder).await
        }));
        let (mut added, mut failed) = (Vec::new(), None);
        for started in started.await {
            match started {
                Ok(running) => added.push(running),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let Some(error) = failed else { return Ok(added) };
        for running in added {
            tasks::spawn(async move { running.stop_and_close().await });
        }
        Err(error)
    }

    pub(super) async fn swap_sinks(
        self: &Arc<Self>,
        old: &Config,
        new: &Config,
        added: Vec<Arc<Running>>,
        timeout: Duration,
        done: &mut Reloaded,
    ) {
        let present = self.sinks.load_full();
        let is_named = |sink: &Running| new.sinks.iter().any(|named| named.name == sink.config.name);
        let (kept, removed): (Vec<_>, Vec<_>) = present.iter().cloned().partition(|sink| is_named(sink));
        done.applied.extend(added.iter().map(|sink| format!("sink {} added", sink.config.name)));
        // From here on the removed sinks get no more records, and the added ones do.
        self.take_sinks(kept.iter().chain(&added).cloned().collect());
        // Concurrently: each can take as long as its last flush.
        let stopped = join_all(removed.iter().map(|sink| async {
            let stopping = Arc::clone(sink);
            let closing = tasks::spawn(async move { stopping.stop_and_close().await });
            if tokio::time::timeout(timeout, closing).await.is_err() {
                tracing::warn!(
                    sink = %sink.config.name,
                    "could not close its spool yet, its disk does not answer: the reload continues without it"
                );
            }
        }));
        let restarted = join_all(kept.into_iter().map(|sink| async {
            let changed = new.sinks.iter().find(|named| named.name == sink.config.name && **named != *sink.config);
            match changed {
                Some(changed) => self.restart_within(timeout, sink, changed, old).await,
                None => (sink, Reloaded::default()),
            }
        }));
        let (_, restarted) = tokio::join!(stopped, restarted);
        let orphaned = orphaned_within(timeout, Arc::new(new.clone())).await.unwrap_or_default();
        for sink in removed {
            done.applied.push(format!("sink {} removed", sink.config.name));
            for left in orphaned.iter().filter(|left| left.name == sink.config.name.as_str()) {
                warn_orphaned(left);
            }
        }
        let mut sinks = added;
        for (sink, its) in restarted {
            sinks.push(sink);
            done.applied.extend(its.applied);
            done.needs_restart.extend(its.needs_restart);
            done.failed.extend(its.failed);
        }
        // In the order of the config file.
        sinks.sort_by_key(|sink| new.sinks.iter().position(|named| named.name == sink.config.name));
        self.take_sinks(sinks);
    }

    /// As [`Self::restart`]; if a disk does not answer in time, the sink does not deliver until it does.
    async fn restart_within(
        self: &Arc<Self>,
        timeout: Duration,
        sink: Arc<Running>,
        new: &SinkConfig,
        old: &Config,
    ) -> (Arc<Running>, Reloaded) {
        let (answer, answered) = oneshot::channel();
        let (app, before, new, old) = (Arc::clone(self), Arc::clone(&sink), new.clone(), old.clone());
        tasks::spawn(async move {
            let Some(one_at_a_time) = before.slot.begin_restart() else { return };
            let mut done = Reloaded::default();
            let restarted = app.restart(&before, &new, &old, &mut done).await;
            // The reload no longer waits.
            let late = match answer.send((restarted, done)) {
                Err((running, done)) => app.take_late(&before, running, &done).await,
                Ok(()) => None,
            };
            drop(one_at_a_time);
            if let Some(running) = late {
                app.catch_up(running, new).await;
            }
        });
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(restarted)) => restarted,
            late => {
                let why = if late.is_err() {
                    "its disk does not answer"
                } else {
                    "an earlier change of this sink waits for its disk"
                };
                let name = &sink.config.name;
                tracing::error!(
                    sink = %name,
                    "{why}: the sink does not deliver until it does, and applies its options then"
                );
                let failed = format!("sink {name}: {why}: it does not deliver until then");
                (sink, Reloaded { failed: vec![failed], ..Reloaded::default() })
            }
        }
    }

    /// Takes over a sink that was restarted after the reload stopped waiting; returns it unless it was removed.
    async fn take_late(&self, before: &Arc<Running>, running: Arc<Running>, done: &Reloaded) -> Option<Arc<Running>> {
        let _no_reload = self.reloading.lock().await;
        if !self.stopping.is_cancelled() && self.replace_sink(before, &running) {
            let (applied, needs_restart) = (done.applied.join("; "), done.needs_restart.join("; "));
            tracing::info!(sink = %running.config.name, applied, needs_restart, "its disk answers again: the sink continues");
            return Some(running);
        }
        // It was removed in the meantime and its spool closed, or the process stops.
        running.stop().await;
        None
    }

    /// Gives a sink the options of a later reload, if one came while it waited for its disk with the options `tried`.
    fn catch_up(self: Arc<Self>, sink: Arc<Running>, tried: SinkConfig) -> BoxFuture<'static, ()> {
        async move {
            let _no_reload = self.reloading.lock().await;
            let config = self.config();
            let wanted = named(&config, &tried).filter(|wanted| **wanted != tried && **wanted != *sink.config);
            let is_there = self.sinks.load().iter().any(|running| Arc::ptr_eq(running, &sink));
            let Some(wanted) = wanted.filter(|_| is_there && !self.stopping.is_cancelled()) else { return };
            let (running, done) = self.restart_within(timeout(&config), Arc::clone(&sink), wanted, &config).await;
            self.replace_sink(&sink, &running);
            let (applied, failed) = (done.applied.join("; "), done.failed.join("; "));
            tracing::info!(
                sink = %sink.config.name,
                applied,
                failed,
                "the sink applies the options that changed while it waited for its disk"
            );
        }
        .boxed()
    }

    /// Replaces a sink by another; false if the old one is no longer there.
    fn replace_sink(&self, before: &Arc<Running>, running: &Arc<Running>) -> bool {
        let mut sinks = self.sinks.load().as_ref().clone();
        let Some(place) = sinks.iter_mut().find(|sink| Arc::ptr_eq(sink, before)) else { return false };
        *place = Arc::clone(running);
        self.take_sinks(sinks);
        true
    }

    /// Starts a sink again with other options; if they do not work, with the old ones.
    async fn restart(&self, sink: &Arc<Running>, new: &SinkConfig, old: &Config, done: &mut Reloaded) -> Arc<Running> {
        let was_paused = sink.is_paused();
        sink.stop().await;
        let mut config = new.clone();
        // A spool that did not open is opened with the new options, once the sink runs with them.
        if new.spool != sink.config.spool
            && sink.slot.not_open().await.is_none()
            && let Err(error) = sink.slot.reopen(&old.data_dir, &new.spool, &sink.config.spool).await
        {
            tracing::error!(%error, "could not apply the sink's new spool options; the old ones stay in force");
            done.needs_restart.push(format!("sink {}: its spool options cannot be used: {error}", new.name));
            config.spool = sink.config.spool.clone();
        }
        let started = match Running::start(Arc::new(config), Arc::clone(&sink.slot), &self.encoder).await {
            Ok(running) => {
                done.applied.push(format!("sink {} changed", new.name));
                Ok(running)
            }
            Err(error) => {
                tracing::error!(%error, "could not apply the sink's new options; the old ones stay in force");
                done.needs_restart.push(format!("sink {}: {error}", new.name));
                Running::start(Arc::clone(&sink.config), Arc::clone(&sink.slot), &self.encoder).await
            }
        };
        match started {
            Ok(running) => {
                if was_paused {
                    running.notify(Handle::pause);
                }
                running
            }
            Err(error) => {
                tracing::error!(%error, "could not start the sink; its records stay in the spool until a restart");
                Arc::clone(sink)
            }
        }
    }

    fn take_sinks(&self, sinks: Vec<Arc<Running>>) {
        self.ingester.replace(sinks.iter().map(|sink| sink.target()).collect());
        self.sinks.store(Arc::new(sinks));
    }
}

/// Opens the spool of a new sink. A spool that opens after the reload stopped waiting is closed again.
async fn open_within(timeout: Duration, sink: &SinkConfig, data_dir: &Path) -> Result<Arc<Slot>, SinkStartError> {
    let (answer, answered) = oneshot::channel();
    let (name, data_dir, options) = (sink.name.clone(), data_dir.to_owned(), sink.spool.clone());
    tasks::spawn(async move {
        if let Err(Ok(late)) = answer.send(Slot::open(&name, &data_dir, &options).await) {
            late.close().await;
        }
    });
    match tokio::time::timeout(timeout, answered).await {
        Ok(Ok(opened)) => opened,
        _ => {
            let message = "its disk does not answer: reload again when it does".to_owned();
            Err(SinkStartError::Options { name: sink.name.clone(), message })
        }
    }
}

/// The spools that a configuration does not name; `None` if a disk does not answer.
pub(super) async fn orphaned_within(timeout: Duration, config: Arc<Config>) -> Option<Vec<SinkStatus>> {
    let inspecting = tasks::run_blocking(move || snapshot::orphaned_spools(&config));
    tokio::time::timeout(timeout, inspecting).await.ok()?.ok()
}

fn named<'a>(config: &'a Config, sink: &SinkConfig) -> Option<&'a SinkConfig> {
    config.sinks.iter().find(|other| other.name == sink.name)
}
