//! The file sink.

mod options;

pub use options::{Compression, FileOptions};
