//! What a segment holds: its blocks group by group, what in it is damaged, and what a write that was cut off has left.
//!
//! A group is judged when it is known whether it was synced: it was where a later one follows, or where the caller knows. The
//! last group of a journal may be one that was cut off: it lacks its end, or a sector of it was not written and holds nothing but
//! zeros. Nobody was told that it is kept, and all of it is left out.

use std::{io, ops::Range, path::Path, sync::Arc};

use super::{
    block::{BadBlock, HEADER_BYTES, Header, Kind, check_block},
    codec::Unpacker,
    front::Front,
    segment::{self, ChunkReader, Damage, Found, Walker},
};
use crate::spool::disk::{Disk, DiskFile};

/// A front's header lies in here.
const PAGE_BYTES: u64 = 4096;
/// What a medium writes whole or not at all; many write more.
const SECTOR_BYTES: u64 = 512;

/// What of a segment is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) segment: u64,
    pub(crate) from: u64,
    pub(crate) end: u64,
    /// All before it is known to have been synced.
    pub(crate) synced: u64,
    /// No segment after it holds anything: its last group may have been cut off.
    pub(crate) is_last: bool,
}

/// What is met, in order.
#[derive(Debug)]
pub(crate) enum Met<'a> {
    /// A block of records or dead letters, at its offset.
    Block(u64, &'a Header),
    /// Bytes that were whole once.
    Damage(&'a Damage),
}

/// Scans a segment; answers where a write that was cut off begins, and what is wrong with it.
///
/// # Errors
/// When the file cannot be read at all, or holds blocks of another version.
pub(crate) fn scan(
    file: Arc<dyn DiskFile>,
    extent: Extent,
    meet: &mut dyn FnMut(Met<'_>),
) -> Result<Option<Damage>, ScanError> {
    let mut walker = Walker::new(Arc::clone(&file), extent.from, extent.end);
    let mut group = Group::default();
    while let Some(found) = walker.next()? {
        match found {
            Found::Damage(Damage { reason: BadBlock::OtherVersion { version }, .. }) => {
                return Err(ScanError::OtherVersion { version });
            }
            Found::Block { header, offset, .. } => {
                // Its group begins behind what was met so far: that was synced before.
                if group.parts.first().is_some_and(|first| first.offset() < u64::from(header.group)) {
                    group.take().emit(meet);
                }
                group.ended = header.ends_group;
                group.parts.push(Part::Block(offset, header));
            }
            Found::Damage(damage) => {
                if group.ended {
                    group.take().emit(meet);
                }
                group.parts.push(Part::Damage(damage));
            }
        }
        if group.ended && !group.is_damaged() {
            group.take().emit(meet);
        }
    }
    let start = group.parts.first().map(Part::offset);
    let Some(start) = start else { return Ok(None) };
    let bytes = start..extent.end;
    if extent.is_last && start >= extent.synced && group.is_torn(&file, &bytes)? {
        let reason = group.parts.iter().find_map(|part| match part {
            Part::Damage(damage) => Some(damage.reason),
            Part::Block(..) => None,
        });
        return Ok(Some(Damage { bytes, reason: reason.unwrap_or(BadBlock::Short), header: None, unreadable: false }));
    }
    group.emit(meet);
    Ok(None)
}

/// Why a segment could not be scanned.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// It cannot be read.
    Io(io::Error),
    /// Another build wrote it.
    OtherVersion { version: u8 },
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What is known of a group so far.
#[derive(Debug, Default)]
struct Group {
    parts: Vec<Part>,
    /// Its last block was met.
    ended: bool,
}

#[derive(Debug)]
enum Part {
    Block(u64, Header),
    Damage(Damage),
}

impl Part {
    const fn offset(&self) -> u64 {
        match self {
            Self::Block(offset, _) => *offset,
            Self::Damage(damage) => damage.bytes.start,
        }
    }
}

impl Group {
    fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    fn is_damaged(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Damage(_)))
    }

    fn emit(self, meet: &mut dyn FnMut(Met<'_>)) {
        for part in &self.parts {
            match part {
                Part::Block(offset, header) if header.kind != Kind::Front => meet(Met::Block(*offset, header)),
                Part::Block(..) => {}
                Part::Damage(damage) => meet(Met::Damage(damage)),
            }
        }
    }

    /// Whether it is what a cut leaves, given that it may be: it lies in these bytes, up to the file's end.
    fn is_torn(&self, file: &Arc<dyn DiskFile>, bytes: &Range<u64>) -> io::Result<bool> {
        let (mut damaged, mut torn) = (false, false);
        for part in &self.parts {
            if let Part::Damage(damage) = part {
                damaged = true;
                torn |= is_torn(file, bytes, damage)?;
            }
        }
        Ok(torn || (!damaged && !self.ended))
    }
}

/// Whether damage in a group looks like what a cut leaves: the file ends in a block or in a header, or a sector that the broken
/// checksum covers was not written, so that all that the group has in it is zeros. Where its header is broken and its sectors were
/// written, it is damage, whatever the sectors behind it hold.
fn is_torn(file: &Arc<dyn DiskFile>, group: &Range<u64>, damage: &Damage) -> io::Result<bool> {
    let Damage { bytes, reason, unreadable, .. } = damage;
    let covered = match reason {
        _ if *unreadable => return Ok(false),
        BadBlock::Short if bytes.end == group.end => return Ok(true),
        BadBlock::Short | BadBlock::Checksum => bytes.end,
        _ => bytes.end.min(bytes.start + HEADER_BYTES as u64),
    };
    let mut reader = ChunkReader::new(Arc::clone(file));
    for sector in bytes.start / SECTOR_BYTES..covered.div_ceil(SECTOR_BYTES) {
        let (start, end) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
        let start = start.max(group.start);
        let written = reader.slice(start, (end.min(group.end) - start) as usize, group.end)?;
        if written.iter().all(|&byte| byte == 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a segment's front says.
#[derive(Debug)]
pub(crate) enum FrontFound {
    /// It holds; its block's checksum.
    Whole(Box<Front>, u32),
    /// It does not, or there is none.
    None,
    /// Another build wrote it.
    OtherVersion {
        /// Its version.
        version: u8,
    },
}

/// Reads a segment's front.
///
/// # Errors
/// When the file cannot be opened or read.
pub(crate) fn front(
    disk: &dyn Disk,
    directory: &Path,
    segment: u64,
    unpacker: &mut Unpacker,
) -> io::Result<FrontFound> {
    let file = disk.open(&segment::path(directory, segment))?;
    let len = file.len()?;
    let mut reader = ChunkReader::new(file);
    let header = match Header::parse(reader.slice(0, HEADER_BYTES, len.min(PAGE_BYTES))?) {
        Ok(header) if header.kind == Kind::Front && header.block_len() <= len => header,
        Err(BadBlock::OtherVersion { version }) => return Ok(FrontFound::OtherVersion { version }),
        _ => return Ok(FrontFound::None),
    };
    let block = reader.slice(0, header.block_len() as usize, len)?;
    let checksum = block.last_chunk().copied().map(u32::from_le_bytes);
    let (Ok(packed), Some(checksum)) = (check_block(&header, block), checksum) else { return Ok(FrontFound::None) };
    let payload = unpacker.unpack(segment, &header, packed).ok();
    Ok(payload
        .and_then(|payload| Front::read(segment, &payload))
        .map_or(FrontFound::None, |front| FrontFound::Whole(Box::new(front), checksum)))
}
