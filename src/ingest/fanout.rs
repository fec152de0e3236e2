//! One batch, every sink's spool: the call succeeds when each required one has it durably.
//!
//! - required: the call waits for it and fails with it;
//! - optional: it alone loses its copy (counted). A batch that it does not take at once goes on in the background, within
//!   [`OPTIONAL_IN_FLIGHT`] bytes; the call waits for it [`OPTIONAL_PATIENCE`] at most, so that it cannot hold the others
//!   back. Where no sink is required, the call waits for all: something should slow a sender down.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{IngestSnapshot, IngestStatus, MemoryOptions, Protocol, Refusal, Refused, memory::Budget, wire};
use crate::record::{RecordBatch, RecordBatchBuilder, SinkName, Stream};

/// Bytes on their way to one optional sink's spool; what comes on top is lost for it.
const OPTIONAL_IN_FLIGHT: usize = 8 * 1024 * 1024;
/// How long a call waits for optional sinks once the required ones have the batch.
const OPTIONAL_PATIENCE: Duration = Duration::from_millis(100);

/// Where batches become durable: a spool.
#[async_trait]
pub trait Append: Send + Sync + 'static {
    /// Returns when the batch is durable, all of it.
    async fn append(&self, batch: RecordBatch) -> Result<(), CannotAppend>;
}

/// A spool did not take a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CannotAppend {
    /// `Full` (a quota, the disk), `Unavailable` (it cannot write, or was closed) or `TooLarge` (it never takes that).
    pub reason: Refused,
    /// For the sender: what happened, and the remedy.
    pub message: String,
}

/// Which records a sink wants.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// None: all streams.
    pub streams: Option<Vec<Stream>>,
    /// Types of events by their numbers; none: all. Other streams have no types.
    pub event_types: Option<Vec<i32>>,
}

impl Filter {
    /// What is left of a batch.
    pub(crate) fn apply(&self, batch: &RecordBatch) -> Option<RecordBatch> {
        if self.streams.as_ref().is_some_and(|streams| !streams.contains(&batch.stream)) {
            return None;
        }
        let Some(types) = self.event_types.as_ref().filter(|_| batch.stream == Stream::Events) else {
            return Some(batch.clone());
        };
        let mut wanted = RecordBatchBuilder::new(batch.stream);
        batch.iter().filter(|event| types.contains(&wire::event_type(event))).for_each(|event| wanted.push(event));
        (!wanted.is_empty()).then(|| wanted.build(batch.received_at))
    }
}

/// A sink's spool, and what it takes.
pub struct Target {
    /// The sink.
    pub name: SinkName,
    /// Whether calls fail where this spool fails.
    pub required: bool,
    /// What it wants.
    pub filter: Filter,
    /// Its spool.
    pub spool: Arc<dyn Append>,
}

struct Entry {
    target: Target,
    in_flight: Arc<Semaphore>,
    lost: Arc<AtomicU64>,
}

/// Takes batches from all protocols and hands them to every sink's spool.
pub struct Intake {
    entries: ArcSwap<Vec<Entry>>,
    lost: Mutex<BTreeMap<SinkName, Arc<AtomicU64>>>,
    status: Arc<IngestStatus>,
    memory: Arc<Budget>,
}

impl Intake {
    /// An intake for these sinks.
    #[must_use]
    pub fn new(targets: Vec<Target>, memory: &MemoryOptions) -> Self {
        let intake = Self {
            entries: ArcSwap::default(),
            lost: Mutex::default(),
            status: Arc::default(),
            memory: Arc::new(Budget::new(memory)),
        };
        intake.replace(targets);
        intake
    }

    /// Changes the sinks; calls that are under way end with the ones they began with.
    pub fn replace(&self, targets: Vec<Target>) {
        let mut lost = self.lost.lock();
        let entries = targets.into_iter().map(|target| Entry {
            lost: Arc::clone(lost.entry(target.name.clone()).or_default()),
            in_flight: Arc::new(Semaphore::new(OPTIONAL_IN_FLIGHT)),
            target,
        });
        self.entries.store(Arc::new(entries.collect()));
    }

    /// Makes a batch durable in every required sink's spool.
    ///
    /// # Errors
    /// When one of them does not take it; others may have it then, and the records' ids make a resend harmless.
    pub async fn append(&self, protocol: Protocol, batch: RecordBatch) -> Result<(), Refusal> {
        if batch.is_empty() {
            return Ok(());
        }
        let entries = self.entries.load_full();
        let wanted: Vec<(&Entry, RecordBatch)> =
            entries.iter().filter_map(|entry| Some((entry, entry.target.filter.apply(&batch)?))).collect();

        let optional: Vec<_> =
            wanted.iter().filter(|(entry, _)| !entry.target.required).map(|(entry, part)| entry.begin(part)).collect();
        let background = join_all(optional.into_iter().flatten());
        let required: Vec<_> = wanted.into_iter().filter(|(entry, _)| entry.target.required).collect();
        if required.is_empty() {
            background.await;
        } else {
            let results = join_all(required.into_iter().map(|(entry, part)| entry.append(part))).await;
            results.into_iter().collect::<Result<(), Refusal>>()?;
            // an optional sink that is not done by now goes on by itself
            let _ = tokio::time::timeout(OPTIONAL_PATIENCE, background).await;
        }
        self.status.count_taken(protocol, &batch);
        Ok(())
    }

    /// Counters.
    #[must_use]
    pub const fn status(&self) -> &Arc<IngestStatus> {
        &self.status
    }

    /// The figures now, what optional sinks lost among them.
    #[must_use]
    pub fn snapshot(&self) -> IngestSnapshot {
        let lost = self.lost.lock();
        IngestSnapshot {
            waiting_bytes: self.memory.used() as u64,
            lost_by_optional_sinks: lost.iter().map(|(sink, lost)| (sink.clone(), lost.load(Relaxed))).collect(),
            ..self.status.snapshot()
        }
    }

    pub(super) const fn memory(&self) -> &Arc<Budget> {
        &self.memory
    }
}

impl Entry {
    async fn append(&self, batch: RecordBatch) -> Result<(), Refusal> {
        let appended = self.target.spool.append(batch).await;
        appended.map_err(|error| Refusal::new(error.reason, format!("sink {}: {}", self.target.name, error.message)))
    }

    /// Hands a batch to an optional sink's spool in the background.
    fn begin(&self, batch: &RecordBatch) -> Option<tokio::task::JoinHandle<()>> {
        let (count, bytes) = (u64::from(batch.count()), batch.bytes().len().min(OPTIONAL_IN_FLIGHT));
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_many_owned(permits) else {
            self.lost.fetch_add(count, Relaxed);
            return None;
        };
        let (spool, lost, batch) = (Arc::clone(&self.target.spool), Arc::clone(&self.lost), batch.clone());
        Some(tokio::spawn(async move {
            if spool.append(batch).await.is_err() {
                lost.fetch_add(count, Relaxed);
            }
            drop(permit);
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::double::{MemorySpool, Mood};

    fn events(types: &[u8]) -> RecordBatch {
        let mut batch = RecordBatchBuilder::new(Stream::Events);
        types.iter().for_each(|&number| batch.push(&[0x08, number]));
        batch.build(5)
    }

    fn target(name: &str, required: bool, filter: Filter, spool: &Arc<MemorySpool>) -> Target {
        Target { name: SinkName::new(name).unwrap(), required, filter, spool: Arc::clone(spool) as _ }
    }

    fn intake(targets: Vec<Target>) -> Intake {
        Intake::new(targets, &MemoryOptions::default())
    }

    #[tokio::test]
    async fn every_sink_gets_the_same_bytes() {
        let (a, b) = (MemorySpool::new(), MemorySpool::new());
        let intake = intake(vec![target("a", true, Filter::default(), &a), target("b", true, Filter::default(), &b)]);
        intake.append(Protocol::Grpc, events(&[1, 2])).await.unwrap();
        assert_eq!(a.batches(), [events(&[1, 2])]);
        assert_eq!(b.batches(), a.batches());
    }

    #[tokio::test]
    async fn one_required_sink_that_is_full_fails_the_call_and_is_named() {
        let (a, b) = (MemorySpool::new(), MemorySpool::new());
        b.set(Mood::Full);
        let intake = intake(vec![target("a", true, Filter::default(), &a), target("b", true, Filter::default(), &b)]);
        let refusal = intake.append(Protocol::Grpc, events(&[1])).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.message.starts_with("sink b: ")), (Refused::Full, true));
        assert_eq!(intake.snapshot().taken.iter().map(|taken| taken.records).sum::<u64>(), 0);
    }

    #[tokio::test]
    async fn an_optional_sink_that_is_full_loses_its_copy_alone_and_it_is_counted() {
        let (a, b) = (MemorySpool::new(), MemorySpool::new());
        b.set(Mood::Full);
        let intake = intake(vec![target("a", true, Filter::default(), &a), target("b", false, Filter::default(), &b)]);
        intake.append(Protocol::Grpc, events(&[1, 2, 3])).await.unwrap();
        assert_eq!(a.records(), 3);
        assert_eq!(intake.snapshot().lost_by_optional_sinks[&SinkName::new("b").unwrap()], 3);
        assert_eq!(intake.snapshot().lost_by_optional_sinks[&SinkName::new("a").unwrap()], 0);
    }

    #[tokio::test]
    async fn an_optional_sink_that_hangs_holds_nobody_back_and_memory_stays_bounded() {
        let (a, b) = (MemorySpool::new(), MemorySpool::new());
        b.set(Mood::Hang);
        let intake = intake(vec![target("a", true, Filter::default(), &a), target("b", false, Filter::default(), &b)]);
        let mut big = RecordBatchBuilder::new(Stream::Events);
        big.push(&vec![0; 1024 * 1024]);
        let big = big.build(0);
        for _ in 0..20 {
            intake.append(Protocol::Grpc, big.clone()).await.unwrap();
        }
        assert_eq!(a.records(), 20);
        let lost = intake.snapshot().lost_by_optional_sinks[&SinkName::new("b").unwrap()];
        assert_eq!(lost, 13, "7 whole batches fit in 8 MiB with their framing");
    }

    #[tokio::test]
    async fn filters_choose_by_stream_and_event_type() {
        let (all, some, stats) = (MemorySpool::new(), MemorySpool::new(), MemorySpool::new());
        let types = Filter { streams: None, event_types: Some(vec![1, 41]) };
        let only_stats = Filter { streams: Some(vec![Stream::Stats]), event_types: None };
        let intake = intake(vec![
            target("all", true, Filter::default(), &all),
            target("some", true, types, &some),
            target("stats", true, only_stats, &stats),
        ]);
        intake.append(Protocol::Http, events(&[0, 1, 2, 41, 1])).await.unwrap();
        intake.append(Protocol::Http, events(&[2])).await.unwrap();
        assert_eq!((all.records(), some.records(), stats.records()), (6, 3, 0));
        assert_eq!(some.batches(), [events(&[1, 41, 1])], "order and time stay, an empty batch is not appended");
    }

    #[tokio::test]
    async fn replaced_sinks_take_what_comes_next() {
        let (a, b) = (MemorySpool::new(), MemorySpool::new());
        let intake = intake(vec![target("a", true, Filter::default(), &a)]);
        intake.append(Protocol::Grpc, events(&[1])).await.unwrap();
        intake.replace(vec![target("b", true, Filter::default(), &b)]);
        intake.append(Protocol::Grpc, events(&[1])).await.unwrap();
        assert_eq!((a.records(), b.records()), (1, 1));
    }
}
