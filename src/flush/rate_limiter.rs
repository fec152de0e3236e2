//! `max_rate`: a token bucket, so that the backlog does not overload a server that is back after a long outage.
//!
//! Pure: the caller provides the time. The bucket holds the tokens of a tenth of a second, at least one record.

use std::time::Duration;

/// Lets through `rate` records a second on average.
#[derive(Debug)]
pub(super) struct RateLimiter {
    /// Records a second; 0: no limit.
    rate: u64,
    /// Records that may be sent now; negative after a batch larger than what was left.
    tokens: f64,
    /// The time of `tokens`, since the worker's start.
    at: Duration,
}

impl RateLimiter {
    pub(super) fn new(rate: u64) -> Self {
        Self { rate, tokens: Self::burst(rate), at: Duration::ZERO }
    }

    fn burst(rate: u64) -> f64 {
        (rate as f64 / 10.0).max(1.0)
    }

    /// The most records that may be sent at once.
    pub(super) fn max_records(&self) -> usize {
        if self.rate == 0 { usize::MAX } else { Self::burst(self.rate) as usize }
    }

    /// How long until the next batch may be sent; zero if it may be sent now.
    pub(super) fn wait(&mut self, now: Duration) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let gained = now.saturating_sub(self.at).as_secs_f64() * self.rate as f64;
        self.tokens = (self.tokens + gained).min(Self::burst(self.rate));
        self.at = now;
        if self.tokens >= 1.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64((1.0 - self.tokens) / self.rate as f64)
        }
    }

    /// Counts a batch of `records` as sent.
    pub(super) fn spend(&mut self, records: usize) {
        if self.rate != 0 {
            self.tokens -= records as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_than_the_rate_goes_through() {
        let mut limiter = RateLimiter::new(500);
        let (mut now, mut sent) = (Duration::ZERO, 0);
        while now < Duration::from_secs(20) {
            let wait = limiter.wait(now);
            if wait.is_zero() {
                limiter.spend(limiter.max_records());
                sent += limiter.max_records();
            }
            now += wait.max(Duration::from_micros(1));
        }
        assert!((9_900..=10_100).contains(&sent), "{sent} records in 20 s at 500/s");
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut limiter = RateLimiter::new(0);
        limiter.spend(1_000_000);
        assert_eq!(limiter.wait(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_record_a_second_still_goes() {
        let mut limiter = RateLimiter::new(1);
        assert_eq!(limiter.wait(Duration::ZERO), Duration::ZERO);
        limiter.spend(1);
        assert_eq!(limiter.wait(Duration::ZERO), Duration::from_secs(1));
    }
}
