//! `/metrics` for Prometheus, rendered from the snapshot that the page and the CLI also use.
//!
//! [`METRICS`] has each metric with its type and meaning; docs/metrics.md lists the same. A test checks that the two, the
//! dashboard and the alerts agree.

use std::fmt::Write;

use crate::{
    histogram::HistogramSnapshot,
    ingest::AcceptedCount,
    record::UnixMillis,
    spool::DropReason,
    status::{Delivery, Ingest, SinkState, SinkStatus, Snapshot, StreamStatus},
};

/// A metric: its name, type and meaning.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its meaning, the HELP text.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:literal, $help:literal;)+) => {
        $(const $id: Metric = Metric { name: $name, kind: $kind, help: $help };)+
        /// All of them, in the order of the output.
        pub const METRICS: &[Metric] = &[$($id),+];
    };
}

metrics! {
    BUILD = "livekit_spool_build_info", "gauge", "1, labelled with the version.";
    START = "livekit_spool_start_time_seconds", "gauge", "When the process started, seconds since the Unix epoch.";
    READY = "livekit_spool_ready", "gauge", "1 while calls are answered OK, else 0.";
    DISK_FREE = "livekit_spool_disk_free_bytes", "gauge", "Free on the disk of the data directory.";
    DISK_TOTAL = "livekit_spool_disk_size_bytes", "gauge", "Size of the disk of the data directory.";
    IN_RECORDS = "livekit_spool_received_records_total", "counter",
        "Records answered OK, by protocol and stream; including those that a full spool dropped by drop_newest.";
    IN_BYTES = "livekit_spool_received_bytes_total", "counter", "Bytes of these records.";
    REFUSED = "livekit_spool_refused_total", "counter",
        "Messages, requests, streams and connections refused, by protocol and reason.";
    CONNECTIONS = "livekit_spool_open_connections", "gauge", "Open connections of senders.";
    CONNECTIONS_TOTAL = "livekit_spool_connections_total", "counter", "Connections of senders since the start.";
    STREAMS = "livekit_spool_open_streams", "gauge", "Open recorder streams.";
    STREAMS_TOTAL = "livekit_spool_streams_total", "counter", "Recorder streams since the start.";
    WAITING = "livekit_spool_ingest_waiting_bytes", "gauge", "Bytes received and not yet durable.";
    WEBHOOKS = "livekit_spool_webhooks_dropped_by_livekit_total", "counter",
        "Webhooks that LiveKit reports as dropped (num_dropped).";
    WEBHOOKS_REPEATED = "livekit_spool_webhooks_repeated_total", "counter",
        "Webhooks received again after they were accepted; they are not accepted twice.";
    STATE = "livekit_spool_sink_state", "gauge", "1 for the state the sink is in, 0 for the others.";
    STATE_SINCE = "livekit_spool_sink_state_since_seconds", "gauge",
        "When the sink entered its state, seconds since the Unix epoch.";
    BACKLOG_RECORDS = "livekit_spool_backlog_records", "gauge", "Records not yet acknowledged, by sink and stream.";
    BACKLOG_BLOCKS = "livekit_spool_backlog_blocks", "gauge", "Journal blocks that hold them.";
    BACKLOG_BYTES = "livekit_spool_backlog_bytes", "gauge", "Bytes of these blocks on disk.";
    BACKLOG_AGE = "livekit_spool_backlog_oldest_age_seconds", "gauge",
        "Age of the oldest of these records; 0 if there are none.";
    USED = "livekit_spool_spool_bytes", "gauge", "Bytes of a sink's journal, queue and dead letters on disk.";
    QUOTA = "livekit_spool_spool_max_bytes", "gauge", "Quota of a sink's spool (max_bytes).";
    FULL = "livekit_spool_spool_refusing", "gauge", "1 while the sink's spool keeps no records, else 0.";
    DEAD = "livekit_spool_dead_letters", "gauge", "Dead letters, by sink and stream.";
    DEAD_BYTES = "livekit_spool_dead_letter_bytes", "gauge", "Bytes of a sink's dead letters on disk.";
    SEGMENTS = "livekit_spool_journal_segments", "gauge", "Files of a sink's journal.";
    UNREAD = "livekit_spool_unread_segments", "gauge",
        "Files of a sink's journal that cannot be read now: not all of their records are counted.";
    APPENDED = "livekit_spool_appended_records_total", "counter",
        "Records received for the sink since its spool was created, by stream; survives restarts.";
    OUT_ALL = "livekit_spool_acknowledged_records_total", "counter",
        "Records that the sink acknowledged since its spool was created, by stream; survives restarts.";
    DEAD_LETTERED = "livekit_spool_dead_lettered_records_total", "counter",
        "Records that became dead letters since the spool was created, by stream; survives restarts.";
    DROPPED = "livekit_spool_dropped_records_total", "counter",
        "Records dropped since the spool was created, by stream and reason; survives restarts.";
    APPENDED_BYTES = "livekit_spool_appended_bytes_total", "counter", "Bytes of records received for the sink, by stream.";
    OUT_ALL_BYTES = "livekit_spool_acknowledged_bytes_total", "counter",
        "Bytes of records that the sink acknowledged, by stream; a block counts with its last record.";
    DEAD_LETTERED_BYTES = "livekit_spool_dead_lettered_bytes_total", "counter",
        "Bytes of records that became dead letters, by stream; a block counts with its last record.";
    DROPPED_BYTES = "livekit_spool_dropped_bytes_total", "counter",
        "Bytes of records dropped, by stream and reason; a block counts with its last record.";
    LOST = "livekit_spool_lost_records_total", "counter",
        "Records that an optional sink missed: its spool refused them, or was too slow.";
    OUT_RECORDS = "livekit_spool_delivered_records_total", "counter", "Records that the sink acknowledged.";
    OUT_BYTES = "livekit_spool_delivered_bytes_total", "counter", "Bytes of these records, as received.";
    BATCHES = "livekit_spool_batches_total", "counter", "Batches sent, retries included.";
    RETRIED = "livekit_spool_retried_records_total", "counter", "Records sent again, by reason.";
    REJECTED = "livekit_spool_rejected_records_total", "counter", "Records that the sink rejected for good.";
    IN_FLIGHT = "livekit_spool_in_flight_batches", "gauge", "Batches in flight.";
    BATCH_LIMIT = "livekit_spool_batch_limit_records", "gauge",
        "Current maximum of records per batch; it shrinks while the sink answers slowly.";
    LAG = "livekit_spool_delivery_lag_seconds", "gauge",
        "Time from a record's own timestamp to its delivery, of the last batch.";
    LAST = "livekit_spool_last_delivery_timestamp_seconds", "gauge",
        "When a batch was last acknowledged, seconds since the Unix epoch.";
    SINK_LATENCY = "livekit_spool_sink_latency_seconds", "histogram", "How long the sink took to answer a batch.";
    BATCH_SIZE = "livekit_spool_batch_records", "histogram", "Records per batch that was sent.";
    SYNC_LATENCY = "livekit_spool_sync_latency_seconds", "histogram", "How long the journal's fdatasync took.";
    SYNC_SIZE = "livekit_spool_sync_records", "histogram", "Records made durable by one fdatasync.";
}

/// The text that Prometheus reads.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut out = Output(String::with_capacity(16 * 1024));
    process(&mut out, snapshot);
    if let Some(figures) = &snapshot.ingest {
        ingest(&mut out, figures);
    }
    let sinks: Vec<&SinkStatus> = snapshot.sinks.iter().collect();
    state(&mut out, &sinks);
    backlog(&mut out, &sinks);
    dispositions(&mut out, &sinks);
    delivery(&mut out, &sinks);
    out.0
}

fn process(out: &mut Output, snapshot: &Snapshot) {
    out.one(BUILD, &[("version", &snapshot.version)], 1.0);
    if let Some(process) = &snapshot.process {
        out.one(START, &[], seconds(process.started_at));
        out.one(READY, &[], f64::from(u8::from(process.ready)));
    }
    out.one(DISK_FREE, &[], snapshot.disk.free_bytes as f64);
    out.one(DISK_TOTAL, &[], snapshot.disk.total_bytes as f64);
}

fn ingest(out: &mut Output, ingest: &Ingest) {
    let counts = &ingest.counts;
    let accepted = |value: fn(&AcceptedCount) -> u64| {
        move |out: &mut Output, metric: Metric| {
            for accepted in &counts.accepted {
                let labels = [("protocol", accepted.protocol.as_str()), ("stream", accepted.stream.as_str())];
                out.sample(metric, &labels, value(accepted) as f64);
            }
        }
    };
    out.family(IN_RECORDS, &accepted(|accepted| accepted.records));
    out.family(IN_BYTES, &accepted(|accepted| accepted.bytes));
    out.family(REFUSED, &|out, metric| {
        for refused in &counts.refused {
            let labels = [("protocol", refused.protocol.as_str()), ("reason", refused.reason.as_str())];
            out.sample(metric, &labels, refused.count as f64);
        }
    });
    for (metric, value) in [
        (CONNECTIONS, counts.connections),
        (CONNECTIONS_TOTAL, counts.connections_total),
        (STREAMS, counts.streams),
        (STREAMS_TOTAL, counts.streams_total),
        (WAITING, counts.waiting_bytes),
        (WEBHOOKS, counts.webhooks_dropped_by_livekit),
        (WEBHOOKS_REPEATED, counts.webhooks_repeated),
    ] {
        out.one(metric, &[], value as f64);
    }
}

fn state(out: &mut Output, sinks: &[&SinkStatus]) {
    out.family(STATE, &|out, metric| {
        for sink in sinks {
            for state in SinkState::ALL {
                let value = u8::from(sink.state == state);
                out.sample(metric, &[("sink", &sink.name), ("state", state.as_str())], f64::from(value));
            }
        }
    });
    out.by_sink(STATE_SINCE, sinks, &|sink| sink.since.map(seconds));
}

fn backlog(out: &mut Output, sinks: &[&SinkStatus]) {
    out.by_stream(BACKLOG_RECORDS, sinks, |stream| stream.records as f64);
    out.by_stream(BACKLOG_BLOCKS, sinks, |stream| stream.blocks as f64);
    out.by_stream(BACKLOG_BYTES, sinks, |stream| stream.bytes as f64);
    out.by_stream(BACKLOG_AGE, sinks, |stream| stream.oldest_age_seconds.unwrap_or_default());
    out.by_sink(USED, sinks, &|sink| Some(sink.disk_bytes as f64));
    out.by_sink(QUOTA, sinks, &|sink| Some(sink.max_bytes as f64).filter(|max| *max > 0.0));
    out.by_sink(FULL, sinks, &|sink| Some(f64::from(u8::from(sink.spool_error.is_some()))));
    out.by_stream(DEAD, sinks, |stream| stream.dead_letters as f64);
    out.by_sink(DEAD_BYTES, sinks, &|sink| Some(sink.dead_letter_bytes as f64));
    out.by_sink(SEGMENTS, sinks, &|sink| Some(sink.segments as f64));
    out.by_sink(UNREAD, sinks, &|sink| Some(sink.unread_segments as f64));
}

fn dispositions(out: &mut Output, sinks: &[&SinkStatus]) {
    // Each record is in the backlog, or done with one of these results.
    out.by_stream(APPENDED, sinks, |stream| {
        (stream.records + stream.delivered + stream.dead_lettered + stream.dropped.values().sum::<u64>()) as f64
    });
    out.by_stream(OUT_ALL, sinks, |stream| stream.delivered as f64);
    out.by_stream(DEAD_LETTERED, sinks, |stream| stream.dead_lettered as f64);
    out.by_reason(DROPPED, sinks, |stream, reason| stream.dropped.get(&reason).copied());
    out.by_stream(APPENDED_BYTES, sinks, |stream| stream.byte_totals.appended as f64);
    out.by_stream(OUT_ALL_BYTES, sinks, |stream| stream.byte_totals.delivered as f64);
    out.by_stream(DEAD_LETTERED_BYTES, sinks, |stream| stream.byte_totals.dead_lettered as f64);
    out.by_reason(DROPPED_BYTES, sinks, |stream, reason| stream.byte_totals.dropped.get(&reason).copied());
}

fn delivery(out: &mut Output, sinks: &[&SinkStatus]) {
    out.by_delivery(LOST, sinks, |delivery| delivery.lost_records as f64);
    out.by_delivery(OUT_RECORDS, sinks, |delivery| delivery.flush.delivered_records as f64);
    out.by_delivery(OUT_BYTES, sinks, |delivery| delivery.flush.delivered_bytes as f64);
    out.by_delivery(BATCHES, sinks, |delivery| delivery.flush.batches as f64);
    out.family(RETRIED, &|out, metric| {
        for sink in sinks {
            for (reason, records) in sink.delivery.iter().flat_map(|delivery| &delivery.flush.retried_records) {
                out.sample(metric, &[("sink", &sink.name), ("reason", reason)], *records as f64);
            }
        }
    });
    out.by_delivery(REJECTED, sinks, |delivery| delivery.flush.rejected_records as f64);
    out.by_delivery(IN_FLIGHT, sinks, |delivery| delivery.flush.in_flight as f64);
    out.by_delivery(BATCH_LIMIT, sinks, |delivery| delivery.flush.batch_records as f64);
    out.by_sink(LAG, sinks, &|sink| Some(sink.delivery.as_ref()?.flush.lag_millis? as f64 / 1e3));
    out.by_sink(LAST, sinks, &|sink| sink.delivery.as_ref()?.flush.last_delivery_at.map(seconds));
    out.histograms(SINK_LATENCY, sinks, |sink| sink.delivery.as_ref().map(|delivery| &delivery.flush.latency));
    out.histograms(BATCH_SIZE, sinks, |sink| sink.delivery.as_ref().map(|delivery| &delivery.flush.batch_sizes));
    out.histograms(SYNC_LATENCY, sinks, |sink| Some(&sink.sync_latency));
    out.histograms(SYNC_SIZE, sinks, |sink| Some(&sink.sync_records));
}

fn seconds(millis: UnixMillis) -> f64 {
    millis as f64 / 1e3
}

/// Text in Prometheus' format 0.0.4.
struct Output(String);

impl Output {
    fn family(&mut self, metric: Metric, samples: &dyn Fn(&mut Self, Metric)) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {0} {1}\n# TYPE {0} {2}", metric.name, metric.help, metric.kind);
        samples(self, metric);
    }

    fn one(&mut self, metric: Metric, labels: &[(&str, &str)], value: f64) {
        self.family(metric, &|out, metric| out.sample(metric, labels, value));
    }

    fn by_sink(&mut self, metric: Metric, sinks: &[&SinkStatus], value: &dyn Fn(&SinkStatus) -> Option<f64>) {
        self.family(metric, &|out, metric| {
            for sink in sinks {
                if let Some(value) = value(sink) {
                    out.sample(metric, &[("sink", &sink.name)], value);
                }
            }
        });
    }

    fn by_delivery(&mut self, metric: Metric, sinks: &[&SinkStatus], value: fn(&Delivery) -> f64) {
        self.by_sink(metric, sinks, &|sink| sink.delivery.as_ref().map(value));
    }

    fn by_stream(&mut self, metric: Metric, sinks: &[&SinkStatus], value: fn(&StreamStatus) -> f64) {
        self.family(metric, &|out, metric| {
            for sink in sinks {
                for (stream, figures) in &sink.streams {
                    out.sample(metric, &[("sink", &sink.name), ("stream", stream.as_str())], value(figures));
                }
            }
        });
    }

    fn by_reason(
        &mut self,
        metric: Metric,
        sinks: &[&SinkStatus],
        value: fn(&StreamStatus, DropReason) -> Option<u64>,
    ) {
        self.family(metric, &|out, metric| {
            for sink in sinks {
                for (stream, figures) in &sink.streams {
                    // Every reason from the start: a rate needs the zero before the first drop.
                    for reason in DropReason::ALL {
                        let labels = [("sink", &*sink.name), ("stream", stream.as_str()), ("reason", reason.as_str())];
                        out.sample(metric, &labels, value(figures, reason).unwrap_or_default() as f64);
                    }
                }
            }
        });
    }

    fn histograms(&mut self, metric: Metric, sinks: &[&SinkStatus], of: fn(&SinkStatus) -> Option<&HistogramSnapshot>) {
        self.family(metric, &|out, metric| {
            for sink in sinks {
                let Some(histogram) = of(sink) else { continue };
                let mut below = 0;
                for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
                    below += count;
                    out.line(metric.name, "_bucket", &[("sink", &sink.name), ("le", &bound.to_string())], below as f64);
                }
                let labels = [("sink", sink.name.as_str())];
                out.line(metric.name, "_bucket", &[labels[0], ("le", "+Inf")], histogram.count as f64);
                out.line(metric.name, "_sum", &labels, histogram.sum);
                out.line(metric.name, "_count", &labels, histogram.count as f64);
            }
        });
    }

    fn sample(&mut self, metric: Metric, labels: &[(&str, &str)], value: f64) {
        self.line(metric.name, "", labels, value);
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        self.0.push_str(suffix);
        for (i, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if i == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn metrics_have_different_families() {
        // OpenMetrics names a family without these suffixes; the samples in it end with them.
        const SUFFIXES: [&str; 6] = ["_total", "_created", "_bucket", "_sum", "_count", "_info"];
        let family = |metric: &Metric| {
            SUFFIXES.iter().find_map(|suffix| metric.name.strip_suffix(suffix)).unwrap_or(metric.name)
        };
        let families: BTreeSet<_> = METRICS.iter().map(family).collect();
        assert_eq!(families.len(), METRICS.len());
        assert!(METRICS.iter().all(|metric| (metric.kind == "counter") == metric.name.ends_with("_total")));
    }
}
