//! Builds [`Snapshot`]s: of a running process, or of a stopped one's directory.

use std::{fs, io, path::Path};

use parking_lot::Mutex;

use super::{
    Running,
    directory::spools_in,
    rates::{Counters, Rates, empty_in_seconds},
    refusing::Refusing,
    spools::spool_options,
};
use crate::{
    config::{Config, SinkConfig},
    flush::FlushStatus,
    histogram::HistogramSnapshot,
    ingest::IngestSnapshot,
    record::{SinkName, UnixMillis, now_millis},
    spool::{self, OpenError, SpoolStatus},
    status::{Delivery, Disk, Ingest, SinkState, SinkStatus, Snapshot, StreamStatus},
};

/// Reads the spools of a data directory that no process uses; changes no byte of it.
///
/// # Errors
/// When the directory cannot be read. A spool that cannot be read is reported in its sink's part.
pub fn of_stopped(config: &Config) -> Result<Snapshot, OpenError> {
    let now = now_millis();
    let mut sinks = Vec::new();
    let listed = |source: io::Error| OpenError::Io { path: config.data_dir.clone(), source };
    let on_disk = spools_in(&config.data_dir).map_err(listed)?;
    for sink in &config.sinks {
        let mut entry = blank(&sink.name, SinkState::Stopped);
        describe(&mut entry, sink);
        // Something exists there, though it may not be a spool's directory.
        if fs::symlink_metadata(config.data_dir.join(sink.name.as_str())).is_ok() {
            inspect(config, &sink.name, &mut entry);
        } else {
            entry.advise(None);
        }
        sinks.push(entry);
    }
    sinks.extend(orphaned_of(config, &on_disk));
    Ok(Snapshot { at: now, sinks, ..empty(config, disk(&config.data_dir)) })
}

/// A snapshot without a process and without sinks.
pub(super) fn empty(config: &Config, disk: Disk) -> Snapshot {
    Snapshot {
        at: now_millis(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        data_dir: config.data_dir.display().to_string(),
        disk,
        process: None,
        ingest: None,
        sinks: Vec::new(),
        changes: Vec::new(),
    }
}

/// The orphaned spools.
pub(super) fn orphaned_spools(config: &Config) -> Vec<SinkStatus> {
    orphaned_of(config, &spools_in(&config.data_dir).unwrap_or_default())
}

fn orphaned_of(config: &Config, on_disk: &[SinkName]) -> Vec<SinkStatus> {
    let is_orphaned = |name: &&SinkName| config.sinks.iter().all(|sink| sink.name != **name);
    let orphaned = |name: &SinkName| {
        let mut entry = blank(name, SinkState::NotConfigured);
        entry.configured = false;
        entry.required = false;
        inspect(config, name, &mut entry);
        entry.max_bytes = 0;
        entry
    };
    on_disk.iter().filter(is_orphaned).map(orphaned).collect()
}

/// Reads a spool that is not open; if it cannot be read, the entry says why.
fn inspect(config: &Config, name: &SinkName, entry: &mut SinkStatus) {
    match spool::inspect(&config.data_dir.join(name.as_str()), spool_options(config, name)) {
        Ok(status) => {
            fill(entry, &status);
            entry.judge_unread();
            entry.advise(None);
        }
        Err(error) => {
            if entry.configured {
                entry.state = SinkState::SpoolFailed;
            }
            refused_by(entry, &error, now_millis());
            entry.advise(Some(error.remedy()));
        }
    }
}

fn refused_by(entry: &mut SinkStatus, error: &OpenError, at: UnixMillis) {
    entry.spool_error = Some(Refusing::of_open_error(error).to_string());
    entry.last_error = Some(error.to_string());
    entry.last_error_at = Some(at);
}

/// The figures of a running sink.
pub(super) struct Inspected {
    pub(super) status: SinkStatus,
    /// The counters for the rates; `None` if the spool's figures are not known.
    pub(super) counters: Option<Counters>,
    /// Why calls fail because of it, and what to do.
    pub(super) not_ready: Option<String>,
}

/// Reads a running sink's figures.
///
/// Reading the spool's figures can read its disk; a caller who only needs the rates must not wait for that.
pub(super) fn of_running(sink: &Running, rates: &Mutex<Rates>, lost: u64) -> Inspected {
    let mut entry = blank(&sink.config.name, SinkState::Stopping);
    describe(&mut entry, &sink.config);
    let figures = sink.slot.figures();
    let not_open = sink.slot.not_open_now();
    if let Some(status) = &figures {
        fill(&mut entry, status);
        entry.grow_older(now_millis());
    }
    let counters = figures.as_ref().map(|status| {
        let received = status.streams.values().map(|stream| stream.next).sum();
        Counters { received, gone: received.saturating_sub(entry.records) }
    });
    let of_status = || Refusing::of_status(figures.as_ref()?, sink.config.spool.when_full);
    let of_open_error = not_open.as_ref().map(|why| Refusing::of_open_error(&why.error));
    let refusing = of_open_error.or_else(|| sink.slot.refusal()).or_else(of_status);
    entry.spool_error = refusing.as_ref().map(ToString::to_string);
    if let Some(why) = &not_open {
        refused_by(&mut entry, &why.error, why.since);
        entry.queue_on_disk = None;
        (entry.state, entry.since) = (SinkState::SpoolFailed, Some(why.since));
        entry.delivery = Some(Delivery { lost_records: lost, ..Delivery::default() });
    }
    if let Some(status) = sink.status() {
        apply(&mut entry, status, &rates.lock(), lost);
    }
    entry.judge_unread();
    entry.advise(refusing.as_ref().map(Refusing::remedy));
    let not_ready = refusing.filter(|refusing| sink.config.required && refusing.fails_calls());
    let not_ready = not_ready.map(|refusing| format!("sink {}: {refusing}: {}", sink.config.name, refusing.remedy()));
    Inspected { status: entry, counters, not_ready }
}

pub(super) fn blank(name: &SinkName, state: SinkState) -> SinkStatus {
    SinkStatus {
        name: name.to_string(),
        configured: true,
        kind: None,
        address: None,
        required: true,
        state,
        since: None,
        last_error: None,
        last_error_at: None,
        records: 0,
        blocks: 0,
        bytes: 0,
        oldest_age_seconds: None,
        dead_letters: 0,
        disk_bytes: 0,
        max_bytes: 0,
        dead_letter_bytes: 0,
        segments: 0,
        unread_segments: 0,
        unread_error: None,
        unread_dead_letters: None,
        queue_on_disk: None,
        queue_failures: 0,
        spool_error: None,
        advice: Vec::new(),
        streams: crate::record::Stream::ALL.into_iter().map(|stream| (stream, StreamStatus::default())).collect(),
        delivery: None,
        sync_latency: HistogramSnapshot::default(),
        sync_records: HistogramSnapshot::default(),
    }
}

fn describe(entry: &mut SinkStatus, config: &SinkConfig) {
    entry.kind = Some(config.target.kind().to_owned());
    entry.address = Some(config.target.address());
    entry.required = config.required;
    entry.max_bytes = config.spool.max_bytes;
}

fn fill(entry: &mut SinkStatus, status: &SpoolStatus) {
    entry.disk_bytes = status.disk_bytes;
    entry.dead_letter_bytes = status.disk.dead;
    entry.segments = status.segments;
    entry.unread_segments = status.unread_segments;
    entry.unread_error = status.unread_error.clone();
    entry.unread_dead_letters = status.unread_dead_letters.clone();
    entry.queue_on_disk = Some(status.queue_on_disk);
    entry.queue_failures = status.queue_failures;
    entry.sync_latency = status.sync_latency.clone();
    entry.sync_records = status.sync_records.clone();
    let last_error = status.last_error.as_ref();
    entry.last_error = last_error.map(|error| error.message.clone());
    entry.last_error_at = last_error.map(|error| error.at);
    entry.streams = status.streams.clone();
    entry.total();
}

fn apply(entry: &mut SinkStatus, status: FlushStatus, rates: &Rates, lost: u64) {
    entry.state = status.state;
    entry.since = Some(status.since);
    // The newer of the two errors.
    if status.last_error_at > entry.last_error_at {
        entry.last_error = status.last_error;
        entry.last_error_at = status.last_error_at;
    }
    let (rate_in, rate_out) = rates.of(&entry.name);
    entry.delivery = Some(Delivery {
        flush: status.figures,
        lost_records: lost,
        rate_in,
        rate_out,
        empty_in_seconds: empty_in_seconds(entry.records, rate_in, rate_out),
    });
}

/// The figures of ingest.
pub(super) fn ingest(counts: IngestSnapshot, rate: f64) -> Ingest {
    Ingest {
        records: counts.accepted.iter().map(|accepted| accepted.records).sum(),
        bytes: counts.accepted.iter().map(|accepted| accepted.bytes).sum(),
        rate,
        counts,
    }
}

/// The disk that holds a directory (or its nearest existing parent).
pub(super) fn disk(path: &Path) -> Disk {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    rustix::fs::statvfs(there).map_or_else(
        |_| Disk::default(),
        |disk| Disk { total_bytes: disk.f_blocks * disk.f_frsize, free_bytes: disk.f_bavail * disk.f_frsize },
    )
}
