//! The work that decompression may take, and why it ends early. A block costs tables and buffers, however little it holds:
//! so both the output and the number of blocks are limited.

use std::io;

/// One block is allowed for so many bytes of the limit. Encoders write one for tens of kilobytes.
const BYTES_PER_BLOCK: usize = 1024;
/// So many blocks are always allowed.
const FREE_BLOCKS: usize = 256;

/// The number of blocks that may still be decompressed.
#[derive(Debug)]
pub(super) struct Work {
    left: usize,
    max: usize,
}

/// Why something cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot be decompressed: {0}")]
    Unreadable(&'static str),
    #[error("cannot be decompressed: {0}")]
    Io(#[from] io::Error),
    #[error("cannot be decompressed: it ends early")]
    Truncated,
    #[error("it is compressed in more than {max} blocks: flush the compressor less often, or send less at a time")]
    TooManyBlocks { max: usize },
    #[error("decompressed, it is larger than the limit")]
    TooLarge,
}

impl Work {
    /// The budget of a body or message that may have `max_bytes`.
    pub(super) fn of(max_bytes: usize) -> Self {
        let max = max_bytes / BYTES_PER_BLOCK + FREE_BLOCKS;
        Self { left: max, max }
    }

    /// Uses up so many blocks.
    pub(super) fn spend(&mut self, blocks: usize) -> Result<(), Failure> {
        self.left = self.left.checked_sub(blocks).ok_or(Failure::TooManyBlocks { max: self.max })?;
        Ok(())
    }
}
