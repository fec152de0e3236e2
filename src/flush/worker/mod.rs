//! A sink's worker: lease → send → acknowledge, dead-letter, or try again.
//!
//! One loop decides, tasks do: the loop starts a task per batch (up to `max_in_flight`) and waits for what happens
//! first: a task's end, a command, a pause's end, new records.
//!
//! - While nothing is accepted there is an *outage*: the loop backs off, then sends one batch as a probe. Each other
//!   probe is a fresh one, so that a record that makes its server crash does not hide that the server is back. Where the
//!   sink answers, and fails on the records by themselves, all are fresh and full: perhaps others pass behind them.
//! - A batch that fails although others are delivered is *held*: it has its own backoff and the others go past it, except
//!   with `max_in_flight: 1`, which keeps strict order (then only suspects are overtaken: those that the sink failed on
//!   without being unavailable).
//! - Records that failed by name are [tried alone](super::trial) around a fresh one, as others pass, and in turn with them.
//! - Where nothing passes the state says so, whatever the reason: what fails by name is an outage too, and a sink that
//!   rejects all is *rejecting*.
//! - What the queue will not record stops new batches until it does: full dead letters pause their sink.

mod check;
mod complete;
mod dispatch;

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
    in_flight::{InFlightBatch, ranges},
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

/// Batches that are held beyond those in flight before the loop stops taking new ones: what bounds its memory. Those that
/// others go past are bounded by the bytes of as many full ones.
const MAX_HELD_EXTRA: usize = 4;
/// How long closing a sink may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the queue may take to record what was in flight when the last flush was over.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a worker is told from outside.
#[derive(Debug)]
pub(super) enum Command {
    /// Stop taking records.
    Pause,
    /// Take records again, without waiting out a pause.
    Resume,
    /// Send what waits, full batch or not.
    FlushNow,
}

pub(super) struct Loop {
    context: Context,
    options: FlushOptions,
    shared: Arc<Shared>,
    started: Instant,
    tasks: JoinSet<TaskResult>,
    /// What each task has leased, should it panic.
    leased: Vec<(Id, Stream, Vec<Range<u64>>)>,
    held: VecDeque<InFlightBatch>,
    unsettled: Vec<Unsettled>,
    window: Window,
    /// Suspects are being tried alone, by this task.
    trial: Option<Id>,
    /// They were since a fresh batch went out: that one is next.
    trial_was_last: bool,
    rate_limiter: RateLimiter,
    due: Due,
    initialized: bool,
    /// How far the sink has looked back, see [`Queue::redelivers_since`].
    looked_back: Option<UnixMillis>,
    paused: bool,
    /// Set while nothing is accepted.
    outage: Option<Outage>,
    /// When a record was delivered last.
    delivered_at: Option<Instant>,
    /// Records that were rejected since one was delivered, and why the last one was.
    rejecting: Option<(u64, String)>,
    check: Check,
    /// Records that failed while enough was held: still leased, so that those behind them go on, but not in memory.
    parked: VecDeque<Parked>,
    /// When the last flush has to end.
    deadline: Option<Instant>,
    /// The last flush failed: what is left stays on disk.
    gave_up: bool,
}

struct Outage {
    state: SinkState,
    message: String,
    failures: u32,
    retry_at: Instant,
    /// It is perhaps the records' fault that nothing passes.
    records_are_suspect: bool,
}

struct Parked {
    stream: Stream,
    seqs: Vec<Range<u64>>,
    /// When they go back to the queue at the latest.
    until: Instant,
}

/// When what the sink set up was and will be checked.
#[derive(Default)]
struct Check {
    running: JoinSet<Result<Vec<String>, SinkError>>,
    last: Option<Instant>,
    next: Option<Instant>,
    /// What the last look warned of.
    warnings: Vec<String>,
}

/// What the loop waits for, besides tasks and commands.
enum Wait {
    /// Nothing else.
    Event,
    /// New records.
    Ready,
    /// A moment.
    Until(Instant),
}

enum Next {
    Batch(InFlightBatch),
    /// Suspects, and the record to be sent between them.
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
            looked_back: None,
            paused,
            outage: None,
            delivered_at: None,
            rejecting: None,
            check: Check::default(),
            parked: VecDeque::new(),
            deadline: None,
            gave_up: false,
        }
    }

    /// Runs until the last flush after `shutdown` is over.
    pub(super) async fn run(mut self, commands: &mut UnboundedReceiver<Command>, shutdown: CancellationToken) {
        let queue = Arc::clone(&self.context.queue);
        let mut commands_open = true;
        // A disk that hangs holds up whoever reads or writes it, but not the end.
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
            let until = [until, self.deadline, self.check_at(), self.parked_until()].into_iter().flatten().min();
            tokio::select! {
                biased; // Commands and the end come first: tasks may always be ready.
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
                self.skip_backoff();
            }
            Command::FlushNow => {
                self.due.force(&*self.context.queue);
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

    fn begin_last_flush(&mut self) {
        self.deadline = Some(Instant::now() + self.options.shutdown_timeout);
        self.gave_up = self.paused;
        self.skip_backoff();
    }

    /// True when the last flush is over. Past its deadline it cancels what is in flight, and waits for that.
    fn is_over(&mut self) -> bool {
        let Some(deadline) = self.deadline else { return false };
        if Instant::now() >= deadline {
            self.gave_up = true;
            self.context.cancel.cancel();
            self.deadline = Some(Instant::now() + SETTLE_TIMEOUT);
        }
        let queue = &*self.context.queue;
        let nothing_left = self.held.is_empty()
            && self.parked.is_empty()
            && self.leased.is_empty()
            && self.unsettled.is_empty()
            && self.due.is_empty(queue);
        if nothing_left {
            // A connection attempt may still be in flight; nobody needs it now.
            self.context.cancel.cancel();
        }
        self.tasks.is_empty() && (self.gave_up || nothing_left)
    }

    /// Waits no longer for the queue: what is in flight comes again, unless the queue still records it.
    fn abandon_hung_calls(&mut self) {
        self.record_error(
            "the spool's disk does not answer: what was in flight is delivered again after the next start",
        );
        self.context.cancel.cancel();
        self.tasks.abort_all();
        for (_, stream, seqs) in self.leased.drain(..) {
            self.context.queue.release(stream, &seqs);
        }
    }

    /// Releases what is left, and closes the sink.
    async fn end(mut self) {
        self.check.running.abort_all();
        for batch in self.held.drain(..) {
            self.context.queue.release(batch.stream, &batch.seqs());
        }
        for parked in self.parked.drain(..) {
            self.context.queue.release(parked.stream, &parked.seqs);
        }
        for Unsettled { stream, acknowledged, rejections } in self.unsettled.drain(..) {
            let rejected = ranges(rejections.iter().map(|rejection| rejection.record.seq));
            self.context.queue.release(stream, &acknowledged);
            self.context.queue.release(stream, &rejected);
        }
        if tokio::time::timeout(CLOSE_TIMEOUT, self.context.sink.close()).await.is_err() {
            self.record_error("closing the sink took too long");
        }
        self.shared.update(|status| status.in_flight = 0);
        self.shared.enter(SinkState::Stopped, None);
    }

    fn publish_status(&self) {
        #[cfg(test)]
        {
            let in_flight = self.leased.iter().flat_map(|(.., seqs)| seqs).map(|seqs| (seqs.end - seqs.start) as usize);
            let held = self.held.iter().map(|batch| batch.records.len());
            self.shared.in_memory.store(in_flight.chain(held).sum(), std::sync::atomic::Ordering::Relaxed);
        }
        let (in_flight, batch_records) = (self.leased.len(), self.window.limit().records);
        self.shared.update(|status| {
            status.in_flight = in_flight;
            status.batch_records = batch_records;
        });
        let rejecting = self.rejecting.as_ref().map(|(records, reason)| {
            format!("nothing passes: the last {records} records were rejected, the last one for: {reason}")
        });
        let (state, error) = match &self.outage {
            _ if self.deadline.is_some() => (SinkState::Stopping, None),
            _ if self.paused => (SinkState::Paused, None),
            Some(outage) => (outage.state, Some(outage.message.as_str())),
            None if !self.initialized || self.has_to_look_back() => (SinkState::Connecting, None),
            None if self.rejecting.is_some() => (SinkState::Rejecting, rejecting.as_deref()),
            None if in_flight > 0 => (SinkState::Delivering, None),
            None => (SinkState::Idle, None),
        };
        self.shared.enter(state, error);
    }
}

/// Returns so long after a token was cancelled.
async fn cancelled_for(token: &CancellationToken, time: Duration) {
    token.cancelled().await;
    tokio::time::sleep(time).await;
}

/// Returns when any stream has records to hand out.
async fn any_ready(queue: &dyn Queue) {
    let [a, b, c] = Stream::ALL;
    tokio::select! {
        biased;
        () = queue.ready(a) => {}
        () = queue.ready(b) => {}
        () = queue.ready(c) => {}
    }
}
