//! What is wrong in a configuration, and where.

use std::{fmt, sync::Arc};

use crate::printable::one_line;

/// Where something is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, or the environment variable that holds the YAML.
    pub source: Arc<str>,
    /// The line in it, 1-based; 0 if there is none (a section that is missing).
    pub line: usize,
    /// The column in the line, 1-based, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.source))?;
        if self.line > 0 { write!(f, ":{}:{}", self.line, self.column) } else { Ok(()) }
    }
}

/// One thing that is wrong in a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The key's path: `sinks[0].flush.interval`; empty for the whole document.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Problem {
    pub(super) fn new(place: &Place, path: impl Into<String>, message: impl Into<String>) -> Self {
        let path = shown_key(&path.into()).to_owned();
        Self { place: place.clone(), path, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, path, message } = self;
        let colon = if path.is_empty() { "" } else { ": " };
        write!(f, "{place}{colon}{}: {}", one_line(path), one_line(message))
    }
}

/// The part of a key, or of a path, that may be shown: what follows a colon is a value, perhaps a secret, where the space
/// was forgotten (`{name:secret}`).
pub(super) fn shown_key(key: &str) -> &str {
    key.split(':').next().unwrap_or_default()
}
