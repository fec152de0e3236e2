//! The archive of a configured sink.

use std::sync::Arc;

use super::{Archive, file::FileArchive, mongodb::MongoArchive, postgresql::PostgresqlArchive};
use crate::config::{SinkConfig, Target};

/// Why a sink has no archive.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What it stored cannot be read back.
    #[error("sink {sink} is of type {kind}, which cannot be read: sessions are read from sinks of type {READABLE}")]
    NotReadable {
        /// Its name.
        sink: String,
        /// The word of its type.
        kind: &'static str,
    },
    /// None of the configured sinks can be read.
    #[error("no sink can be read: sessions are read from sinks of type {READABLE}; add one to the configuration")]
    None,
}

/// The types of sinks that can be read.
const READABLE: &str = "mongodb, postgresql or file";

/// The archive of a sink; it connects at the first request.
///
/// # Errors
/// When a sink of this type cannot be read.
pub fn open(sink: &SinkConfig) -> Result<Arc<dyn Archive>, OpenError> {
    match &sink.target {
        Target::Mongodb(options) => Ok(Arc::new(MongoArchive::new(options.clone()))),
        Target::File(options) => Ok(Arc::new(FileArchive::new(options))),
        Target::Postgresql(options) => Ok(Arc::new(PostgresqlArchive::new(options.clone()))),
        Target::Redis(_) | Target::Http(_) => {
            Err(OpenError::NotReadable { sink: sink.name.to_string(), kind: sink.target.kind() })
        }
    }
}

/// The first sink that can be read, and its archive.
///
/// # Errors
/// When none can.
pub fn open_first(sinks: &[SinkConfig]) -> Result<(&SinkConfig, Arc<dyn Archive>), OpenError> {
    for sink in sinks {
        match open(sink) {
            Err(OpenError::NotReadable { .. }) => {}
            opened => return opened.map(|archive| (sink, archive)),
        }
    }
    Err(OpenError::None)
}
