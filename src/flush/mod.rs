//! Per sink: reads batches, delivers them, removes what was acknowledged.

mod options;

pub use options::{BackoffOptions, FlushOptions};
