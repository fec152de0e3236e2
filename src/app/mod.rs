//! The process: it opens the spools, runs the servers and workers, and offers every operation on a sink, for a running
//! process and for a stopped one's directory. It knows nothing of its callers (the admin API, the command line).
//!
//! Uses `catch_panic`, `config`, `document`, `durable_fs`, `files`, `flush`, `histogram`, `ingest`, `inspect`,
//! `logging`, `record`, `sink`, `spool`, `status`, `tasks`, `units`.

mod dead_letters;
mod directory;
mod history;
mod import;
mod inspecting;
mod open_files;
mod operate;
mod parts;
mod paths;
mod process;
mod purge;
mod rates;
mod refusing;
mod reload;
mod remove;
mod reopen;
mod replace;
mod sinks;
mod slot;
mod snapshot;
mod spools;
mod start;
mod stop;

pub use dead_letters::Retried;
pub use directory::{DataDirectory, DirectoryError, socket, spools_in, with_short_path};
pub use history::{History, POINTS, Point, SinkHistory, StateChange};
pub(crate) use import::batches;
pub use operate::{OperateError, Stopped, look_at};
pub use paths::{PathInSpool, SamePath};
pub use process::{App, NoSuchSink};
pub use purge::Removed;
pub use reload::ReloadError;
pub use remove::RemoveError;
pub use replace::Reloaded;
pub use slot::SinkStartError;
pub use snapshot::of_stopped;
pub use spools::{keys, spool_options};
pub(crate) use start::{Bound, bind_tcp, open};
pub use start::{RunError, check};

use sinks::Running;
