//! Segments as files: their names, reading past bad sectors, and a walk over their blocks that skips damage.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::block::{BLOCK_OVERHEAD, BadBlock, HEADER_BYTES, Header, MAGIC, check_block};
use crate::{
    record::pause,
    spool::disk::{Disk, DiskFile, Listed},
};

const EXTENSION: &str = ".journal";
const DONE_EXTENSION: &str = ".done";
/// Bytes read at once.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// The smallest part that a medium loses.
const SECTOR_BYTES: u64 = 4096;
/// Attempts for a read that fails like a bad sector …
const READ_ATTEMPTS: u32 = 3;
/// … with this pause between them …
const READ_PAUSE: Duration = Duration::from_millis(20);
/// … and one attempt only after this many bad sectors: a large bad region would take minutes, at a start too.
const MAX_RETRIED: usize = 16;

/// The file of a segment.
pub(crate) fn path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:012}{EXTENSION}"))
}

/// The file of a segment that is done.
pub(crate) fn done_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:012}{DONE_EXTENSION}"))
}

/// The segments in a directory, by number, with their files.
pub(crate) fn list(disk: &dyn Disk, directory: &Path) -> io::Result<Vec<(u64, Listed)>> {
    numbered(disk, directory, EXTENSION)
}

/// The segments that are being deleted.
pub(crate) fn list_done(disk: &dyn Disk, directory: &Path) -> io::Result<Vec<(u64, Listed)>> {
    numbered(disk, directory, DONE_EXTENSION)
}

fn numbered(disk: &dyn Disk, directory: &Path, extension: &str) -> io::Result<Vec<(u64, Listed)>> {
    let number = |file: Listed| Some((file.name.strip_suffix(extension)?.parse().ok()?, file));
    let mut segments: Vec<(u64, Listed)> = disk.list(directory)?.into_iter().filter_map(number).collect();
    segments.sort_unstable_by_key(|(segment, _)| *segment);
    Ok(segments)
}

/// Reads slices of a file through a buffer.
///
/// A sector that cannot be read is retried a few times, then read as zeros: the checksum of the block over it fails,
/// and it is damage like any other. If nothing else of the file can be read either, the fault is not one sector, and
/// the read fails.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    start: u64,
    unreadable: Vec<Range<u64>>,
}

impl ChunkReader {
    pub(crate) const fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, buffer: Vec::new(), start: 0, unreadable: Vec::new() }
    }

    /// Returns `len` bytes at `offset`; fewer at the end of the file or at `limit`. Reads nothing at or after `limit`,
    /// so that bytes that are being written never get into the buffer.
    pub(crate) fn slice(&mut self, offset: u64, len: usize, limit: u64) -> io::Result<&[u8]> {
        let have = self.start..self.start + self.buffer.len() as u64;
        let wanted_end = (offset + len as u64).min(limit);
        if !(have.contains(&offset) && wanted_end <= have.end) {
            let space = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.buffer.clear();
            self.buffer.resize(len.max(CHUNK_BYTES).min(space), 0);
            self.start = offset;
            match self.read(offset) {
                Ok(read) => self.buffer.truncate(read),
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
        let from = (offset - self.start) as usize;
        let to = (from + len).min(self.buffer.len());
        Ok(self.buffer.get(from..to).unwrap_or_default())
    }

    /// True if some of these bytes could not be read.
    pub(crate) fn is_unreadable(&self, bytes: &Range<u64>) -> bool {
        self.unreadable.iter().any(|bad| bad.start < bytes.end && bytes.start < bad.end)
    }

    fn read(&mut self, offset: u64) -> io::Result<usize> {
        match self.file.read_at(&mut self.buffer, offset) {
            Err(error) if is_bad_sector(&error) => self.read_by_sector(offset, error),
            read => read,
        }
    }

    fn read_by_sector(&mut self, offset: u64, error: io::Error) -> io::Result<usize> {
        let (mut at, end, mut any) = (offset, offset + self.buffer.len() as u64, false);
        let mut unreadable = Vec::new();
        while at < end {
            let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
            let part = &mut self.buffer[(at - offset) as usize..(next - offset) as usize];
            let attempts = if self.unreadable.len() + unreadable.len() < MAX_RETRIED { READ_ATTEMPTS } else { 1 };
            match read_with_retries(self.file.as_ref(), part, at, attempts) {
                Ok(read) if read < part.len() => {
                    let read = (at - offset) as usize + read;
                    self.unreadable.append(&mut unreadable);
                    return Ok(read);
                }
                Ok(_) => any = true,
                Err(error) if is_bad_sector(&error) => {
                    part.fill(0);
                    unreadable.push(at..next);
                }
                Err(error) => return Err(error),
            }
            at = next;
        }
        if !any && !self.answers_elsewhere(offset..end) {
            return Err(error);
        }
        self.unreadable.append(&mut unreadable);
        Ok(self.buffer.len())
    }

    /// True if another sector of the file can be read.
    fn answers_elsewhere(&self, bytes: Range<u64>) -> bool {
        let len = self.file.len().unwrap_or(0);
        let mut byte = [0];
        [0, len.saturating_sub(1), bytes.end, bytes.start.saturating_sub(SECTOR_BYTES)]
            .into_iter()
            .filter(|at| *at < len && !bytes.contains(at))
            .any(|at| self.file.read_at(&mut byte, at).is_ok())
    }
}

fn read_with_retries(file: &dyn DiskFile, part: &mut [u8], at: u64, attempts: u32) -> io::Result<usize> {
    let mut left = attempts;
    loop {
        left -= 1;
        match file.read_at(part, at) {
            Err(error) if is_bad_sector(&error) && left > 0 => pause(READ_PAUSE),
            read => return read,
        }
    }
}

/// The kernel's errors for a medium that lost the data; other errors may pass.
pub(crate) fn is_bad_sector(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let lost = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::UCLEAN, Errno::BADMSG, Errno::REMOTEIO];
    error.raw_os_error().is_some_and(|code| lost.iter().any(|errno| errno.raw_os_error() == code))
}

/// What a walk finds next.
#[derive(Debug)]
pub(crate) enum Found {
    /// A whole block.
    Block {
        header: Header,
        offset: u64,
        /// The packed payload.
        payload: Vec<u8>,
    },
    /// Bytes that are not a whole block; a whole block, or the end, follows.
    Damage(Damage),
}

/// Bytes that are not a whole block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) bytes: Range<u64>,
    /// The error at its start.
    pub(crate) reason: BadBlock,
    /// The header at its start, if it is intact, or was before one of its bits flipped.
    pub(crate) header: Option<Header>,
    /// Some of it could not be read.
    pub(crate) unreadable: bool,
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
        let header = self.reader.slice(start, HEADER_BYTES, self.end)?;
        let header = Header::parse(header).ok().or_else(|| Header::before_flip(header));
        self.offset = self.next_whole_block(start + 1)?;
        let bytes = start..self.offset;
        let unreadable = self.reader.is_unreadable(&bytes);
        Ok(Some(Found::Damage(Damage { bytes, reason, header, unreadable })))
    }

    /// Continues after bytes that cannot be read; returns which they are.
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
            if matches!(self.block_at(offset)?, Ok(_) | Err(BadBlock::OtherVersion { .. })) {
                return Ok(offset);
            }
            offset += 1;
        }
        Ok(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{instant, simulated},
        spool::disk::Identity,
    };

    /// Only its first sector can be read.
    #[derive(Debug)]
    struct BadFile;

    const LEN: u64 = 16 << 20;

    impl DiskFile for BadFile {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            if offset + buffer.len() as u64 > SECTOR_BYTES {
                return Err(rustix::io::Errno::IO.into());
            }
            buffer.fill(b'x');
            Ok(buffer.len())
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            unreachable!("it is only read")
        }

        fn sync(&self) -> io::Result<()> {
            unreachable!("it is only read")
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            unreachable!("it is only read")
        }

        fn len(&self) -> io::Result<u64> {
            Ok(LEN)
        }

        fn identity(&self) -> io::Result<Identity> {
            unreachable!("it is only read")
        }

        fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
            unreachable!("it is only read")
        }
    }

    #[test]
    fn many_bad_sectors_are_stepped_over_without_waiting_for_each() {
        simulated::start(0);
        let began = instant();
        let mut walker = Walker::new(Arc::new(BadFile), 0, LEN);
        let Some(Found::Damage(damage)) = walker.next().expect("some of it can be read") else { panic!("no block") };
        assert_eq!((damage.bytes, damage.unreadable), (0..LEN, true));
        let waited = instant().duration_since(began);
        assert!(waited <= Duration::from_secs(1), "{waited:?}");
    }
}
