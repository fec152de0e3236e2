//! Access to private parts for the fuzz targets (`fuzz/`). The parts are private because only the modules around them use them
//! correctly. A cargo feature enables it, not `cfg(fuzzing)`: that is a flag for all crates, and CI, which runs the targets over
//! their corpus, would have to compile every dependency once more.

pub use crate::{
    ingest::fuzzing::{HttpPort, decompress},
    spool::fuzzing::{Part, Scanned, scan},
};
