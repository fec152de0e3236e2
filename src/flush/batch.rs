//! How large the next batch may be: as configured, smaller while the sink times out.
//!
//! Halved at each timeout, grown by an eighth of the full size at each success: a slow server gets batches that it
//! finishes in time, and a recovered one full batches again within eight.

use crate::spool::LeaseLimit;

use super::FlushOptions;

/// The adaptive size limit of a sink's batches.
#[derive(Debug)]
pub(super) struct BatchSize {
    full: LeaseLimit,
    /// Records now; bytes follow in proportion.
    records: usize,
}

impl BatchSize {
    pub(super) fn new(options: &FlushOptions) -> Self {
        let full = LeaseLimit { records: options.batch_records.max(1), bytes: options.batch_bytes.max(1) };
        Self { full, records: full.records }
    }

    /// What the next batch may hold.
    pub(super) fn limit(&self) -> LeaseLimit {
        let bytes = (self.full.bytes as u128 * self.records as u128 / self.full.records as u128) as usize;
        LeaseLimit { records: self.records, bytes: bytes.max(1) }
    }

    /// A batch of `records` was not answered in time.
    pub(super) fn timed_out(&mut self, records: usize) {
        // Halving what timed out, not what is now allowed: batches that time out together shrink it once, not once each.
        self.records = self.records.min((records / 2).max(1));
    }

    /// A batch was taken.
    pub(super) fn taken(&mut self) {
        self.records = (self.records + self.full.records.div_ceil(8)).min(self.full.records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> BatchSize {
        BatchSize::new(&FlushOptions { batch_records: 1000, batch_bytes: 4000, ..FlushOptions::default() })
    }

    #[test]
    fn batches_halve_at_a_timeout_down_to_one_record() {
        let mut size = size();
        size.timed_out(1000);
        assert_eq!((size.limit().records, size.limit().bytes), (500, 2000));
        for _ in 0..20 {
            size.timed_out(size.limit().records);
        }
        assert_eq!((size.limit().records, size.limit().bytes), (1, 4));
    }

    #[test]
    fn batches_that_time_out_together_halve_it_once() {
        let mut size = size();
        size.timed_out(1000);
        size.timed_out(1000);
        assert_eq!(size.limit().records, 500);
    }

    #[test]
    fn batches_grow_back_to_full_size_and_no_further() {
        let mut size = size();
        size.timed_out(3);
        assert_eq!(size.limit().records, 1);
        for _ in 0..8 {
            size.taken();
        }
        assert_eq!(size.limit().records, 1000);
    }
}
