//! What changes over time: rates of the last seconds, the backlog of the last minutes, what changed state.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::snapshot::Looked;
use crate::{
    record::UnixMillis,
    status::{Change, State},
};

/// Seconds that a rate looks back on.
const RATE_SECONDS: usize = 10;
/// Seconds of backlog that are kept.
const HISTORY: usize = 600;
/// Changes that are kept.
const CHANGES: usize = 100;

/// Counters that only grow, as one sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) received: u64,
    pub(super) gone: u64,
}

/// The backlog over the last minutes, a point a second.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// When, by the wall clock; the newest last.
    pub at: Vec<UnixMillis>,
    /// Per sink; a sink that came later has fewer points, and they are the last ones.
    pub sinks: BTreeMap<String, Series>,
}

/// One sink's points.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Series {
    /// Records not yet acknowledged.
    pub records: Vec<u64>,
}

#[derive(Debug, Default)]
struct Samples {
    counters: VecDeque<Counters>,
    backlog: VecDeque<u64>,
    state: Option<State>,
}

/// Keeps the samples.
#[derive(Debug, Default)]
pub(super) struct Rates {
    at: VecDeque<UnixMillis>,
    taken: VecDeque<u64>,
    sinks: BTreeMap<String, Samples>,
    changes: VecDeque<Change>,
}

impl Rates {
    /// Takes a sample; call it once a second.
    pub(super) fn sample(&mut self, at: UnixMillis, taken: u64, sinks: &[Looked]) {
        push(&mut self.at, at, HISTORY);
        push(&mut self.taken, taken, RATE_SECONDS + 1);
        self.sinks.retain(|name, _| sinks.iter().any(|looked| looked.status.name == *name));
        for Looked { status: sink, counters, .. } in sinks {
            let samples = self.sinks.entry(sink.name.clone()).or_default();
            push(&mut samples.counters, *counters, RATE_SECONDS + 1);
            push(&mut samples.backlog, sink.records, HISTORY);
        }
    }

    /// Notes what changed since the last call; true where something did.
    pub(super) fn note_changes(&mut self, at: UnixMillis, sinks: &[Looked]) -> bool {
        let mut changed = false;
        for Looked { status: sink, .. } in sinks {
            let samples = self.sinks.entry(sink.name.clone()).or_default();
            let was = samples.state.replace(sink.state);
            // Delivering and idle alternate with every batch: that is no news.
            let healthy = |state| matches!(state, State::Delivering | State::Idle);
            if was == Some(sink.state) || was.is_some_and(|was| healthy(was) && healthy(sink.state)) {
                continue;
            }
            let reason = sink.last_error.clone().filter(|_| sink.state.is_trouble());
            let state = sink.state.as_str().to_owned();
            push(&mut self.changes, Change { at, sink: sink.name.clone(), state, reason }, CHANGES);
            changed = true;
        }
        changed
    }

    /// Notes something about the process.
    pub(super) fn note(&mut self, at: UnixMillis, state: &str, reason: Option<String>) {
        push(&mut self.changes, Change { at, sink: String::new(), state: state.to_owned(), reason }, CHANGES);
    }

    /// Records taken a second.
    pub(super) fn taken(&self) -> f64 {
        slope(&self.taken)
    }

    /// Records a second into a sink's spool and out of it.
    pub(super) fn of(&self, sink: &str) -> (f64, f64) {
        let Some(samples) = self.sinks.get(sink) else { return (0.0, 0.0) };
        let slope_of = |field: fn(&Counters) -> u64| slope(&samples.counters.iter().map(field).collect());
        (slope_of(|counters| counters.received), slope_of(|counters| counters.gone))
    }

    /// The last changes, the newest at the end.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.changes.iter().cloned().collect()
    }

    /// The backlog over the last minutes.
    pub(super) fn history(&self) -> History {
        let sinks = self
            .sinks
            .iter()
            .map(|(name, samples)| (name.clone(), Series { records: samples.backlog.iter().copied().collect() }))
            .collect();
        History { at: self.at.iter().copied().collect(), sinks }
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(value);
}

/// By how much a counter grows from one sample to the next.
fn slope(samples: &VecDeque<u64>) -> f64 {
    match (samples.front(), samples.back()) {
        (Some(first), Some(last)) if samples.len() > 1 => {
            last.saturating_sub(*first) as f64 / (samples.len() - 1) as f64
        }
        _ => 0.0,
    }
}

/// How long until a backlog is gone; `None` where it does not shrink.
pub(super) fn drain_seconds(records: u64, rate_in: f64, rate_out: f64) -> Option<f64> {
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
    fn each_change_is_news_also_after_more_of_them_than_are_kept() {
        let name = SinkName::new("a").unwrap();
        let looked =
            |state| [Looked { status: snapshot::blank(&name, state), counters: Counters::default(), not_ready: None }];
        let mut rates = Rates::default();
        for number in 0..3 * CHANGES as i64 {
            let state = if number % 2 == 0 { State::Unavailable } else { State::Idle };
            assert!(rates.note_changes(number, &looked(state)), "change {number}");
            assert!(!rates.note_changes(number, &looked(state)), "the same again");
        }
        assert_eq!(rates.changes().len(), CHANGES);
        assert!(!rates.note_changes(0, &looked(State::Delivering)), "idle and delivering are one");
    }
}
