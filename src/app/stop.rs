//! The end, in order: the servers, the workers, the spools; see the parent's header.

use std::sync::Arc;

use futures::future::join_all;
use tokio::task::JoinHandle;

use super::{App, signals, sinks::Slot};
use crate::record::now_millis;

impl App {
    /// Stops everything; false where a disk does not answer in time.
    pub(super) async fn stop(&self, servers: Vec<JoinHandle<()>>, demo: Option<JoinHandle<()>>) -> bool {
        signals::stopping();
        tracing::info!("stopping: no more records are taken, what is on its way ends");
        self.stopping.cancel();
        self.rates.lock().note(now_millis(), "stopping", None);
        if let Some(demo) = demo {
            demo.abort();
        }
        let patience = self.config().shutdown_timeout / 2;
        // A reload that is under way ends first, and none begins any more: it would start workers that nobody stops.
        let (_, _no_reload) = tokio::join!(join_all(servers), tokio::time::timeout(patience, self.reloading.lock()));
        let sinks = self.sinks.load_full();
        join_all(sinks.iter().map(|sink| sink.stop())).await;
        let closing = join_all(sinks.iter().map(|sink| close(Arc::clone(&sink.slot))));
        match tokio::time::timeout(patience, closing).await {
            Ok(left) => {
                let left: u64 = left.iter().sum();
                tracing::info!(records_left = left, "stopped; what is left is safe on disk");
                true
            }
            Err(_) => {
                tracing::warn!(
                    "a spool was not closed within {patience:?}, its disk does not answer: stopping without it; what was \
                     answered OK is safe"
                );
                false
            }
        }
    }
}

/// Closes a spool; answers how many records are left in it.
async fn close(slot: Arc<Slot>) -> u64 {
    let left = match slot.get_now() {
        // Looking may read a block.
        Some(spool) => tokio::task::spawn_blocking(move || spool.status().records()).await.unwrap_or_default(),
        None => 0,
    };
    slot.close().await;
    left
}
