//! A dead letter, filters, and which dead letters are appended together.

use std::ops::Range;

use bincode::{Decode, Encode};
use serde::Serialize;

use crate::record::{Stream, UnixMillis};

/// A record that a sink rejected for good.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct DeadLetter {
    /// Its stream.
    pub stream: Stream,
    /// Its `_id`; with the stream, the dead letter's key.
    pub id: String,
    /// When it was received.
    pub received_at: UnixMillis,
    /// The sink's last reason.
    pub reason: String,
    /// How often delivery was tried.
    pub attempts: u32,
    /// The first attempt.
    pub first_attempt_at: UnixMillis,
    /// The last attempt.
    pub last_attempt_at: UnixMillis,
    /// The record as it was received.
    #[serde(skip)]
    pub record: Vec<u8>,
}

/// A dead letter's key: its stream and `_id`.
pub(crate) type Key = (Stream, String);

impl DeadLetter {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.stream, self.id.clone())
    }

    /// Its approximate length, unpacked.
    pub(super) fn approximate_bytes(&self) -> u64 {
        const NUMBERS: usize = 64;
        (self.record.len() + self.reason.len() + self.id.len() + NUMBERS) as u64
    }

    /// Adds the attempts of an earlier dead letter with the same key.
    pub(super) fn add_history(&mut self, earlier: &Self) {
        self.attempts = self.attempts.saturating_add(earlier.attempts);
        self.first_attempt_at = self.first_attempt_at.min(earlier.first_attempt_at);
    }
}

/// Selects dead letters; each condition that is set has to match.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    /// Of this stream.
    pub stream: Option<Stream>,
    /// With this `_id`.
    pub id: Option<String>,
    /// Whose reason contains this text.
    pub reason: Option<String>,
    /// Whose last attempt is before this time.
    pub before: Option<UnixMillis>,
}

impl DeadFilter {
    /// True if a dead letter matches.
    pub(super) fn matches(&self, dead_letter: &DeadLetter) -> bool {
        self.stream.is_none_or(|stream| dead_letter.stream == stream)
            && self.id.as_ref().is_none_or(|id| dead_letter.id == *id)
            && self.reason.as_ref().is_none_or(|text| dead_letter.reason.contains(text))
            && self.before.is_none_or(|time| dead_letter.last_attempt_at < time)
    }
}

/// Splits dead letters into groups that are appended together.
pub(crate) fn groups(dead_letters: &[DeadLetter], group_bytes: u64) -> Vec<Range<usize>> {
    let (mut groups, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, dead_letter) in dead_letters.iter().enumerate() {
        let length = dead_letter.approximate_bytes();
        if i > start && bytes + length > group_bytes {
            groups.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes += length;
    }
    if start < dead_letters.len() {
        groups.push(start..dead_letters.len());
    }
    groups
}
