//! The end, in order: the servers, the workers, the spools; see [`run`](crate::run).

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{App, sinks::Running, slot::Slot};
use crate::record::now_millis;

/// Each part has this besides its half of `shutdown_timeout`: to end what it gives up.
const GIVE_UP: Duration = Duration::from_millis(500);

impl App {
    /// Stops everything; false where a disk does not answer in time.
    pub(crate) async fn stop(&self, servers: Vec<JoinHandle<()>>, demo: Option<JoinHandle<()>>) -> bool {
        tracing::info!("stopping: no more records are taken, what is on its way ends");
        self.stopping.cancel();
        self.rates.lock().note(now_millis(), "stopping", None);
        if let Some(demo) = demo {
            demo.abort();
        }
        let (begun, timeout) = (Instant::now(), self.config().shutdown_timeout);
        let served_by = begun + timeout / 2 + GIVE_UP;
        // A reload that is under way ends first, and none begins any more: it would start workers that nobody stops.
        let (served, _no_reload) =
            tokio::join!(timeout_at(served_by, join_all(servers)), timeout_at(served_by, self.reloading.lock()));
        if served.is_err() {
            tracing::warn!(
                "requests are still waiting for a disk that does not answer: stopping without them; none of them was \
                 answered OK"
            );
        }
        let delivered_by = begun + timeout + GIVE_UP;
        let sinks = self.sinks.load_full();
        let stopped = join_all(sinks.iter().map(|sink| stop(sink, delivered_by, delivered_by + GIVE_UP))).await;
        let not_closed: Vec<_> = sinks
            .iter()
            .zip(&stopped)
            .filter(|(_, left)| left.is_none())
            .map(|(sink, _)| sink.config.name.as_str())
            .collect();
        if not_closed.is_empty() {
            let left: u64 = stopped.into_iter().flatten().sum();
            tracing::info!(records_left = left, "stopped; what is left is safe on disk");
        } else {
            tracing::warn!(
                sinks = not_closed.join(", "),
                "spools were not closed within {timeout:?}, their disk does not answer: stopping without them; what was \
                 answered OK is safe"
            );
        }
        not_closed.is_empty()
    }
}

/// Stops a sink's worker, then closes its spool, whatever the other sinks wait for; answers how many records are left in it,
/// `None` where it was not closed in time.
async fn stop(sink: &Running, delivered_by: Instant, closed_by: Instant) -> Option<u64> {
    if timeout_at(delivered_by, sink.stop()).await.is_err() {
        tracing::warn!(sink = %sink.config.name, "the worker does not end: its disk or its server does not answer");
    }
    timeout_at(closed_by, close(Arc::clone(&sink.slot))).await.ok()
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
