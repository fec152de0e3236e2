//! How long to wait before a sink that accepts no records is tried again: exponential, with full jitter.
//!
//! Pure: the caller provides the random number and waits.

use std::time::Duration;

use super::BackoffOptions;

/// The pause before attempt `failures + 1`: `random` (0 to 1) times a limit that doubles from `initial` to `max`.
///
/// Full jitter prevents many forwarders that lost the same server from reconnecting at the same time.
pub(super) fn pause(options: BackoffOptions, failures: u32, random: f64) -> Duration {
    let doubled = options.initial.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(options.max).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: BackoffOptions =
        BackoffOptions { initial: Duration::from_millis(200), max: Duration::from_secs(30) };

    #[test]
    fn the_limit_doubles_from_initial_to_max_and_stays_there() {
        let limits: Vec<u128> = (1..=10).map(|failures| pause(OPTIONS, failures, 1.0).as_millis()).collect();
        assert_eq!(limits, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(pause(OPTIONS, u32::MAX, 1.0), OPTIONS.max);
    }

    #[test]
    fn jitter_spreads_a_pause_over_its_whole_range() {
        assert_eq!(pause(OPTIONS, 4, 0.0), Duration::ZERO);
        assert_eq!(pause(OPTIONS, 4, 0.5), Duration::from_millis(800));
    }
}
