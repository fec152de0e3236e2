//! A sink's name: its identity in the config, in metrics, and the name of its directory.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A sink's name, its identity: lower-case letters, digits, `-` and `_`, at most 64 of them. It names the directory too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SinkName(String);

impl SinkName {
    /// Checks the name.
    ///
    /// # Errors
    /// When it is empty, longer than 64 bytes, or holds anything but `a-z`, `0-9`, `-`, `_`.
    pub fn new(name: impl Into<String>) -> Result<Self, BadSinkName> {
        let name = name.into();
        let fits = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if fits { Ok(Self(name)) } else { Err(BadSinkName(name)) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Borrow<str> for SinkName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SinkName {
    type Err = BadSinkName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl<'de> Deserialize<'de> for SinkName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A sink name that cannot name a directory safely.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a sink name: use 1 to 64 lower-case letters, digits, '-' or '_'")]
pub struct BadSinkName(String);
