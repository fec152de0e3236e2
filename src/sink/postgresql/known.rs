//! What is known about a stream's table, between two looks at it.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use super::partitions::MAX_AT_ONCE;

/// After a partition could not be made, its day's rows go to the default partition for this long.
const PAUSE: Duration = Duration::from_secs(30);

/// A stream's table.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) is_partitioned: bool,
    /// The default partition, in quotes.
    pub(super) default: Option<String>,
    /// The columns that can be written.
    pub(super) columns: Vec<String>,
    /// Days that have a partition.
    pub(super) days: BTreeSet<i64>,
    /// No partition is made before this.
    not_before: Option<Instant>,
}

impl Known {
    /// A partition could not be made.
    pub(super) fn pause(&mut self) {
        self.not_before = Some(Instant::now() + PAUSE);
    }

    /// The days of these, within `window`, that have no partition; none while it is no use to make one.
    pub(super) fn missing(&self, days: &BTreeSet<i64>, window: &RangeInclusive<i64>) -> Vec<i64> {
        if !self.is_partitioned || self.not_before.is_some_and(|at| Instant::now() < at) {
            return Vec::new();
        }
        let missing = days.iter().copied().filter(|day| window.contains(day) && !self.days.contains(day));
        missing.take(MAX_AT_ONCE).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_days_are_made_at_once_and_none_just_after_a_failure() {
        let days: BTreeSet<i64> = (0..1000).collect();
        let mut known = Known { is_partitioned: true, days: [100, 102].into(), ..Known::default() };
        assert_eq!(known.missing(&days, &(100..=103)), [101, 103]);
        assert_eq!(known.missing(&days, &(0..=900)).len(), MAX_AT_ONCE);
        known.pause();
        assert_eq!(known.missing(&days, &(100..=103)), [0; 0]);
        let plain = Known::default();
        assert_eq!(plain.missing(&days, &(100..=103)), [0; 0]);
    }
}
