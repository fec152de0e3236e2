//! SIGHUP: takes over what can change without losing a record, says what cannot, and keeps the old configuration where
//! the new one is bad.
//!
//! Sinks come and go, and a changed one is stopped (one last flush) and started anew on the same spool, all of them side by
//! side; senders wait for a spool that is opened with other limits. Addresses, TLS files' paths, memory and the data folder need
//! a restart. A spool that did not open is tried again.
//!
//! Whatever waits for a disk does so in a task of its own, and the reload for that task only so long: what comes later is taken
//! over then.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    App,
    paths::check_paths,
    sinks::{Running, SinkStartError, Slot},
    snapshot,
    start::{RunError, check},
    warn_of, warn_unclaimed,
};
use crate::{
    config::{self, AdminConfig, Config, ConfigError, IngestConfig, LogConfig, SinkConfig},
    record::now_millis,
    status::SinkStatus,
};

/// How often a spool is tried again that did not open, where the reason may pass by itself.
const OPEN_PERIOD: Duration = Duration::from_secs(30);

/// So long a reload waits at least for a disk. At the most it is `shutdown_timeout`.
const MIN_PATIENCE: Duration = Duration::from_secs(2);

/// What a reload did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// What is in force now, one line each; empty where nothing changed.
    pub applied: Vec<String>,
    /// What changed in the file and waits for a restart.
    pub needs_restart: Vec<String>,
    /// Sinks that stand still because their spool does not open, and why.
    #[serde(default)]
    pub failed: Vec<String>,
}

/// Why the old configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new one is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An empty file means every default, which nobody reloads for.
    #[error("{0} is empty: it may be in the middle of being written; reload again when it is whole")]
    Empty(String),
    /// A start would refuse it.
    #[error(transparent)]
    Refused(#[from] RunError),
    /// A sink of it does not start.
    #[error(transparent)]
    Sink(#[from] SinkStartError),
    /// It could not even be read in time.
    #[error(
        "the configuration, or a file that it names, was not read within {0:?}: reload again when its disk answers"
    )]
    Slow(Duration),
    /// One at a time.
    #[error("another reload, or a purge, is still under way after {0:?}: reload again when its disk has answered")]
    Busy(Duration),
    /// A bug.
    #[error("internal error: {0}")]
    Panicked(String),
}

impl App {
    /// Reads the configuration again and takes over what can change.
    ///
    /// # Errors
    /// When the new one cannot work: then nothing has changed.
    pub async fn reload(self: &Arc<Self>) -> Result<Reloaded, ReloadError> {
        let patience = self.config().shutdown_timeout.max(MIN_PATIENCE);
        let mut result = match tokio::time::timeout(patience, self.reloading.lock()).await {
            Ok(_one_at_a_time) => self.try_reload(patience).await,
            Err(_) => Err(ReloadError::Busy(patience)),
        };
        if let Ok(done) = &mut result {
            self.open_again(patience, done).await;
        }
        let (state, reason) = match &result {
            Ok(reloaded) => {
                let lines = |lines: &[String]| if lines.is_empty() { "nothing".to_owned() } else { lines.join("; ") };
                let (applied, needs_restart) = (lines(&reloaded.applied), lines(&reloaded.needs_restart));
                tracing::info!(applied, needs_restart, failed = lines(&reloaded.failed), "configuration reloaded");
                ("configuration reloaded", None)
            }
            Err(error) => {
                tracing::error!(%error, "the new configuration is not used; the old one stays in force");
                ("configuration refused", Some(error.to_string()))
            }
        };
        self.rates.lock().note(now_millis(), state, reason);
        result
    }

    async fn try_reload(self: &Arc<Self>, patience: Duration) -> Result<Reloaded, ReloadError> {
        let old = self.config();
        let (file, data_dir) = (self.config_file.clone().or_else(|| old.file.clone()), old.data_dir.clone());
        let reading = tokio::task::spawn_blocking(move || read(file.as_deref(), &data_dir));
        let mut new = match tokio::time::timeout(patience, reading).await {
            Ok(read) => read.map_err(|panic| ReloadError::Panicked(panic.to_string()))??,
            Err(_) => return Err(ReloadError::Slow(patience)),
        };
        warn_of(&new);
        let mut done = Reloaded::default();
        if new.shutdown_timeout != old.shutdown_timeout {
            done.needs_restart.push("shutdown_timeout".to_owned());
            new.set_shutdown_timeout(old.shutdown_timeout);
        }
        done.needs_restart.extend(restarts(&old, &new));

        let added = self.start_added(&old, &new, patience).await?;
        self.swap_sinks(&old, &new, added, patience, &mut done).await;
        if new.log.level != old.log.level {
            self.logging.set_level(new.log.level);
            done.applied.push(format!("log.level: {}", new.log.level.as_str()));
        }
        for (key, differs) in [
            ("admin.token", new.admin.token != old.admin.token),
            ("admin.hosts", new.admin.hosts != old.admin.hosts),
            ("admin.public_metrics", new.admin.public_metrics != old.admin.public_metrics),
        ] {
            if differs {
                done.applied.push(key.to_owned());
            }
        }
        match self.gate.replace(new.ingest.auth.options(), new.ingest.auth.keys.clone()) {
            Ok(true) => done.applied.push("ingest.auth".to_owned()),
            Ok(false) => {}
            Err(error) => done.needs_restart.push(format!("ingest.auth is not used: {error}")),
        }
        self.config.store(Arc::new(in_force(&old, new)));
        if let Some(unclaimed) = unclaimed_within(patience, self.config()).await {
            *self.unclaimed.lock() = unclaimed;
        }
        Ok(done)
    }

    /// Starts the sinks that are new, side by side; where one does not start, none does.
    async fn start_added(
        &self,
        old: &Config,
        new: &Config,
        patience: Duration,
    ) -> Result<Vec<Arc<Running>>, SinkStartError> {
        let fresh = new.sinks.iter().filter(|sink| named(old, sink).is_none());
        let started = join_all(fresh.map(|sink| async {
            let slot = open_within(patience, sink, &old.data_dir).await?;
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
            tokio::spawn(async move {
                running.stop().await;
                running.slot.close().await;
            });
        }
        Err(error)
    }

    async fn swap_sinks(
        self: &Arc<Self>,
        old: &Config,
        new: &Config,
        added: Vec<Arc<Running>>,
        patience: Duration,
        done: &mut Reloaded,
    ) {
        let present = self.sinks.load_full();
        let is_named = |sink: &Running| new.sinks.iter().any(|named| named.name == sink.config.name);
        let (kept, removed): (Vec<_>, Vec<_>) = present.iter().cloned().partition(|sink| is_named(sink));
        done.applied.extend(added.iter().map(|sink| format!("sink {} added", sink.config.name)));
        // From here on the removed ones get no more records, the added ones do.
        self.take_sinks(kept.iter().chain(&added).cloned().collect());
        // Side by side: each may take as long as its last flush.
        let stopped = join_all(removed.iter().map(|sink| async {
            let stopping = Arc::clone(sink);
            let closing = tokio::spawn(async move {
                stopping.stop().await;
                stopping.slot.close().await;
            });
            if tokio::time::timeout(patience, closing).await.is_err() {
                tracing::warn!(sink = %sink.config.name, "its spool is not closed yet, its disk does not answer: going on without it");
            }
        }));
        let restarted = join_all(kept.into_iter().map(|sink| async {
            let changed = new.sinks.iter().find(|named| named.name == sink.config.name && **named != *sink.config);
            match changed {
                Some(changed) => self.restart_within(patience, sink, changed, old).await,
                None => (sink, Reloaded::default()),
            }
        }));
        let (_, restarted) = tokio::join!(stopped, restarted);
        let unclaimed = unclaimed_within(patience, Arc::new(new.clone())).await.unwrap_or_default();
        for sink in removed {
            done.applied.push(format!("sink {} removed", sink.config.name));
            for left in unclaimed.iter().filter(|left| left.name == sink.config.name.as_str()) {
                warn_unclaimed(left);
            }
        }
        let mut sinks = added;
        for (sink, its) in restarted {
            sinks.push(sink);
            done.applied.extend(its.applied);
            done.needs_restart.extend(its.needs_restart);
            done.failed.extend(its.failed);
        }
        // In the order of the file.
        sinks.sort_by_key(|sink| new.sinks.iter().position(|named| named.name == sink.config.name));
        self.take_sinks(sinks);
    }

    /// As [`Self::restart`]; where a disk does not answer in time, the sink stands still until it does, and goes on then.
    async fn restart_within(
        self: &Arc<Self>,
        patience: Duration,
        sink: Arc<Running>,
        new: &SinkConfig,
        old: &Config,
    ) -> (Arc<Running>, Reloaded) {
        let (answer, answered) = oneshot::channel();
        let (app, before, new, old) = (Arc::clone(self), Arc::clone(&sink), new.clone(), old.clone());
        tokio::spawn(async move {
            let Some(one_at_a_time) = before.slot.begin_restart() else { return };
            let mut done = Reloaded::default();
            let restarted = app.restart(&before, &new, &old, &mut done).await;
            // Nobody waits any more.
            let late = match answer.send((restarted, done)) {
                Err((running, done)) => app.take_late(&before, running, &done).await,
                Ok(()) => None,
            };
            drop(one_at_a_time);
            if let Some(running) = late {
                app.catch_up(running, new).await;
            }
        });
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(restarted)) => restarted,
            late => {
                let why = if late.is_err() {
                    "its disk does not answer"
                } else {
                    "an earlier change of it waits for its disk"
                };
                let name = &sink.config.name;
                tracing::error!(sink = %name, "{why}: the sink stands still until it does, and takes over its options then");
                let failed = format!("sink {name}: {why}: it stands still until then");
                (sink, Reloaded { failed: vec![failed], ..Reloaded::default() })
            }
        }
    }

    /// Takes over a sink that was restarted when the reload had gone on without it; it, unless nobody wants it any more.
    async fn take_late(&self, before: &Arc<Running>, running: Arc<Running>, done: &Reloaded) -> Option<Arc<Running>> {
        let _no_reload = self.reloading.lock().await;
        if !self.stopping.is_cancelled() && self.replace_sink(before, &running) {
            tracing::info!(sink = %running.config.name, applied = done.applied.join("; "), needs_restart = done.needs_restart.join("; "), "its disk answers again: the sink goes on");
            return Some(running);
        }
        // It was removed meanwhile, and its spool closed, or the process ends.
        running.stop().await;
        None
    }

    /// Gives a sink the options of a reload that came while it waited for its disk with `tried`, of an earlier one.
    fn catch_up(self: Arc<Self>, sink: Arc<Running>, tried: SinkConfig) -> BoxFuture<'static, ()> {
        async move {
            let _no_reload = self.reloading.lock().await;
            let config = self.config();
            let wanted = named(&config, &tried).filter(|wanted| **wanted != tried && **wanted != *sink.config);
            let is_there = self.sinks.load().iter().any(|running| Arc::ptr_eq(running, &sink));
            let Some(wanted) = wanted.filter(|_| is_there && !self.stopping.is_cancelled()) else { return };
            let patience = config.shutdown_timeout.max(MIN_PATIENCE);
            let (running, done) = self.restart_within(patience, Arc::clone(&sink), wanted, &config).await;
            self.replace_sink(&sink, &running);
            let (applied, failed) = (done.applied.join("; "), done.failed.join("; "));
            tracing::info!(sink = %sink.config.name, applied, failed, "it takes over what changed while it waited for its disk");
        }
        .boxed()
    }

    /// Puts a sink in another one's place; false where that one is not there any more.
    fn replace_sink(&self, before: &Arc<Running>, running: &Arc<Running>) -> bool {
        let mut sinks = self.sinks.load().as_ref().clone();
        let Some(place) = sinks.iter_mut().find(|sink| Arc::ptr_eq(sink, before)) else { return false };
        *place = Arc::clone(running);
        self.take_sinks(sinks);
        true
    }

    /// Starts a sink anew with other options; where they do not work, with the old ones.
    async fn restart(&self, sink: &Arc<Running>, new: &SinkConfig, old: &Config, done: &mut Reloaded) -> Arc<Running> {
        let was_paused = sink.is_paused();
        sink.stop().await;
        let mut config = new.clone();
        // One that did not open is opened with the new ones, once the sink runs with them.
        if new.spool != sink.config.spool
            && sink.slot.not_open().await.is_none()
            && let Err(error) = sink.slot.reopen(&old.data_dir, &new.spool, &sink.config.spool).await
        {
            tracing::error!(%error, "the sink's new spool options are not used; the old ones stay in force");
            done.needs_restart.push(format!("sink {}: its spool options do not work: {error}", new.name));
            config.spool = sink.config.spool.clone();
        }
        let started = match Running::start(Arc::new(config), Arc::clone(&sink.slot), &self.encoder).await {
            Ok(running) => {
                done.applied.push(format!("sink {} changed", new.name));
                Ok(running)
            }
            Err(error) => {
                tracing::error!(%error, "the sink's new options are not used; the old ones stay in force");
                done.needs_restart.push(format!("sink {}: {error}", new.name));
                Running::start(Arc::clone(&sink.config), Arc::clone(&sink.slot), &self.encoder).await
            }
        };
        match started {
            Ok(running) => {
                if was_paused {
                    running.tell(crate::flush::Handle::pause);
                }
                running
            }
            Err(error) => {
                tracing::error!(%error, "the sink does not run; its records wait in the spool until a restart");
                Arc::clone(sink)
            }
        }
    }

    /// Opens spools that did not open before, side by side.
    async fn open_again(self: &Arc<Self>, patience: Duration, done: &mut Reloaded) {
        let sinks = self.sinks.load_full();
        let opened = join_all(sinks.iter().map(|sink| async {
            let why = sink.slot.not_open_now()?;
            let opening = tokio::spawn(Arc::clone(self).open_beside(Arc::clone(sink)));
            let name = &sink.config.name;
            Some(match tokio::time::timeout(patience, opening).await {
                Ok(Ok(true)) => Ok(format!("sink {name}: its spool is open again")),
                Err(_) => Err(format!("sink {name}: its spool is not open yet: its disk does not answer")),
                Ok(_) => {
                    let why = sink.slot.not_open_now().unwrap_or(why);
                    Err(format!("sink {name}: its spool does not open: {}", why.error))
                }
            })
        }));
        for opened in opened.await.into_iter().flatten() {
            match opened {
                Ok(applied) => done.applied.push(applied),
                Err(failed) => done.failed.push(failed),
            }
        }
    }

    /// Opens spools again whose reason may pass by itself, for ever; each by itself, as its disk may not answer.
    pub(super) async fn keep_opening(self: Arc<Self>) {
        loop {
            tokio::time::sleep(OPEN_PERIOD).await;
            for sink in self.sinks.load_full().iter() {
                if sink.slot.not_open_now().is_some_and(|why| why.error.is_retryable()) {
                    tokio::spawn(Arc::clone(&self).open_beside(Arc::clone(sink)));
                }
            }
        }
    }

    /// Opens a spool beside reloads: none waits for a disk that does not answer. Whether it did; what comes of it is logged.
    async fn open_beside(self: Arc<Self>, sink: Arc<Running>) -> bool {
        let in_force = async {
            let no_reload = self.reloading.lock().await;
            self.sinks.load().iter().any(|running| Arc::ptr_eq(running, &sink)).then_some(no_reload)
        };
        sink.open_again(self.data_dir(), in_force).await
    }

    fn take_sinks(&self, sinks: Vec<Arc<Running>>) {
        self.intake.replace(sinks.iter().map(|sink| sink.target()).collect());
        self.sinks.store(Arc::new(sinks));
    }
}

/// Reads the configuration as a start would, and refuses what a start would.
fn read(file: Option<&Path>, data_dir: &Path) -> Result<Config, ReloadError> {
    // A file that was there and is gone is no wish for the defaults.
    let new = config::load(file, &|name| std::env::var(name).ok())?;
    let file = new.file.as_deref().unwrap_or(Path::new(config::DEFAULT_FILE));
    if std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0) {
        return Err(ReloadError::Empty(file.display().to_string()));
    }
    check(&new)?;
    // Another data folder waits for a restart; until then the spools lie in this one.
    check_paths(&new.sinks, data_dir).map_err(RunError::from)?;
    Ok(new)
}

/// Opens the spool of a new sink; one that opens when nobody waits any more is closed again.
async fn open_within(patience: Duration, sink: &SinkConfig, data_dir: &Path) -> Result<Arc<Slot>, SinkStartError> {
    let (answer, answered) = oneshot::channel();
    let (name, data_dir, options) = (sink.name.clone(), data_dir.to_owned(), sink.spool.clone());
    tokio::spawn(async move {
        if let Err(Ok(late)) = answer.send(Slot::open(&name, &data_dir, &options).await) {
            late.close().await;
        }
    });
    match tokio::time::timeout(patience, answered).await {
        Ok(Ok(opened)) => opened,
        _ => {
            let message = "its disk does not answer: reload again when it does".to_owned();
            Err(SinkStartError::Options { name: sink.name.clone(), message })
        }
    }
}

/// The spools that a configuration does not name; `None` where a disk does not answer.
async fn unclaimed_within(patience: Duration, config: Arc<Config>) -> Option<Vec<SinkStatus>> {
    let looking = tokio::task::spawn_blocking(move || snapshot::unclaimed_spools(&config));
    tokio::time::timeout(patience, looking).await.ok()?.ok()
}

fn named<'a>(config: &'a Config, sink: &SinkConfig) -> Option<&'a SinkConfig> {
    config.sinks.iter().find(|other| other.name == sink.name)
}

/// What differs and cannot change while running.
fn restarts(old: &Config, new: &Config) -> Vec<String> {
    let (was, is) = (&old.ingest, &new.ingest);
    [
        ("data_dir", old.data_dir != new.data_dir),
        ("ingest.grpc", was.grpc != is.grpc),
        ("ingest.http", was.http != is.http),
        ("ingest.memory", was.memory != is.memory),
        ("ingest.tls", was.tls != is.tls),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("documents", old.documents != new.documents),
        ("log.format", old.log.format != new.log.format),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key.to_owned())
    .collect()
}

/// The new configuration, with the old values of what needs a restart.
fn in_force(old: &Config, new: Config) -> Config {
    Config {
        data_dir: old.data_dir.clone(),
        documents: old.documents.clone(),
        admin: AdminConfig { listen: old.admin.listen, ..new.admin },
        ingest: IngestConfig { auth: new.ingest.auth, ..old.ingest.clone() },
        log: LogConfig { format: old.log.format, ..new.log },
        ..new
    }
}
