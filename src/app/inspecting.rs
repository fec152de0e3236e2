//! Takes snapshots, periodically and on request. It avoids reading the disk: a status request must not wait for the disk
//! that is the problem.

use std::{sync::Arc, time::Duration};

use tokio::time::{Interval, MissedTickBehavior};

use super::{
    App, Running,
    snapshot::{self, Inspected},
};
use crate::{
    record::{UnixMillis, now_millis},
    status::{Process, SinkState, Snapshot},
    tasks,
};

/// How often states are checked.
const STATE_INTERVAL: Duration = Duration::from_millis(250);
/// How often rates are sampled and sent to the status page, in state checks.
const CHECKS_PER_SAMPLE: u32 = 4;

/// Ticks at once and then periodically; missed ticks are merged into one.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

impl App {
    /// A snapshot of now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (mut snapshot, _) = self.inspect();
        for mut sink in self.orphaned.lock().iter().cloned() {
            sink.grow_older(snapshot.at);
            snapshot.sinks.push(sink);
        }
        snapshot
    }

    /// The last snapshot, for a caller who cannot wait for a new one because a disk does not answer. It says that the
    /// process is not ready.
    #[must_use]
    pub fn last_snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::clone(&self.latest.borrow());
        let mut not_ready = snapshot.process.take().map(|process| process.not_ready).unwrap_or_default();
        let age = Duration::from_millis(now_millis().saturating_sub(snapshot.at).max(0).unsigned_abs());
        not_ready.push(format!(
            "the status is {} s old: a disk does not answer; check the disks of the data directory and of the file sinks",
            age.as_secs()
        ));
        snapshot.process = Some(self.process(not_ready));
        snapshot
    }

    fn process(&self, not_ready: Vec<String>) -> Process {
        Process {
            pid: std::process::id(),
            started_at: self.started_at,
            config: self.config.load().source.clone(),
            grpc: self.addresses.grpc.clone(),
            http: self.addresses.http.clone(),
            admin: self.addresses.admin.clone(),
            ready: not_ready.is_empty(),
            not_ready,
        }
    }

    /// The configured sinks' part, and the figures it was made from.
    fn inspect(&self) -> (Snapshot, Vec<Inspected>) {
        let ingest = self.ingester.snapshot();
        let inspected: Vec<_> = self
            .sinks
            .load()
            .iter()
            .map(|sink| {
                let lost = ingest.lost_by_optional_sinks.get(&sink.config.name).copied().unwrap_or_default();
                snapshot::of_running(sink, &self.rates, lost)
            })
            .collect();
        let sinks = inspected.iter().map(|inspected| inspected.status.clone()).collect();
        let mut not_ready: Vec<String> = inspected.iter().filter_map(|inspected| inspected.not_ready.clone()).collect();
        not_ready.extend(self.parts.ended());
        if self.stopping.is_cancelled() {
            not_ready.push("stopping".to_owned());
        }
        let config = self.config.load();
        let disk = *self.disk.lock();
        let rates = self.rates.lock();
        let snapshot = Snapshot {
            process: Some(self.process(not_ready)),
            ingest: Some(snapshot::ingest(ingest, rates.accepted())),
            sinks,
            changes: rates.changes(),
            ..snapshot::empty(&config, disk)
        };
        (snapshot, inspected)
    }

    /// Samples rates and records state changes until the process stops.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut interval = every(STATE_INTERVAL);
        let mut states = Vec::new();
        for inspect in (0..CHECKS_PER_SAMPLE).cycle() {
            interval.tick().await;
            // An idle process does no more than this between two samples.
            if std::mem::replace(&mut states, self.states()) == states && inspect != 0 {
                continue;
            }
            let app = Arc::clone(&self);
            // Reading the oldest records' times can read the disk.
            let watched = tasks::run_blocking(move || app.watch_once(inspect == 0)).await;
            if let Err(error) = watched {
                tracing::error!(%error, "could not take a snapshot");
            }
        }
    }

    /// The workers' states, and since when; `None` for a sink without a worker.
    fn states(&self) -> Vec<Option<(SinkState, UnixMillis)>> {
        let state = |sink: &Arc<Running>| sink.status().map(|status| (status.state, status.since));
        self.sinks.load().iter().map(state).collect()
    }

    /// Measures the data directory's disk until the process stops. Nothing else waits for it.
    pub(crate) async fn watch_disk(self: Arc<Self>) {
        let mut interval = every(STATE_INTERVAL * CHECKS_PER_SAMPLE);
        loop {
            interval.tick().await;
            let config = self.config();
            if let Ok(disk) = tasks::run_blocking(move || snapshot::disk(&config.data_dir)).await {
                *self.disk.lock() = disk;
            }
        }
    }

    fn watch_once(&self, sample: bool) {
        let (snapshot, inspected) = self.inspect();
        let changed = {
            let mut rates = self.rates.lock();
            if sample {
                let accepted = snapshot.ingest.as_ref().map_or(0, |ingest| ingest.records);
                let sinks: Vec<_> = inspected.iter().map(|inspected| (&inspected.status, inspected.counters)).collect();
                rates.sample(snapshot.at, accepted, &sinks);
            }
            rates.record_changes(snapshot.at, inspected.iter().map(|inspected| &inspected.status))
        };
        if sample || changed {
            self.latest.send_replace(Arc::new(self.snapshot()));
        }
    }
}
