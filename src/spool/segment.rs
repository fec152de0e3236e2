//! Journal segments: their names, and a walk over their blocks that steps over damage.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    block::{BLOCK_OVERHEAD, BadBlock, HEADER_BYTES, Header, MAGIC, check_block},
    io::{Disk, DiskFile},
};

const EXTENSION: &str = ".journal";
/// How much is read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// The file of a segment.
pub(crate) fn path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment:012}{EXTENSION}"))
}

/// The segments of a folder and their lengths, oldest first.
pub(crate) fn list(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut segments: Vec<(u64, u64)> = disk
        .list(folder)?
        .into_iter()
        .filter_map(|(name, len)| Some((name.strip_suffix(EXTENSION)?.parse().ok()?, len)))
        .collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Reads slices of a file through a buffer.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    start: u64,
}

impl ChunkReader {
    pub(crate) const fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, buffer: Vec::new(), start: 0 }
    }

    /// `len` bytes at `offset`; fewer where the file or `limit` ends. Nothing at or after `limit` is read, so that what
    /// is being written meanwhile never gets into the buffer.
    pub(crate) fn slice(&mut self, offset: u64, len: usize, limit: u64) -> io::Result<&[u8]> {
        let have = self.start..self.start + self.buffer.len() as u64;
        let wanted_end = (offset + len as u64).min(limit);
        if !(have.contains(&offset) && wanted_end <= have.end) {
            let room = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.buffer.clear();
            self.buffer.resize(len.max(CHUNK_BYTES).min(room), 0);
            self.start = offset;
            let read = match self.file.read_at(&mut self.buffer, offset) {
                Ok(read) => read,
                Err(error) => {
                    // Perhaps only what lies behind cannot be read.
                    self.buffer.truncate(len);
                    let read = self.file.read_at(&mut self.buffer, offset);
                    if read.is_err() {
                        self.buffer.clear();
                    }
                    read.map_err(|_| error)?
                }
            };
            self.buffer.truncate(read);
        }
        let from = (offset - self.start) as usize;
        let to = (from + len).min(self.buffer.len());
        Ok(self.buffer.get(from..to).unwrap_or_default())
    }
}

/// What a walk finds next.
#[derive(Debug)]
pub(crate) enum Found {
    /// A whole block.
    Block {
        header: Header,
        offset: u64,
        /// As it is packed.
        payload: Vec<u8>,
    },
    /// Bytes that are no whole block; a whole one, or the end, follows.
    Damage(Damage),
}

/// Bytes that are no whole block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) bytes: Range<u64>,
    /// What was wrong at its start.
    pub(crate) reason: BadBlock,
    /// The header at its start, if that holds.
    pub(crate) header: Option<Header>,
}

/// Walks over the blocks of a segment.
#[derive(Debug)]
pub(crate) struct Walker {
    reader: ChunkReader,
    offset: u64,
    end: u64,
}

impl Walker {
    /// Walks from `offset`, where a block should begin, to `end`.
    pub(crate) const fn new(file: Arc<dyn DiskFile>, offset: u64, end: u64) -> Self {
        Self { reader: ChunkReader::new(file), offset, end }
    }

    /// The next block or damage; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let start = self.offset;
        let reason = match self.block_at(start)? {
            Ok((header, payload)) => {
                self.offset += header.block_len();
                return Ok(Some(Found::Block { header, offset: start, payload }));
            }
            Err(reason) => reason,
        };
        let header = Header::parse(self.reader.slice(start, HEADER_BYTES, self.end)?).ok();
        self.offset = self.next_whole_block(start + 1)?;
        Ok(Some(Found::Damage(Damage { bytes: start..self.offset, reason, header })))
    }

    /// Goes on behind bytes that cannot be read; answers which they are.
    pub(crate) fn step_over(&mut self, bytes: u64) -> Range<u64> {
        let start = self.offset;
        self.offset = (start + bytes).min(self.end);
        start..self.offset
    }

    fn block_at(&mut self, offset: u64) -> io::Result<Result<(Header, Vec<u8>), BadBlock>> {
        let header = match Header::parse(self.reader.slice(offset, HEADER_BYTES, self.end)?) {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason)),
        };
        if header.block_len() > self.end - offset {
            return Ok(Err(BadBlock::Short));
        }
        let block = self.reader.slice(offset, header.block_len() as usize, self.end)?;
        Ok(check_block(&header, block).map(|payload| (header, payload.to_vec())))
    }

    /// Where the next whole block begins, or the end.
    fn next_whole_block(&mut self, mut offset: u64) -> io::Result<u64> {
        while offset + BLOCK_OVERHEAD as u64 <= self.end {
            let chunk = self.reader.slice(offset, CHUNK_BYTES, self.end)?;
            if chunk.len() < MAGIC.len() {
                break;
            }
            let Some(found) = chunk.windows(MAGIC.len()).position(|window| window == MAGIC) else {
                offset += (chunk.len() - (MAGIC.len() - 1)) as u64;
                continue;
            };
            offset += found as u64;
            if matches!(self.block_at(offset)?, Ok(_) | Err(BadBlock::Newer { .. })) {
                return Ok(offset);
            }
            offset += 1;
        }
        Ok(self.end)
    }
}

/// Opens a segment and walks all of it.
pub(crate) fn walk(disk: &dyn Disk, folder: &Path, segment: u64, from: u64) -> io::Result<Walker> {
    let file = disk.open(&path(folder, segment))?;
    let end = file.len()?;
    Ok(Walker::new(file, from, end))
}
