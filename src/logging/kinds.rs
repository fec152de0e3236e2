//! Limits the rate of each kind of log line: of the lines from one place in the code, a limited number is written in each
//! period. The others are counted, and one line reports their number.
//!
//! Lines of the levels debug and trace are not limited: whoever enabled them wants all of them.

use std::{
    collections::HashMap,
    fmt::Debug,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

const INTERVAL: Duration = Duration::from_secs(10);
/// Lines of a kind per period. Our own lines can each be about another sink; those of other crates are caused by clients.
const OURS: u32 = 100;
const OTHERS: u32 = 10;

/// The kinds of lines that were logged.
#[derive(Debug, Default)]
pub(super) struct Kinds(Mutex<HashMap<Identifier, Kind>>);

#[derive(Debug)]
struct Kind {
    since: Instant,
    written: u32,
    /// Lines not written since then, with the message of the last one.
    suppressed: Option<Suppressed>,
}

/// Lines that were not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suppressed {
    pub(super) level: Level,
    pub(super) of: &'static str,
    /// The message of one of them.
    pub(super) message: String,
    pub(super) lines: u64,
}

impl Kinds {
    fn may_write(&self, metadata: &'static Metadata<'static>, message: impl FnOnce() -> String) -> bool {
        // Debug and trace are not limited, and neither is this module's own report of suppressed lines.
        if *metadata.level() > Level::INFO || metadata.target().starts_with(module_path!()) {
            return true;
        }
        let is_ours = metadata.target().starts_with("livekit_spool");
        let max = if is_ours { OURS } else { OTHERS };
        let mut kinds = self.0.lock();
        let now = Instant::now();
        let kind =
            kinds.entry(metadata.callsite()).or_insert_with(|| Kind { since: now, written: 0, suppressed: None });
        if kind.suppressed.is_none() && now.duration_since(kind.since) >= INTERVAL {
            (kind.since, kind.written) = (now, 0);
        }
        if kind.written < max {
            kind.written += 1;
            return true;
        }
        let suppressed = kind.suppressed.get_or_insert_with(|| Suppressed {
            level: *metadata.level(),
            of: metadata.target(),
            message: message(),
            lines: 0,
        });
        suppressed.lines += 1;
        false
    }

    /// The suppressed lines of kinds whose period is over.
    fn over(&self) -> Vec<Suppressed> {
        let mut kinds = self.0.lock();
        let now = Instant::now();
        let mut over = Vec::new();
        for kind in kinds.values_mut().filter(|kind| now.duration_since(kind.since) >= INTERVAL) {
            if let Some(suppressed) = kind.suppressed.take() {
                over.push(suppressed);
                (kind.since, kind.written) = (now, 0);
            }
        }
        over
    }

    /// Logs how many lines were suppressed.
    pub(super) fn sum_up(&self) {
        for Suppressed { level, of, message, lines } in self.over() {
            match level {
                Level::ERROR => tracing::error!(of, lines, "… {lines} more of this kind: {message}"),
                Level::WARN => tracing::warn!(of, lines, "… {lines} more of this kind: {message}"),
                _ => tracing::info!(of, lines, "… {lines} more of this kind: {message}"),
            }
        }
    }
}

/// The layer that applies the limits.
pub(super) struct Limited(pub(super) &'static Kinds);

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.may_write(event.metadata(), || {
            let mut message = Message(String::new());
            event.record(&mut message);
            message.0
        })
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    use super::*;

    /// Counts the lines that pass.
    #[derive(Default)]
    struct Written(Mutex<u32>);

    impl<S: Subscriber> Layer<S> for &'static Written {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock() += 1;
        }
    }

    #[test]
    fn some_lines_of_each_kind_are_written_and_the_others_are_counted() {
        let kinds: &Kinds = Box::leak(Box::default());
        let written: &Written = Box::leak(Box::default());
        let subscriber = Registry::default().with(Limited(kinds)).with(written);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..12_000 {
                tracing::warn!(target: "h2::proto", number, "noise {number}");
                tracing::error!(target: "livekit_spool::sink", "a sink");
                tracing::debug!(target: "h2::proto", "asked for");
            }
            tracing::warn!(target: "h2::proto", "of another kind");
        });
        assert_eq!(*written.0.lock(), OTHERS + OURS + 12_000 + 1);
        assert_eq!(kinds.over(), [], "not yet");
        kinds.0.lock().values_mut().for_each(|kind| kind.since -= INTERVAL);
        let mut over = kinds.over();
        over.sort_by_key(|suppressed| suppressed.lines);
        let figures: Vec<_> = over.iter().map(|one| (one.level, one.lines, one.message.as_str())).collect();
        let [ours, others] = [OURS, OTHERS].map(|max| u64::from(12_000 - max));
        assert_eq!(figures, [(Level::ERROR, ours, "a sink"), (Level::WARN, others, "noise 10")]);
        assert_eq!(kinds.over(), []);
    }
}
