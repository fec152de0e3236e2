//! Errors of a spool, by cause; each names the object and the remedy.

use std::{io, path::PathBuf, sync::Arc};

use crate::files;

/// Why a spool could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is missing and cannot be created, or cannot be read or written.
    #[error("spool {path}: {source}: {}", remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("spool {path} is in use by another process: stop that one, or use another data_dir")]
    InUse {
        /// The spool's directory.
        path: PathBuf,
    },
    /// Another version of livekit-spool wrote it.
    #[error(
        "{path} has format version {found}, this build reads only version {known}: deliver it with the livekit-spool \
         that wrote it, or move the spool's directory away"
    )]
    OtherFormat {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u8,
        /// The one this build knows.
        known: u8,
    },
    /// The limits contradict each other.
    #[error("spool {name}: max_bytes {max_bytes} is too small: at least {least} bytes are needed")]
    TooSmall {
        /// The sink's name.
        name: String,
        /// The configured value.
        max_bytes: u64,
        /// The smallest possible value.
        least: u64,
    },
    /// The backlog is encrypted and its key is not among the configured ones. Nothing is lost: it can be read once the
    /// key is configured.
    #[error("{path} is encrypted with key {key}, which is not among the configured keys: add it to spool.encryption")]
    WrongKey {
        /// The segment.
        path: PathBuf,
        /// The key's id.
        key: String,
    },
}

/// The remedy for a directory that cannot be used.
pub(crate) fn remedy(error: &io::Error) -> String {
    if files::is_refusal(error) {
        return "nothing was read from it or written to it".to_owned();
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            format!("it has to belong to this user (uid {user}): chown -R the data_dir, or choose another one")
        }
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or choose another data_dir".to_owned(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some disk space".to_owned(),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a directory belongs there: move away what is in its place".to_owned()
        }
        _ => "check the disk, or choose another data_dir".to_owned(),
    }
}

impl OpenError {
    /// True if the cause may pass, so that a retry can succeed without a change of the configuration.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::InUse { .. })
    }

    /// The cause, without a path of this machine: safe to show to anyone.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Io { source, .. } => source.to_string(),
            Self::InUse { .. } => "another process uses it".to_owned(),
            Self::OtherFormat { found, known, .. } => {
                format!("it has format version {found}, this build reads only version {known}")
            }
            Self::TooSmall { max_bytes, least, .. } => {
                format!("max_bytes {max_bytes} is too small: at least {least} bytes are needed")
            }
            Self::WrongKey { key, .. } => {
                format!("it is encrypted with key {key}, which is not among the configured keys")
            }
        }
    }

    /// The remedy, without a path of this machine.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Io { source, .. } if files::is_refusal(source) => {
                "put a regular file of the user that livekit-spool runs as in its place, then `livekit-spool reload`"
            }
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "give the sink's directory in data_dir to the user that livekit-spool runs as (chown -R), then \
                     `livekit-spool reload`"
                }
                io::ErrorKind::ReadOnlyFilesystem => "mount the data_dir writable, then `livekit-spool reload`",
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some disk space, then `livekit-spool reload`"
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    "move away what is in the place of the sink's directory in data_dir, then `livekit-spool reload`"
                }
                _ => {
                    "check the disk, then `livekit-spool reload`; `livekit-spool recover` extracts the records that can \
                     be read"
                }
            },
            Self::InUse { .. } => "stop the other process, then `livekit-spool reload`",
            Self::OtherFormat { .. } => {
                "deliver it with the livekit-spool that wrote it, or move the sink's directory in data_dir away; then \
                 `livekit-spool reload`"
            }
            Self::TooSmall { .. } => "raise spool.max_bytes, then `livekit-spool reload`",
            Self::WrongKey { .. } => "add the key to spool.encryption, then `livekit-spool reload`; nothing is lost",
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Why records were not accepted. No record of the batch is in the spool.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// A limit is reached; space is freed as the backlog is delivered.
    #[error("spool {sink} is full: {limit}")]
    Full {
        /// The sink.
        sink: String,
        /// Which limit.
        limit: FullLimit,
    },
    /// A batch that does not fit even into an empty spool.
    #[error(
        "a request of {bytes} bytes never fits into the spool of sink {sink}: its max_bytes leaves {max} for one; send \
         less at once, or raise max_bytes"
    )]
    NeverFits {
        /// The sink.
        sink: String,
        /// Its size on disk.
        bytes: u64,
        /// The largest size that fits.
        max: u64,
    },
    /// The journal could not be written or synced.
    #[error("spool {path}: {source}: nothing of the batch was kept")]
    Io {
        /// The segment.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// A record that is longer than a block can hold.
    #[error("a record of {bytes} bytes is too long: at most {most}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest record that fits.
        most: usize,
    },
    /// The spool is closing.
    #[error("spool {sink} is closed")]
    Closed {
        /// The sink.
        sink: String,
    },
}

impl AppendError {
    /// True if the same batch may be accepted later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::TooLong { .. } | Self::NeverFits { .. })
    }

    /// True if the spool, its quota or the disk is full.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// The result of an append that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The records are durable.
    Kept,
    /// The spool was full, and `when_full: drop_newest` dropped and counted the records: the only success without
    /// keeping them.
    Dropped {
        /// Which limit was reached.
        limit: FullLimit,
    },
}

/// The limit that a spool has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FullLimit {
    /// The sink's own.
    #[error("{used} of max_bytes {max} are used")]
    Quota {
        /// Bytes on disk.
        used: u64,
        /// `max_bytes`
        max: u64,
    },
    /// The disk's.
    #[error("{free} bytes are free on the disk, min_free_bytes keeps {min}")]
    Disk {
        /// Bytes free.
        free: u64,
        /// `min_free_bytes`
        min: u64,
    },
    /// The operating system refused the write.
    #[error("no space left on the disk")]
    NoSpace,
}
