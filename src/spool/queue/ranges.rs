//! Sets of sequence numbers, as ranges: what was acknowledged out of order, what was released.

use std::{collections::BTreeMap, ops::Range};

/// A set of sequence numbers. Adjacent ranges are merged, so that its size is the number of gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// start → end (exclusive)
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl RangeSet {
    /// How many sequence numbers are in the set.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// The part at or after `seq` of the first range that ends after `seq`.
    pub(crate) fn first_from(&self, seq: u64) -> Option<Range<u64>> {
        let holds = self.range_at(seq).map(|range| seq..range.end);
        holds.or_else(|| self.ranges.range(seq..).next().map(|(&start, &end)| start..end))
    }

    /// The range that holds `seq`.
    pub(crate) fn range_at(&self, seq: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.ranges.range(..=seq).next_back()?;
        (seq < end).then_some(start..end)
    }

    /// Adds a range; returns how many of its sequence numbers were new.
    pub(crate) fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (mut start, mut end) = (range.start, range.end);
        let mut before = 0;
        // All ranges that overlap or touch are merged into one.
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            before += e - s;
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
        let added = (end - start) - before;
        self.len += added;
        added
    }

    /// Removes a range.
    pub(crate) fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.ranges.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.ranges.remove(&s);
            self.len -= e - s;
            if s < range.start {
                self.ranges.insert(s, range.start);
                self.len += range.start - s;
            }
            if e > range.end {
                self.ranges.insert(range.end, e);
                self.len += e - range.end;
            }
        }
    }

    /// The parts of a range that are in the set.
    pub(crate) fn overlap(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let first = self.range_at(range.start).map_or(range.start, |found| found.start);
        let overlapping =
            self.ranges.range(first..range.end).map(|(&start, &end)| start.max(range.start)..end.min(range.end));
        overlapping.filter(|overlap| !overlap.is_empty()).collect()
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::cases;

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_range_set_holds_what_a_plain_set_holds(
            steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..12), 0..60),
            from in 0_u64..70,
        ) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (insert, start, length) in steps {
                let range = start..start + length;
                if insert {
                    let new = range.clone().filter(|seq| model.insert(*seq)).count() as u64;
                    prop_assert_eq!(set.insert(range), new);
                } else {
                    range.clone().for_each(|seq| { model.remove(&seq); });
                    set.remove(&range);
                }
            }
            prop_assert_eq!(set.iter().flatten().collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(set.len(), model.len() as u64);
            let overlap: BTreeSet<u64> = set.overlap(&(from..from + 9)).into_iter().flatten().collect();
            prop_assert_eq!(overlap, model.range(from..from + 9).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(set.range_at(from).is_some(), model.contains(&from));
            let first = set.first_from(from);
            prop_assert_eq!(first.clone().map(|range| range.start), model.range(from..).next().copied());
            prop_assert!(first.is_none_or(|range| !model.contains(&range.end)));
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
