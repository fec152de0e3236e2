//! What can go wrong, by cause; each error names the place and the remedy.

use std::{io, path::PathBuf, sync::Arc};

use crate::files;

/// Why a spool could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is not there and cannot be made, or cannot be read or written.
    #[error("spool {path}: {source}: {}", remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
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
        "{path} is of format version {found}, this build reads version {known} alone: deliver it with the livekit-spool that wrote \
         it, or move the spool's directory away"
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
        /// What was asked for.
        max_bytes: u64,
        /// What is needed.
        least: u64,
    },
    /// The backlog is encrypted and its key is not among the configured ones. Nothing is lost: it waits for the key.
    #[error("{path} is encrypted with key {key}, which is not among the configured keys: add it to spool.encryption")]
    WrongKey {
        /// The segment.
        path: PathBuf,
        /// The key's id.
        key: String,
    },
}

/// What to do about a directory that cannot be used.
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
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "give the disk some space".to_owned(),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a directory belongs there: move away what is in its place".to_owned()
        }
        _ => "see to the disk, or choose another data_dir".to_owned(),
    }
}

impl OpenError {
    /// True where the cause may pass, so that trying again helps without a change of the configuration.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::InUse { .. })
    }

    /// Why, without a path of this machine: for whoever may ask.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Io { source, .. } => source.to_string(),
            Self::InUse { .. } => "another process uses it".to_owned(),
            Self::OtherFormat { found, known, .. } => {
                format!("it is of format version {found}, this build reads version {known} alone")
            }
            Self::TooSmall { max_bytes, least, .. } => {
                format!("max_bytes {max_bytes} is too small: at least {least} bytes are needed")
            }
            Self::WrongKey { key, .. } => {
                format!("it is encrypted with key {key}, which is not among the configured keys")
            }
        }
    }

    /// What to do about it, without a path of this machine.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Io { source, .. } if files::is_refusal(source) => {
                "put a regular file of the user that livekit-spool runs as in its place, then `livekit-spool reload`"
            }
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "give the sink's directory in data_dir to the user that livekit-spool runs as (chown -R), then `livekit-spool reload`"
                }
                io::ErrorKind::ReadOnlyFilesystem => "mount the data_dir writable, then `livekit-spool reload`",
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "give the disk some space, then `livekit-spool reload`"
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    "move away what is in the place of the sink's directory in data_dir, then `livekit-spool reload`"
                }
                _ => {
                    "check the disk, then `livekit-spool reload`; `livekit-spool recover` takes records out of what can be read"
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

/// Why records were not taken. None of the batch is in the spool.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// A limit is reached; room comes as the backlog drains.
    #[error("spool {sink} is full: {limit}")]
    Full {
        /// The sink.
        sink: String,
        /// Which limit.
        limit: FullLimit,
    },
    /// A request that no draining and no dropping makes fit.
    #[error(
        "a request of {bytes} bytes never fits into the spool of sink {sink}: its max_bytes leaves {max} for one; send less at once, or raise max_bytes"
    )]
    NeverFits {
        /// The sink.
        sink: String,
        /// What it takes on disk.
        bytes: u64,
        /// What fits.
        max: u64,
    },
    /// The journal could not be written or synced.
    #[error("spool {path}: {source}: nothing of the batch was kept")]
    Io {
        /// The segment.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A batch beyond what a block may hold.
    #[error("a record of {bytes} bytes is too long: at most {most}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// What fits.
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
    /// True where the same batch may be taken later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::TooLong { .. } | Self::NeverFits { .. })
    }

    /// True where the spool, its quota or the disk is full.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// What became of an append that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The records are durable.
    Kept,
    /// The spool was full, and `when_full: drop_newest` dropped them, counted: the one success that does not mean kept.
    Dropped {
        /// Which limit was reached.
        limit: FullLimit,
    },
}

/// Which limit a spool has reached.
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
