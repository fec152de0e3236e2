//! Per sink: reads batches, delivers them, removes what was acknowledged.
//!
//! ```text
//! queue ─ lease ─► parcel ─ send ─► sink ─┬─ Delivered ─► acknowledge
//!           ▲                             ├─ Rejected ──► set aside (dead letter)
//!           └────── give back at the end ─┴─ Retry ─────► held, tried again without end
//! ```

mod backoff;
mod batch;
mod deliver;
#[cfg(test)]
mod double;
mod due;
mod handle;
mod options;
mod pace;
mod parcel;
mod status;
mod tasks;
#[cfg(test)]
mod tests;
mod worker;

pub use handle::{Handle, Worker};
pub use options::{BackoffOptions, FlushOptions};
pub use status::{FlushState, FlushStatus};
