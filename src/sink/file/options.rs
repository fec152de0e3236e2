//! Where the file sink writes, and when it starts a new file.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use crate::setting::{Is, KIB, SECOND, Size, Span, TIB, Text, YEAR};

/// Where and how the file sink writes.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileOptions {
    /// file: the directory of the NDJSON files, one file per stream at a time; not in a spool's directory (data_dir/NAME),
    /// and not above one
    #[serde_as(as = "Is<Text>")]
    pub path: PathBuf,
    /// file: a file is closed at this size, or at `rotate_age`
    #[serde_as(as = "Is<Size<{ 4 * KIB }, TIB>>")]
    pub rotate_bytes: u64,
    /// file: a file is closed at this age, or at `rotate_bytes`
    #[serde_as(as = "Is<Span<SECOND, YEAR>>")]
    pub rotate_age: Duration,
    /// file: how closed files are compressed: none, gzip, zstd
    #[serde(rename = "compress")]
    pub compression: FileCompression,
    /// Static fields added to each document.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            path: PathBuf::from("./data/out"),
            rotate_bytes: 64 << 20,
            rotate_age: Duration::from_secs(3600),
            compression: FileCompression::None,
            labels: BTreeMap::new(),
        }
    }
}

/// How closed files are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileCompression {
    /// They are kept uncompressed: `.ndjson`.
    #[default]
    None,
    /// `.ndjson.gz`
    Gzip,
    /// `.ndjson.zst`
    Zstd,
}

impl FileCompression {
    /// The suffix of a compressed file; empty if nothing is compressed.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }
}
