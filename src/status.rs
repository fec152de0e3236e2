//! One snapshot of all figures. The CLI, the status page, the API and the metrics use the same one, so they always agree.
//!
//! A running process builds it from its own figures; for a stopped one, `livekit-spool backlog` builds it from the
//! directories.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::{
    flush::{FlushFigures, SinkState},
    spool::StreamStatus,
};
use crate::{
    histogram::HistogramSnapshot,
    ingest::IngestSnapshot,
    record::{Stream, UnixMillis},
};

/// All figures at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Time of the snapshot by the wall clock, milliseconds since the Unix epoch.
    pub at: UnixMillis,
    /// The version of the program.
    pub version: String,
    /// The directory of all spools.
    pub data_dir: String,
    /// The disk that holds the directory.
    pub disk: Disk,
    /// The process; `None`: none runs, the figures are from the directories.
    pub process: Option<Process>,
    /// Accepted and refused records since the process started; `None`: none runs.
    pub ingest: Option<Ingest>,
    /// The sinks, by name; orphaned spools too (`configured: false`).
    pub sinks: Vec<SinkStatus>,
    /// The last state changes, the newest at the end.
    pub changes: Vec<Change>,
}

/// A disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its size, bytes.
    pub total_bytes: u64,
    /// Bytes that this process can still write.
    pub free_bytes: u64,
}

/// A running process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, milliseconds since the Unix epoch.
    pub started_at: UnixMillis,
    /// The source of its configuration.
    pub config: String,
    /// The address of its gRPC server.
    pub grpc: Option<String>,
    /// The address of its HTTP server.
    pub http: Option<String>,
    /// The address of its status page.
    pub admin: Option<String>,
    /// Whether it accepts records now.
    pub ready: bool,
    /// Why not, one line per reason.
    pub not_ready: Vec<String>,
}

/// Accepted and refused records since the process started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ingest {
    /// Records answered OK.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records per second, over the last ten seconds.
    pub rate: f64,
    /// The same by protocol, stream and reason, and the connections.
    #[serde(flatten)]
    pub counts: IngestSnapshot,
}

/// A sink, its spool and its delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Whether the configuration names it.
    pub configured: bool,
    /// The type, as in the configuration; `None` for an orphaned spool.
    pub kind: Option<String>,
    /// The address that it delivers to, without secrets.
    pub address: Option<String>,
    /// Whether calls fail when its spool cannot keep records.
    pub required: bool,
    /// Its state.
    pub state: SinkState,
    /// Since when it is in this state, milliseconds since the Unix epoch.
    pub since: Option<UnixMillis>,
    /// The last error; it stays after the sink has recovered.
    pub last_error: Option<String>,
    /// When that was, milliseconds since the Unix epoch.
    pub last_error_at: Option<UnixMillis>,
    /// Records of the backlog, all streams.
    pub records: u64,
    /// Blocks that hold them.
    pub blocks: u64,
    /// Bytes of those blocks on disk.
    pub bytes: u64,
    /// Age of the oldest record, seconds; `None` if there is none.
    pub oldest_age_seconds: Option<f64>,
    /// Number of dead letters.
    pub dead_letters: u64,
    /// Bytes on disk of all files of the spool.
    pub disk_bytes: u64,
    /// Its quota, bytes; 0 for an orphaned spool.
    pub max_bytes: u64,
    /// Bytes of the dead letters on disk.
    pub dead_letter_bytes: u64,
    /// Journal files.
    pub segments: u64,
    /// How many of these cannot be read now. Not all of their records are counted; they are delivered once they can be read.
    pub unread_segments: u64,
    /// Which segments these are, and what that means; `None` if there are none.
    pub unread_error: Option<String>,
    /// Which segments of its dead letters cannot be read now, and what that means; `None` if there are none.
    #[serde(default)]
    pub unread_dead_letters: Option<String>,
    /// Whether its queue is on disk. It is in memory while the disk is full or the queue's files fail; a start rebuilds it
    /// from the journal. `None` if nothing is known of the spool.
    pub queue_on_disk: Option<bool>,
    /// How often the queue's files failed since the start; each failure leaks some memory until the next start.
    pub queue_failures: u64,
    /// Why its spool accepts no records now.
    pub spool_error: Option<String>,
    /// What to do, one instruction each; empty if nothing has to be done.
    pub advice: Vec<String>,
    /// By stream.
    pub streams: BTreeMap<Stream, StreamStatus>,
    /// Figures of the delivery; `None`: no process delivers.
    pub delivery: Option<Delivery>,
    /// How long the journal's syncs took, seconds; empty if no process runs.
    pub sync_latency: HistogramSnapshot,
    /// Records per sync.
    pub sync_records: HistogramSnapshot,
}

/// Delivery since the process started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The worker's figures.
    #[serde(flatten)]
    pub flush: FlushFigures,
    /// Records that this optional sink missed.
    pub lost_records: u64,
    /// Records per second into the spool, over the last ten seconds.
    pub rate_in: f64,
    /// Records per second out of it.
    pub rate_out: f64,
    /// Seconds until the backlog is delivered at these rates; `None`: it does not shrink.
    pub empty_in_seconds: Option<f64>,
}

/// A state change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, milliseconds since the Unix epoch.
    pub at: UnixMillis,
    /// The sink; empty: the process.
    pub sink: String,
    /// The new state.
    pub state: String,
    /// The reason, if something is wrong.
    pub reason: Option<String>,
}

impl Snapshot {
    /// A sink's part of the snapshot.
    #[must_use]
    pub fn sink(&self, name: &str) -> Option<&SinkStatus> {
        self.sinks.iter().find(|sink| sink.name == name)
    }
}

impl SinkStatus {
    /// Computes the totals from the streams.
    pub(crate) fn total(&mut self) {
        self.records = self.streams.values().map(|stream| stream.records).sum();
        self.blocks = self.streams.values().map(|stream| stream.blocks).sum();
        self.bytes = self.streams.values().map(|stream| stream.bytes).sum();
        self.dead_letters = self.streams.values().map(|stream| stream.dead_letters).sum();
        self.oldest_age_seconds = self.streams.values().filter_map(|stream| stream.oldest_age_seconds).reduce(f64::max);
    }
}

impl SinkStatus {
    /// Whether nothing is left to deliver; false if some segments cannot be read.
    pub(crate) const fn is_drained(&self) -> bool {
        self.records == 0 && self.unread_segments == 0
    }

    /// Corrects the state of a sink that seems healthy although some of its records cannot be read.
    pub(crate) fn judge_unread(&mut self) {
        if self.unread_segments > 0
            && matches!(self.state, SinkState::Delivering | SinkState::Idle | SinkState::Stopped)
        {
            self.state = SinkState::SpoolFailed;
        }
    }

    /// Sets the advice that fits the other fields; `spool` is the advice for a spool that accepts no records.
    pub(crate) fn advise(&mut self, spool: Option<&str>) {
        let name = &self.name;
        let mut advice = Vec::new();
        match self.state {
            SinkState::Unavailable => advice.push(
                "check the sink and the network path to it: records stay on disk, delivery resumes by itself".to_owned(),
            ),
            SinkState::Unauthorized => advice.push(
                "correct the user, password or permissions: on the sink, or in the configuration, then \
                 `livekit-spool reload`; no record is lost"
                    .to_owned(),
            ),
            SinkState::Rejecting => advice.push(format!(
                "the sink rejects every record: fix the cause in the last error, then \
                 `livekit-spool dead retry {name} --all`"
            )),
            SinkState::Paused => advice.push(format!("`livekit-spool resume {name}` delivers again")),
            SinkState::DeadLettersFull => advice.push(format!(
                "free space for dead letters: fix the cause and `livekit-spool dead retry {name} --all`, or `dead drop`, or \
                 raise dead_letters.max_bytes and `livekit-spool reload`"
            )),
            SinkState::SpoolFailed => advice.push(
                "fix what the error names (the disk, permissions, a key); `livekit-spool verify` checks the files".to_owned(),
            ),
            SinkState::NotConfigured => advice.push(format!(
                "the configuration does not name it: add the sink again to deliver, `livekit-spool export {name} -o FILE` \
                 to copy its records, `livekit-spool purge {name}` to remove the spool"
            )),
            SinkState::Stopped if self.records > 0 => {
                advice.push(format!("`livekit-spool run` delivers them, or `livekit-spool drain {name}`"));
            }
            SinkState::Connecting | SinkState::Delivering | SinkState::Idle | SinkState::Stopping | SinkState::Stopped => {}
        }
        advice.extend(spool.map(str::to_owned));
        if self.dead_letters > 0 && self.state != SinkState::DeadLettersFull {
            advice.push(format!("`livekit-spool dead list {name}` says why records were rejected"));
        }
        self.advice = advice;
    }

    /// Updates the ages of figures that were taken earlier.
    pub(crate) fn grow_older(&mut self, now: UnixMillis) {
        for stream in self.streams.values_mut() {
            stream.oldest_age_seconds = stream.oldest_received_at.map(|then| age_seconds(now, then));
        }
        self.total();
    }
}

/// How long ago `then` was, seconds; never negative (the wall clock may have been set back).
#[must_use]
pub fn age_seconds(now: UnixMillis, then: UnixMillis) -> f64 {
    (now.saturating_sub(then)).max(0) as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ingest::{AcceptedCount, Protocol, Refused, RefusedCount},
        record::SinkName,
        spool::DropReason,
    };

    #[test]
    fn the_ingest_figures_are_one_flat_object_without_the_sinks_losses_and_are_read_back() {
        let counts = IngestSnapshot {
            accepted: vec![AcceptedCount { protocol: Protocol::Grpc, stream: Stream::Events, records: 2, bytes: 10 }],
            refused: vec![RefusedCount { protocol: Protocol::Webhook, reason: Refused::TooLarge, count: 1 }],
            webhooks_dropped_by_livekit: 3,
            webhooks_repeated: 4,
            connections: 5,
            connections_total: 6,
            streams: 7,
            streams_total: 8,
            waiting_bytes: 9,
            lost_by_optional_sinks: [(SinkName::new("a").unwrap(), 1)].into(),
        };
        let json = serde_json::to_string(&Ingest { records: 2, bytes: 10, rate: 0.5, counts }).unwrap();
        let expected = concat!(
            r#"{"records":2,"bytes":10,"rate":0.5,"accepted":[{"protocol":"grpc","stream":"events","records":2,"bytes":10}],"#,
            r#""refused":[{"protocol":"webhook","reason":"too_large","count":1}],"webhooks_dropped_by_livekit":3,"#,
            r#""webhooks_repeated":4,"connections":5,"connections_total":6,"streams":7,"streams_total":8,"waiting_bytes":9}"#
        );
        assert_eq!(json, expected);
        let read: Ingest = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), expected);
    }

    #[test]
    fn a_stream_shows_its_queue_without_sequence_numbers_and_reasons_by_name() {
        let stream = StreamStatus {
            records: 1,
            in_flight: 1,
            next: 5,
            oldest_age_seconds: Some(0.5),
            dropped: [(DropReason::Oldest, 1), (DropReason::Damaged, 2)].into(),
            ..StreamStatus::default()
        };
        let json = serde_json::to_string(&stream).unwrap();
        let expected = concat!(
            r#"{"records":1,"blocks":0,"bytes":0,"oldest_received_at":null,"oldest_age_seconds":0.5,"dead_letters":0,"#,
            r#""delivered":0,"dead_lettered":0,"dropped":{"damaged":2,"oldest":1},"#,
            r#""byte_totals":{"appended":0,"delivered":0,"dead_lettered":0,"dropped":{}}}"#
        );
        assert_eq!(json, expected);
        let read: StreamStatus = serde_json::from_str(&json).unwrap();
        assert_eq!(read, StreamStatus { in_flight: 0, next: 0, ..stream });
    }

    #[test]
    fn a_state_has_one_name_in_json_and_in_words() {
        for state in SinkState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
