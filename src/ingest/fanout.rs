//! One batch, every sink's spool: the call succeeds when each required one has it durably.
//!
//! - required: the call waits for the sink and fails with it. A sink that drops records when its spool is full is asked
//!   last: if another sink refuses the call, it drops nothing, and counts nothing twice after the resend;
//! - optional: only this sink loses its copy, counted, and only if its spool refuses it or it cannot keep up with the
//!   required ones (see [`optional`](super::optional));
//! - if no sink is required, the call waits for all: something has to slow a sender down. A batch that is too large for all
//!   of them is refused.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use futures::future::join_all;
use parking_lot::Mutex;

use super::{
    Append, CannotAppend, Dropped, IngestSnapshot, IngestStatus, MemoryOptions, Protocol, Refusal, Refused,
    dropped::drops_newest,
    memory::Budget,
    optional::{Copied, Copies, Lane, Optional},
    wire,
};
use crate::{
    record::{RecordBatch, RecordBatchBuilder, SinkName, Stream},
    spool::Appended,
};

/// The records that a sink gets.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// None: all streams.
    pub streams: Option<Vec<Stream>>,
    /// Event types by their numbers; none: all. Other streams have no types.
    pub event_types: Option<Vec<i32>>,
}

impl Filter {
    /// The records of a batch that the sink gets.
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

/// A sink's spool, and the records it gets.
pub struct Target {
    /// The sink.
    pub name: SinkName,
    /// True if calls fail when this spool fails.
    pub required: bool,
    /// The records it gets.
    pub filter: Filter,
    /// Its spool.
    pub spool: Arc<dyn Append>,
    /// What the sink missed, being optional, before the process started.
    pub missed: u64,
}

struct Entry {
    target: Target,
    lane: Arc<Lane>,
    lost: Arc<AtomicU64>,
}

/// Receives batches from all protocols and appends them to every sink's spool.
pub struct Ingester {
    entries: ArcSwap<Vec<Entry>>,
    lost: Mutex<BTreeMap<SinkName, Arc<AtomicU64>>>,
    status: Arc<IngestStatus>,
    memory: Arc<Budget>,
    replaced: AtomicU64,
}

impl Ingester {
    /// Ingest for these sinks.
    #[must_use]
    pub fn new(targets: Vec<Target>, memory: &MemoryOptions) -> Self {
        let ingester = Self {
            entries: ArcSwap::default(),
            lost: Mutex::default(),
            status: Arc::default(),
            memory: Arc::new(Budget::new(memory)),
            replaced: AtomicU64::default(),
        };
        ingester.replace(targets);
        ingester
    }

    /// Changes the sinks; open calls end with the ones they began with.
    pub fn replace(&self, targets: Vec<Target>) {
        let mut lost = self.lost.lock();
        let entries = targets.into_iter().map(|target| Entry {
            lost: Arc::clone(lost.entry(target.name.clone()).or_insert_with(|| Arc::new(target.missed.into()))),
            lane: Arc::default(),
            target,
        });
        self.entries.store(Arc::new(entries.collect()));
        self.replaced.fetch_add(1, Relaxed);
    }

    /// Makes a batch durable in every required sink's spool; returns what the user's policies dropped.
    ///
    /// # Errors
    /// When a required spool refuses it; others may have it then, and the ids of the records make a resend harmless.
    pub async fn append(&self, protocol: Protocol, batch: RecordBatch) -> Result<Dropped, Refusal> {
        self.append_to_all(protocol, batch, false).await
    }

    /// [`append`](Self::append) for a caller that waits for nothing else meanwhile: its thread may be blocked.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_alone(&self, protocol: Protocol, batch: RecordBatch) -> Result<Dropped, Refusal> {
        self.append_to_all(protocol, batch, true).await
    }

    /// [`append_alone`](Self::append_alone) or [`append`](Self::append).
    pub(super) async fn append_to_all(
        &self,
        protocol: Protocol,
        batch: RecordBatch,
        alone: bool,
    ) -> Result<Dropped, Refusal> {
        if batch.is_empty() {
            return Ok(Dropped::default());
        }
        let entries = self.entries.load_full();
        let wanted = entries.iter().filter_map(|entry| Some((entry, entry.target.filter.apply(&batch)?)));
        let (required, optional): (Vec<_>, Vec<_>) = wanted.partition(|(entry, _)| entry.target.required);
        let mut copies = Copies::default();
        for (entry, part) in optional {
            copies.add(entry.optional(), part, required.is_empty());
        }
        let (mut dropped, mut copied) = (Dropped::default(), Vec::new());
        if required.is_empty() {
            copied = copies.all().await;
            no_sink_can_accept_it(&copied)?;
        } else {
            let alone = alone && required.len() == 1 && copies.is_empty();
            let (drop_newest, keep): (Vec<_>, Vec<_>) =
                required.into_iter().partition(|(entry, _)| entry.target.spool.drops_newest());
            let mut required = pin!(async {
                let mut dropped = Vec::new();
                for some in [keep, drop_newest] {
                    for result in join_all(some.into_iter().map(|(entry, part)| entry.append(part, alone))).await {
                        dropped.extend(result?);
                    }
                }
                Ok::<_, Refusal>(dropped)
            });
            let of_required = loop {
                tokio::select! {
                    biased;
                    result = required.as_mut() => break result?,
                    Some(copy) = copies.next() => copied.push(copy),
                }
            };
            of_required.into_iter().for_each(|(sink, records, reason)| dropped.add(sink, records, reason));
            copied.extend(copies.for_a_while().await);
        }
        for copy in copied {
            let (sink, records) = (copy.sink.clone(), copy.records);
            if let Some(reason) = copy.count().await {
                dropped.add(&sink, records, reason);
            }
        }
        self.status.count_accepted(protocol, &batch);
        Ok(dropped)
    }

    /// Counters.
    #[must_use]
    pub const fn status(&self) -> &Arc<IngestStatus> {
        &self.status
    }

    /// The current figures, including what optional sinks lost.
    #[must_use]
    pub fn snapshot(&self) -> IngestSnapshot {
        let lost = self.lost.lock();
        IngestSnapshot {
            waiting_bytes: self.memory.used() as u64,
            lost_by_optional_sinks: lost.iter().map(|(sink, lost)| (sink.clone(), lost.load(Relaxed))).collect(),
            ..self.status.snapshot()
        }
    }

    /// Identifies the current set of sinks.
    pub(super) fn generation(&self) -> u64 {
        self.replaced.load(Relaxed)
    }

    pub(super) const fn memory(&self) -> &Arc<Budget> {
        &self.memory
    }
}

impl Entry {
    /// Appends to a required sink's spool; returns what it dropped.
    async fn append(&self, batch: RecordBatch, alone: bool) -> Result<Option<(&SinkName, u64, String)>, Refusal> {
        let (records, spool) = (u64::from(batch.count()), &self.target.spool);
        match if alone { spool.append_alone(batch).await } else { spool.append(batch).await } {
            Ok(Appended::Kept) => Ok(None),
            Ok(Appended::Dropped { limit }) => Ok(Some((&self.target.name, records, drops_newest(limit)))),
            Err(error) => Err(Refusal::of(&self.target.name, error)),
        }
    }

    fn optional(&self) -> Optional {
        Optional {
            sink: self.target.name.clone(),
            spool: Arc::clone(&self.target.spool),
            lane: Arc::clone(&self.lane),
            lost: Arc::clone(&self.lost),
        }
    }
}

/// Refuses a batch that is too large for every sink if none of them is required and would say so: the sender can split it.
fn no_sink_can_accept_it(copied: &[Copied]) -> Result<(), Refusal> {
    let mut errors = copied.iter().map(|copy| Some((&copy.sink, copy.result.as_ref().err()?)));
    let Some(Some((sink, first))) = errors.next() else { return Ok(()) };
    let too_large = |error: &CannotAppend| error.reason == Refused::TooLarge;
    let all = too_large(first) && errors.all(|error| error.is_some_and(|(_, error)| too_large(error)));
    if all { Err(Refusal::of(sink, first.clone())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::fake::{MemorySpool, Mode};

    fn events(types: &[u8]) -> RecordBatch {
        let mut batch = RecordBatchBuilder::new(Stream::Events);
        types.iter().for_each(|&number| batch.push(&[0x08, number]));
        batch.build(5)
    }

    fn target(name: &str, required: bool, filter: Filter, spool: &Arc<MemorySpool>) -> Target {
        Target { name: SinkName::new(name).unwrap(), required, filter, spool: Arc::clone(spool) as _, missed: 0 }
    }

    fn ingester(targets: Vec<Target>) -> Ingester {
        Ingester::new(targets, &MemoryOptions::default())
    }

    #[tokio::test]
    async fn every_sink_gets_the_same_bytes() {
        let (a, b) = (MemorySpool::new(), MemorySpool::new());
        let ingester =
            ingester(vec![target("a", true, Filter::default(), &a), target("b", true, Filter::default(), &b)]);
        ingester.append(Protocol::Grpc, events(&[1, 2])).await.unwrap();
        assert_eq!(a.batches(), [events(&[1, 2])]);
        assert_eq!(b.batches(), a.batches());
    }

    #[tokio::test]
    async fn one_required_sink_that_is_full_fails_the_call_and_is_named() {
        let (a, b) = (MemorySpool::new(), MemorySpool::new());
        b.set(Mode::Full);
        let ingester =
            ingester(vec![target("a", true, Filter::default(), &a), target("b", true, Filter::default(), &b)]);
        let refusal = ingester.append(Protocol::Grpc, events(&[1])).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.message.starts_with("sink b: ")), (Refused::Full, true));
        assert_eq!(ingester.snapshot().accepted.iter().map(|accepted| accepted.records).sum::<u64>(), 0);
    }

    #[tokio::test]
    async fn what_a_full_sink_drops_of_a_call_that_another_refuses_is_counted_once_when_it_is_sent_again() {
        for refusal in [Mode::Full, Mode::NeverFits] {
            let (drops, other) = (MemorySpool::new(), MemorySpool::new());
            drops.set(Mode::DropsNewest);
            other.set(refusal);
            let targets =
                [("a", &drops), ("b", &other)].map(|(name, spool)| target(name, true, Filter::default(), spool));
            let ingester = ingester(targets.into());
            for _ in 0..3 {
                ingester.append(Protocol::Grpc, events(&[1, 2])).await.unwrap_err();
            }
            assert_eq!(drops.missed(), 0, "nothing is lost: the sender has them still");
            other.set(Mode::Accepts);
            let dropped = ingester.append(Protocol::Grpc, events(&[1, 2])).await.unwrap();
            assert_eq!((drops.missed(), other.records(), dropped.is_empty()), (2, 2, false));
        }
    }

    #[tokio::test]
    async fn filters_choose_by_stream_and_event_type() {
        let (all, some, stats) = (MemorySpool::new(), MemorySpool::new(), MemorySpool::new());
        let types = Filter { streams: None, event_types: Some(vec![1, 41]) };
        let only_stats = Filter { streams: Some(vec![Stream::Stats]), event_types: None };
        let ingester = ingester(vec![
            target("all", true, Filter::default(), &all),
            target("some", true, types, &some),
            target("stats", true, only_stats, &stats),
        ]);
        ingester.append(Protocol::Http, events(&[0, 1, 2, 41, 1])).await.unwrap();
        ingester.append(Protocol::Http, events(&[2])).await.unwrap();
        assert_eq!((all.records(), some.records(), stats.records()), (6, 3, 0));
        assert_eq!(some.batches(), [events(&[1, 41, 1])], "order and time stay, an empty batch is not appended");
    }

    #[tokio::test]
    async fn replaced_sinks_get_what_comes_next() {
        let (a, b) = (MemorySpool::new(), MemorySpool::new());
        let ingester = ingester(vec![target("a", true, Filter::default(), &a)]);
        ingester.append(Protocol::Grpc, events(&[1])).await.unwrap();
        ingester.replace(vec![target("b", true, Filter::default(), &b)]);
        ingester.append(Protocol::Grpc, events(&[1])).await.unwrap();
        assert_eq!((a.records(), b.records()), (1, 1));
    }
}
