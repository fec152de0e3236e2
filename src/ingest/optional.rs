//! Copies of a batch for optional sinks. No copy delays a call for long, and none is lost while its spool accepts records.
//!
//! - Copies enter a sink's spool in the order of the calls. At most [`IN_FLIGHT`] bytes are on their way to one spool;
//!   further copies wait in their calls, which slows the senders down (backpressure).
//! - If there are required sinks, a call waits at most [`HOLD_TIMEOUT`] for its copies. Then those on their way continue in
//!   the background, and those that still wait for their turn are lost for their sink.
//! - A spool that returned nothing for a whole [`HOLD_TIMEOUT`] hangs. Until it returns something, no call waits for a turn
//!   there.
//! - A lost copy is counted once, and only if the call is answered OK: otherwise the sender sends it again. The count is
//!   written to disk before the answer, so that it survives a kill, unless the disk hangs.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, poll, stream::FuturesUnordered};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Append, CannotAppend, Refused, dropped::drops_newest};
use crate::{
    record::{RecordBatch, SinkName},
    spool::Appended,
    tasks,
};

/// Bytes on their way to one sink's spool.
const IN_FLIGHT: usize = 8 * 1024 * 1024;
/// A copy counts for at least this: it is also a task and an element of the spool's queue.
const MIN_COST: usize = 1024;
/// How long a call waits for optional sinks once the required ones have the batch.
pub(super) const HOLD_TIMEOUT: Duration = Duration::from_millis(100);

/// The queue of copies in front of one optional sink's spool.
pub(super) struct Lane {
    /// Locked in the order of the calls, until the copy is in the spool's own queue.
    turn: Mutex<()>,
    in_flight: Arc<Semaphore>,
    /// Copies that the spool has answered.
    returned: AtomicU64,
    /// The value of `returned` when the sink was last found to hang.
    hangs_at: AtomicU64,
    /// Lost records that are not yet counted on disk; one task at a time writes the count.
    uncounted: AtomicU64,
    counting: Arc<Mutex<()>>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            turn: Mutex::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            returned: AtomicU64::default(),
            hangs_at: AtomicU64::new(u64::MAX),
            uncounted: AtomicU64::default(),
            counting: Arc::default(),
        }
    }
}

impl Lane {
    fn hangs(&self) -> bool {
        self.hangs_at.load(Relaxed) == self.returned.load(Relaxed)
    }

    /// Writes the count of lost records to disk. Waits for that, but not for a disk that hangs.
    async fn count_missed(self: Arc<Self>, spool: Arc<dyn Append>, records: u64) {
        self.uncounted.fetch_add(records, Relaxed);
        let timeout = if self.hangs() { Duration::ZERO } else { HOLD_TIMEOUT };
        let counted = async {
            let turn = Arc::clone(&self.counting).lock_owned().await;
            let lane = Arc::clone(&self);
            let count = move || {
                // Also those of other calls, whether they wait for their turn or were cancelled.
                while let records @ 1.. = lane.uncounted.swap(0, Relaxed) {
                    spool.count_missed(records);
                }
                drop(turn);
            };
            tasks::run_blocking(count).await
        };
        let _ = tokio::time::timeout(timeout, counted).await;
    }

    /// Space for so many bytes, when it is this copy's turn.
    async fn space(&self, bytes: usize) -> Option<(tokio::sync::MutexGuard<'_, ()>, OwnedSemaphorePermit)> {
        let permits = u32::try_from(bytes.clamp(MIN_COST, IN_FLIGHT)).unwrap_or(u32::MAX);
        let turn = self.turn.lock().await;
        let space = Arc::clone(&self.in_flight).acquire_many_owned(permits).await.ok()?;
        Some((turn, space))
    }
}

/// The sink of a copy.
#[derive(Clone)]
pub(super) struct Optional {
    pub(super) sink: SinkName,
    pub(super) spool: Arc<dyn Append>,
    pub(super) lane: Arc<Lane>,
    pub(super) lost: Arc<AtomicU64>,
}

impl Optional {
    /// Appends a copy to the spool, unless `leave` is cancelled before its turn.
    async fn copy(self, batch: RecordBatch, leave: CancellationToken) -> Copied {
        let (records, returned) = (u64::from(batch.count()), self.lane.returned.load(Relaxed));
        let result = self.append(batch, &leave).await;
        match &result {
            None if self.lane.returned.load(Relaxed) == returned => self.lane.hangs_at.store(returned, Relaxed),
            None => {}
            Some(_) => drop(self.lane.returned.fetch_add(1, Relaxed)),
        }
        let result = result.unwrap_or_else(|| Err(too_slow()));
        let Self { sink, spool, lane, lost } = self;
        Copied { sink, records, result, lost, lane, spool }
    }

    /// `None`: it was cancelled.
    async fn append(&self, batch: RecordBatch, leave: &CancellationToken) -> Option<Result<Appended, CannotAppend>> {
        let space = self.lane.space(batch.bytes().len());
        let (turn, _space) = tokio::select! {
            biased;
            space = space => space?,
            () = leave.cancelled() => return None,
        };
        let mut append = self.spool.append(batch);
        // The first poll puts it into the spool's queue, before the next copy has its turn.
        if let Poll::Ready(result) = poll!(&mut append) {
            return Some(result);
        }
        drop(turn);
        Some(append.await)
    }
}

fn cancelled() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}

fn too_slow() -> CannotAppend {
    let message =
        format!("it is slower than its senders: {} MiB are already on their way to its spool", IN_FLIGHT >> 20);
    CannotAppend { reason: Refused::Unavailable, message }
}

/// The result of a copy.
pub(super) struct Copied {
    pub(super) sink: SinkName,
    pub(super) records: u64,
    pub(super) result: Result<Appended, CannotAppend>,
    lost: Arc<AtomicU64>,
    lane: Arc<Lane>,
    spool: Arc<dyn Append>,
}

impl Copied {
    /// Counts the copy as lost unless its spool has kept or counted it; returns why it was dropped, if it was. To be called
    /// once, and only if the call is answered OK.
    pub(super) async fn count(self) -> Option<String> {
        match self.result {
            Ok(Appended::Kept) => None,
            Ok(Appended::Dropped { limit }) => Some(drops_newest(limit)),
            Err(error) => {
                self.lost.fetch_add(self.records, Relaxed);
                self.lane.count_missed(self.spool, self.records).await;
                Some(error.message)
            }
        }
    }
}

/// All copies of one call.
#[derive(Default)]
pub(super) struct Copies {
    under_way: FuturesUnordered<BoxFuture<'static, Copied>>,
    leave: CancellationToken,
}

impl Copies {
    /// Adds a copy. `may_wait`: it waits for its turn even if the spool hangs.
    pub(super) fn add(&mut self, optional: Optional, batch: RecordBatch, may_wait: bool) {
        let leave = if may_wait || !optional.lane.hangs() { self.leave.clone() } else { cancelled() };
        self.under_way.push(optional.copy(batch, leave).boxed());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The result of the next copy; `None` if there is none left. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Copied> {
        self.under_way.next().await
    }

    /// The results of all copies.
    pub(super) async fn all(self) -> Vec<Copied> {
        self.under_way.collect().await
    }

    /// The results of the copies within [`HOLD_TIMEOUT`]. Then copies that wait for their turn are cancelled, and the rest
    /// continues in the background.
    pub(super) async fn for_a_while(mut self) -> Vec<Copied> {
        let mut copied = Vec::new();
        let all = async {
            while let Some(copy) = self.next().await {
                copied.push(copy);
            }
        };
        if tokio::time::timeout(HOLD_TIMEOUT, pin!(all)).await.is_ok() {
            return copied;
        }
        self.leave.cancel();
        while let Some(Some(copy)) = self.next().now_or_never() {
            copied.push(copy);
        }
        tasks::spawn(async move {
            while let Some(copy) = self.next().await {
                copy.count().await;
            }
        });
        copied
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        ingest::{
            Dropped, Filter, Ingester, MemoryOptions, Protocol, Target,
            fake::{MemorySpool, Mode},
        },
        record::{RecordBatchBuilder, Stream},
    };

    const MIB: usize = 1 << 20;

    /// `r…` are required, `o…` optional.
    fn ingester(spools: &[(&str, &Arc<MemorySpool>)]) -> Ingester {
        let targets = spools.iter().map(|&(name, spool)| Target {
            name: SinkName::new(name).unwrap(),
            required: name.starts_with('r'),
            filter: Filter::default(),
            spool: Arc::clone(spool) as _,
            missed: 0,
        });
        Ingester::new(targets.collect(), &MemoryOptions::default())
    }

    fn lost(ingester: &Ingester, sink: &str) -> u64 {
        ingester.snapshot().lost_by_optional_sinks[sink]
    }

    /// One record of so many bytes, and a number to know it by.
    fn batch(number: usize, bytes: usize) -> RecordBatch {
        let mut batch = RecordBatchBuilder::new(Stream::Events);
        batch.push(&[&number.to_le_bytes()[..], &vec![0; bytes]].concat());
        batch.build(0)
    }

    async fn send(ingester: &Ingester, number: usize, bytes: usize) -> Dropped {
        ingester.append(Protocol::Grpc, batch(number, bytes)).await.unwrap()
    }

    /// Senders that each send the next MiB as soon as the last one is answered; returns what was reported as dropped.
    async fn send_as_fast_as_answered(ingester: &Ingester, senders: usize, each: usize) -> Dropped {
        let sender = async |sender: usize| {
            let mut reported = Dropped::default();
            for number in 0..each {
                reported.merge(send(ingester, sender * each + number, MIB).await);
            }
            reported
        };
        let mut all = Dropped::default();
        join_all((0..senders).map(sender)).await.into_iter().for_each(|reported| all.merge(reported));
        all
    }

    #[tokio::test(start_paused = true)]
    async fn with_none_but_optional_sinks_a_sender_is_slowed_down_and_loses_nothing() {
        let (fast, slow) = (MemorySpool::new(), MemorySpool::new());
        slow.set(Mode::Slow);
        for spools in [&[("o", &slow)][..], &[("o-fast", &fast), ("o", &slow)]] {
            let (ingester, before, began) = (ingester(spools), slow.records(), Instant::now());
            let reported = send_as_fast_as_answered(&ingester, 32, 5).await;
            assert!(reported.is_empty(), "{reported}");
            assert_eq!((slow.records() - before, lost(&ingester, "o")), (160, 0));
            assert!(began.elapsed() > Duration::from_secs(3), "160 MiB at 50 MiB/s take {:?}", began.elapsed());
        }
        assert_eq!(fast.records(), 160);
    }

    #[tokio::test(start_paused = true)]
    async fn with_none_but_optional_sinks_a_call_waits_for_one_that_hangs() {
        let spool = MemorySpool::new();
        spool.set(Mode::Hang);
        let ingester = ingester(&[("o", &spool)]);
        let calls = join_all((0..20).map(|number| send(&ingester, number, MIB)));
        let relief = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(ingester.snapshot().accepted.iter().map(|accepted| accepted.records).sum::<u64>(), 0);
            spool.set(Mode::Accepts);
        };
        let (reported, ()) = tokio::join!(calls, relief);
        assert!(reported.iter().all(Dropped::is_empty));
        let all: Vec<_> = (0..20).map(|number| batch(number, MIB)).collect();
        assert!(spool.batches() == all, "all of them, in the order of the calls");
        assert_eq!(lost(&ingester, "o"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_required_sink_an_optional_one_that_is_as_fast_loses_nothing_however_many_send() {
        let (required, optional) = (MemorySpool::new(), MemorySpool::new());
        required.set(Mode::Slow);
        optional.set(Mode::Slow);
        let ingester = ingester(&[("r", &required), ("o", &optional)]);
        let reported = send_as_fast_as_answered(&ingester, 40, 10).await;
        assert!(reported.is_empty(), "{reported}");
        assert_eq!((required.records(), lost(&ingester, "o")), (400, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_required_sink_a_slower_optional_one_slows_its_senders_down_and_loses_nothing() {
        let (required, optional) = (MemorySpool::new(), MemorySpool::new());
        optional.set(Mode::Slow);
        let ingester = ingester(&[("r", &required), ("o", &optional)]);
        let began = Instant::now();
        let reported = send_as_fast_as_answered(&ingester, 4, 100).await;
        assert!(reported.is_empty(), "{reported}");
        assert_eq!((required.records(), lost(&ingester, "o")), (400, 0));
        assert!(began.elapsed() > Duration::from_secs(7), "400 MiB at 50 MiB/s take {:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_holds_no_call_longer_than_its_patience_and_memory_stays_bounded() {
        let (required, optional) = (MemorySpool::new(), MemorySpool::new());
        optional.set(Mode::Hang);
        let ingester = ingester(&[("r", &required), ("o", &optional)]);
        let (mut reported, mut held) = (Dropped::default(), Vec::new());
        for number in 0..20 {
            let began = Instant::now();
            reported.merge(send(&ingester, number, MIB).await);
            held.push(began.elapsed());
        }
        assert_eq!(required.records(), 20);
        assert!(held.iter().all(|held| *held <= HOLD_TIMEOUT + Duration::from_millis(1)), "{held:?}");
        assert!(held[8..].iter().all(Duration::is_zero), "nothing has come back from it: {held:?}");
        let by_sink: Vec<_> = reported.iter().map(|(sink, dropped)| (sink.as_str(), dropped.records)).collect();
        assert_eq!((by_sink, lost(&ingester, "o")), (vec![("o", 13)], 13), "7 whole MiB fit in 8 with their framing");
        // It accepts records again, and so does the lane.
        optional.set(Mode::Accepts);
        tokio::time::sleep(HOLD_TIMEOUT).await;
        assert!(send(&ingester, 20, MIB).await.is_empty());
        assert_eq!((optional.records(), lost(&ingester, "o")), (8, 13));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_full_loses_its_copy_alone_and_it_is_counted_and_reported() {
        let (required, optional) = (MemorySpool::new(), MemorySpool::new());
        optional.set(Mode::Full);
        let ingester = ingester(&[("r", &required), ("o", &optional)]);
        assert_eq!(send(&ingester, 0, 10).await.to_string(), "1 by sink o: the spool is full");
        assert_eq!((required.records(), lost(&ingester, "o"), lost(&ingester, "r")), (1, 1, 0));
        assert_eq!((optional.missed(), required.missed()), (1, 0), "counted where it survives a kill");
        // What fails in the background is counted there.
        optional.set(Mode::Hang);
        assert!(send(&ingester, 1, 10).await.is_empty());
        optional.set(Mode::Full);
        tokio::time::sleep(HOLD_TIMEOUT).await;
        assert_eq!(lost(&ingester, "o"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_required_sink_refuses_is_sent_again_and_so_is_not_lost_for_the_others() {
        let (required, optional) = (MemorySpool::new(), MemorySpool::new());
        for mode in [Mode::Full, Mode::Hang] {
            required.set(Mode::Full);
            optional.set(mode);
            let ingester = ingester(&[("r", &required), ("o", &optional)]);
            for _ in 0..10 {
                ingester.append(Protocol::Http, batch(0, MIB)).await.unwrap_err();
            }
            assert_eq!(lost(&ingester, "o"), 0, "{mode:?}");
            optional.set(Mode::Full);
            required.set(Mode::Accepts);
            send(&ingester, 0, MIB).await;
            assert_eq!(lost(&ingester, "o"), 1, "{mode:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_optional_sink_can_ever_accept_is_refused_where_none_is_required() {
        let (a, b, required) = (MemorySpool::new(), MemorySpool::new(), MemorySpool::new());
        a.set(Mode::NeverFits);
        b.set(Mode::NeverFits);
        let only_optional = ingester(&[("o-a", &a), ("o-b", &b)]);
        let refusal = only_optional.append(Protocol::Http, batch(0, 10)).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.message.contains("never fits")), (Refused::TooLarge, true), "{refusal}");
        assert_eq!((lost(&only_optional, "o-a"), lost(&only_optional, "o-b")), (0, 0));
        b.set(Mode::Accepts);
        assert_eq!(send(&only_optional, 0, 10).await.to_string(), "1 by sink o-a: it never fits");
        let with_required = ingester(&[("r", &required), ("o-a", &a)]);
        assert_eq!(send(&with_required, 0, 10).await.to_string(), "1 by sink o-a: it never fits");
    }
}
