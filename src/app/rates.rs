//! Figures over time: rates of the last seconds, the last state changes, and the last hour of each sink ([`history`]).
//!
//! [`history`]: super::history

use std::collections::{BTreeMap, VecDeque};

use super::history::{History, Point};
use crate::{
    record::UnixMillis,
    status::{Change, SinkState, SinkStatus},
};

/// Seconds over which a rate is computed.
const RATE_SECONDS: usize = 10;
/// Number of changes that are kept.
const CHANGES: usize = 100;

/// The change when a reload has removed a sink.
const REMOVED: &str = "removed";

/// One sample of the counters, which only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) received: u64,
    pub(super) gone: u64,
}

#[derive(Debug, Default)]
struct Samples {
    counters: VecDeque<Counters>,
    state: Option<SinkState>,
}

/// Keeps the samples.
#[derive(Debug, Default)]
pub(super) struct Rates {
    accepted: VecDeque<u64>,
    sinks: BTreeMap<String, Samples>,
    changes: VecDeque<Change>,
    history: History,
}

impl Rates {
    /// Takes a sample; call it once a second.
    pub(super) fn sample(&mut self, at: UnixMillis, accepted: u64, sinks: &[(&SinkStatus, Option<Counters>)]) {
        push(&mut self.accepted, accepted, RATE_SECONDS + 1);
        let is_left = |name: &str| sinks.iter().any(|(sink, _)| sink.name == name);
        for name in self.sinks.keys().filter(|name| !is_left(name)) {
            let (sink, state) = (name.clone(), REMOVED.to_owned());
            push(&mut self.changes, Change { at, sink, state, reason: None }, CHANGES);
        }
        self.sinks.retain(|name, _| is_left(name));
        for (sink, counters) in sinks {
            let samples = self.sinks.entry(sink.name.clone()).or_default();
            match counters {
                Some(counters) => push(&mut samples.counters, *counters, RATE_SECONDS + 1),
                // The next ones are not compared with these: all records of a spool that opens would count as new.
                None => samples.counters.clear(),
            }
        }
        let point = |sink: &SinkStatus| {
            let (rate_in, rate_out) = self.of(&sink.name);
            Point { records: sink.records, rate_in: rate_in as f32, rate_out: rate_out as f32 }
        };
        let points: Vec<_> = sinks.iter().map(|(sink, _)| (sink.name.as_str(), point(sink))).collect();
        self.history.sample(at, &points);
    }

    /// Records the state changes since the last call; returns whether there were any.
    pub(super) fn record_changes<'s>(
        &mut self,
        at: UnixMillis,
        sinks: impl IntoIterator<Item = &'s SinkStatus>,
    ) -> bool {
        let mut changed = false;
        for sink in sinks {
            let samples = self.sinks.entry(sink.name.clone()).or_default();
            let was = samples.state.replace(sink.state);
            // Delivering and idle alternate with every batch, which is not worth an entry.
            let healthy = |state| matches!(state, SinkState::Delivering | SinkState::Idle);
            if was == Some(sink.state) || was.is_some_and(|was| healthy(was) && healthy(sink.state)) {
                continue;
            }
            let reason = sink.last_error.clone().filter(|_| sink.state.is_failing());
            self.history.record(at, &sink.name, sink.state, reason.as_deref());
            let state = sink.state.as_str().to_owned();
            push(&mut self.changes, Change { at, sink: sink.name.clone(), state, reason }, CHANGES);
            changed = true;
        }
        changed
    }

    /// Records a change of the process itself.
    pub(super) fn record(&mut self, at: UnixMillis, state: &str, reason: Option<String>) {
        push(&mut self.changes, Change { at, sink: String::new(), state: state.to_owned(), reason }, CHANGES);
    }

    /// Records accepted per second.
    pub(super) fn accepted(&self) -> f64 {
        slope(&self.accepted)
    }

    /// Records per second into a sink's spool and out of it.
    pub(super) fn of(&self, sink: &str) -> (f64, f64) {
        let Some(samples) = self.sinks.get(sink) else { return (0.0, 0.0) };
        let slope_of = |field: fn(&Counters) -> u64| slope(&samples.counters.iter().map(field).collect());
        (slope_of(|counters| counters.received), slope_of(|counters| counters.gone))
    }

    /// The last changes, the newest at the end.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.changes.iter().cloned().collect()
    }

    /// The last hour.
    pub(super) const fn history(&self) -> &History {
        &self.history
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(value);
}

/// The increase of a counter between two samples.
fn slope(samples: &VecDeque<u64>) -> f64 {
    match (samples.front(), samples.back()) {
        (Some(first), Some(last)) if samples.len() > 1 => {
            last.saturating_sub(*first) as f64 / (samples.len() - 1) as f64
        }
        _ => 0.0,
    }
}

/// Seconds until the backlog is delivered at these rates; `None` if it does not shrink.
pub(super) fn empty_in_seconds(records: u64, rate_in: f64, rate_out: f64) -> Option<f64> {
    let shrinks = rate_out - rate_in;
    if records == 0 {
        Some(0.0)
    } else if shrinks > 0.0 {
        Some(records as f64 / shrinks)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{super::snapshot, *};
    use crate::record::SinkName;

    #[test]
    fn a_sink_that_a_reload_has_removed_is_reported_once() {
        let names = ["a", "b"].map(|name| SinkName::new(name).unwrap());
        let inspected = names.map(|name| snapshot::blank(&name, SinkState::Idle));
        let both: Vec<_> = inspected.iter().map(|sink| (sink, Some(Counters::default()))).collect();
        let mut rates = Rates::default();
        rates.record_changes(1, &inspected);
        rates.sample(1, 0, &both);
        for at in 2..4 {
            rates.sample(at, 0, &both[..1]);
        }
        let changes = rates.changes();
        let removed: Vec<_> = changes.iter().filter(|change| change.state == REMOVED).collect();
        assert!(matches!(removed[..], [Change { at: 2, sink, .. }] if sink == "b"), "{changes:?}");
    }

    #[test]
    fn the_records_of_a_spool_that_opens_are_no_rate() {
        let sink = snapshot::blank(&SinkName::new("a").unwrap(), SinkState::Idle);
        let mut rates = Rates::default();
        for (second, received) in [(1, Some(5)), (2, None), (3, Some(1_000_000)), (4, Some(1_000_010))] {
            let counters = received.map(|received| Counters { received, gone: received });
            rates.sample(second, 0, &[(&sink, counters)]);
        }
        assert_eq!(rates.of("a"), (10.0, 10.0));
    }

    #[test]
    fn each_change_is_reported_even_after_more_of_them_than_are_kept() {
        let name = SinkName::new("a").unwrap();
        let inspected = |state| [snapshot::blank(&name, state)];
        let mut rates = Rates::default();
        for number in 0..3 * CHANGES as i64 {
            let state = if number % 2 == 0 { SinkState::Unavailable } else { SinkState::Idle };
            assert!(rates.record_changes(number, &inspected(state)), "change {number}");
            assert!(!rates.record_changes(number, &inspected(state)), "the same state again");
        }
        assert_eq!(rates.changes().len(), CHANGES);
        assert_eq!(rates.history().sinks["a"].changes.len(), CHANGES);
        assert!(!rates.record_changes(0, &inspected(SinkState::Delivering)), "idle and delivering are one");
    }
}
