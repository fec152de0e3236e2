//! What goes wrong, for people: logged, and remembered for the status.

use parking_lot::Mutex;

use crate::record::{UnixMillis, now_millis};

/// The last thing that went wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When, by the wall clock.
    pub at: UnixMillis,
    /// What.
    pub message: String,
}

/// A spool's log.
#[derive(Debug)]
pub(crate) struct Reports {
    sink: String,
    last: Mutex<Option<LastError>>,
    last_warning: Mutex<String>,
}

impl Reports {
    pub(crate) const fn new(sink: String) -> Self {
        Self { sink, last: Mutex::new(None), last_warning: Mutex::new(String::new()) }
    }

    /// Remembers, and logs, what went wrong; the same thing again is not logged again.
    pub(crate) fn error(&self, message: String) {
        let mut last = self.last.lock();
        if last.as_ref().is_none_or(|last| last.message != message) {
            tracing::error!(sink = %self.sink, "{message}");
        }
        *last = Some(LastError { at: now_millis(), message });
    }

    /// Logs what is only worth a warning; the same thing again is not logged again.
    pub(crate) fn warn(&self, message: &str) {
        let mut last = self.last_warning.lock();
        if *last != message {
            tracing::warn!(sink = %self.sink, "{message}");
            message.clone_into(&mut last);
        }
    }

    /// What went wrong last.
    pub(crate) fn last(&self) -> Option<LastError> {
        self.last.lock().clone()
    }
}
