//! The frames and blocks of zstd bodies (RFC 8878), counted before anything is decompressed: each costs tables and
//! buffers, however little it holds.
//!
//! ```text
//! magic   descriptor   window 0-1   dictionary 0-4   content size 0-8   block…   checksum 0 or 4
//! block: 3 bytes, little-endian: last (1 bit), type (2 bits), size (21 bits); then its bytes
//! skippable frame: magic   length (4)   its bytes
//! ```

use super::decompression_work::{Failure, Work};

const MAGIC: u32 = 0xFD2F_B528;
/// The low four bits can have any value.
const SKIPPABLE: u32 = 0x184D_2A50;
const NO_FRAME: Failure = Failure::Unreadable("what follows is not a zstd frame");
const RLE: u32 = 1;

/// Counts every frame and every block.
pub(super) fn count(compressed: &[u8], work: &mut Work) -> Result<(), Failure> {
    let mut rest = compressed;
    loop {
        work.spend(1)?;
        let magic = u32::from_le_bytes(take::<4>(&mut rest)?);
        if magic == MAGIC {
            frame(&mut rest, work)?;
        } else if magic & !0xF == SKIPPABLE {
            let length = u32::from_le_bytes(take::<4>(&mut rest)?);
            skip(&mut rest, length as usize)?;
        } else {
            return Err(NO_FRAME);
        }
        if rest.is_empty() {
            return Ok(());
        }
    }
}

fn frame(rest: &mut &[u8], work: &mut Work) -> Result<(), Failure> {
    let [descriptor] = take::<1>(rest)?;
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = match descriptor >> 6 {
        0 => usize::from(single_segment),
        flag => 1 << flag,
    };
    skip(rest, usize::from(!single_segment) + dictionary + content_size)?;
    loop {
        work.spend(1)?;
        let [a, b, c] = take::<3>(rest)?;
        let header = u32::from_le_bytes([a, b, c, 0]);
        let size = if header >> 1 & 3 == RLE { 1 } else { (header >> 3) as usize };
        skip(rest, size)?;
        if header & 1 != 0 {
            break;
        }
    }
    if descriptor & 4 != 0 { skip(rest, 4) } else { Ok(()) }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Failure> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(Failure::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn skip(rest: &mut &[u8], bytes: usize) -> Result<(), Failure> {
    *rest = rest.get(bytes..).ok_or(Failure::Truncated)?;
    Ok(())
}
