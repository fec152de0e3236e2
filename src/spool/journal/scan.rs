//! Scans a segment: its blocks group by group, what in it is damaged, and what a torn write left.
//!
//! A group is checked once it is known whether it was synced: it was if a later one follows, or if the caller knows it.
//! The last group of a journal may be torn: it lacks its end, or one of its sectors was not written and contains only
//! zeros. Its callers were not answered OK, and all of it is skipped.

use std::{io, ops::Range, path::Path, sync::Arc};

use super::{
    block::{BadBlock, HEADER_BYTES, Header, Kind, check_block},
    codec::Unpacker,
    front::Front,
    segment::{self, ChunkReader, Damage, Found, Walker},
};
use crate::spool::disk::{Disk, DiskFile};

/// A front's header is within this many bytes.
const PAGE_BYTES: u64 = 4096;
/// The size that every medium writes as a whole; many write more.
const SECTOR_BYTES: u64 = 512;

/// The part of a segment to scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) segment: u64,
    pub(crate) from: u64,
    pub(crate) end: u64,
    /// Everything before it is known to have been synced.
    pub(crate) synced: u64,
    /// No later segment contains anything: its last group may be torn.
    pub(crate) is_last: bool,
}

/// What a scan finds, in order.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A block of records or dead letters, at its offset.
    Block(u64, &'a Header),
    /// Bytes that were synced and are damaged.
    Damage(&'a Damage),
}

/// Scans a segment; returns where a torn write begins, and what is wrong with it.
///
/// # Errors
/// When the file cannot be read at all, or holds blocks of another version.
pub(crate) fn scan(
    file: Arc<dyn DiskFile>,
    extent: Extent,
    on_item: &mut dyn FnMut(Item<'_>),
) -> Result<Option<Damage>, ScanError> {
    let mut walker = Walker::new(Arc::clone(&file), extent.from, extent.end);
    let mut group = Group::default();
    while let Some(found) = walker.next()? {
        match found {
            Found::Damage(Damage { reason: BadBlock::OtherVersion { version }, .. }) => {
                return Err(ScanError::OtherVersion { version });
            }
            Found::Block { header, offset, .. } => {
                // Its group begins after what was scanned so far, which was synced before.
                if group.parts.first().is_some_and(|first| first.offset() < u64::from(header.group)) {
                    group.take().emit(on_item);
                }
                group.ended = header.ends_group;
                group.parts.push(Part::Block(offset, header));
            }
            Found::Damage(damage) => {
                if group.ended {
                    group.take().emit(on_item);
                }
                group.parts.push(Part::Damage(damage));
            }
        }
        if group.ended && !group.is_damaged() {
            group.take().emit(on_item);
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
    group.emit(on_item);
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

/// A group as far as it was read.
#[derive(Debug, Default)]
struct Group {
    parts: Vec<Part>,
    /// Its last block was read.
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

    fn emit(self, on_item: &mut dyn FnMut(Item<'_>)) {
        for part in &self.parts {
            match part {
                Part::Block(offset, header) if header.kind != Kind::Front => on_item(Item::Block(*offset, header)),
                Part::Block(..) => {}
                Part::Damage(damage) => on_item(Item::Damage(damage)),
            }
        }
    }

    /// True if this is what a torn write leaves. The caller knows that it may be one: it occupies these bytes, up to
    /// the file's end.
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

/// True if damage in a group looks like a torn write: the file ends in a block or in a header, or a sector that the
/// broken checksum covers was not written, so that everything of the group in it is zero. If the header is broken
/// although its sectors were written, it is damage, whatever the later sectors contain.
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

/// The state of a segment's front.
#[derive(Debug)]
pub(crate) enum FrontFound {
    /// It is intact, with its block's checksum.
    Whole(Box<Front>, u32),
    /// It is damaged or missing.
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
