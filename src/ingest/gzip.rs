//! gzip (RFC 1952), decompressed with bounded work: each deflate block costs tables, however little it holds, and a few
//! megabytes have space for hundreds of thousands of empty ones.
//!
//! - One or more members follow each other directly; their contents are joined. Each checksum and length has to match.
//! - Anything else after a member is an error, also padding: the bytes are not those that were sent.
//! - A member that ends early is an error, whatever came before.
//! - Blocks are counted, all members together, and each member counts as one more. Encoders write one for tens of
//!   kilobytes, or two at each flush.

use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, decompress, inflate_flags},
};

use super::decompression_work::{Failure, Work};

const MAGIC: [u8; 3] = [0x1F, 0x8B, 8];
const HEADER: usize = 10;
const TRAILER: usize = 8;
/// Bits of the header's flags.
const HEADER_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xE0;
/// The initial size of the output buffer; it doubles.
const FIRST_SPACE: usize = 16 * 1024;
const FLAGS: u32 =
    inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | inflate_flags::TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;

/// The decompressed content, at most `max` bytes.
pub(super) fn decompress_members(compressed: &[u8], max: usize, work: &mut Work) -> Result<Vec<u8>, Failure> {
    let (mut rest, mut plain) = (compressed, Vec::new());
    let mut decompressor = Box::new(DecompressorOxide::new());
    loop {
        work.spend(1)?;
        rest = after_header(rest)?;
        let start = plain.len();
        decompressor.init();
        rest = inflate(&mut decompressor, rest, &mut plain, max, work)?;
        let (trailer, tail) = rest.split_first_chunk::<TRAILER>().ok_or(Failure::Truncated)?;
        let [a, b, c, d, length @ ..] = *trailer;
        let member = &plain[start..];
        #[expect(clippy::cast_possible_truncation, reason = "the length is kept modulo 2^32")]
        let holds = u32::from_le_bytes([a, b, c, d]) == crc32fast::hash(member)
            && u32::from_le_bytes(length) == member.len() as u32;
        if !holds {
            return Err(Failure::Unreadable("the checksum or length of a gzip member does not match"));
        }
        rest = tail;
        if rest.is_empty() {
            return Ok(plain);
        }
    }
}

fn after_header(bytes: &[u8]) -> Result<&[u8], Failure> {
    if bytes.len() < HEADER {
        return Err(if MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
            Failure::Truncated
        } else {
            Failure::Unreadable("what follows is not a gzip member")
        });
    }
    let (header, mut rest) = bytes.split_at(HEADER);
    let flags = header[3];
    if !header.starts_with(&MAGIC) {
        return Err(Failure::Unreadable("what follows is not a gzip member"));
    }
    if flags & RESERVED != 0 {
        return Err(Failure::Unreadable("a gzip header has flags that do not exist"));
    }
    if flags & EXTRA != 0 {
        let (length, tail) = rest.split_first_chunk::<2>().ok_or(Failure::Truncated)?;
        rest = tail.get(usize::from(u16::from_le_bytes(*length))..).ok_or(Failure::Truncated)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|&byte| byte == 0).ok_or(Failure::Truncated)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & HEADER_CRC != 0 {
        rest = rest.get(2..).ok_or(Failure::Truncated)?;
    }
    Ok(rest)
}

/// Appends the content of a deflate stream; returns what follows the stream.
fn inflate<'a>(
    decompressor: &mut DecompressorOxide,
    mut rest: &'a [u8],
    plain: &mut Vec<u8>,
    max: usize,
    work: &mut Work,
) -> Result<&'a [u8], Failure> {
    let start = plain.len();
    let mut written = 0;
    work.spend(1)?;
    loop {
        let (status, read, more) = decompress(decompressor, rest, &mut plain[start..], written, FLAGS);
        rest = &rest[read..];
        written += more;
        match status {
            TINFLStatus::Done => {
                plain.truncate(start + written);
                return if plain.len() > max { Err(Failure::TooLarge) } else { Ok(rest) };
            }
            TINFLStatus::BlockBoundary => work.spend(1)?,
            TINFLStatus::HasMoreOutput => {
                if plain.len() > max {
                    return Err(Failure::TooLarge);
                }
                // One byte beyond the limit distinguishes what is too large from what fits exactly.
                let space = (plain.len() * 2).clamp(FIRST_SPACE.min(max + 1), max + 1);
                plain.resize(space, 0);
            }
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => return Err(Failure::Truncated),
            _ => return Err(Failure::Unreadable("the deflate stream is damaged")),
        }
    }
}
