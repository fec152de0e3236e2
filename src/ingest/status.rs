//! Counters of what was received and refused: the figures of metrics, the status page and tests.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

use crate::record::{RecordBatch, SinkName, Stream};

/// How records arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// `livekit.AnalyticsRecorderService`
    Grpc,
    /// `POST /v1/…`
    Http,
    /// `POST /webhook`
    Webhook,
    /// The port of the status page: it receives no records, but requests without the token are refused there.
    Admin,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Grpc, Self::Http, Self::Webhook, Self::Admin];

    /// The label in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Webhook => "webhook",
            Self::Admin => "admin",
        }
    }

    const fn accepts_records(self) -> bool {
        !matches!(self, Self::Admin)
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// Why a message, request, stream or connection was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Refused {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Refused {
            const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in JSON and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// Bytes or JSON that are not such records.
    Invalid = "invalid",
    /// A message or body over its size limit, or with too many records.
    TooLarge = "too_large",
    /// A content type or encoding that is not supported.
    Unsupported = "unsupported",
    /// A required sink's spool is full.
    Full = "full",
    /// A required sink's spool cannot write, or is closed.
    Unavailable = "unavailable",
    /// No memory left for records that are not yet durable.
    Memory = "memory",
    /// A message or body that took too long, or a stream without any message.
    Timeout = "timeout",
    /// The sender disconnected in the middle of a message or body.
    Aborted = "aborted",
    /// An address at which nothing is accepted.
    Path = "path",
    /// A method other than POST.
    Method = "method",
    /// Too many streams.
    Streams = "streams",
    /// No or bad credentials.
    Unauthenticated = "unauthenticated",
    /// Too many connections.
    Connections = "connections",
    /// A TLS handshake that failed or took too long.
    Handshake = "handshake",
    /// The process is stopping.
    Stopping = "stopping",
}

#[derive(Debug, Default)]
struct AcceptedCounters {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Counters of all ingest; cheap to share and to read.
#[derive(Debug, Default)]
pub struct IngestStatus {
    accepted: [[AcceptedCounters; Stream::ALL.len()]; Protocol::ALL.len()],
    refused: [[AtomicU64; Refused::ALL.len()]; Protocol::ALL.len()],
    webhooks_dropped: AtomicU64,
    webhooks_repeated: AtomicU64,
    connections: Gauge,
    streams: Gauge,
}

/// The number of things that are open now, and of all since the start.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    now: AtomicU64,
    total: AtomicU64,
}

impl Gauge {
    /// One more is open.
    pub(super) fn opened(&self) {
        self.now.fetch_add(1, Relaxed);
        self.total.fetch_add(1, Relaxed);
    }

    /// One was closed.
    pub(super) fn closed(&self) {
        self.now.fetch_sub(1, Relaxed);
    }

    fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }
}

impl IngestStatus {
    /// Counts a batch that is durable.
    pub(super) fn count_accepted(&self, protocol: Protocol, batch: &RecordBatch) {
        let accepted = &self.accepted[protocol as usize][batch.stream as usize];
        accepted.records.fetch_add(u64::from(batch.count()), Relaxed);
        accepted.bytes.fetch_add(batch.bytes().len() as u64, Relaxed);
    }

    /// Counts something that was refused.
    pub(super) fn count_refused(&self, protocol: Protocol, reason: Refused) {
        self.refused[protocol as usize][reason as usize].fetch_add(1, Relaxed);
    }

    /// Adds what LiveKit reports to have dropped before this webhook.
    pub(super) fn count_webhooks_dropped(&self, dropped: u64) {
        self.webhooks_dropped.fetch_add(dropped, Relaxed);
    }

    /// Counts a repeated webhook.
    pub(super) fn count_webhook_repeated(&self) {
        self.webhooks_repeated.fetch_add(1, Relaxed);
    }

    /// Connections over which records arrive.
    pub(super) const fn connections(&self, protocol: Protocol) -> Option<&Gauge> {
        if protocol.accepts_records() { Some(&self.connections) } else { None }
    }

    /// Recorder streams.
    pub(super) const fn streams(&self) -> &Gauge {
        &self.streams
    }

    /// The current figures.
    #[must_use]
    pub fn snapshot(&self) -> IngestSnapshot {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let mut snapshot = IngestSnapshot {
            accepted: Vec::new(),
            refused: Vec::new(),
            webhooks_dropped_by_livekit: load(&self.webhooks_dropped),
            webhooks_repeated: load(&self.webhooks_repeated),
            connections: self.connections.now(),
            connections_total: load(&self.connections.total),
            streams: self.streams.now(),
            streams_total: load(&self.streams.total),
            waiting_bytes: 0,
            lost_by_optional_sinks: BTreeMap::new(),
        };
        for protocol in Protocol::ALL {
            for stream in Stream::ALL.into_iter().filter(|_| protocol.accepts_records()) {
                let accepted = &self.accepted[protocol as usize][stream as usize];
                let (records, bytes) = (load(&accepted.records), load(&accepted.bytes));
                snapshot.accepted.push(AcceptedCount { protocol, stream, records, bytes });
            }
            let reasons = if protocol.accepts_records() { Refused::ALL } else { &[Refused::Unauthenticated] };
            for &reason in reasons {
                let count = load(&self.refused[protocol as usize][reason as usize]);
                snapshot.refused.push(RefusedCount { protocol, reason, count });
            }
        }
        snapshot
    }
}

/// Records accepted over one protocol into one stream, since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AcceptedCount {
    /// The protocol.
    pub protocol: Protocol,
    /// The stream.
    pub stream: Stream,
    /// Records answered OK.
    pub records: u64,
    /// Their bytes, framing included.
    pub bytes: u64,
}

/// Refusals over one protocol for one reason, since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedCount {
    /// The protocol.
    pub protocol: Protocol,
    /// The reason.
    pub reason: Refused,
    /// How many messages, requests, streams or connections.
    pub count: u64,
}

/// The figures of ingest at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IngestSnapshot {
    /// Every protocol and stream, zeros included.
    pub accepted: Vec<AcceptedCount>,
    /// Every protocol and reason, zeros included.
    pub refused: Vec<RefusedCount>,
    /// The sum of `num_dropped` of all webhooks.
    pub webhooks_dropped_by_livekit: u64,
    /// Webhooks that were repeated after they were accepted.
    pub webhooks_repeated: u64,
    /// Open connections of both ports.
    pub connections: u64,
    /// Connections since the start.
    pub connections_total: u64,
    /// Open recorder streams.
    pub streams: u64,
    /// Recorder streams since the start.
    pub streams_total: u64,
    /// Bytes received and not yet durable.
    pub waiting_bytes: u64,
    /// Records that optional sinks' spools missed, by sink. In JSON each sink has its own.
    #[serde(skip)]
    pub lost_by_optional_sinks: BTreeMap<SinkName, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordBatchBuilder;

    #[test]
    fn what_is_counted_has_one_name_in_json_and_in_metrics() {
        for protocol in Protocol::ALL {
            assert_eq!(serde_json::to_value(protocol).unwrap(), protocol.as_str());
        }
        for reason in Refused::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn what_was_counted_is_in_the_snapshot_and_nothing_else() {
        let status = IngestStatus::default();
        let mut batch = RecordBatchBuilder::new(Stream::Stats);
        batch.push(b"abc");
        status.count_accepted(Protocol::Http, &batch.build(0));
        status.count_refused(Protocol::Grpc, Refused::Full);
        let snapshot = status.snapshot();
        let accepted: Vec<_> = snapshot.accepted.iter().filter(|accepted| accepted.records > 0).collect();
        assert_eq!(
            (accepted.len(), accepted[0].protocol, accepted[0].stream, accepted[0].bytes),
            (1, Protocol::Http, Stream::Stats, 5)
        );
        let refused: Vec<_> = snapshot.refused.iter().filter(|refused| refused.count > 0).collect();
        assert_eq!((refused.len(), refused[0].protocol, refused[0].reason.as_str()), (1, Protocol::Grpc, "full"));
    }
}
