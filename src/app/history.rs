//! The last hour of each sink: backlog, rates and state changes, for the status page, the API and `backlog --watch`.
//!
//! Time is divided into steps of [`STEP_MILLIS`] by the wall clock. A step's point is the first sample that falls into it; a
//! step without a sample (the process was suspended, the clock was set forward) is `None` and shows as a gap. When the clock
//! is set back, the earlier points keep their distances: a gap of one step follows, and the times of the state changes are
//! shifted back with the clock.
//!
//! Memory is bounded: a sink's points take 12 KB, and its state changes, at most [`CHANGES`] with reasons of at most
//! [`REASON_BYTES`] bytes each, 25 KB.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{record::UnixMillis, status::SinkState};

/// Length of a step, milliseconds.
const STEP_MILLIS: i64 = 10_000;
/// Number of steps that are kept: an hour.
pub const POINTS: usize = 360;
/// Number of state changes that are kept per sink.
const CHANGES: usize = 100;
/// Maximum length of a reason, bytes.
const REASON_BYTES: usize = 200;

/// The last hour of all sinks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When the newest step began, milliseconds since the Unix epoch; 0 before the first sample.
    pub at: UnixMillis,
    /// Length of a step, milliseconds.
    pub step_millis: i64,
    /// The sinks, by name.
    pub sinks: BTreeMap<String, SinkHistory>,
}

/// The last hour of a sink.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkHistory {
    /// One per step, the last one at [`History::at`]; fewer than an hour's if the sink is younger. `null`: not known.
    pub points: VecDeque<Option<Point>>,
    /// State changes since the first point, the newest at the end.
    pub changes: VecDeque<StateChange>,
}

/// A sink at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Records not yet acknowledged.
    pub records: u64,
    /// Records per second into the spool.
    pub rate_in: f32,
    /// Records per second out of it.
    pub rate_out: f32,
}

/// A sink's new state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// Time of the change, milliseconds since the Unix epoch.
    pub at: UnixMillis,
    /// The new state.
    pub state: SinkState,
    /// The reason, if something is wrong.
    pub reason: Option<String>,
}

impl Default for History {
    fn default() -> Self {
        Self { at: 0, step_millis: STEP_MILLIS, sinks: BTreeMap::new() }
    }
}

impl History {
    /// Stores the points of all sinks if a new step has begun; forgets a sink that is not among them. Call it more often
    /// than once per step.
    pub(super) fn sample(&mut self, at: UnixMillis, sinks: &[(&str, Point)]) {
        let Some(steps) = self.advance(at) else { return };
        self.sinks.retain(|name, _| sinks.iter().any(|(sink, _)| sink == name));
        for (name, point) in sinks {
            self.sinks.entry((*name).to_owned()).or_default().push(*point, steps);
        }
        let (end, step) = (self.at + STEP_MILLIS, STEP_MILLIS);
        for sink in self.sinks.values_mut() {
            let begin = end - step * sink.points.len() as i64;
            while sink.changes.front().is_some_and(|change| change.at < begin) {
                sink.changes.pop_front();
            }
        }
    }

    /// How many steps a time is later than the newest step; `None`: it belongs to that one.
    fn advance(&mut self, at: UnixMillis) -> Option<usize> {
        let step = at - at.rem_euclid(STEP_MILLIS);
        let steps = if self.sinks.values().all(|sink| sink.points.is_empty()) {
            1
        } else {
            match (step - self.at) / STEP_MILLIS {
                // If the clock was adjusted by less than a step, the next sample waits until it has caught up.
                -1 | 0 => return None,
                steps @ 1.. => steps,
                _ => {
                    self.shift_changes(step - 2 * STEP_MILLIS - self.at);
                    2
                }
            }
        };
        self.at = step;
        Some(usize::try_from(steps).unwrap_or(usize::MAX))
    }

    fn shift_changes(&mut self, by: i64) {
        let changes = self.sinks.values_mut().flat_map(|sink| &mut sink.changes);
        changes.for_each(|change| change.at += by);
    }

    /// Records a sink's new state.
    pub(super) fn record(&mut self, at: UnixMillis, sink: &str, state: SinkState, reason: Option<&str>) {
        let changes = &mut self.sinks.entry(sink.to_owned()).or_default().changes;
        if changes.len() == CHANGES {
            changes.pop_front();
        }
        let reason = reason.map(|reason| beginning(reason).to_owned());
        changes.push_back(StateChange { at, state, reason });
    }
}

/// The text, cut to the maximum length.
fn beginning(text: &str) -> &str {
    let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
    &text[..ends.take_while(|end| *end <= REASON_BYTES).last().unwrap_or_default()]
}

impl SinkHistory {
    /// Adds a point that is this many steps later than the last one.
    fn push(&mut self, point: Point, steps: usize) {
        let gaps = if self.points.is_empty() { 0 } else { (steps - 1).min(POINTS) };
        for point in std::iter::repeat_n(None, gaps).chain([Some(point)]) {
            if self.points.len() == POINTS {
                self.points.pop_front();
            }
            self.points.push_back(point);
        }
        while self.points.front().is_some_and(Option::is_none) {
            self.points.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: UnixMillis = 1_800_000_000_000;

    fn point(records: u64) -> Point {
        Point { records, ..Point::default() }
    }

    fn records(history: &History, sink: &str) -> Vec<Option<u64>> {
        history.sinks[sink].points.iter().map(|point| point.map(|point| point.records)).collect()
    }

    #[test]
    fn a_step_keeps_its_first_sample_and_an_hour_of_steps_is_kept() {
        let mut history = History::default();
        for second in 0..2 * 3600 {
            history.sample(START + second * 1000, &[("a", point(second as u64))]);
        }
        let expected: Vec<_> = (0..POINTS as u64).map(|step| Some(3600 + step * 10)).collect();
        assert_eq!(records(&history, "a"), expected);
        assert_eq!(history.at, START + 7190 * 1000);
    }

    #[test]
    fn steps_without_a_sample_are_a_gap() {
        let mut history = History::default();
        for second in [0, 10, 45, 50] {
            history.sample(START + second * 1000, &[("a", point(second as u64))]);
        }
        assert_eq!(records(&history, "a"), [Some(0), Some(10), None, None, Some(45), Some(50)]);
        history.sample(START + 100 * 3_600_000, &[("a", point(7))]);
        assert_eq!(records(&history, "a"), [Some(7)], "all that is older than an hour is gone");
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_a_gap_and_shifts_the_changes() {
        let mut history = History::default();
        history.sample(START, &[("a", point(0))]);
        history.record(START + 3000, "a", SinkState::Unavailable, Some("refused"));
        history.sample(START + 10_000, &[("a", point(1))]);
        history.sample(START + 9_000, &[("a", point(2))]);
        assert_eq!(records(&history, "a"), [Some(0), Some(1)], "a small adjustment adds no point");
        let back = START - 500_000;
        history.sample(back, &[("a", point(3))]);
        assert_eq!(records(&history, "a"), [Some(0), Some(1), None, Some(3)]);
        assert_eq!(history.at, back);
        let change = &history.sinks["a"].changes[0];
        assert_eq!(change.at, back - 30_000 + 3000, "it is between the same points as before");
    }

    #[test]
    fn a_later_sink_has_fewer_points_and_one_that_is_removed_none() {
        let mut history = History::default();
        history.sample(START, &[("a", point(1))]);
        history.record(START + 12_000, "b", SinkState::Connecting, None);
        history.sample(START + 20_000, &[("a", point(2)), ("b", point(3))]);
        assert_eq!(records(&history, "a"), [Some(1), None, Some(2)]);
        assert_eq!(records(&history, "b"), [Some(3)]);
        history.sample(START + 30_000, &[("b", point(4))]);
        assert_eq!(history.sinks.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_sinks_points_take_12_kilobytes() {
        let mut history = History::default();
        for second in 0..3 * 3600 {
            history.sample(START + second * 1000, &[("a", point(0))]);
        }
        assert!(history.sinks["a"].points.capacity() * size_of::<Option<Point>>() <= 12_288);
    }

    #[test]
    fn changes_are_bounded_in_number_and_length_and_expire_with_their_points() {
        let mut history = History::default();
        history.sample(START, &[("a", point(0))]);
        for number in 0..3 * CHANGES as i64 {
            history.record(START + number, "a", SinkState::Unavailable, Some(&"é".repeat(10_000)));
        }
        let changes = &history.sinks["a"].changes;
        assert_eq!((changes.len(), changes[0].at), (CHANGES, START + 2 * CHANGES as i64));
        assert!(changes.iter().all(|change| change.reason.as_deref() == Some(&"é".repeat(REASON_BYTES / 2))));
        for second in 0..3700 {
            history.sample(START + second * 1000, &[("a", point(0))]);
        }
        assert!(history.sinks["a"].changes.is_empty());
    }

    #[test]
    fn it_reads_what_it_writes() {
        let mut history = History::default();
        history.sample(START, &[("a", Point { records: 3, rate_in: 99.1, rate_out: 0.5 })]);
        history.record(START, "a", SinkState::SpoolFailed, Some("\"<x>\""));
        history.sample(START + 20_000, &[("a", point(u64::MAX))]);
        let text = serde_json::to_string(&history).unwrap();
        assert!(text.contains(r#"{"records":3,"rate_in":99.1,"rate_out":0.5},null,"#), "{text}");
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_history_stays_bounded_and_ends_with_the_newest_sample_whatever_the_clock_does(
            moves in proptest::collection::vec((-5_000_000_i64..5_000_000, 0..3), 1..600)
        ) {
            let (mut history, mut at) = (History::default(), START);
            for (number, (by, kind)) in moves.into_iter().enumerate() {
                at += match kind { 0 => by, 1 => by / 500, _ => STEP_MILLIS };
                history.record(at, "a", SinkState::Unavailable, None);
                let (before, newest) = (history.sinks["a"].points.len(), history.at);
                history.sample(at, &[("a", point(number as u64))]);
                let points = &history.sinks["a"].points;
                prop_assert!(points.len() <= POINTS && history.sinks["a"].changes.len() <= CHANGES);
                prop_assert!(points.front().is_some_and(Option::is_some) && points.back().is_some_and(Option::is_some));
                let is_taken = points.back() == Some(&Some(point(number as u64)));
                prop_assert!(is_taken || points.len() == before && history.at == newest);
                prop_assert!((at - history.at).abs() <= 2 * STEP_MILLIS);
            }
        }
    }
}
