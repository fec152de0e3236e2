//! Reload (SIGHUP): applies the changes that are safe while running, reports those that need a restart, and keeps the old
//! configuration if the new one is not valid.
//!
//! [`replace`](super::replace) replaces the sinks. Addresses, paths of TLS files, memory and the data directory need a
//! restart. A reload also tries again to open spools that did not open.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    App,
    paths::check_paths,
    replace::{Reloaded, orphaned_within, timeout},
    slot::SinkStartError,
    start::{RunError, check, warn_of},
};
use crate::{
    config::{self, AdminConfig, Config, ConfigError, IngestConfig, LogConfig},
    record::now_millis,
    tasks,
};

/// Why the old configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new one is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file contains no key. That would mean all defaults, and is more likely a file that is being written.
    #[error("{0} is empty (it contains no key), perhaps because it is being written: reload again when it is complete")]
    Empty(String),
    /// A start would refuse it.
    #[error(transparent)]
    Refused(#[from] RunError),
    /// A sink of the new one does not start.
    #[error(transparent)]
    Sink(#[from] SinkStartError),
    /// It could not be read in time.
    #[error(
        "could not read the configuration, or a file that it names, within {0:?}: reload again when its disk answers"
    )]
    Slow(Duration),
    /// Another reload or purge is in progress.
    #[error("another reload, or a purge, is still in progress after {0:?}: reload again when it is done")]
    Busy(Duration),
    /// A bug.
    #[error("internal error: {0}")]
    Panicked(String),
}

impl App {
    /// Reads the configuration again and applies what can change while running.
    ///
    /// # Errors
    /// When the new one cannot be used: then nothing has changed.
    pub async fn reload(self: &Arc<Self>) -> Result<Reloaded, ReloadError> {
        let timeout = timeout(&self.config());
        let mut result = match tokio::time::timeout(timeout, self.reloading.lock()).await {
            Ok(_one_at_a_time) => self.try_reload(timeout).await,
            Err(_) => Err(ReloadError::Busy(timeout)),
        };
        if let Ok(done) = &mut result {
            self.open_again(timeout, done).await;
        }
        let (state, reason) = match &result {
            Ok(reloaded) => {
                let lines = |lines: &[String]| if lines.is_empty() { "nothing".to_owned() } else { lines.join("; ") };
                let (applied, needs_restart) = (lines(&reloaded.applied), lines(&reloaded.needs_restart));
                tracing::info!(applied, needs_restart, failed = lines(&reloaded.failed), "configuration reloaded");
                ("configuration reloaded", None)
            }
            Err(error) => {
                tracing::error!(%error, "could not apply the new configuration; the old one stays in force");
                ("configuration refused", Some(error.to_string()))
            }
        };
        self.rates.lock().record(now_millis(), state, reason);
        result
    }

    async fn try_reload(self: &Arc<Self>, timeout: Duration) -> Result<Reloaded, ReloadError> {
        let old = self.config();
        let (file, data_dir) = (self.config_file.clone().or_else(|| old.file.clone()), old.data_dir.clone());
        let reading = tasks::run_blocking(move || read(file.as_deref(), &data_dir));
        let mut new = match tokio::time::timeout(timeout, reading).await {
            Ok(read) => read.map_err(|panic| ReloadError::Panicked(panic.to_string()))??,
            Err(_) => return Err(ReloadError::Slow(timeout)),
        };
        warn_of(&new);
        let mut done = Reloaded::default();
        if new.shutdown_timeout != old.shutdown_timeout {
            done.needs_restart.push("shutdown_timeout".to_owned());
            new.set_shutdown_timeout(old.shutdown_timeout);
        }
        done.needs_restart.extend(restarts(&old, &new));

        let added = self.start_added(&old, &new, timeout).await?;
        self.swap_sinks(&old, &new, added, timeout, &mut done).await;
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
        match self.authenticator.replace(new.ingest.auth.options(), new.ingest.auth.keys.clone()) {
            Ok(true) => done.applied.push("ingest.auth".to_owned()),
            Ok(false) => {}
            Err(error) => done.needs_restart.push(format!("ingest.auth cannot be used: {error}")),
        }
        self.config.store(Arc::new(in_force(&old, new)));
        if let Some(orphaned) = orphaned_within(timeout, self.config()).await {
            *self.orphaned.lock() = orphaned;
        }
        Ok(done)
    }
}

/// Reads the configuration as a start would, and refuses what a start would.
fn read(file: Option<&Path>, data_dir: &Path) -> Result<Config, ReloadError> {
    // A file that is gone does not mean that the defaults are wanted.
    let new = config::load(file, &|name| std::env::var(name).ok())?;
    if let Some(file) = new.file.as_ref().filter(|_| new.file_is_blank) {
        return Err(ReloadError::Empty(file.display().to_string()));
    }
    check(&new)?;
    // Another data directory needs a restart; until then the spools are in this one.
    check_paths(&new.sinks, data_dir).map_err(RunError::from)?;
    Ok(new)
}

/// The keys that differ and cannot change while running.
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
