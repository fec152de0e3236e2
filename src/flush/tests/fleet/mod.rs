//! A fleet after an outage: real workers with a backlog each reconnect to one server, in virtual time and one thread.
//!
//! Measured: documents delivered of what the server can accept, documents that timed out of those delivered, and what
//! the slowest forwarder delivered relative to the mean once the fleet was settled. Before there was a window (full
//! batches, two in flight, shrunk by timeouts only), and with it:
//!
//! ```text
//! forwarders, server     before                 now
//!    20,  2,000/s        1.00   0      0.97     0.99  0     0.93
//!   200,  2,000/s        0.02  11.6    0        0.98  0     0.93
//!    20, 20,000/s        1.00   0      0.99     0.99  0     0.97
//!   200, 20,000/s        0.60   0.19   0.38     0.98  0     0.95
//!   500, 20,000/s        0.05   5.3    0        0.50  0     0.99
//!   500, 100,000/s       1.00   0      0.68     0.99  0     0.95
//!   200, 20,000/s, stalls for 20 s
//!                        0.52   0.30   0.45     0.98  0     0.95
//!   200, 20,000/s, stalls for 60 s
//!                        0.46   0.27   0.16     0.94  0.02  0.97
//! ```
//!
//! Each forwarder has at least one batch in flight, so 500 of them always exceed the 256 batches beyond which this
//! server thrashes: that costs it half of its rate, and nothing times out.

mod backlog;
mod server;

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    backlog::Backlog,
    server::{Connection, Server, ServerOptions},
};
use crate::{
    flush::{FlushOptions, Handle, Worker, environment::Environment},
    record::SinkName,
};

/// A fleet and its server.
#[derive(Debug, Clone)]
struct Scenario {
    forwarders: usize,
    /// The backlog of each; the first one may have a different one.
    backlog: u64,
    first_backlog: Option<u64>,
    server: ServerOptions,
    flush: FlushOptions,
    /// From the end of the outage: when shares must be equal, and when the run ends.
    settled: Duration,
    watched: Duration,
    seed: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            forwarders: 200,
            backlog: 10_000_000,
            first_backlog: None,
            server: ServerOptions::default(),
            flush: FlushOptions::default(),
            settled: seconds(60),
            watched: seconds(180),
            seed: 1,
        }
    }
}

/// The result.
#[derive(Debug, PartialEq)]
struct Report {
    /// Documents delivered, of what the server can accept in that time in full batches.
    goodput: f64,
    /// Documents in batches that timed out, of those delivered.
    timed_out: f64,
    /// The least that a forwarder with a backlog delivered since the fleet was settled, relative to the mean; at each
    /// checkpoint.
    slowest: Vec<f64>,
    /// The most batches that waited at the server.
    max_waiting: usize,
}

impl Report {
    /// Asserts what the issue requires.
    fn check(&self) {
        assert!(self.goodput >= 0.9, "{self:?}");
        assert!(self.timed_out <= 0.05, "{self:?}");
        assert!(!self.slowest.is_empty() && self.slowest.iter().all(|share| *share >= 0.5), "{self:?}");
    }
}

struct Forwarder {
    queue: Arc<Backlog>,
    handle: Handle,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn run(scenario: Scenario) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(drain(scenario))
}

async fn drain(scenario: Scenario) -> Report {
    let server = Server::start(scenario.server.clone());
    let fleet: Vec<Forwarder> = (0..scenario.forwarders).map(|i| forwarder(&scenario, &server, i)).collect();
    let delivered = || fleet.iter().map(|forwarder| forwarder.queue.acknowledged()).collect::<Vec<u64>>();
    tokio::time::sleep(scenario.server.down_until + scenario.settled).await;
    let settled = delivered();
    let mut slowest = Vec::new();
    let checkpoint = (scenario.watched - scenario.settled) / 4;
    // The first checkpoint is after twice that time: a forwarder may send one batch a minute.
    tokio::time::sleep(checkpoint).await;
    for _ in 0..3 {
        tokio::time::sleep(checkpoint).await;
        let since = delivered().into_iter().zip(&settled).map(|(now, then)| (now - then) as f64).collect::<Vec<_>>();
        let mean = since.iter().sum::<f64>() / since.len() as f64;
        let waiting = fleet.iter().zip(since).filter(|(forwarder, _)| forwarder.queue.has_backlog());
        slowest.push(waiting.map(|(_, since)| since / mean).fold(f64::INFINITY, f64::min));
    }
    let sum = delivered().iter().sum::<u64>() as f64;
    let retried = |forwarder: &Forwarder| forwarder.handle.status().figures.retried_records.get("timeout").copied();
    let timed_out = fleet.iter().filter_map(retried).sum::<u64>() as f64;
    let can = server.options.capacity(scenario.flush.batch_records, scenario.watched);
    Report { goodput: sum / can, timed_out: timed_out / sum, slowest, max_waiting: server.max_waiting() }
}

fn forwarder(scenario: &Scenario, server: &Arc<Server>, i: usize) -> Forwarder {
    let backlog = scenario.first_backlog.filter(|_| i == 0).unwrap_or(scenario.backlog);
    let queue = Arc::new(Backlog::of(backlog));
    let began = Instant::now();
    let wall_clock = move || 1_800_000_000_000 + began.elapsed().as_millis() as i64;
    let environment = Environment::simulated(scenario.seed << 32 | i as u64, wall_clock);
    let (name, sink) = (SinkName::new("fleet").expect("a name"), Arc::new(Connection(Arc::clone(server))));
    let (options, shutdown) = (scenario.flush.clone(), CancellationToken::new());
    let handle = Worker::spawn_in(environment, &name, Arc::clone(&queue) as _, sink, options, shutdown);
    Forwarder { queue, handle }
}

/// A faster server is a larger one: more batches may wait at it, and an empty one costs it less.
fn server_of(rate: f64) -> ServerOptions {
    let knee = (256.0 * (rate / 20_000.0).max(1.0)) as usize;
    ServerOptions { rate, knee, overhead: (rate / 1000.0).min(20.0), ..ServerOptions::default() }
}

fn fleet(forwarders: usize, rate: f64, settled: u64, watched: u64) -> Scenario {
    let (settled, watched) = (seconds(settled), seconds(watched));
    Scenario { forwarders, server: server_of(rate), settled, watched, ..Scenario::default() }
}

#[test]
fn two_hundred_forwarders_share_their_server_after_an_outage() {
    run(Scenario::default()).check();
}

#[test]
fn it_is_the_same_where_the_server_leaves_out_what_nobody_waits_for() {
    let server = ServerOptions { cancels: true, ..ServerOptions::default() };
    run(Scenario { server, seed: 2, ..Scenario::default() }).check();
}

#[test]
fn a_few_forwarders_share_their_server_after_an_outage() {
    let report = run(fleet(20, 20_000.0, 60, 120));
    report.check();
    assert_eq!(report, run(fleet(20, 20_000.0, 60, 120)), "the same seed gives the same run");
}

#[test]
fn forwarders_share_slower_and_faster_servers() {
    run(fleet(20, 2000.0, 120, 240)).check();
    run(fleet(200, 2000.0, 120, 240)).check();
    run(fleet(200, 100_000.0, 60, 120)).check();
    run(fleet(500, 100_000.0, 60, 120)).check();
}

#[test]
fn it_is_the_same_with_other_batches_and_another_timeout() {
    let default = FlushOptions::default();
    for flush in [
        FlushOptions { batch_records: 5000, batch_bytes: 32 << 20, ..default.clone() },
        FlushOptions { max_in_flight: 8, ..default.clone() },
        FlushOptions { max_in_flight: 1, ..default.clone() },
        FlushOptions { timeout: seconds(10), ..default },
    ] {
        run(Scenario { flush, ..Scenario::default() }).check();
    }
}

#[test]
fn a_fleet_that_starts_all_at_once_does_not_overload_its_server() {
    let server = ServerOptions { down_until: Duration::ZERO, ..ServerOptions::default() };
    run(Scenario { server, ..Scenario::default() }).check();
}

#[test]
fn one_huge_backlog_takes_no_other_ones_share_and_the_whole_server_once_they_are_done() {
    // The others together need 100 s.
    let scenario = Scenario { backlog: 10_000, first_backlog: Some(100_000_000), ..Scenario::default() };
    let report = run(Scenario { settled: seconds(30), ..scenario });
    assert!(report.goodput >= 0.9 && report.timed_out == 0.0, "{report:?}");
}

#[test]
fn a_server_that_stalls_is_used_as_before_when_it_goes_on() {
    let stalled = |stall: Range<Duration>, settled, watched| {
        let server = ServerOptions { stall, ..ServerOptions::default() };
        run(Scenario { server, settled: seconds(settled), watched: seconds(watched), ..Scenario::default() }).check();
    };
    stalled(seconds(180)..seconds(200), 60, 180);
    // Longer than the timeout.
    stalled(seconds(160)..seconds(220), 160, 360);
}

/// Records a second that one forwarder delivers to a server with this latency and no limit of records.
async fn rate_of_one(constant: Duration, until: Duration) -> f64 {
    let server =
        ServerOptions { rate: 1e12, overhead: 0.0, constant, down_until: Duration::ZERO, ..ServerOptions::default() };
    let forwarder = forwarder(&Scenario::default(), &Server::start(server), 0);
    tokio::time::sleep(until).await;
    forwarder.queue.acknowledged() as f64 / until.as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_merely_far_away_gets_full_windows_at_once() {
    for millis in [20, 50, 300, 900, 2900] {
        let latency = Duration::from_millis(millis);
        let rate = rate_of_one(latency, latency * 200).await;
        // A timer's sleep ends up to a millisecond late.
        let full = 2000.0 / (latency.as_secs_f64() + 0.001);
        assert!(rate >= 0.92 * full, "{latency:?}: {rate:.0}/s of {full:.0}/s");
    }
}

#[test]
fn one_forwarder_alone_gets_all_that_a_slow_server_can() {
    for (rate, least) in [(20.0, 0.95), (100.0, 0.97), (500.0, 0.98), (20_000.0, 0.98)] {
        let server = ServerOptions { down_until: Duration::ZERO, ..server_of(rate) };
        let report = run(Scenario { server, ..fleet(1, rate, 60, 240) });
        assert!(report.goodput >= least && report.timed_out == 0.0, "{rate}/s: {report:?}");
    }
}
