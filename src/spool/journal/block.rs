//! A block: header, payload, checksum. A journal segment consists of blocks only.
//!
//! ```text
//! offset  bytes
//!      0      4  magic "LKSB"
//!      4      1  format version (2)
//!      5      1  kind: 1 records, 2 front, 3 dead letters; plus 128 in the last block of a group
//!      6      1  stream (0 in a front): 0 events, 1 stats, 2 node rooms
//!      7      1  codec: low half 0 plain, 1 zstd, 2 zstd with dictionary 1; high half 0 clear, 1 XChaCha20-Poly1305
//!      8      8  sequence number of the first record
//!     16      4  number of records
//!     20      4  length of the payload, unpacked
//!     24      4  length of the payload as stored (L)
//!     28      8  received at, milliseconds since 1970
//!     36      4  where the block's group begins: an offset in this segment
//!     40      4  CRC-32 of bytes 0 to 39
//!     44      L  payload
//!   44+L      4  CRC-32 of bytes 0 to 43+L
//! ```
//!
//! Integers are little-endian; the header is bincode with fixed-width integers. A group is what one write and one sync
//! made durable; its blocks are consecutive. A reader at a bad block continues at the next magic for which both
//! checksums match; the gap in the sequence numbers then gives the number of records lost to the damage.

use bincode::{Decode, Encode, config};

use crate::record::{Stream, UnixMillis};

/// The first bytes of every block.
pub(crate) const MAGIC: [u8; 4] = *b"LKSB";
/// The version this build writes, and the only one it reads.
pub(crate) const FORMAT_VERSION: u8 = 2;
/// Bytes of a header, including its own checksum.
pub(crate) const HEADER_BYTES: usize = 44;
/// Bytes around a payload: header and checksum.
pub(crate) const BLOCK_OVERHEAD: usize = HEADER_BYTES + CRC_BYTES;
/// The largest payload, packed or not: a longer length is damage.
pub(crate) const MAX_PAYLOAD_BYTES: u32 = 96 << 20;

const CRC_BYTES: usize = 4;
const CHECKED_HEADER_BYTES: usize = HEADER_BYTES - CRC_BYTES;

/// Set in the kind of a group's last block.
const ENDS_GROUP: u8 = 0x80;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Records of one stream.
    Records = 1,
    /// What a segment records about itself and those before it, see [`Front`](super::front::Front).
    Front = 2,
    /// Dead letters of one stream.
    DeadLetters = 3,
}

impl Kind {
    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Records,
            2 => Self::Front,
            3 => Self::DeadLetters,
            _ => return None,
        })
    }
}

/// A block's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) stream: Stream,
    pub(crate) codec: u8,
    /// The sequence number of its first record.
    pub(crate) seq: u64,
    /// Its number of records.
    pub(crate) count: u32,
    pub(crate) raw_len: u32,
    pub(crate) stored_len: u32,
    pub(crate) received_at: UnixMillis,
    /// The offset in the segment at which its group begins.
    pub(crate) group: u32,
    /// True for the last block of a group.
    pub(crate) ends_group: bool,
}

impl Header {
    /// The whole block's length on disk.
    pub(crate) const fn block_len(&self) -> u64 {
        self.stored_len as u64 + BLOCK_OVERHEAD as u64
    }

    /// The sequence numbers of its records.
    pub(crate) const fn seqs(&self) -> std::ops::Range<u64> {
        self.seq..self.seq + self.count as u64
    }

    /// The 40 checked bytes, as stored on disk; also the associated data of an encrypted payload.
    pub(crate) fn to_bytes(self) -> [u8; CHECKED_HEADER_BYTES] {
        let mut bytes = [0; CHECKED_HEADER_BYTES];
        let wire = WireHeader {
            magic: MAGIC,
            version: FORMAT_VERSION,
            kind: self.kind as u8 | if self.ends_group { ENDS_GROUP } else { 0 },
            stream: self.stream as u8,
            codec: self.codec,
            seq: self.seq,
            count: self.count,
            raw_len: self.raw_len,
            stored_len: self.stored_len,
            received_at: self.received_at,
            group: self.group,
        };
        let written = bincode::encode_into_slice(wire, &mut bytes, layout());
        debug_assert!(matches!(written, Ok(CHECKED_HEADER_BYTES)), "the header's width is fixed");
        bytes
    }

    /// Reads a header from the front of `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadBlock> {
        let Some((checked, rest)) = bytes.split_at_checked(CHECKED_HEADER_BYTES) else { return Err(BadBlock::Short) };
        let Some(crc) = rest.first_chunk::<CRC_BYTES>() else { return Err(BadBlock::Short) };
        if checked[..MAGIC.len()] != MAGIC {
            return Err(BadBlock::Magic);
        }
        if is_of_version_1(bytes) {
            return Err(BadBlock::OtherVersion { version: 1 });
        }
        if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
            return Err(BadBlock::HeaderChecksum);
        }
        let (wire, _): (WireHeader, _) =
            bincode::decode_from_slice(checked, layout()).map_err(|_| BadBlock::HeaderChecksum)?;
        if wire.version != FORMAT_VERSION {
            return Err(BadBlock::OtherVersion { version: wire.version });
        }
        let (Some(kind), Some(stream)) = (Kind::from_number(wire.kind & !ENDS_GROUP), Stream::from_number(wire.stream))
        else {
            return Err(BadBlock::Unknown);
        };
        let is_too_long = wire.stored_len > MAX_PAYLOAD_BYTES || wire.raw_len > MAX_PAYLOAD_BYTES;
        if is_too_long || wire.seq.checked_add(wire.count.into()).is_none() {
            return Err(BadBlock::Unknown);
        }
        Ok(Self {
            kind,
            stream,
            codec: wire.codec,
            seq: wire.seq,
            count: wire.count,
            raw_len: wire.raw_len,
            stored_len: wire.stored_len,
            received_at: wire.received_at,
            group: wire.group,
            ends_group: wire.kind & ENDS_GROUP != 0,
        })
    }

    /// The header before one of its bits flipped. Several flipped bits or a torn write do not match.
    pub(crate) fn before_flip(bytes: &[u8]) -> Option<Self> {
        let mut bytes = *bytes.first_chunk::<HEADER_BYTES>()?;
        (0..HEADER_BYTES * 8).find_map(|bit| {
            let flip = |byte: &mut u8| *byte ^= 1 << (bit % 8);
            flip(&mut bytes[bit / 8]);
            let header = Self::parse(&bytes).ok();
            flip(&mut bytes[bit / 8]);
            header
        })
    }
}

/// Version 1's header was four bytes shorter; its own checksum distinguishes it from a damaged header of this version.
fn is_of_version_1(bytes: &[u8]) -> bool {
    const CHECKED: usize = 36;
    bytes[MAGIC.len()] == 1
        && bytes
            .get(CHECKED..CHECKED + CRC_BYTES)
            .is_some_and(|crc| crc32fast::hash(&bytes[..CHECKED]).to_le_bytes() == crc)
}

/// Appends a block whose payload is already packed.
pub(crate) fn write_block(out: &mut Vec<u8>, header: Header, payload: &[u8]) {
    debug_assert_eq!(payload.len(), header.stored_len as usize);
    let start = out.len();
    let checked = header.to_bytes();
    out.reserve(payload.len() + BLOCK_OVERHEAD);
    out.extend_from_slice(&checked);
    out.extend_from_slice(&crc32fast::hash(&checked).to_le_bytes());
    out.extend_from_slice(payload);
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Checks a whole block and returns its packed payload.
pub(crate) fn check_block<'a>(header: &Header, block: &'a [u8]) -> Result<&'a [u8], BadBlock> {
    let length = usize::try_from(header.block_len()).map_err(|_| BadBlock::Short)?;
    let block = block.get(..length).ok_or(BadBlock::Short)?;
    let (checked, crc) = block.split_at(length - CRC_BYTES);
    if crc32fast::hash(checked).to_le_bytes() != crc {
        return Err(BadBlock::Checksum);
    }
    Ok(&checked[HEADER_BYTES..])
}

/// Why bytes are not a whole block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBlock {
    #[error("the block is cut off")]
    Short,
    #[error("no block begins here")]
    Magic,
    #[error("the header's checksum does not match")]
    HeaderChecksum,
    #[error("the block's checksum does not match")]
    Checksum,
    #[error("the block has format version {version}")]
    OtherVersion { version: u8 },
    #[error("the block's kind, stream or length is unknown")]
    Unknown,
}

/// The header as bincode lays it out.
#[derive(Encode, Decode)]
struct WireHeader {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    stream: u8,
    codec: u8,
    seq: u64,
    count: u32,
    raw_len: u32,
    stored_len: u32,
    received_at: i64,
    group: u32,
}

const fn layout() -> config::Configuration<config::LittleEndian, config::Fixint> {
    config::standard().with_little_endian().with_fixed_int_encoding()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> (Header, Vec<u8>) {
        let payload = b"some payload";
        let header = Header {
            kind: Kind::Records,
            stream: Stream::Stats,
            codec: 0,
            seq: 1 << 40,
            count: 3,
            raw_len: 12,
            stored_len: 12,
            received_at: -5,
            group: 700,
            ends_group: true,
        };
        let mut out = Vec::new();
        write_block(&mut out, header, payload);
        (header, out)
    }

    #[test]
    fn a_header_whose_sequence_numbers_run_over_is_none() {
        let (header, _) = block();
        let read = |seq: u64, count: u32| {
            let mut bytes = Header { seq, count, ..header }.to_bytes().to_vec();
            bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
            Header::parse(&bytes)
        };
        assert!(read(u64::MAX - 3, 3).is_ok());
        assert_eq!(read(u64::MAX - 2, 3), Err(BadBlock::Unknown));
    }

    #[test]
    fn a_block_is_read_as_it_was_written() {
        let (header, bytes) = block();
        assert_eq!(bytes.len() as u64, header.block_len());
        assert_eq!(Header::parse(&bytes), Ok(header));
        assert_eq!(check_block(&header, &bytes), Ok(&b"some payload"[..]));
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_in_a_header_known() {
        let (header, bytes) = block();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = Header::parse(&bad).and_then(|header| check_block(&header, &bad).map(<[u8]>::to_vec));
            assert!(read.is_err(), "bit {bit}");
            assert_eq!(Header::before_flip(&bad), (bit < HEADER_BYTES * 8).then_some(header), "bit {bit}");
        }
    }

    #[test]
    fn a_block_of_another_version_is_named_as_such() {
        for version in [FORMAT_VERSION - 1, FORMAT_VERSION + 1] {
            let (_, mut bytes) = block();
            bytes[4] = version;
            let crc = crc32fast::hash(&bytes[..CHECKED_HEADER_BYTES]);
            bytes[CHECKED_HEADER_BYTES..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Header::parse(&bytes), Err(BadBlock::OtherVersion { version }));
        }
    }
}
