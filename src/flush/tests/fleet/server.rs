//! A server that all forwarders of a fleet share, as a queueing model in virtual time.
//!
//! - Batches are processed one by one, in order of arrival. A batch costs its documents and a fixed overhead.
//! - It thrashes: where more than `knee` batches wait, its rate falls with their number, to a fifth.
//! - A batch whose client stopped waiting still costs the same, unless the server `cancels` and has not begun it yet.
//! - During an outage it refuses connections; during a stall it accepts batches and does nothing.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::sink::{Batch, BatchOutcome, Outcome, Sink, SinkError, SinkErrorKind};

/// The part of its rate that a thrashing server keeps.
const MIN_EFFICIENCY: f64 = 0.2;

/// The server's capabilities.
#[derive(Debug, Clone)]
pub(super) struct ServerOptions {
    /// Documents a second, in total.
    pub(super) rate: f64,
    /// What a batch costs besides its documents, in documents.
    pub(super) overhead: f64,
    /// The number of waiting batches beyond which it thrashes.
    pub(super) knee: usize,
    /// True if it skips batches whose client stopped waiting.
    pub(super) cancels: bool,
    /// The latency that each answer has in addition, whatever the load.
    pub(super) constant: Duration,
    /// Connections are refused until this time since the start.
    pub(super) down_until: Duration,
    /// When it does nothing, since the start.
    pub(super) stall: Range<Duration>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            rate: 20_000.0,
            overhead: 20.0,
            knee: 256,
            cancels: false,
            constant: Duration::from_millis(2),
            down_until: Duration::from_secs(120),
            stall: Duration::MAX..Duration::MAX,
        }
    }
}

impl ServerOptions {
    /// Documents that it can accept in some time, in batches of `records`.
    pub(super) fn capacity(&self, records: usize, time: Duration) -> f64 {
        let working = time - self.stall.end.saturating_sub(self.stall.start);
        working.as_secs_f64() * self.rate * records as f64 / (records as f64 + self.overhead)
    }
}

/// The server.
pub(super) struct Server {
    pub(super) options: ServerOptions,
    began: Instant,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    /// The most batches that waited at once.
    max_waiting: usize,
}

struct Request {
    documents: usize,
    answer: oneshot::Sender<()>,
}

impl Server {
    /// Starts a server that runs until the runtime ends.
    pub(super) fn start(options: ServerOptions) -> Arc<Self> {
        let server = Arc::new(Self { options, began: Instant::now(), state: Mutex::default(), arrived: Notify::new() });
        tokio::spawn(Arc::clone(&server).work());
        server
    }

    pub(super) fn max_waiting(&self) -> usize {
        self.state.lock().max_waiting
    }

    async fn work(self: Arc<Self>) {
        // The exact time up to which work is done, since the start; the clock's sleeps are whole milliseconds.
        let mut done = Duration::ZERO;
        loop {
            let (next, waiting) = {
                let mut state = self.state.lock();
                (state.waiting.pop_front(), state.waiting.len() + 1)
            };
            let Some(Request { documents, answer }) = next else {
                self.arrived.notified().await;
                done = done.max(self.began.elapsed());
                continue;
            };
            if self.options.stall.contains(&done) {
                done = self.options.stall.end;
                tokio::time::sleep_until(self.began + done).await;
            }
            let documents = if self.options.cancels && answer.is_closed() { 0 } else { documents };
            let efficiency = (self.options.knee as f64 / waiting as f64).clamp(MIN_EFFICIENCY, 1.0);
            let cost = (documents as f64 + self.options.overhead) / (self.options.rate * efficiency);
            done += Duration::from_secs_f64(cost);
            tokio::time::sleep_until(self.began + done).await;
            let _ = answer.send(());
        }
    }

    fn is_down(&self) -> bool {
        self.began.elapsed() < self.options.down_until
    }
}

/// One forwarder's connection to the server.
pub(super) struct Connection(pub(super) Arc<Server>);

fn refused() -> SinkError {
    SinkError { kind: SinkErrorKind::Unavailable, message: "connection refused".to_owned() }
}

#[async_trait]
impl Sink for Connection {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn address(&self) -> String {
        "the server".to_owned()
    }

    async fn initialize(&self) -> Result<Vec<String>, SinkError> {
        tokio::time::sleep(self.0.options.constant).await;
        if self.0.is_down() { Err(refused()) } else { Ok(Vec::new()) }
    }

    async fn send_batch(&self, batch: Batch) -> BatchOutcome {
        let records = batch.records.len();
        tokio::time::sleep(self.0.options.constant).await;
        if self.0.is_down() {
            return BatchOutcome { records: vec![Outcome::Retry; records], error: Some(refused()) };
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            state.waiting.push_back(Request { documents: records, answer });
            state.max_waiting = state.max_waiting.max(state.waiting.len());
        }
        self.0.arrived.notify_one();
        answered.await.expect("the server answers");
        BatchOutcome { records: vec![Outcome::Delivered; records], error: None }
    }
}
