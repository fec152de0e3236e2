//! SIGHUP: takes over what can change without losing a record, says what cannot, and keeps the old configuration where
//! the new one is bad.
//!
//! Sinks come and go, and a changed one is stopped (one last flush) and started anew on the same spool, all of them side by
//! side; senders wait for a spool that is opened with other limits. Addresses, TLS files' paths, memory and the data folder need
//! a restart. A spool that did not open is tried again.

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::join_all;
use serde::{Deserialize, Serialize};

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
};

/// How often a spool is tried again that did not open, where the reason may pass by itself.
const OPEN_PERIOD: Duration = Duration::from_secs(30);

/// So long a reload waits at least for the spool of a removed sink to close.
const MIN_CLOSE_PATIENCE: Duration = Duration::from_secs(2);

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
}

impl App {
    /// Reads the configuration again and takes over what can change.
    ///
    /// # Errors
    /// When the new one cannot work: then nothing has changed.
    pub async fn reload(self: &Arc<Self>) -> Result<Reloaded, ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let result = self.try_reload().await;
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

    async fn try_reload(&self) -> Result<Reloaded, ReloadError> {
        // A file that was there and is gone is no wish for the defaults.
        let old = self.config();
        let file = self.config_file.as_deref().or(old.file.as_deref());
        let mut new = config::load(file, &|name| std::env::var(name).ok())?;
        let file = new.file.as_deref().unwrap_or(Path::new(config::DEFAULT_FILE));
        if std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0) {
            return Err(ReloadError::Empty(file.display().to_string()));
        }
        check(&new)?;
        // Another data folder waits for a restart; until then the spools lie in this one.
        check_paths(&new.sinks, &old.data_dir).map_err(RunError::from)?;
        warn_of(&new);
        let mut done = Reloaded::default();
        if new.shutdown_timeout != old.shutdown_timeout {
            done.needs_restart.push("shutdown_timeout".to_owned());
            new.set_shutdown_timeout(old.shutdown_timeout);
        }
        done.needs_restart.extend(restarts(&old, &new));

        let added = self.start_added(&old, &new).await?;
        self.swap_sinks(&old, &new, added, &mut done).await;
        self.open_again(&mut done).await;
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
        match self.gate.replace(new.ingest.auth.clone(), new.ingest.keys.clone()) {
            Ok(true) => done.applied.push("ingest.auth".to_owned()),
            Ok(false) => {}
            Err(error) => done.needs_restart.push(format!("ingest.auth is not used: {error}")),
        }
        self.config.store(Arc::new(in_force(&old, new)));
        *self.unclaimed.lock() = snapshot::unclaimed_spools(&self.config());
        Ok(done)
    }

    /// Starts the sinks that are new; where one does not start, none does.
    async fn start_added(&self, old: &Config, new: &Config) -> Result<Vec<Arc<Running>>, SinkStartError> {
        let mut added: Vec<Arc<Running>> = Vec::new();
        for sink in new.sinks.iter().filter(|sink| named(old, sink).is_none()) {
            let started = match Slot::open(&sink.name, &old.data_dir, &sink.spool).await {
                Ok(slot) => Running::start(Arc::new(sink.clone()), slot, &self.encoder).await,
                Err(error) => Err(error),
            };
            match started {
                Ok(running) => added.push(running),
                Err(error) => {
                    for running in added {
                        running.stop().await;
                        running.slot.close().await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(added)
    }

    async fn swap_sinks(&self, old: &Config, new: &Config, added: Vec<Arc<Running>>, done: &mut Reloaded) {
        let present = self.sinks.load_full();
        let is_named = |sink: &Running| new.sinks.iter().any(|named| named.name == sink.config.name);
        let (kept, removed): (Vec<_>, Vec<_>) = present.iter().cloned().partition(|sink| is_named(sink));
        done.applied.extend(added.iter().map(|sink| format!("sink {} added", sink.config.name)));
        // From here on the removed ones get no more records, the added ones do.
        self.take_sinks(kept.iter().chain(&added).cloned().collect());
        // Side by side: each may take as long as its last flush.
        let patience = old.shutdown_timeout.max(MIN_CLOSE_PATIENCE);
        let stopped = join_all(removed.iter().map(|sink| async {
            sink.stop().await;
            // In a task of its own: a disk that does not answer holds up neither this reload nor the end.
            let slot = Arc::clone(&sink.slot);
            let closing = tokio::spawn(async move { slot.close().await });
            if tokio::time::timeout(patience, closing).await.is_err() {
                tracing::warn!(sink = %sink.config.name, "its spool is not closed yet, its disk does not answer: going on without it");
            }
        }));
        let restarted = join_all(kept.into_iter().map(|sink| async {
            let changed = new.sinks.iter().find(|named| named.name == sink.config.name && **named != *sink.config);
            let mut done = Reloaded::default();
            let sink = match changed {
                Some(changed) => self.restart(&sink, changed, old, &mut done).await,
                None => sink,
            };
            (sink, done)
        }));
        let (_, restarted) = tokio::join!(stopped, restarted);
        for sink in removed {
            done.applied.push(format!("sink {} removed", sink.config.name));
            for left in snapshot::unclaimed_spools(new).iter().filter(|left| left.name == sink.config.name.as_str()) {
                warn_unclaimed(left);
            }
        }
        let mut sinks = added;
        for (sink, its) in restarted {
            sinks.push(sink);
            done.applied.extend(its.applied);
            done.needs_restart.extend(its.needs_restart);
        }
        // In the order of the file.
        sinks.sort_by_key(|sink| new.sinks.iter().position(|named| named.name == sink.config.name));
        self.take_sinks(sinks);
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

    /// Opens spools that did not open before.
    async fn open_again(&self, done: &mut Reloaded) {
        for sink in self.sinks.load_full().iter() {
            let Some(why) = sink.slot.not_open().await else { continue };
            if sink.open_again(self.data_dir(), async { Some(()) }).await {
                done.applied.push(format!("sink {}: its spool is open again", sink.config.name));
                continue;
            }
            let why = sink.slot.not_open().await.unwrap_or(why);
            done.failed.push(format!("sink {}: its spool does not open: {}", sink.config.name, why.error));
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

    /// Opens a spool beside reloads: none waits for a disk that does not answer. What comes of it is logged.
    async fn open_beside(self: Arc<Self>, sink: Arc<Running>) {
        let in_force = async {
            let no_reload = self.reloading.lock().await;
            self.sinks.load().iter().any(|running| Arc::ptr_eq(running, &sink)).then_some(no_reload)
        };
        sink.open_again(self.data_dir(), in_force).await;
    }

    fn take_sinks(&self, sinks: Vec<Arc<Running>>) {
        self.intake.replace(sinks.iter().map(|sink| sink.target()).collect());
        self.sinks.store(Arc::new(sinks));
    }
}

fn named<'a>(config: &'a Config, sink: &SinkConfig) -> Option<&'a SinkConfig> {
    config.sinks.iter().find(|other| other.name == sink.name)
}

/// What differs and cannot change while running.
fn restarts(old: &Config, new: &Config) -> Vec<String> {
    // Options of others have no `==`; their Debug output shows all but secrets, and none of these holds one.
    let differ = |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") != format!("{b:?}");
    [
        ("data_dir", old.data_dir != new.data_dir),
        (
            "ingest.grpc",
            differ(&(&old.ingest.grpc_listen, &old.ingest.grpc), &(&new.ingest.grpc_listen, &new.ingest.grpc)),
        ),
        (
            "ingest.http",
            differ(&(&old.ingest.http_listen, &old.ingest.http), &(&new.ingest.http_listen, &new.ingest.http)),
        ),
        ("ingest.memory", differ(&old.ingest.memory, &new.ingest.memory)),
        ("ingest.tls", differ(&old.ingest.tls, &new.ingest.tls)),
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
        ingest: IngestConfig { auth: new.ingest.auth, keys: new.ingest.keys, ..old.ingest.clone() },
        log: LogConfig { format: old.log.format, ..new.log },
        ..new
    }
}
