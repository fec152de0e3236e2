//! The MongoDB sink.

mod options;

pub use options::{MongoOptions, MongoOptionsError};
