//! Decompression of what senders compressed, bounded in bytes and in work: a bomb costs no more than an ordinary message.
//!
//! The output is limited, and so is the number of blocks, each of which has a fixed cost ([`Work`]). It runs off the async
//! threads, a few at a time ([`Conversions`](super::conversions::Conversions)).

use std::io::Read;

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_ENCODING};

use super::{
    Refusal, Refused,
    decompression_work::{Failure, Work},
    gzip, zstd_frames,
};

/// Larger windows are refused: a frame may request gigabytes.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;
/// The maximum compression ratio of gzip.
const GZIP_MAX_RATIO: usize = 1032;

/// How a message or body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// By its name in `grpc-encoding` and `Content-Encoding` (RFC 9110: case-insensitive, `x-gzip` is `gzip`).
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        match name.to_ascii_lowercase().as_slice() {
            b"identity" => Some(Self::Identity),
            b"gzip" | b"x-gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// From `Content-Encoding`, which may occur several times; a body that is encoded twice is refused.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let unsupported = || Refusal::new(Refused::Unsupported, "Content-Encoding must be gzip, zstd or identity");
        let values = headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|&b| b == b','));
        let mut encoding = Self::Identity;
        for name in values.map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            match Self::named(name).ok_or_else(unsupported)? {
                Self::Identity => {}
                named if encoding == Self::Identity => encoding = named,
                _ => return Err(unsupported()),
            }
        }
        Ok(encoding)
    }

    /// The size that so many compressed bytes can have decompressed, at most `max`.
    pub(super) fn most(self, compressed: usize, max: usize) -> usize {
        match self {
            Self::Identity => 0,
            Self::Gzip => compressed.saturating_mul(GZIP_MAX_RATIO).min(max),
            Self::Zstd => max,
        }
    }

    /// The decompressed content, at most `max` bytes.
    pub(super) fn decompress(self, compressed: &Bytes, max: usize) -> Result<Bytes, Refusal> {
        let plain = match self {
            Self::Identity => return Ok(compressed.clone()),
            Self::Gzip => gzip::decompress_members(compressed, max, &mut Work::of(max)),
            Self::Zstd => zstd(compressed, max),
        };
        plain.map(Bytes::from).map_err(|failure| match failure {
            Failure::TooLarge => Refusal::new(Refused::TooLarge, format!("{failure} of {max} bytes")),
            Failure::TooManyBlocks { .. } => Refusal::new(Refused::TooLarge, failure.to_string()),
            _ => Refusal::new(Refused::Invalid, failure.to_string()),
        })
    }
}

fn zstd(compressed: &[u8], max: usize) -> Result<Vec<u8>, Failure> {
    zstd_frames::count(compressed, &mut Work::of(max))?;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
    decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
    let mut plain = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(limit).read_to_end(&mut plain)?;
    if plain.len() > max { Err(Failure::TooLarge) } else { Ok(plain) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(plain: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn a_byte_more_than_the_limit_is_too_large_however_it_is_compressed() {
        for length in [1_usize, 700, 16 * 1024, 16 * 1024 + 1, 100_000] {
            let plain = b"livekit".iter().copied().cycle().take(length).collect::<Vec<_>>();
            for (encoding, compressed) in
                [(Encoding::Gzip, gzip(&plain)), (Encoding::Zstd, zstd::encode_all(&plain[..], 3).unwrap().into())]
            {
                assert_eq!(encoding.decompress(&compressed, length).unwrap(), plain, "{encoding:?} {length}");
                let refused = encoding.decompress(&compressed, length - 1).unwrap_err();
                assert_eq!(refused.reason, Refused::TooLarge, "{encoding:?} {length}");
            }
        }
    }

    #[test]
    fn gzip_and_zstd_give_back_what_went_in() {
        let plain = b"livekit".repeat(1000);
        for (encoding, compressed) in [
            (Encoding::Gzip, gzip(&plain)),
            (Encoding::Zstd, zstd::encode_all(&plain[..], 3).unwrap().into()),
            (Encoding::Identity, plain.clone().into()),
        ] {
            assert_eq!(encoding.decompress(&compressed, plain.len()).unwrap(), plain, "{encoding:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let zeros = vec![0; 64 * 1024 * 1024];
        for (encoding, bomb) in
            [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd::encode_all(&zeros[..], 1).unwrap().into())]
        {
            assert_eq!(encoding.decompress(&bomb, 1 << 20).unwrap_err().reason, Refused::TooLarge, "{encoding:?}");
        }
    }

    #[test]
    fn a_frame_that_asks_for_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&[0; 4096]).unwrap();
        let frame = encoder.finish().unwrap().into();
        assert_eq!(Encoding::Zstd.decompress(&frame, 1 << 20).unwrap_err().reason, Refused::Invalid);
    }

    #[test]
    fn garbage_is_refused() {
        let garbage = Bytes::from_static(b"not compressed at all");
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            assert_eq!(encoding.decompress(&garbage, 1 << 20).unwrap_err().reason, Refused::Invalid, "{encoding:?}");
        }
    }

    const ENCODINGS: [Encoding; 2] = [Encoding::Gzip, Encoding::Zstd];

    fn compressed(encoding: Encoding, plain: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Gzip => gzip(plain).to_vec(),
            _ => zstd::encode_all(plain, 3).unwrap(),
        }
    }

    /// Bits, the lowest of each byte first.
    #[derive(Default)]
    struct Bits(Vec<u8>, usize);

    impl Bits {
        fn push(&mut self, value: u32, bits: usize) {
            for bit in 0..bits {
                if self.1.is_multiple_of(8) {
                    self.0.push(0);
                }
                *self.0.last_mut().unwrap() |= u8::from(value >> bit & 1 == 1) << (self.1 % 8);
                self.1 += 1;
            }
        }
    }

    /// A gzip member of so many empty deflate blocks of a type, and a last block.
    fn empty_blocks(kind: u32, blocks: usize) -> Vec<u8> {
        let mut bits = Bits::default();
        for block in 0..=blocks {
            bits.push(u32::from(block == blocks), 1);
            bits.push(kind, 2);
            match kind {
                0 => {
                    let pad = (8 - bits.1 % 8) % 8;
                    bits.push(0, pad);
                    bits.push(0, 16);
                    bits.push(0xFFFF, 16);
                }
                1 => bits.push(0, 7),
                _ => {
                    // 257 literals and lengths, one distance; code lengths: 18 (zeros) and 1.
                    bits.push(0, 5);
                    bits.push(0, 5);
                    bits.push(14, 4);
                    for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1] {
                        bits.push(u32::from(symbol == 18 || symbol == 1), 3);
                    }
                    // code 0 is the length 1, code 1 is 18: 138 zeros, 118 zeros, then 1 (end of block), 1 (a distance)
                    bits.push(1, 1);
                    bits.push(127, 7);
                    bits.push(1, 1);
                    bits.push(107, 7);
                    bits.push(0, 1);
                    bits.push(0, 1);
                    bits.push(0, 1);
                }
            }
        }
        [&[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255][..], &bits.0, &[0; 8]].concat()
    }

    #[test]
    fn a_few_empty_blocks_are_accepted_and_a_body_of_them_is_refused_early() {
        for kind in 0..3 {
            let few = Bytes::from(empty_blocks(kind, 100));
            assert_eq!(Encoding::Gzip.decompress(&few, 1 << 20).unwrap(), b""[..], "type {kind}");
            let many = Bytes::from(empty_blocks(kind, 200_000));
            let refusal = Encoding::Gzip.decompress(&many, 16 << 20).unwrap_err();
            assert_eq!(refusal.reason, Refused::TooLarge, "type {kind}: {refusal}");
            assert!(refusal.message.contains("blocks"), "{refusal}");
        }
    }

    #[test]
    fn empty_members_frames_and_blocks_count_as_well() {
        let block = [0x28, 0xB5, 0x2F, 0xFD, 0, 0x58];
        let empty_blocks = [&block[..], &[0; 3].repeat(200_000), &[1, 0, 0]].concat();
        let rle_blocks = [&block[..], &[2, 0, 0, 7].repeat(200_000), &[1, 0, 0]].concat();
        let skippable = [0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0].repeat(200_000);
        for (encoding, bytes) in [
            (Encoding::Gzip, gzip(b"").repeat(100_000)),
            (Encoding::Zstd, zstd::encode_all(&b""[..], 1).unwrap().repeat(100_000)),
            (Encoding::Zstd, empty_blocks),
            (Encoding::Zstd, rle_blocks),
            (Encoding::Zstd, skippable),
        ] {
            let refusal = encoding.decompress(&bytes.into(), 16 << 20).unwrap_err();
            assert_eq!(refusal.reason, Refused::TooLarge, "{encoding:?}: {refusal}");
            assert!(refusal.message.contains("blocks"), "{refusal}");
        }
    }

    #[test]
    fn what_compresses_well_and_what_is_flushed_often_is_accepted() {
        for plain in
            [vec![b' '; 4 << 20], (0..4_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()]
        {
            for encoding in ENCODINGS {
                let bytes = compressed(encoding, &plain).into();
                assert_eq!(encoding.decompress(&bytes, plain.len()).unwrap(), plain, "{encoding:?}");
            }
        }
        let mut flushed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        for _ in 0..2000 {
            flushed.write_all(b"{\"id\": \"AE_1\"}\n").unwrap();
            flushed.flush().unwrap();
        }
        let bytes = flushed.finish().unwrap().into();
        assert_eq!(Encoding::Gzip.decompress(&bytes, 4 << 20).unwrap().len(), 30_000);
    }

    #[test]
    fn several_members_or_frames_are_one_content() {
        for encoding in ENCODINGS {
            let bytes =
                [compressed(encoding, b"live"), compressed(encoding, b""), compressed(encoding, b"kit")].concat();
            assert_eq!(encoding.decompress(&bytes.into(), 7).unwrap(), b"livekit"[..], "{encoding:?}");
        }
        let named =
            [&[0x1F, 0x8B, 8, 0x1E, 0, 0, 0, 0, 0, 3, 2, 0, b'e', b'x'][..], b"name\0remark\0", &[0, 0]].concat();
        let named = [&named[..], &gzip(b"livekit")[10..]].concat();
        assert_eq!(Encoding::Gzip.decompress(&named.into(), 7).unwrap(), b"livekit"[..]);
    }

    #[test]
    fn what_is_cut_off_anywhere_is_refused() {
        for encoding in ENCODINGS {
            let whole = compressed(encoding, &b"livekit".repeat(20));
            for end in 0..whole.len() {
                let refusal = encoding.decompress(&Bytes::copy_from_slice(&whole[..end]), 1000).unwrap_err();
                assert_eq!(refusal.reason, Refused::Invalid, "{encoding:?}, {end} bytes: {refusal}");
            }
        }
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        for encoding in ENCODINGS {
            for tail in [&b"\0"[..], b"garbage after the end", &[0; 512], &[0x1F, 0x8B]] {
                let bytes = [&compressed(encoding, b"livekit")[..], tail].concat();
                let refusal = encoding.decompress(&bytes.into(), 1000).unwrap_err();
                assert_eq!(refusal.reason, Refused::Invalid, "{encoding:?}, {tail:?}: {refusal}");
            }
        }
    }

    #[test]
    fn a_damaged_checksum_or_length_is_refused() {
        let whole = gzip(b"livekit").to_vec();
        for at in 1..=8 {
            let mut damaged = whole.clone();
            damaged[whole.len() - at] ^= 1;
            assert_eq!(Encoding::Gzip.decompress(&damaged.into(), 1000).unwrap_err().reason, Refused::Invalid, "{at}");
        }
    }

    #[test]
    fn no_member_reaches_back_into_the_one_before() {
        // A stored block in the first member, in the second a match of distance 1 before anything else.
        let mut bits = Bits::default();
        bits.push(1, 1);
        bits.push(1, 2);
        bits.push(0b100_0000, 7); // length 3
        bits.push(0, 5); // distance 1
        bits.push(0, 7);
        let member = [&[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255][..], &bits.0, &[0; 8]].concat();
        let bytes = [gzip(b"aaaa").to_vec(), member].concat();
        assert_eq!(Encoding::Gzip.decompress(&bytes.into(), 1000).unwrap_err().reason, Refused::Invalid);
    }

    #[test]
    fn an_encoding_goes_by_its_name_in_any_case_and_is_one() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| _ = headers.append(CONTENT_ENCODING, value.parse().unwrap()));
            Encoding::of(&headers).map_err(|refusal| refusal.reason)
        };
        for gzip in
            [&["gzip"][..], &["GZIP"], &["x-gzip"], &["X-GZip"], &[" gzip "], &["identity, gzip"], &["", "gzip"]]
        {
            assert_eq!(of(gzip), Ok(Encoding::Gzip), "{gzip:?}");
        }
        for identity in [&[][..], &["identity"], &["Identity"], &[""]] {
            assert_eq!(of(identity), Ok(Encoding::Identity), "{identity:?}");
        }
        assert_eq!(of(&["Zstd"]), Ok(Encoding::Zstd));
        for bad in [&["br"][..], &["gzip, zstd"], &["gzip", "gzip"], &["gzip;q=1"]] {
            assert_eq!(of(bad), Err(Refused::Unsupported), "{bad:?}");
        }
    }
}
