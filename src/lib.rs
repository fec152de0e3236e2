//! livekit-spool: a durable on-disk buffered forwarder for LiveKit analytics.
//!
//! The modules follow the path of a record:
//!
//! ```text
//! ingest → spool (journal, queue) → flush → sink
//! ```
//!
//! - [`record`]: streams, batches of records as received, record ids.
//! - [`ingest`]: gRPC and HTTP servers; checks the bytes, appends batches to every sink's spool, answers after the sync.
//! - [`spool`]: per sink: the journal that makes records durable, the sled queues over it, dead letters.
//! - [`flush`]: per sink: a worker that leases batches, delivers them, acknowledges what the sink confirmed.
//! - [`sink`]: MongoDB, Redis, files, HTTP: an outcome per record.
//! - [`document`]: turns a record's bytes into the document a sink stores.
//! - [`session`]: what a call was like, from stored documents; [`archive`]: those documents, read back from where a sink stored them.
//!
//! [`app`] opens, starts and stops these; [`run`] is the process around them, with its signals and the status page.
//! [`config`], [`status`], [`admin`] and [`cli`] configure, report and control.

pub mod admin;
pub mod app;
pub mod archive;
mod caller;
mod catch_panic;
pub mod cli;
pub mod config;
mod csv;
pub mod demo;
pub mod document;
mod durable_fs;
mod files;
pub mod flush;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod histogram;
mod hs256;
pub mod ingest;
pub mod inspect;
pub mod logging;
mod printable;
pub mod record;
pub mod run;
pub mod secret;
pub mod session;
pub mod setting;
pub mod sink;
pub mod spool;
pub mod status;
mod tasks;
#[cfg(test)]
mod testing;
mod tls_files;
pub mod units;
