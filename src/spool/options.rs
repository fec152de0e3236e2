//! How a spool is to behave.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::setting::{Integer, Is};

/// The options with which a spool is opened. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolOptions {
    /// The sink's name, for messages.
    pub name: String,
    /// Journal, queue and dead letters together never take more on disk.
    pub max_bytes: u64,
    /// Journal segments end at about this length; shortened where `max_bytes` would not hold four of them.
    pub segment_bytes: u64,
    /// No record is accepted that would leave less than this free on the disk.
    pub min_free_bytes: u64,
    /// Records older than this are dropped, counted; `None` keeps them until they are delivered.
    pub max_age: Option<Duration>,
    /// What happens to new records when the spool is full.
    pub when_full: WhenFull,
    /// How long a call waits with [`WhenFull::Block`].
    pub block_timeout: Duration,
    /// Dead letters never take more on disk; when they reach it, their sink pauses.
    pub dead_max_bytes: u64,
    /// How payloads are packed.
    pub compression: Compression,
    /// Keys for payloads; `None` stores them in clear.
    pub encryption: Option<Keys>,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self {
            name: "spool".to_owned(),
            max_bytes: 8 << 30,
            segment_bytes: 64 << 20,
            min_free_bytes: 256 << 20,
            max_age: None,
            when_full: WhenFull::Reject,
            block_timeout: Duration::from_secs(10),
            dead_max_bytes: 256 << 20,
            compression: Compression::default(),
            encryption: None,
        }
    }
}

/// What a full spool does with new records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The call fails; the sender keeps them.
    Reject,
    /// The call waits for space, at most `block_timeout`, then fails.
    Block,
    /// The oldest records are dropped, counted.
    DropOldest,
    /// The new records are dropped, counted; the call succeeds and says so.
    DropNewest,
}

/// What compresses blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Codec {
    Zstd,
    None,
}

/// How journal blocks are compressed.
#[serde_as]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compression {
    /// zstd or none
    pub codec: Codec,
    /// -7 (fastest) to 19 (smallest)
    #[serde_as(as = "Is<Integer<-7, 19>>")]
    pub level: i32,
    /// the built-in one, for small blocks
    pub dictionary: bool,
}

impl Compression {
    /// Blocks as they are.
    pub const NONE: Self = Self { codec: Codec::None, level: -1, dictionary: true };
}

impl Default for Compression {
    fn default() -> Self {
        Self { codec: Codec::Zstd, level: -1, dictionary: true }
    }
}

/// Keys for encrypted payloads.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// New blocks are encrypted with this one.
    pub current: Key,
    /// Older blocks may be read with these.
    pub previous: Vec<Key>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("previous", &self.previous.len()).finish_non_exhaustive()
    }
}

/// A 256-bit key; wiped from memory when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// A key of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}
