//! Distributions, as Prometheus counts them: buckets with fixed upper bounds, a sum and a count. Recording takes no
//! lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Upper bounds for latencies, in seconds: from a fast disk's fdatasync to a sink that hangs.
pub const LATENCY: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds for numbers of records.
pub const RECORDS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0];

/// A distribution that any thread may add to.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One per bound, and one above the last.
    buckets: Vec<AtomicU64>,
    /// In millionths, so that an integer holds it.
    sum_micros: AtomicU64,
}

impl Histogram {
    /// An empty histogram with these upper bounds, in ascending order.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum_micros: AtomicU64::new(0) }
    }

    /// Adds one value; not negative.
    pub fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add((value * 1e6).round() as u64, Relaxed);
    }

    /// Adds a time, in seconds.
    pub fn record_time(&self, time: Duration) {
        self.record(time.as_secs_f64());
    }

    /// The current figures.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        HistogramSnapshot {
            bounds: self.bounds.to_vec(),
            count: counts.iter().sum(),
            sum: self.sum_micros.load(Relaxed) as f64 / 1e6,
            counts,
        }
    }
}

/// A distribution at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramSnapshot {
    /// Upper bounds of all buckets but the last, which has none.
    pub bounds: Vec<f64>,
    /// Values in each bucket (not cumulative).
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
    /// The number of values.
    pub count: u64,
}

impl HistogramSnapshot {
    /// The upper bound of the bucket that holds the `q`-quantile; `None` without values or beyond the last bound.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let wanted = (self.count as f64 * q).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        self.bounds.get(bucket).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let histogram = Histogram::new(&[1.0, 10.0]);
        [0.0, 1.0, 1.5, 10.0, 99.0].into_iter().for_each(|value| histogram.record(value));
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.counts.as_slice(), snapshot.count), (&[2, 2, 1][..], 5));
        assert!((snapshot.sum - 111.5).abs() < 1e-6);
        assert_eq!((snapshot.quantile(0.5), snapshot.quantile(0.99)), (Some(10.0), None));
        assert_eq!(Histogram::new(LATENCY).snapshot().quantile(0.5), None);
    }
}
