//! `purge`: removes a sink's backlog for good and, if the configuration does not name the sink, its spool with it.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    App, OperateError, Stopped,
    dead_letters::blocking,
    remove::{RemoveError, remove_spool},
    snapshot,
};
use crate::{
    record::Stream,
    spool::{QueueError, Spool},
    status::SinkStatus,
    tasks,
};

/// The result of a purge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Records removed from the backlog.
    pub records: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Files and directories in the spool's directory that the spool did not create. They are still there.
    #[serde(default)]
    pub left: Vec<String>,
}

impl App {
    /// Removes a sink's backlog for good, and its dead letters if `dead` is set.
    ///
    /// # Errors
    /// When there is no such sink, or its spool cannot be written.
    pub async fn purge(&self, name: &str, dead: bool) -> Result<Removed, OperateError> {
        if let Some(removed) = self.remove_orphaned(name).await? {
            return Ok(removed);
        }
        let removed = purge(&self.spool(name).await?, dead).await?;
        tracing::warn!(
            sink = name,
            records = removed.records,
            dead_letters = removed.dead_letters,
            "purged by the operator"
        );
        // Wake a worker that waits for space for dead letters.
        self.flush(name).await?;
        Ok(removed)
    }

    /// Removes an orphaned spool; `None` if the configuration names the sink.
    async fn remove_orphaned(&self, name: &str) -> Result<Option<Removed>, OperateError> {
        let find = || self.orphaned.lock().iter().find(|sink| sink.name == name).cloned();
        if find().is_none() {
            return Ok(None);
        }
        // A reload could add the sink and open its spool at the same time.
        let _no_reload = self.reloading.lock().await;
        let Some(sink) = find() else { return Ok(None) };
        check_readable(&sink)?;
        let (data_dir, config) = (self.data_dir().to_owned(), self.config());
        let removing = tasks::run_blocking(move || {
            let removed = remove(&data_dir, &sink);
            (removed, snapshot::orphaned_spools(&config))
        });
        let (removed, orphaned) = removing.await.map_err(|panic| OperateError::Panicked(panic.to_string()))?;
        *self.orphaned.lock() = orphaned;
        Ok(Some(removed?))
    }
}

impl Stopped {
    /// As [`App::purge`].
    ///
    /// # Errors
    /// As there.
    pub async fn purge(&self, name: &str, dead: bool) -> Result<Removed, OperateError> {
        if let Some(sink) = snapshot::orphaned_spools(&self.config).iter().find(|sink| sink.name == name) {
            check_readable(sink)?;
            return Ok(remove(self.data.path(), sink)?);
        }
        self.with_spool(name, async |spool| Ok(purge(spool, dead).await?)).await
    }
}

async fn purge(spool: &Arc<Spool>, dead: bool) -> Result<Removed, QueueError> {
    let purged = spool.purge(&Stream::ALL).await?;
    let dead_letters = match dead {
        true => blocking(spool, Spool::purge_dead_letters).await?,
        false => 0,
    };
    Ok(Removed {
        records: purged.iter().map(|purged| purged.records).sum(),
        bytes: purged.iter().map(|purged| purged.bytes).sum(),
        dead_letters,
        left: Vec::new(),
    })
}

/// Refuses to remove a spool that cannot be read: nobody can say what would be lost.
fn check_readable(sink: &SinkStatus) -> Result<(), OperateError> {
    if let Some(reason) = sink.last_error.clone().filter(|_| sink.spool_error.is_some()) {
        return Err(OperateError::NotOpen { sink: sink.name.clone(), reason });
    }
    let unread = |reason: &String| Err(OperateError::Unread { sink: sink.name.clone(), reason: reason.clone() });
    sink.unread_error.as_ref().or(sink.unread_dead_letters.as_ref()).map_or(Ok(()), unread)
}

/// Removes an orphaned spool.
fn remove(data_dir: &Path, sink: &SinkStatus) -> Result<Removed, RemoveError> {
    let left = remove_spool(&data_dir.join(&sink.name))?;
    tracing::warn!(
        sink = sink.name,
        records = sink.records,
        left = left.len(),
        "removed the spool of a sink that the configuration does not name"
    );
    Ok(Removed {
        records: sink.records,
        bytes: sink.bytes,
        dead_letters: sink.dead_letters,
        left: left.iter().map(|path| path.display().to_string()).collect(),
    })
}
