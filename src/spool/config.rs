//! The `spool:` section of a config file: how much a spool holds, and how.

use std::{path::PathBuf, time::Duration};

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::{
    options::{Compression, Key, Keys, SpoolOptions, WhenFull},
    quota::MIN_MAX_BYTES,
};
use crate::{
    record::SinkName,
    setting::{Age, GIB, HOUR, Is, KIB, Size, Span, TIB, Text, kind},
};

/// A spool: how much it holds, and how.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
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
    pub encryption: Option<EncryptionConfig>,
    /// Records that the sink rejected for good.
    pub dead_letters: DeadLettersConfig,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        let SpoolOptions {
            name: _,
            max_bytes,
            segment_bytes,
            min_free_bytes,
            max_age,
            when_full,
            block_timeout,
            dead_max_bytes,
            compression,
            encryption: _,
        } = SpoolOptions::default();
        let dead_letters = DeadLettersConfig { max_bytes: dead_max_bytes };
        Self {
            max_bytes,
            min_free_bytes,
            max_age,
            when_full,
            block_timeout,
            segment_bytes,
            compression,
            encryption: None,
            dead_letters,
        }
    }
}

impl SpoolConfig {
    /// The options of this sink's spool.
    #[must_use]
    pub fn options(&self, sink: &SinkName) -> SpoolOptions {
        SpoolOptions {
            name: sink.to_string(),
            max_bytes: self.max_bytes,
            segment_bytes: self.segment_bytes,
            min_free_bytes: self.min_free_bytes,
            max_age: self.max_age,
            when_full: self.when_full,
            block_timeout: self.block_timeout,
            dead_max_bytes: self.dead_letters.max_bytes,
            compression: self.compression,
            encryption: self.encryption.as_ref().map(EncryptionConfig::keys),
        }
    }
}

/// Records that a sink rejected for good.
#[serde_as]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// when they are full, the sink pauses and reports it
    #[serde_as(as = "Is<Size<{ 64 * KIB }, { 8 * TIB }>>")]
    #[serde(default = "dead_letters_max_bytes")]
    pub max_bytes: u64,
}

fn dead_letters_max_bytes() -> u64 {
    SpoolConfig::default().dead_letters.max_bytes
}

/// How journal blocks are encrypted.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptionConfig {
    /// the key for new blocks, as "${SPOOL_KEY}"
    #[serde_as(as = "Is<Key>")]
    pub key: Key,
    /// a file that holds the key
    #[serde_as(as = "Option<Is<Text>>")]
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// the keys of older blocks
    #[serde_as(as = "Vec<Is<Key>>")]
    #[serde(default)]
    pub old_keys: Vec<Key>,
    /// files that hold one key each
    #[serde_as(as = "Vec<Is<Text>>")]
    #[serde(default)]
    pub old_key_files: Vec<PathBuf>,
}

impl EncryptionConfig {
    /// The keys in the form that a spool needs.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys { current: self.key.clone(), previous: self.old_keys.clone() }
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
