//! The one door to what fuzz targets (`fuzz/`) drive though it is private: parts that only the modules around them use
//! right. A cargo feature opens it, not `cfg(fuzzing)`: that is a flag for all crates alike, and CI, which runs the targets over
//! their corpus, would have to compile every dependency once more.

pub use crate::{
    ingest::fuzzing::{HttpPort, decompress},
    spool::fuzzing::{Part, Scanned, scan},
};
