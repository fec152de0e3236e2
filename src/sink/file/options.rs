//! Where the file sink writes, and when it begins the next file.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::document::Labels;

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
    pub compression: FileCompression,
    /// Static fields added to each document.
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

impl FileOptions {
    /// Checks what can be checked without touching the disk.
    ///
    /// # Errors
    /// When a label cannot be a key.
    pub fn check(&self) -> Result<(), FileOptionsError> {
        self.labels().map(drop)
    }

    /// The labels as each document gets them.
    pub(super) fn labels(&self) -> Result<Labels, FileOptionsError> {
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Labels::new(labels).map_err(|error| FileOptionsError(error.to_string()))
    }
}

/// A label that cannot be a key in a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("labels: {0}")]
pub struct FileOptionsError(String);

/// How closed files are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileCompression {
    /// They stay as they are: `.ndjson`.
    #[default]
    None,
    /// `.ndjson.gz`
    Gzip,
    /// `.ndjson.zst`
    Zstd,
}

impl FileCompression {
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
