//! The config file. Each section is a struct; its fields are the keys with their documentation, kind, bounds and default. Most
//! sections are in the modules whose options they hold.
//!
//! The schema and `config.yaml` contain the same documentation.

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::{admin::AdminConfig, reader::keys_of, sinks::SinkConfig};
use crate::{
    document::DocumentOptions,
    flush::FlushOptions,
    ingest::IngestConfig,
    logging::LogConfig,
    setting::{HOUR, Is, Span, Text},
    spool::SpoolOptions,
};

/// Durations: 500ms, 30s, 1h30m, 1.5h, "2 days". Sizes: 512KiB, 64MiB, 8GiB, 500MB.
/// ${VARIABLE} and ${VARIABLE:-default} are taken from the environment, inside values only; $$ is a dollar sign. A reload
/// (SIGHUP) changes the keys marked (reload) without a restart.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The source, for people: `config.yaml`, `LIVEKIT_CONFIG`, `defaults`.
    #[serde(skip)]
    pub source: String,
    /// The file that it was read from, if any.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// True if that file contains no key: it is empty, or has only comments or a null.
    #[serde(skip)]
    pub file_is_blank: bool,
    /// Warnings for people: what works but should be changed, where, and how.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// The directory of all spools, the lock and the admin socket. On a local disk: not NFS, not tmpfs.
    #[serde_as(as = "Is<Text>")]
    pub data_dir: PathBuf,
    /// How long a stop (SIGTERM, SIGINT) may take: open requests, then one last flush. Records that are left stay on disk.
    #[serde_as(as = "Is<Span<0, HOUR>>")]
    pub shutdown_timeout: Duration,
    /// The servers that receive records.
    pub ingest: IngestConfig,
    /// Status page, API, metrics.
    pub admin: AdminConfig,
    /// The spool: defaults for every sink; a sink can override them under its own `spool:`.
    pub spool: SpoolOptions,
    /// Delivery: defaults for every sink; a sink can override them under its own `flush:`.
    pub flush: FlushOptions,
    /// Documents: the form of records in a sink.
    pub documents: DocumentOptions,
    /// The destinations of records: each sink has its own spool. (reload)
    pub sinks: Vec<SinkConfig>,
    /// What is logged and how.
    pub log: LogConfig,
}

/// The keys of [`Config`].
pub(super) static OWN_KEYS: LazyLock<&[&str]> = LazyLock::new(keys_of::<Config>);

impl Default for Config {
    fn default() -> Self {
        Self {
            source: String::new(),
            file: None,
            file_is_blank: false,
            warnings: Vec::new(),
            data_dir: "./data".into(),
            shutdown_timeout: Duration::from_secs(10),
            ingest: IngestConfig::default(),
            admin: AdminConfig::default(),
            spool: SpoolOptions::default(),
            flush: FlushOptions::default(),
            documents: DocumentOptions::default(),
            sinks: Vec::new(),
            log: LogConfig::default(),
        }
    }
}

impl Config {
    /// Sets how long a stop may take. One half is for open requests, the other for the last flush.
    pub(crate) fn set_shutdown_timeout(&mut self, timeout: Duration) {
        self.shutdown_timeout = timeout;
        self.ingest.grpc.drain_timeout = timeout / 2;
        self.ingest.http.drain_timeout = timeout / 2;
        for sink in &mut self.sinks {
            sink.flush.shutdown_timeout = timeout / 2;
        }
    }
}
