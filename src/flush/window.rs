//! How much a worker may have in flight, by the latency of its sink: several batches, one, or smaller ones.
//!
//! Forwarders that reconnect after an outage together must not overload their server, and must get equal shares of it.
//! All of them see the queue in front of the server as the same latency, so each derives its window (the records it has
//! in flight) from the latency alone: `full × (target / latency)²` above the target, as delay-based congestion control
//! does (FAST TCP, the gradient of Netflix's concurrency limits). The same latency gives the same window, whichever came
//! first. Additive increase with multiplicative decrease reaches equal shares too, but after many answers, and its step
//! is too large for a share of a few records.
//!
//! - **Start**: at first, and after an outage, the window is small. It doubles with each window that is answered.
//! - **A timeout** halves the batch that timed out, and starts again.
//! - A longer latency counts at once, a shorter one gradually: a growing queue needs a reaction before it causes
//!   timeouts, and a fleet in which every answer had full weight would oscillate.
//!
//! A server that takes longer than the target however little it gets looks the same as a queue: it gets smaller batches
//! than it could handle. Pure: the caller provides the answers and their latency.

use std::time::Duration;

use super::FlushOptions;
use crate::spool::LeaseLimit;

/// The window is full up to this part of the timeout: no server that is merely far away takes 3 of 30 s.
const TARGET: u32 = 10;
/// How steeply the window falls with the latency.
const STEEPNESS: i32 = 2;
/// The first window: a part of a batch, but at least a few records.
const START: (f64, f64) = (1.0 / 64.0, 16.0);
/// The weight of an answer that was faster than those before, in a geometric mean.
const GAIN: f64 = 0.25;

/// How much a worker may have in flight.
#[derive(Debug)]
pub(super) struct Window {
    /// A full batch.
    batch: LeaseLimit,
    max_in_flight: usize,
    /// Seconds up to which the window is full.
    target: f64,
    /// The most records while starting, whatever the latency.
    ceiling: f64,
    /// The effective latency, in seconds.
    latency: f64,
}

impl Window {
    pub(super) fn new(options: &FlushOptions) -> Self {
        let mut window = Self {
            batch: LeaseLimit { records: options.batch_records.max(1), bytes: options.batch_bytes.max(1) },
            max_in_flight: options.max_in_flight.max(1),
            target: (options.timeout / TARGET).as_secs_f64().max(1e-3),
            ceiling: f64::INFINITY,
            latency: 0.0,
        };
        window.restart();
        window
    }

    /// The sink was unavailable: begins with a small window.
    pub(super) fn restart(&mut self) {
        let records = self.batch.records as f64;
        self.ceiling = self.ceiling.min((records * START.0).max(START.1).min(records));
        self.latency = 0.0;
    }

    /// A batch of `records` was not answered in time.
    pub(super) fn timed_out(&mut self, records: usize) {
        self.restart();
        self.ceiling = self.ceiling.min(records as f64 / 2.0).max(1.0);
    }

    /// A batch was answered. It filled the window by the larger of its shares of records and of bytes: large records
    /// reach the limit of bytes long before that of records.
    pub(super) fn answered(&mut self, records: usize, bytes: u64, latency: Duration) {
        let part_of_batch = (records as f64 / self.batch.records as f64).max(bytes as f64 / self.batch.bytes as f64);
        let part = (part_of_batch * self.batch.records as f64 / self.records()).min(1.0);
        self.ceiling = (self.ceiling * (1.0 + part)).min(self.full());
        let seconds = latency.as_secs_f64().max(1e-6);
        self.latency =
            if seconds < self.latency { self.latency * (seconds / self.latency).powf(GAIN) } else { seconds };
    }

    /// The most batches in flight.
    pub(super) fn max_batches(&self) -> usize {
        ((self.records() / self.batch.records as f64).round() as usize).clamp(1, self.max_in_flight)
    }

    /// The limit of the next batch.
    pub(super) fn limit(&self) -> LeaseLimit {
        let records = self.records() / self.max_batches() as f64;
        let records = (records as usize).clamp(1, self.batch.records);
        let bytes = (self.batch.bytes as u128 * records as u128 / self.batch.records as u128) as usize;
        LeaseLimit { records, bytes: bytes.max(1) }
    }

    /// The full window, records.
    fn full(&self) -> f64 {
        self.batch.records as f64 * self.max_in_flight as f64
    }

    /// The window, records.
    fn records(&self) -> f64 {
        let by_latency = self.full() * (self.target / self.latency.max(self.target)).powi(STEEPNESS);
        by_latency.min(self.ceiling).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new(&FlushOptions::default())
    }

    /// Keeps the window full, with a server that takes this many seconds.
    fn answer(window: &mut Window, answers: usize, seconds: f64) {
        for _ in 0..answers {
            window.answered(window.limit().records, 0, Duration::from_secs_f64(seconds));
        }
    }

    /// Batches that may be in flight, and records in each.
    fn allowed(window: &Window) -> (usize, usize) {
        (window.max_batches(), window.limit().records)
    }

    #[test]
    fn it_starts_small_and_doubles_up_to_full_batches_while_answers_are_quick() {
        let mut window = window();
        let mut sizes = vec![allowed(&window)];
        for _ in 0..8 {
            answer(&mut window, 1, 0.02);
            sizes.push(allowed(&window));
        }
        assert_eq!(sizes[..4], [(1, 16), (1, 32), (1, 64), (1, 128)]);
        assert_eq!(sizes[8], (2, 1000));
    }

    #[test]
    fn a_server_within_the_target_gets_full_windows() {
        let mut window = window();
        answer(&mut window, 20, 2.9);
        assert_eq!(allowed(&window), (2, 1000));
    }

    #[test]
    fn the_same_latency_gives_the_same_window_whichever_sink_came_first() {
        let (mut early, mut late) = (window(), window());
        answer(&mut early, 100, 0.02);
        answer(&mut early, 50, 29.0);
        answer(&mut early, 50, 6.0);
        answer(&mut late, 20, 6.0);
        let (early, late) = (early.records(), late.records());
        assert!((early - late).abs() < 1.0 && (late - 500.0).abs() < 1.0, "{early} and {late}");
    }

    #[test]
    fn an_answer_that_took_long_counts_at_once_and_is_forgotten_by_and_by() {
        let mut window = window();
        answer(&mut window, 20, 0.5);
        answer(&mut window, 1, 12.0);
        assert_eq!(allowed(&window), (1, 125));
        answer(&mut window, 1, 0.75);
        assert_eq!(allowed(&window), (1, 500), "12 s and a quarter of the way to 0.75 s, as logarithms");
        answer(&mut window, 5, 0.5);
        assert_eq!(allowed(&window), (2, 1000));
    }

    #[test]
    fn an_outage_starts_again_and_a_timeout_halves_what_timed_out() {
        let mut window = window();
        answer(&mut window, 20, 0.02);
        window.restart();
        assert_eq!(allowed(&window), (1, 16));
        window.timed_out(16);
        window.timed_out(8);
        assert_eq!(allowed(&window), (1, 4));
        for _ in 0..9 {
            window.timed_out(window.limit().records);
        }
        assert_eq!(allowed(&window), (1, 1));
        answer(&mut window, 12, 0.02);
        assert_eq!(allowed(&window), (2, 1000));
    }

    #[test]
    fn batches_that_are_full_by_their_bytes_double_it_as_well() {
        let mut window = window();
        for _ in 0..8 {
            let LeaseLimit { records, bytes } = window.limit();
            window.answered((records / 10).max(1), bytes as u64, Duration::from_millis(20));
        }
        assert_eq!(allowed(&window), (2, 1000));
    }

    #[test]
    fn bytes_shrink_with_the_records() {
        let window = Window::new(&FlushOptions { batch_bytes: 4 << 20, ..FlushOptions::default() });
        assert_eq!((window.limit().records, window.limit().bytes), (16, (4 << 20) * 16 / 1000));
    }
}
