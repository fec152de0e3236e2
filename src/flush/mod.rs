//! Per sink: leases batches, delivers them, removes what was acknowledged.
//!
//! ```text
//! queue ─ lease ─► batch ─ send ─► sink ─┬─ Delivered ─► acknowledge
//!           ▲                            ├─ Rejected ──► dead letter
//!           │                            ├─ Failed ────► held, tried again; a dead letter where others pass for long
//!           └───── release at the end ───┴─ Retry ─────► held, tried again without end
//! ```
//!
//! Uses `catch_panic`, `histogram`, `record`, `setting`, `sink`, `spool`, `tasks`.

mod backoff;
mod context;
mod deliver;
mod due;
mod environment;
#[cfg(test)]
mod fake_queue;
#[cfg(test)]
mod fake_sink;
mod handle;
mod in_flight;
mod options;
mod rate_limiter;
mod status;
mod suspicion;
mod tasks;
#[cfg(test)]
mod tests;
mod trial;
mod window;
mod worker;

pub use handle::{Handle, Worker};
pub use options::{BackoffOptions, FlushOptions};
pub use status::{FlushFigures, FlushStatus, SinkState};
