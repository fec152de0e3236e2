//! The user's options for documents, and what a sink adds to each document.

use std::{fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::{
    record::UnixMillis,
    secret::Secret,
    setting::{Is, Kind, Text, kind},
};

/// The largest document that MongoDB accepts.
pub const MONGODB_MAX_DOCUMENT: usize = 16 * 1024 * 1024;

/// How records become documents; the default is what OpenVidu's users expect, without secrets.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DocumentOptions {
    /// secrets: credentials are left out; pii: personal data too; none: everything is kept
    pub redact: Redact,
    /// compatible: as OpenVidu's fork writes them; names: every enum by name
    pub enums: Enums,
    /// adds `time`, a date with the record's own timestamp, for charts and time queries
    pub time: bool,
    /// key for redact: pii: keyed hashes replace some personal data, for joins
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "${SPOOL_PII_KEY}")]
    pub pii_key: Option<PiiKey>,
    /// a file that holds the key
    #[serde_as(as = "Option<Is<Text>>")]
    #[schemars(example = "/run/secrets/spool_pii_key")]
    pub pii_key_file: Option<PathBuf>,
    /// Larger documents are an error.
    #[serde(skip)]
    pub max_bytes: usize,
}

impl Default for DocumentOptions {
    fn default() -> Self {
        Self {
            redact: Redact::default(),
            enums: Enums::default(),
            time: true,
            pii_key: None,
            pii_key_file: None,
            max_bytes: MONGODB_MAX_DOCUMENT,
        }
    }
}

/// What is removed from the documents (docs/redaction.md lists every field).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Redact {
    /// Nothing: the database stores secrets in clear text.
    None,
    /// Credentials and authentication material are absent.
    #[default]
    Secrets,
    /// Personal data is absent too, or a keyed hash if joins on it are useful.
    Pii,
}

/// How enum values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Enums {
    /// As OpenVidu's LiveKit fork: some by name and present even at zero, the others as numbers and absent at zero.
    #[default]
    Compatible,
    /// Every enum by its name; a number without a name in the schema stays a number.
    Names,
}

/// A secret from which the key for hashes of personal data is derived: use the same on every node whose documents are to be
/// joined.
#[derive(Clone, PartialEq, Eq)]
pub struct PiiKey([u8; 32]);

impl PiiKey {
    /// Derives the key from the text of the configuration.
    #[must_use]
    pub fn from_secret(secret: &str) -> Self {
        Self(blake3::derive_key("livekit-spool 2026 documents.pii_key", secret.as_bytes()))
    }

    /// The replacement of `value`: `pii:` and 32 hexadecimal digits, the same for the same value and key.
    #[must_use]
    pub fn hash(&self, value: &str) -> String {
        format!("pii:{}", &blake3::keyed_hash(&self.0, value.as_bytes()).to_hex()[..32])
    }
}

kind!([] Text => PiiKey, @SECRET, <Self as Kind<Secret>>::expected(),
    |text| <Self as Kind<Secret>>::read(text).map(|secret| PiiKey::from_secret(secret.expose())),
    |_key| "***",
    <Self as Kind<Secret>>::schema(),
    quoted_key);

fn quoted_key(text: &str) -> Result<PiiKey, String> {
    <Text as Kind<Secret>>::read_quoted(text).map(|secret| PiiKey::from_secret(secret.expose()))
}

impl fmt::Debug for PiiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PiiKey(…)")
    }
}

/// What differs between records or sinks.
#[derive(Debug, Clone, Copy)]
pub struct DocumentContext<'a> {
    /// Becomes `openvidu_expire_at`; see [`expire_at`]. `None` omits it.
    pub expire_at: Option<UnixMillis>,
    /// Become `labels`.
    pub labels: &'a Labels,
}

impl Default for DocumentContext<'_> {
    fn default() -> Self {
        static NONE: Labels = Labels::none();
        Self { expire_at: None, labels: &NONE }
    }
}

/// When a record received at `received_at` expires: `expiration` (milliseconds) after that time, or after `now` if that is
/// later. A record from a long backlog, or from a node whose clock is behind, is kept as long as any other.
#[must_use]
pub const fn expire_at(received_at: UnixMillis, now: UnixMillis, expiration: u64) -> UnixMillis {
    let from = if received_at > now { received_at } else { now };
    from.saturating_add_unsigned(expiration)
}

/// A sink's static labels, ready to be added to each document under `labels`.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// One BSON element, or nothing.
    pub(super) element: Vec<u8>,
}

impl Labels {
    /// No labels: documents have no `labels` field.
    #[must_use]
    pub const fn none() -> Self {
        Self { element: Vec::new() }
    }

    /// Labels by name.
    ///
    /// # Errors
    /// When a name is empty or contains a NUL, which a BSON key cannot contain.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, BadLabel> {
        use super::writer::{Header, Writer, kind};

        let mut writer = Writer::append_to(Vec::new(), 256);
        writer.header(kind::DOCUMENT, &Header::new("labels"));
        let start = writer.begin();
        let empty = writer.position();
        for (name, value) in labels {
            if name.is_empty() || name.contains('\0') {
                return Err(BadLabel(name.to_owned()));
            }
            writer.key_header(kind::STRING, name.as_bytes());
            writer.string(value.as_bytes());
        }
        if writer.position() == empty {
            return Ok(Self::none());
        }
        writer.end(start);
        Ok(Self { element: writer.finish() })
    }
}

/// The name of a label that cannot be a key.
#[derive(Debug, thiserror::Error)]
#[error("label name {0:?} cannot be used: use a name that is not empty and has no NUL")]
pub struct BadLabel(String);
