//! A sink's worker: lease → send → acknowledge, set aside, or try again.
//!
//! One loop decides, tasks do: the loop starts a task per parcel (up to `max_in_flight`) and waits for what happens
//! first: a task's end, a command, a pause's end, new records.
//!
//! - While nothing passes the sink is *away*: the loop backs off, then sends one parcel as a probe. Each other probe
//!   is a fresh one, so that a record that makes its server fall over does not hide that the server is back.
//! - A parcel that fails although others pass is *held*: it has its own backoff and the others go past it, except
//!   with `max_in_flight: 1`, which keeps strict order (then only suspects are passed, see `deliver`).
//! - What the queue will not take note of stops new batches until it does: full dead letters pause their sink.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    FlushOptions, FlushState, backoff,
    batch::BatchSize,
    due::Due,
    handle::Command,
    pace::Pace,
    parcel::Parcel,
    status::Shared,
    tasks::{Done, Sent, Tools, Unsettled, count_retries, initialize, panicked, send, settle},
};
use crate::{
    record::{Stream, now_millis},
    sink::SinkErrorKind,
    spool::{LeaseLimit, QueueError},
};

/// Parcels that are held beyond those in flight before the loop stops taking new ones: what bounds its memory.
const HELD_BESIDES: usize = 4;
/// How long closing a sink may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Loop {
    tools: Tools,
    options: FlushOptions,
    shared: Arc<Shared>,
    started: Instant,
    tasks: JoinSet<Done>,
    /// What each task has leased, should it panic.
    leased: HashMap<Id, (Stream, Vec<Range<u64>>)>,
    held: VecDeque<Parcel>,
    unsettled: Vec<Unsettled>,
    size: BatchSize,
    pace: Pace,
    due: Due,
    initialized: bool,
    paused: bool,
    /// Set while nothing passes.
    trouble: Option<Trouble>,
    /// When the last flush has to end.
    deadline: Option<Instant>,
    /// The last flush met trouble: what is left stays on disk.
    gave_up: bool,
}

struct Trouble {
    state: FlushState,
    message: String,
    failures: u32,
    retry_at: Instant,
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
    Parcel(Parcel),
    Wait(Wait),
}

impl Loop {
    pub(super) fn new(tools: Tools, options: FlushOptions, shared: Arc<Shared>) -> Self {
        Self {
            tools,
            size: BatchSize::new(&options),
            pace: Pace::new(options.max_rate),
            due: Due::new(options.interval),
            options,
            shared,
            started: Instant::now(),
            tasks: JoinSet::new(),
            leased: HashMap::new(),
            held: VecDeque::new(),
            unsettled: Vec::new(),
            initialized: false,
            paused: false,
            trouble: None,
            deadline: None,
            gave_up: false,
        }
    }

    /// Runs until the last flush after `shutdown` is over.
    pub(super) async fn run(mut self, mut commands: UnboundedReceiver<Command>, shutdown: CancellationToken) {
        let queue = Arc::clone(&self.tools.queue);
        let mut commands_open = true;
        loop {
            let wait = self.launch().await;
            self.show();
            if self.is_over() {
                break;
            }
            let until = match wait {
                Wait::Until(at) => Some(at),
                Wait::Event | Wait::Ready => None,
            };
            let until = [until, self.deadline].into_iter().flatten().min();
            tokio::select! {
                Some(done) = self.tasks.join_next_with_id() => self.finish_task(done),
                command = commands.recv(), if commands_open => match command {
                    Some(command) => self.obey(command),
                    None => commands_open = false,
                },
                () = shutdown.cancelled(), if self.deadline.is_none() => self.begin_last_flush(),
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
                () = any_ready(&*queue), if matches!(wait, Wait::Ready) => {}
            }
        }
        self.end().await;
    }

    /// Starts what may start now; tells what to wait for.
    async fn launch(&mut self) -> Wait {
        loop {
            if self.paused || self.gave_up || self.tools.cut.is_cancelled() {
                return Wait::Event;
            }
            let now = Instant::now();
            if let Some(trouble) = &self.trouble
                && trouble.retry_at > now
            {
                return Wait::Until(trouble.retry_at);
            }
            if !self.settle_the_unsettled().await {
                continue;
            }
            if !self.initialized {
                if self.tasks.is_empty() {
                    self.tasks.spawn(initialize(self.tools.clone()));
                }
                return Wait::Event;
            }
            let places = if self.trouble.is_some() { 1 } else { self.options.max_in_flight.max(1) };
            if self.tasks.len() >= places {
                return Wait::Event;
            }
            let pause = self.pace.wait(now - self.started);
            if !pause.is_zero() {
                return Wait::Until(now + pause);
            }
            match self.next_parcel(now).await {
                Next::Parcel(parcel) => self.send(parcel),
                Next::Wait(wait) => return wait,
            }
        }
    }

    fn send(&mut self, parcel: Parcel) {
        self.pace.spend(parcel.records.len());
        let lease = (parcel.stream, parcel.ordinals());
        let task = self.tasks.spawn(send(self.tools.clone(), parcel));
        self.leased.insert(task.id(), lease);
    }

    /// The next records to try: held ones whose time has come, else fresh ones.
    async fn next_parcel(&mut self, now: Instant) -> Next {
        let limit = self.limit();
        let strict = self.options.max_in_flight <= 1;
        let fresh_probe = !strict && self.trouble.as_ref().is_some_and(|trouble| trouble.failures % 2 == 1);
        let room = self.held.len() < self.options.max_in_flight + HELD_BESIDES;
        let blocked = strict && self.held.iter().any(|parcel| parcel.suspect.is_none());
        let held = self.held.iter().position(|parcel| parcel.is_due(now));
        let mut wait = Wait::Event;
        if room && !blocked && (fresh_probe || held.is_none()) {
            match self.lease(now, limit).await {
                Next::Wait(later) => wait = later,
                parcel @ Next::Parcel(_) => return parcel,
            }
        }
        if let Some(mut parcel) = held.and_then(|i| self.held.remove(i)) {
            if let Some(rest) = parcel.split_off(limit.records) {
                self.held.push_front(rest);
            }
            return Next::Parcel(parcel);
        }
        match (self.held.iter().filter_map(|parcel| parcel.not_before).min(), wait) {
            (Some(at), Wait::Until(other)) => Next::Wait(Wait::Until(at.min(other))),
            (Some(at), Wait::Ready) => Next::Wait(Wait::Until(at.min(now + self.due.tick()))),
            (Some(at), Wait::Event) => Next::Wait(Wait::Until(at)),
            (None, wait) => Next::Wait(wait),
        }
    }

    fn limit(&self) -> LeaseLimit {
        let limit = self.size.limit();
        LeaseLimit { records: limit.records.min(self.pace.at_most()), ..limit }
    }

    /// Leases a fresh parcel, if one is due; the streams take turns.
    async fn lease(&mut self, now: Instant, limit: LeaseLimit) -> Next {
        let flushing = self.deadline.is_some();
        let Some(stream) = self.due.next(&*self.tools.queue, now, limit, flushing) else {
            return Next::Wait(self.due.next_look(now).map_or(Wait::Ready, Wait::Until));
        };
        let queue = Arc::clone(&self.tools.queue);
        let leased = tokio::task::spawn_blocking(move || queue.lease(stream, limit)).await;
        match leased.unwrap_or_else(|panic| Err(panicked(&panic))) {
            Ok(Some(lease)) if !lease.records.is_empty() => {
                self.due.taken(stream, lease.records.len());
                Next::Parcel(lease.into())
            }
            Ok(_) => Next::Wait(Wait::Until(now + self.due.tick())),
            Err(error) => {
                self.fail(FlushState::SpoolFailed, error.to_string());
                Next::Wait(self.trouble.as_ref().map_or(Wait::Event, |trouble| Wait::Until(trouble.retry_at)))
            }
        }
    }

    /// Tells the queue again of outcomes it would not take; false where it still does not.
    async fn settle_the_unsettled(&mut self) -> bool {
        while let Some(outcomes) = self.unsettled.pop() {
            if let Err(refused) = settle(Arc::clone(&self.tools.queue), outcomes).await {
                let (outcomes, error) = *refused;
                self.unsettled.push(outcomes);
                self.fail_to_settle(&error);
                return false;
            }
            if self.unsettled.is_empty() {
                self.trouble = None;
            }
        }
        true
    }

    fn finish_task(&mut self, done: Result<(Id, Done), JoinError>) {
        match done {
            Ok((_, Done::Initialized(Ok(warnings)))) => {
                for warning in warnings {
                    tracing::warn!(sink = %self.shared.snapshot().sink, "{warning}");
                }
                self.initialized = true;
                self.trouble = None;
            }
            Ok((_, Done::Initialized(Err(error)))) => self.fail(error.kind.into(), error.message),
            Ok((id, Done::Sent(sent))) => {
                self.leased.remove(&id);
                self.finish_parcel(*sent);
            }
            Err(panic) => {
                if let Some((stream, ordinals)) = self.leased.remove(&panic.id()) {
                    self.tools.queue.give_back(stream, &ordinals);
                }
                self.fail(FlushState::Away, format!("the sink's code failed: {panic}"));
            }
        }
    }

    fn finish_parcel(&mut self, mut sent: Sent) {
        self.shared.update(|status| {
            status.batches += sent.batches;
            status.delivered_records += sent.delivered;
            status.delivered_bytes += sent.delivered_bytes;
            status.rejected_records += sent.rejected;
            count_retries(&mut status.retried_records, &sent);
            if sent.delivered > 0 {
                status.lag_millis = sent.lag_millis.or(status.lag_millis);
                status.last_delivery_at = Some(now_millis());
            }
        });
        let passed = sent.delivered + sent.rejected > 0;
        if passed && self.unsettled.is_empty() {
            self.trouble = None;
        }
        let leftover = sent.leftover.take();
        if let Some(parcel) = leftover {
            let error = sent.error.take();
            let kind = error.as_ref().map_or(SinkErrorKind::Unavailable, |error| error.kind);
            self.hold(parcel, kind, error.map(|error| error.message).unwrap_or_default(), sent.passes, passed);
        } else if passed {
            self.size.taken();
        }
        if let Some((outcomes, error)) = sent.unsettled {
            self.unsettled.push(outcomes);
            self.fail_to_settle(&error);
        }
    }

    /// Keeps what is to be tried again, and backs off where nothing passed.
    fn hold(&mut self, mut parcel: Parcel, kind: SinkErrorKind, message: String, passes: u64, passed: bool) {
        if kind == SinkErrorKind::Timeout {
            self.size.timed_out(parcel.records.len());
        }
        let others_passed = parcel.passes.replace(passes).is_some_and(|then| then < passes);
        if kind == SinkErrorKind::Unnamed {
            parcel.suspect.get_or_insert(passes);
        }
        parcel.not_before = Some(Instant::now() + self.pause(parcel.attempts));
        self.note_error(&message);
        let unnamed = kind == SinkErrorKind::Unnamed;
        let room = self.held.len() + 1 < self.options.max_in_flight + HELD_BESIDES;
        if passed || others_passed || (unnamed && room && self.deadline.is_none()) {
            self.held.push_back(parcel);
        } else {
            // The probe decides when to come back: no pause of the parcel's own on top of it.
            parcel.not_before = None;
            self.held.push_front(parcel);
            self.fail(kind.into(), message);
        }
    }

    fn fail_to_settle(&mut self, error: &QueueError) {
        let state = match error {
            QueueError::DeadLettersFull { .. } => FlushState::DeadLettersFull,
            QueueError::Io { .. } | QueueError::NoKey { .. } => FlushState::SpoolFailed,
        };
        self.fail(state, error.to_string());
    }

    /// Backs off; failures of batches that were under way together count once.
    fn fail(&mut self, state: FlushState, message: String) {
        self.note_error(&message);
        self.gave_up |= self.deadline.is_some();
        let now = Instant::now();
        let failures = match &self.trouble {
            Some(trouble) if trouble.retry_at > now => return,
            Some(trouble) => trouble.failures + 1,
            None => 1,
        };
        let retry_at = now + self.pause(failures);
        self.trouble = Some(Trouble { state, message, failures, retry_at });
    }

    fn note_error(&self, message: &str) {
        self.shared.update(|status| {
            status.last_error = Some(message.to_owned());
            status.last_error_at = Some(now_millis());
        });
    }

    fn pause(&self, failures: u32) -> Duration {
        backoff::pause(self.options.backoff, failures, rand::random())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Pause => self.paused = true,
            Command::Resume => {
                self.paused = false;
                self.hurry();
            }
            Command::FlushNow => {
                self.due.force(&*self.tools.queue);
                self.hurry();
            }
        }
    }

    /// Ends all pauses.
    fn hurry(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.retry_at = Instant::now();
        }
        for parcel in &mut self.held {
            parcel.not_before = None;
        }
    }

    fn begin_last_flush(&mut self) {
        self.deadline = Some(Instant::now() + self.options.shutdown_timeout);
        self.gave_up = self.paused;
        self.hurry();
    }

    /// True when the last flush is over. Past its deadline it cuts what is under way short, and waits for that.
    fn is_over(&mut self) -> bool {
        let Some(deadline) = self.deadline else { return false };
        if Instant::now() >= deadline {
            self.gave_up = true;
            self.tools.cut.cancel();
            self.deadline = Some(Instant::now() + CLOSE_TIMEOUT);
        }
        let queue = &*self.tools.queue;
        let nothing_left =
            self.held.is_empty() && self.leased.is_empty() && self.unsettled.is_empty() && self.due.is_empty(queue);
        if nothing_left {
            // A connection attempt may still be under way; nobody needs it now.
            self.tools.cut.cancel();
        }
        self.tasks.is_empty() && (self.gave_up || nothing_left)
    }

    /// Gives back what is left, and closes the sink.
    async fn end(mut self) {
        for parcel in self.held.drain(..) {
            self.tools.queue.give_back(parcel.stream, &parcel.ordinals());
        }
        for Unsettled { stream, acknowledged, rejections } in self.unsettled.drain(..) {
            let rejected = super::parcel::ranges(rejections.iter().map(|rejection| rejection.record.ordinal));
            self.tools.queue.give_back(stream, &acknowledged);
            self.tools.queue.give_back(stream, &rejected);
        }
        if tokio::time::timeout(CLOSE_TIMEOUT, self.tools.sink.close()).await.is_err() {
            self.note_error("closing the sink took too long");
        }
        self.shared.update(|status| status.in_flight = 0);
        self.shared.enter(FlushState::Stopped, None);
    }

    fn show(&self) {
        let (in_flight, batch_records) = (self.leased.len(), self.size.limit().records);
        self.shared.update(|status| {
            status.in_flight = in_flight;
            status.batch_records = batch_records;
        });
        let (state, error) = match &self.trouble {
            _ if self.deadline.is_some() => (FlushState::Stopping, None),
            _ if self.paused => (FlushState::Paused, None),
            Some(trouble) => (trouble.state, Some(trouble.message.as_str())),
            None if !self.initialized => (FlushState::Connecting, None),
            None if in_flight > 0 => (FlushState::Delivering, None),
            None => (FlushState::Idle, None),
        };
        self.shared.enter(state, error);
    }
}

/// Returns when any stream has records to hand out.
async fn any_ready(queue: &dyn crate::spool::Queue) {
    let [a, b, c] = Stream::ALL;
    tokio::select! {
        () = queue.ready(a) => {}
        () = queue.ready(b) => {}
        () = queue.ready(c) => {}
    }
}
