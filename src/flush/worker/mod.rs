//! A sink's worker: lease → send → acknowledge, dead-letter, or try again.
//!
//! The loop decides, and tasks do the work: the loop starts a task per batch (up to `max_in_flight`) and waits for the
//! first event: a task's end, a command, a pause's end, new records.
//!
//! - While nothing is accepted there is an *outage*: the loop backs off, then sends one batch as a probe. Every other
//!   probe is a fresh batch, so that a record that makes its server crash does not hide that the server is available
//!   again. If the sink answers, and fails the records by themselves, all probes are fresh and full: later records may
//!   be accepted.
//! - A batch that fails although others are delivered is *held*: it has its own backoff and others may overtake it,
//!   except with `max_in_flight: 1`, which keeps strict order (then only suspects are overtaken: those on which the
//!   sink failed without being unavailable).
//! - Records that failed by name are [tried alone](super::trial) around a fresh record, while others are delivered, and
//!   in turn with them.
//! - A sink that named a time before which it wants no records gets none, from any batch, until then or a command.
//! - If nothing is delivered the state reports it, whatever the reason: failures by name are an outage too, and a sink
//!   that rejects all records is *rejecting*.
//! - Outcomes that the queue cannot record stop new batches until it can: full dead letters pause their sink.

mod check;
mod complete;
mod dispatch;
mod last_flush;

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    FlushOptions, SinkState,
    context::Context,
    due::Due,
    in_flight::InFlightBatch,
    rate_limiter::RateLimiter,
    status::Shared,
    tasks::{TaskResult, Unsettled},
    window::Window,
};
use crate::{
    record::{Stream, UnixMillis},
    sink::SinkError,
    spool::Queue,
};

/// The most batches that are held besides those in flight before the loop stops leasing: this limits its memory.
/// Batches that others may overtake are limited by the bytes of as many full ones.
const MAX_HELD_EXTRA: usize = 4;
/// How long the queue may take to record the batches in flight when the last flush is over.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// A command to a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Stop leasing records.
    Pause,
    /// Lease records again, and end a pause.
    Resume,
    /// Send the backlog, even if no batch is full.
    FlushNow,
}

pub(super) struct Loop {
    context: Context,
    options: FlushOptions,
    shared: Arc<Shared>,
    started: Instant,
    tasks: JoinSet<TaskResult>,
    /// Each task's leases, in case it panics; the oldest first.
    leased: Vec<Leased>,
    held: VecDeque<InFlightBatch>,
    unsettled: Vec<Unsettled>,
    window: Window,
    /// The task that tries suspects alone, if one runs.
    trial: Option<Id>,
    /// No fresh batch was sent since the last trial: one is next.
    trial_was_last: bool,
    rate_limiter: RateLimiter,
    due: Due,
    initialized: bool,
    /// It was initialized, and has loaded what it delivered if it had to: records may be delivered.
    connected: bool,
    /// From when on the sink has loaded what it delivered, see [`Queue::redelivers_since`].
    delivered_loaded_since: Option<UnixMillis>,
    paused: bool,
    /// Set while nothing is accepted.
    outage: Option<Outage>,
    /// A time until which the sink wants no records, and a command sends them nevertheless.
    overridden: Option<Instant>,
    /// When a record was last delivered.
    delivered_at: Option<Instant>,
    /// Records that were rejected since one was delivered, and why the last one was.
    rejecting: Option<(u64, String)>,
    check: Check,
    /// Records that failed while enough was held: still leased, so that later records continue, but not in memory.
    parked: VecDeque<Parked>,
    /// When the last flush has to end.
    deadline: Option<Instant>,
    /// The same while the sink is unavailable or silent.
    deadline_while_unavailable: Option<Instant>,
    /// When the last flush starts its last batch.
    last_batch_at: Option<Instant>,
    /// The last flush failed: what is left stays on disk.
    sends_no_more: bool,
}

/// Records that a task sends.
struct Leased {
    task: Id,
    stream: Stream,
    seqs: Vec<Range<u64>>,
    sent_at: Instant,
}

struct Outage {
    state: SinkState,
    message: String,
    failures: u32,
    retry_at: Instant,
    /// The records may be the reason that nothing is delivered.
    records_are_suspect: bool,
}

struct Parked {
    stream: Stream,
    seqs: Vec<Range<u64>>,
    /// When they are released at the latest.
    until: Instant,
}

/// When the sink's set-up was and will be checked.
#[derive(Default)]
struct Check {
    running: JoinSet<Result<Vec<String>, SinkError>>,
    last: Option<Instant>,
    next: Option<Instant>,
    /// The warnings of the last check.
    warnings: Vec<String>,
}

/// What the loop waits for, besides tasks and commands.
enum Wait {
    /// Nothing else.
    Event,
    /// New records.
    Ready,
    /// A point in time.
    Until(Instant),
}

enum Next {
    Batch(InFlightBatch),
    /// Suspects, and the record to send between them.
    Trial(InFlightBatch, InFlightBatch),
    Wait(Wait),
}

impl Loop {
    pub(super) fn new(context: Context, options: FlushOptions, shared: Arc<Shared>, paused: bool) -> Self {
        Self {
            context,
            window: Window::new(&options),
            rate_limiter: RateLimiter::new(options.max_rate),
            due: Due::new(options.interval),
            options,
            shared,
            started: Instant::now(),
            tasks: JoinSet::new(),
            leased: Vec::new(),
            held: VecDeque::new(),
            unsettled: Vec::new(),
            trial: None,
            trial_was_last: false,
            initialized: false,
            connected: false,
            delivered_loaded_since: None,
            paused,
            outage: None,
            overridden: None,
            delivered_at: None,
            rejecting: None,
            check: Check::default(),
            parked: VecDeque::new(),
            deadline: None,
            deadline_while_unavailable: None,
            last_batch_at: None,
            sends_no_more: false,
        }
    }

    /// Runs until the last flush after `shutdown` is over.
    pub(super) async fn run(mut self, commands: &mut UnboundedReceiver<Command>, shutdown: CancellationToken) {
        let queue = Arc::clone(&self.context.queue);
        let mut commands_open = true;
        // A disk that hangs blocks its readers and writers, but not the shutdown.
        let latest_end = cancelled_for(&shutdown, self.options.shutdown_timeout + SETTLE_TIMEOUT);
        tokio::pin!(latest_end);
        loop {
            let wait = tokio::select! {
                biased;
                wait = self.dispatch() => wait,
                () = &mut latest_end => {
                    self.abandon_hung_calls();
                    break;
                }
            };
            self.publish_status();
            if self.is_over() {
                break;
            }
            let until = match wait {
                Wait::Until(at) => Some(at),
                Wait::Event | Wait::Ready => None,
            };
            let last_batch_at = self.last_batch_at.filter(|_| !self.sends_no_more);
            let until = [until, last_batch_at, self.flush_until(), self.check_at(), self.parked_until()]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                biased; // Commands and the shutdown first: tasks may always be ready.
                () = &mut latest_end => {
                    self.abandon_hung_calls();
                    break;
                }
                () = shutdown.cancelled(), if self.deadline.is_none() => self.begin_last_flush(),
                command = commands.recv(), if commands_open => match command {
                    Some(command) => self.apply(command),
                    None => commands_open = false,
                },
                Some(done) = self.tasks.join_next_with_id() => self.complete_task(done),
                Some(done) = self.check.running.join_next() => self.complete_check(done),
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
                () = any_ready(&*queue), if matches!(wait, Wait::Ready) => {}
            }
        }
        self.end().await;
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Pause => self.paused = true,
            Command::Resume => {
                self.paused = false;
                self.overridden = self.context.sink.not_before();
                self.skip_backoff();
            }
            Command::FlushNow => {
                self.due.force(&*self.context.queue);
                self.overridden = self.context.sink.not_before();
                self.skip_backoff();
            }
        }
    }

    /// Ends all pauses.
    fn skip_backoff(&mut self) {
        if let Some(outage) = &mut self.outage {
            outage.retry_at = Instant::now();
        }
        for batch in &mut self.held {
            batch.not_before = None;
        }
        for parked in &mut self.parked {
            parked.until = Instant::now();
        }
    }

    fn publish_status(&self) {
        #[cfg(test)]
        {
            let in_flight =
                self.leased.iter().flat_map(|leased| &leased.seqs).map(|seqs| (seqs.end - seqs.start) as usize);
            let held = self.held.iter().map(|batch| batch.records.len());
            self.shared.in_memory.store(in_flight.chain(held).sum(), std::sync::atomic::Ordering::Relaxed);
        }
        let (in_flight, batch_records) = (self.leased.len(), self.window.limit().records);
        self.shared.update(|status| {
            status.figures.in_flight = in_flight as u64;
            status.figures.batch_records = batch_records as u64;
        });
        let rejecting = self.rejecting.as_ref().map(|(records, reason)| {
            format!("nothing is accepted: the last {records} records were rejected, the last one for: {reason}")
        });
        let (state, error) = match &self.outage {
            _ if self.deadline.is_some() => (SinkState::Stopping, None),
            _ if self.paused => (SinkState::Paused, None),
            Some(outage) => (outage.state, Some(outage.message.as_str())),
            None if !self.connected => (SinkState::Connecting, None),
            None if self.rejecting.is_some() => (SinkState::Rejecting, rejecting.as_deref()),
            // While it delivers it loads again what it delivered, for example when what was redelivered is done.
            None if in_flight > 0 || self.has_to_load_delivered() => (SinkState::Delivering, None),
            None => (SinkState::Idle, None),
        };
        self.shared.enter(state, error);
    }
}

/// Returns this long after a token was cancelled.
async fn cancelled_for(token: &CancellationToken, time: Duration) {
    token.cancelled().await;
    tokio::time::sleep(time).await;
}

/// Returns when any stream has records to lease.
async fn any_ready(queue: &dyn Queue) {
    let [a, b, c] = Stream::ALL;
    tokio::select! {
        biased;
        () = queue.ready(a) => {}
        () = queue.ready(b) => {}
        () = queue.ready(c) => {}
    }
}
