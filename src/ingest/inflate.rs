//! Decompression of what senders compressed, up to a limit: a bomb costs no more memory than an honest message.

use std::io::{self, Read};

use bytes::Bytes;

use super::{Refusal, Refused};

/// Windows above this are refused: a frame may ask for gigabytes.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;

/// How a message or body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// By its name in `grpc-encoding` and `Content-Encoding`.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"identity" => Some(Self::Identity),
            b"gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What was compressed; at most `max` bytes of it.
    pub(super) fn decompress(self, compressed: &Bytes, max: usize) -> Result<Bytes, Refusal> {
        let unreadable = |error: io::Error| Refusal::new(Refused::Invalid, format!("cannot be decompressed: {error}"));
        match self {
            Self::Identity => Ok(compressed.clone()),
            Self::Gzip => read(flate2::read::MultiGzDecoder::new(&compressed[..]), max),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(&compressed[..]).map_err(unreadable)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(unreadable)?;
                read(decoder, max)
            }
        }
    }
}

fn read(decoder: impl Read, max: usize) -> Result<Bytes, Refusal> {
    let mut plain = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|error| Refusal::new(Refused::Invalid, format!("cannot be decompressed: {error}")))?;
    if plain.len() > max {
        return Err(Refusal::new(
            Refused::TooLarge,
            format!("decompressed, it is larger than the limit of {max} bytes"),
        ));
    }
    Ok(plain.into())
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
}
