//! For fuzz targets: runs the journal's reader over arbitrary bytes. See [`crate::fuzzing`].

use std::{io, ops::Range, sync::Arc};

use super::{
    disk::{DiskFile, Identity},
    journal::{
        block::Kind,
        codec::Unpacker,
        scan::{self, Extent},
        segment::{Found, Walker},
    },
};
use crate::record::{Records, Stream};

/// The result of scanning a segment.
#[derive(Debug)]
pub struct Scanned {
    /// The parts, in order.
    pub parts: Vec<Part>,
    /// What a torn write left at the end.
    pub torn: Option<Range<u64>>,
}

/// A part of a segment.
#[derive(Debug)]
pub enum Part {
    /// A whole block of records or dead letters.
    Block {
        /// Its place in the segment.
        bytes: Range<u64>,
        /// The stream of its records.
        stream: Stream,
        /// The records; `None` if the payload cannot be unpacked.
        records: Option<Vec<Vec<u8>>>,
    },
    /// Bytes that are not a whole block.
    Damage(Range<u64>),
}

/// Scans a segment with these bytes. With `is_last`, its last group may be torn. Returns `None` if it is of another
/// version.
#[must_use]
pub fn scan(bytes: &[u8], is_last: bool) -> Option<Scanned> {
    const SEGMENT: u64 = 1;
    let file: Arc<dyn DiskFile> = Arc::new(Memory(bytes.to_vec()));
    let extent = Extent { segment: SEGMENT, from: 0, end: bytes.len() as u64, synced: 0, is_last };
    let mut unpacker = Unpacker::new(None).ok()?;
    let mut parts = Vec::new();
    let torn = scan::scan(Arc::clone(&file), extent, &mut |part| {
        parts.push(match part {
            scan::Item::Damage(damage) => Part::Damage(damage.bytes.clone()),
            scan::Item::Block(offset, header) => {
                let end = offset + header.block_len();
                let mut walker = Walker::new(Arc::clone(&file), offset, end);
                let records = match walker.next() {
                    Ok(Some(Found::Block { header, payload, .. })) => unpacker
                        .unpack(SEGMENT, &header, &payload)
                        .ok()
                        .filter(|_| header.kind == Kind::Records)
                        .map(|raw| Records::new(&raw).map(<[u8]>::to_vec).collect()),
                    _ => None,
                };
                Part::Block { bytes: offset..end, stream: header.stream, records }
            }
        });
    });
    Some(Scanned { parts, torn: torn.ok()?.map(|torn| torn.bytes) })
}

/// A read-only file in memory.
#[derive(Debug)]
struct Memory(Vec<u8>);

impl DiskFile for Memory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn identity(&self) -> io::Result<Identity> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
