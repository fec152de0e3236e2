//! Real LiveKit records without a LiveKit server: what livekit-server 1.11 sent while clients were in seven rooms, replayed
//! with new ids and times of the last minutes through the real gRPC port.
//!
//! Uses `ingest`, `record`.

mod playback;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use rand::Rng;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::{Code, Status};

pub use self::playback::{Playback, Tagged, restamp};
use crate::{
    ingest::{Dropped, client::Client},
    record::{RecordBatch, RecordBatchBuilder, Stream, now_millis},
};

/// Default rate, records per second.
pub const DEFAULT_RATE: u32 = 100;
/// With a rate, groups of records are sent at this interval.
const GROUP_INTERVAL: Duration = Duration::from_millis(100);
/// Without a rate, groups of this many records are sent.
const GROUP_RECORDS: usize = 1000;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Progress of a sender.
#[derive(Debug, Default)]
pub struct Progress {
    acknowledged: AtomicU64,
    retries: AtomicU64,
    dropped: Mutex<Dropped>,
}

impl Progress {
    /// Records that the receiver answered OK: it has them durably, except those that it dropped.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }

    /// Batches that had to be sent again.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    /// Acknowledged records that a sink of the receiver did not keep.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.dropped.lock().clone()
    }

    fn add(&self, batch: &RecordBatch, dropped: Dropped) {
        self.acknowledged.fetch_add(u64::from(batch.count()), Relaxed);
        if dropped.is_empty() {
            return;
        }
        let mut all = self.dropped.lock();
        if all.is_empty() {
            tracing::warn!("acknowledged, but not all records are kept: dropped {dropped}");
        }
        all.merge(dropped);
    }
}

/// Sends records until there are no more, `rate` per second (0: as fast as they are acknowledged). Records that are refused
/// temporarily are sent again, with the same ids, until they are accepted.
///
/// # Errors
/// When records are refused for good.
pub async fn send(
    client: &Client,
    mut records: impl Iterator<Item = Tagged>,
    rate: u32,
    progress: &Progress,
) -> Result<(), Status> {
    let mut ticks = interval(GROUP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due = 0.0;
    loop {
        let wanted = if rate == 0 {
            GROUP_RECORDS
        } else {
            ticks.tick().await;
            due += f64::from(rate) * GROUP_INTERVAL.as_secs_f64();
            let whole = due.floor();
            due -= whole;
            whole as usize
        };
        let mut batches = Stream::ALL.map(RecordBatchBuilder::new);
        let mut accepted = 0;
        for (stream, record) in records.by_ref().take(wanted) {
            batches[stream as usize].push(&record);
            accepted += 1;
        }
        let batches: Vec<_> =
            batches.into_iter().filter(|batch| !batch.is_empty()).map(|batch| batch.build(now_millis())).collect();
        let sent = batches.iter().map(|batch| send_until_accepted(client, batch, progress));
        futures::future::try_join_all(sent).await?;
        if accepted < wanted {
            return Ok(());
        }
    }
}

async fn send_until_accepted(client: &Client, batch: &RecordBatch, progress: &Progress) -> Result<(), Status> {
    let mut pause = RETRY_FIRST;
    loop {
        // One event per message, as LiveKit sends them.
        match client.send(batch, 1).await {
            Ok(dropped) => {
                progress.add(batch, dropped);
                return Ok(());
            }
            Err(status) if is_for_the_moment(&status) => {
                if progress.retries.fetch_add(1, Relaxed) == 0 {
                    tracing::warn!(
                        code = ?status.code(),
                        why = status.message(),
                        "records were not accepted yet: sending them again"
                    );
                }
            }
            Err(status) => return Err(status),
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(jittered).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// The codes of a broken connection, and of a receiver that is full, restarting or slow.
fn is_for_the_moment(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
    )
}

/// Sends the bundled records to a server until `shutdown`, again and again; calls `on_round` when it has them all once.
///
/// # Errors
/// When the server refuses them for good, for example because of wrong credentials.
pub async fn run(
    client: &Client,
    rate: u32,
    on_round: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Status> {
    let (mut playback, progress) = (Playback::new(), Progress::default());
    let sending = async {
        let round = playback.round();
        send(client, playback.by_ref().take(round), rate, &progress).await?;
        on_round();
        send(client, playback, rate, &progress).await
    };
    tokio::select! {
        sent = sending => sent,
        () = shutdown => Ok(()),
    }
}
