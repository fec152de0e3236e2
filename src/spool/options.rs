//! The options of a spool, which are the `spool:` section of a config file: how much it holds, and how.

use std::{path::PathBuf, time::Duration};

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::{
    record::SinkName,
    setting::{Age, GIB, HOUR, Integer, Is, KIB, Size, Span, TIB, Text, kind},
};

/// The smallest `max_bytes` that four segments and the queue fit into.
pub(crate) const MIN_MAX_BYTES: u64 = 4 << 20;

/// A spool: how much it holds, and how. Sizes are in bytes.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolOptions {
    /// The sink's name, for messages; see [`Self::for_sink`].
    #[serde(skip)]
    pub name: String,
    /// (reload) limit of journal, queue and dead letters together; never exceeded
    #[serde_as(as = "Is<Size<MIN_MAX_BYTES, { 8_000 * TIB }>>")]
    pub max_bytes: u64,
    /// (reload) space that is left free on the disk
    #[serde_as(as = "Is<Size<0, { 8 * TIB }>>")]
    pub min_free_bytes: u64,
    /// (reload) older records are dropped and counted
    #[serde_as(as = "Is<Age>")]
    pub max_age: Option<Duration>,
    /// (reload) reject: the call fails; block: it waits; drop_oldest: the oldest records are dropped and counted;
    /// drop_newest: the new records are dropped and counted. The sender then gets OK with the number dropped: the only OK
    /// that does not mean kept
    pub when_full: WhenFull,
    /// (reload) with block: how long a call waits
    #[serde_as(as = "Is<Span<1, HOUR>>")]
    pub block_timeout: Duration,
    /// the size of a journal file; smaller if max_bytes is small
    #[serde_as(as = "Is<Size<{ 64 * KIB }, { 4 * GIB }>>")]
    pub segment_bytes: u64,
    /// How blocks are compressed.
    pub compression: Compression,
    /// XChaCha20-Poly1305; a key is 32 bytes, as 64 hex digits or Base64
    #[schemars(example = serde_json::json!({ "key_file": "/etc/livekit-spool/key" }))]
    pub encryption: Option<Keys>,
    /// Records that the sink rejected for good.
    pub dead_letters: DeadLettersOptions,
}

impl Default for SpoolOptions {
    fn default() -> Self {
        Self {
            name: "spool".to_owned(),
            max_bytes: 8 << 30,
            min_free_bytes: 256 << 20,
            max_age: None,
            when_full: WhenFull::Reject,
            block_timeout: Duration::from_secs(10),
            segment_bytes: 64 << 20,
            compression: Compression::default(),
            encryption: None,
            dead_letters: DeadLettersOptions::default(),
        }
    }
}

impl SpoolOptions {
    /// These options for the spool of this sink.
    #[must_use]
    pub fn for_sink(&self, sink: &SinkName) -> Self {
        Self { name: sink.to_string(), ..self.clone() }
    }
}

/// Records that a sink rejected for good.
#[serde_as]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLettersOptions {
    /// when they are full, the sink pauses and reports it
    #[serde_as(as = "Is<Size<{ 64 * KIB }, { 8 * TIB }>>")]
    pub max_bytes: u64,
}

impl Default for DeadLettersOptions {
    fn default() -> Self {
        Self { max_bytes: 256 << 20 }
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

/// How journal blocks are encrypted.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// the key for new blocks, as "${SPOOL_KEY}"
    #[serde_as(as = "Is<Key>")]
    #[serde(rename = "key")]
    pub current: Key,
    /// a file that holds the key
    #[serde_as(as = "Option<Is<Text>>")]
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// the keys of older blocks
    #[serde_as(as = "Vec<Is<Key>>")]
    #[serde(default, rename = "old_keys")]
    pub previous: Vec<Key>,
    /// files that hold one key each
    #[serde_as(as = "Vec<Is<Text>>")]
    #[serde(default)]
    pub old_key_files: Vec<PathBuf>,
}

impl Keys {
    /// One key for new blocks, and those of older blocks.
    #[must_use]
    pub const fn new(current: Key, previous: Vec<Key>) -> Self {
        Self { current, key_file: None, previous, old_key_files: Vec::new() }
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

/// 64 hex digits, or Base64 of 32 bytes.
fn key(text: &str) -> Option<Key> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = text.trim();
    let bytes = if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        (0..64).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect::<Option<Vec<u8>>>()
    } else {
        STANDARD.decode(text).ok()
    };
    Some(Key::new(zeroize::Zeroizing::new(bytes?).as_slice().try_into().ok()?))
}

kind!([] Key => Key, @SECRET,
    "32 bytes, as 64 hex digits or in Base64 (`openssl rand -hex 32` makes such a key)",
    |text| key(text).ok_or_else(|| "is not a key".to_owned()),
    |_key| "***",
    json_schema!({ "type": ["string", "number"] }));
