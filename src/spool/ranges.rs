//! Sets of ordinals, as ranges: what is acknowledged out of order, what was given back.

use std::{collections::BTreeMap, ops::Range};

/// A set of ordinals; neighbouring ranges are merged, so it is as small as the set has holes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// start → end (exclusive)
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl RangeSet {
    /// How many ordinals are in the set.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.iter().next()
    }

    /// The range that holds `ordinal`.
    pub(crate) fn range_at(&self, ordinal: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.ranges.range(..=ordinal).next_back()?;
        (ordinal < end).then_some(start..end)
    }

    /// The first range that starts at or after `ordinal`.
    pub(crate) fn range_after(&self, ordinal: u64) -> Option<Range<u64>> {
        self.ranges.range(ordinal..).next().map(|(&start, &end)| start..end)
    }

    /// The last range that starts before `ordinal`.
    pub(crate) fn range_before(&self, ordinal: u64) -> Option<Range<u64>> {
        self.ranges.range(..ordinal).next_back().map(|(&start, &end)| start..end)
    }

    pub(crate) fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.range_at(range.start).is_some_and(|found| range.end <= found.end)
    }

    /// Adds a range; answers how many of its ordinals were new.
    pub(crate) fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (mut start, mut end) = (range.start, range.end);
        let mut before = 0;
        // Every range that overlaps or touches melts into one.
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

    /// Takes a range out.
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

    /// How many ordinals of the set are at or after `from`.
    pub(crate) fn count_from(&self, from: u64) -> u64 {
        let straddling = self.range_at(from).map_or(0, |range| range.end - from);
        let after = from.saturating_add(u64::from(straddling > 0));
        straddling + self.ranges.range(after..).map(|(s, e)| e - s).sum::<u64>()
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
                    let new = range.clone().filter(|ordinal| model.insert(*ordinal)).count() as u64;
                    prop_assert_eq!(set.insert(range), new);
                } else {
                    range.clone().for_each(|ordinal| { model.remove(&ordinal); });
                    set.remove(&range);
                }
            }
            prop_assert_eq!(set.iter().flatten().collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.count_from(from), model.range(from..).count() as u64);
            prop_assert_eq!(set.range_at(from).is_some(), model.contains(&from));
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
