//! Where the file sink writes, and when it begins the next file.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Where and how the file sink writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// The folder; made if it is not there.
    pub path: PathBuf,
    /// A file is closed when it has reached this size.
    pub rotate_bytes: u64,
    /// A file is closed when it is this old.
    pub rotate_age: Duration,
    /// What becomes of a closed file.
    pub compression: Compression,
    /// Static fields added to each document.
    pub labels: BTreeMap<String, String>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            path: PathBuf::from("./data/out"),
            rotate_bytes: 64 << 20,
            rotate_age: Duration::from_secs(3600),
            compression: Compression::None,
            labels: BTreeMap::new(),
        }
    }
}

/// How closed files are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// They stay as they are: `.ndjson`.
    #[default]
    None,
    /// `.ndjson.gz`
    Gzip,
    /// `.ndjson.zst`
    Zstd,
}

impl Compression {
    /// What a compressed file's name ends in; empty where nothing is compressed.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }
}
