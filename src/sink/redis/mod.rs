//! The Redis sink.

mod options;

pub use options::{RedisOptions, RedisOptionsError};
