//! Reports errors to the user: in the log, and as the status's last error.

use parking_lot::Mutex;

use crate::record::{UnixMillis, now_millis};

/// The last error, for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// When it occurred, by the wall clock.
    pub at: UnixMillis,
    /// The error.
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

    /// Remembers and logs an error; a repeated one is not logged again.
    pub(crate) fn error(&self, message: String) {
        let mut last = self.last.lock();
        if last.as_ref().is_none_or(|last| last.message != message) {
            tracing::error!(sink = %self.sink, "{message}");
        }
        *last = Some(LastError { at: now_millis(), message });
    }

    /// Logs a warning; a repeated one is not logged again.
    pub(crate) fn warn(&self, message: &str) {
        let mut last = self.last_warning.lock();
        if *last != message {
            tracing::warn!(sink = %self.sink, "{message}");
            message.clone_into(&mut last);
        }
    }

    /// Logs what is no problem.
    pub(crate) fn info(&self, message: &str) {
        tracing::info!(sink = %self.sink, "{message}");
    }

    /// The last error.
    pub(crate) fn last(&self) -> Option<LastError> {
        self.last.lock().clone()
    }
}
