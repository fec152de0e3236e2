//! Stopping, in order: the servers, the workers, the spools; see [`run`](crate::run).

use std::time::Duration;

use futures::future::join_all;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{App, sinks::Running};
use crate::record::now_millis;

/// Each part has this time besides its half of `shutdown_timeout`, to cancel what did not finish.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

impl App {
    /// Stops everything; false if a disk does not answer in time.
    pub(crate) async fn stop(&self, servers: Vec<JoinHandle<()>>, demo: Option<JoinHandle<()>>) -> bool {
        tracing::info!("stopping: no more records are accepted, requests and deliveries in progress are completed");
        self.stopping.cancel();
        self.rates.lock().record(now_millis(), "stopping", None);
        if let Some(demo) = demo {
            demo.abort();
        }
        let (begun, timeout) = (Instant::now(), self.config().shutdown_timeout);
        let served_by = begun + timeout / 2 + CANCEL_TIMEOUT;
        // A reload in progress ends first, and no other one begins: it would start workers that nothing stops.
        let (served, _no_reload) =
            tokio::join!(timeout_at(served_by, join_all(servers)), timeout_at(served_by, self.reloading.lock()));
        if served.is_err() {
            tracing::warn!(
                "requests are still waiting for a disk that does not answer: stopping without them; none of them was \
                 answered OK"
            );
        }
        let delivered_by = begun + timeout + CANCEL_TIMEOUT;
        let sinks = self.sinks.load_full();
        let stopped = join_all(sinks.iter().map(|sink| stop(sink, delivered_by, delivered_by + CANCEL_TIMEOUT))).await;
        let not_closed: Vec<_> = sinks
            .iter()
            .zip(&stopped)
            .filter(|(_, left)| left.is_none())
            .map(|(sink, _)| sink.config.name.as_str())
            .collect();
        if not_closed.is_empty() {
            let left: u64 = stopped.into_iter().flatten().sum();
            tracing::info!(records_left = left, "stopped; the backlog is on disk");
        } else {
            tracing::warn!(
                sinks = not_closed.join(", "),
                "could not close spools within {timeout:?}, their disk does not answer: stopping without closing them; all \
                 records that were answered OK are on disk"
            );
        }
        not_closed.is_empty()
    }
}

/// Stops a sink's worker, then closes its spool, independently of the other sinks. Returns how many records are left in it;
/// `None` if it was not closed in time.
async fn stop(sink: &Running, delivered_by: Instant, closed_by: Instant) -> Option<u64> {
    if timeout_at(delivered_by, sink.stop()).await.is_err() {
        tracing::warn!(sink = %sink.config.name, "the worker does not stop: its disk or its server does not answer");
    }
    timeout_at(closed_by, sink.slot.close()).await.ok()
}
