//! A scripted sink for the worker's tests.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::rngs::StdRng;

use crate::{
    record::UnixMillis,
    sink::{Batch, BatchOutcome, Outcome, Sink, SinkError, SinkErrorKind},
};

/// A token bucket.
#[derive(Clone, Copy)]
pub(super) struct Throttle {
    pub(super) per_second: f64,
    tokens: f64,
    at: tokio::time::Instant,
}

impl Throttle {
    pub(super) fn new(per_second: f64) -> Self {
        Self { per_second, tokens: per_second, at: tokio::time::Instant::now() }
    }

    fn takes_one(&mut self) -> bool {
        let (now, most) = (tokio::time::Instant::now(), self.per_second);
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * self.per_second).min(most);
        self.at = now;
        let takes = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(takes));
        takes
    }
}

/// What the scripted sink does with records.
#[derive(Default)]
pub(super) struct Behaviour {
    /// All records fail with this.
    pub(super) fails: Option<SinkErrorKind>,
    /// These fail their batch, without being named.
    pub(super) poison: BTreeSet<u64>,
    /// These are rejected by name.
    pub(super) bad: BTreeSet<u64>,
    /// These fail by name, for a reason that may pass.
    pub(super) failing: BTreeSet<u64>,
    /// The sink accepts this many records a second, and fails the others by name.
    pub(super) throttle: Option<Throttle>,
    /// The sink fails a random half by name.
    pub(super) coin: Option<StdRng>,
    /// These make it drop the connection, whatever else is in the batch.
    pub(super) drops: BTreeSet<u64>,
    /// The results of its set-up checks, in turn; after them all is well.
    pub(super) checks: VecDeque<Result<Vec<String>, SinkErrorKind>>,
    /// It doubts its set-up until it has checked it.
    pub(super) doubts: bool,
    /// How long a check takes.
    pub(super) check_delay: Duration,
    /// These are left for later, as unavailable.
    pub(super) later: BTreeSet<u64>,
    /// How long an answer takes, per record.
    pub(super) delay: Duration,
    /// How long connecting takes.
    pub(super) connect_delay: Duration,
    /// The errors of loading what was delivered, in turn.
    pub(super) cannot_load_delivered: VecDeque<SinkErrorKind>,
    /// How many redelivered records it recognizes.
    pub(super) recognizes: Option<u64>,
    /// With each failure of a whole batch, it wants no records for so long.
    pub(super) retry_after: Option<Duration>,
    /// Answers before the behaviour applies: each fails its batch with that kind.
    pub(super) first: VecDeque<SinkErrorKind>,
}

/// A sink that keeps sequence numbers in memory and fails as scripted.
#[derive(Default)]
pub(super) struct ScriptedSink {
    pub(super) behaviour: Mutex<Behaviour>,
    /// Sequence numbers as they arrived, redeliveries included.
    pub(super) arrived: Mutex<Vec<u64>>,
    /// The size of each batch.
    pub(super) batches: Mutex<Vec<usize>>,
    /// From when on it was asked to load what it delivered, and after how many batches.
    pub(super) loads: Mutex<Vec<(UnixMillis, usize)>>,
    pub(super) in_flight: Mutex<(usize, usize)>,
    /// How often it was initialized, and when its set-up was checked.
    pub(super) initialized: Mutex<usize>,
    pub(super) checked: Mutex<Vec<tokio::time::Instant>>,
    pub(super) not_before: Mutex<Option<tokio::time::Instant>>,
}

impl ScriptedSink {
    pub(super) fn new(behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self { behaviour: Mutex::new(behaviour), ..Self::default() })
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock());
    }

    pub(super) fn arrived(&self) -> Vec<u64> {
        self.arrived.lock().clone()
    }

    fn answer(&self, batch: &Batch) -> BatchOutcome {
        let mut behaviour = self.behaviour.lock();
        let failed = |kind: SinkErrorKind| BatchOutcome {
            records: vec![Outcome::Retry; batch.records.len()],
            error: Some(SinkError { kind, message: format!("scripted to fail: {}", kind.as_str()) }),
        };
        if let Some(kind) = behaviour.first.pop_front().or(behaviour.fails) {
            *self.not_before.lock() = behaviour.retry_after.map(|wait| tokio::time::Instant::now() + wait);
            return failed(kind);
        }
        if batch.records.iter().any(|record| behaviour.drops.contains(&record.seq)) {
            return failed(SinkErrorKind::Unavailable);
        }
        if batch.records.iter().any(|record| behaviour.poison.contains(&record.seq)) {
            return failed(SinkErrorKind::Unnamed);
        }
        let mut error = None;
        let records = batch.records.iter().map(|record| match record.seq {
            bad if behaviour.bad.contains(&bad) => Outcome::Rejected("scripted to reject".to_owned()),
            failing if behaviour.failing.contains(&failing) => Outcome::Failed("scripted to fail by name".to_owned()),
            _ if behaviour.coin.as_mut().is_some_and(rand::Rng::random::<bool>)
                || behaviour.throttle.as_mut().is_some_and(|throttle| !throttle.takes_one()) =>
            {
                Outcome::Failed("scripted to fail by name".to_owned())
            }
            later if behaviour.later.contains(&later) => {
                error = failed(SinkErrorKind::Unavailable).error;
                Outcome::Retry
            }
            seq => {
                self.arrived.lock().push(seq);
                Outcome::Delivered
            }
        });
        BatchOutcome { records: records.collect(), error }
    }
}

#[async_trait]
impl Sink for ScriptedSink {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }

    fn recognizes(&self) -> Option<u64> {
        self.behaviour.lock().recognizes
    }

    fn not_before(&self) -> Option<tokio::time::Instant> {
        *self.not_before.lock()
    }

    fn doubts_setup(&self) -> bool {
        self.behaviour.lock().doubts
    }

    async fn check_setup(&self) -> Result<Vec<String>, SinkError> {
        let delay = {
            let mut behaviour = self.behaviour.lock();
            behaviour.doubts = false;
            behaviour.check_delay
        };
        self.checked.lock().push(tokio::time::Instant::now());
        tokio::time::sleep(delay).await;
        let answer = self.behaviour.lock().checks.pop_front().unwrap_or(Ok(Vec::new()));
        answer.map_err(|kind| SinkError { kind, message: format!("scripted to find it {}", kind.as_str()) })
    }

    async fn initialize(&self) -> Result<Vec<String>, SinkError> {
        *self.initialized.lock() += 1;
        let delay = self.behaviour.lock().connect_delay;
        tokio::time::sleep(delay).await;
        match self.behaviour.lock().fails {
            Some(kind) => Err(SinkError { kind, message: "scripted to fail".to_owned() }),
            None => Ok(Vec::new()),
        }
    }

    async fn load_delivered(&self, since: UnixMillis) -> Result<(), SinkError> {
        assert_eq!(self.in_flight.lock().0, 0, "between batches");
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.loads.lock().push((since, self.batches.lock().len()));
        match self.behaviour.lock().cannot_load_delivered.pop_front() {
            Some(kind) => Err(SinkError { kind, message: "scripted to fail".to_owned() }),
            None => Ok(()),
        }
    }

    async fn send_batch(&self, batch: Batch) -> BatchOutcome {
        {
            let mut in_flight = self.in_flight.lock();
            in_flight.0 += 1;
            in_flight.1 = in_flight.1.max(in_flight.0);
        }
        self.batches.lock().push(batch.records.len());
        let delay = self.behaviour.lock().delay * batch.records.len() as u32;
        tokio::time::sleep(delay).await;
        self.in_flight.lock().0 -= 1;
        self.answer(&batch)
    }
}
