//! Packs payloads (compression, then encryption) and unpacks them.
//!
//! An encrypted payload is `key id (4) | nonce (24) | ciphertext | tag (16)`. The segment's number and the block's
//! header are its associated data: a block that was moved to another place does not decrypt.

use std::{io, sync::OnceLock};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use zstd::{
    bulk::{Compressor, Decompressor},
    dict::DecoderDictionary,
    zstd_safe::CParameter,
};

use super::block::{Header, Kind, write_block};
use crate::spool::options::{Codec, Compression, Key, Keys};

/// The dictionary of format version 1, trained on LiveKit records (see docs/format.md). It never changes: a better one
/// gets a codec number of its own.
pub(crate) const DICTIONARY_1: &[u8] = include_bytes!("dictionary-1.zstd");

/// Payloads up to this length are compressed with the dictionary; longer ones contain their own repetitions.
const DICTIONARY_MAX_RAW: usize = 16 << 10;
/// There are few small blocks a second, and they wait for the disk: a lower level would save time that does not matter.
const MIN_SMALL_LEVEL: i32 = 3;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
const ZSTD_DICTIONARY_1: u8 = 2;
const XCHACHA20_POLY1305: u8 = 0x10;

/// Packs payloads for one writer.
pub(crate) struct Packer {
    plain: Option<Compressor<'static>>,
    small: Option<Compressor<'static>>,
    cipher: Option<Cipher>,
    compressed: Vec<u8>,
}

impl Packer {
    pub(crate) fn new(compression: Compression, keys: Option<&Keys>) -> io::Result<Self> {
        let (mut plain, mut small) = (None, None);
        let Compression { codec, level, dictionary } = compression;
        if codec == Codec::Zstd {
            plain = Some(lean(Compressor::new(level)?)?);
            if dictionary {
                small = Some(lean(Compressor::with_dictionary(level.max(MIN_SMALL_LEVEL), DICTIONARY_1)?)?);
            }
        }
        Ok(Self { plain, small, cipher: keys.map(|keys| Cipher::new(&keys.current)), compressed: Vec::new() })
    }

    /// Packs `raw` into a block appended to `out`; fills in the header's lengths and codec. Returns the final header.
    pub(crate) fn write(
        &mut self,
        out: &mut Vec<u8>,
        segment: u64,
        mut header: Header,
        raw: &[u8],
    ) -> io::Result<Header> {
        header.raw_len = raw.len() as u32;
        let codec = self.compress(raw)?;
        let packed = if codec == PLAIN { raw } else { &self.compressed[..] };
        header.codec = codec;
        header.stored_len = packed.len() as u32;
        // Fronts contain sequence numbers and counters only; they stay readable without a key.
        let private = header.kind != Kind::Front;
        match &self.cipher {
            Some(cipher) if private => {
                header.codec |= XCHACHA20_POLY1305;
                header.stored_len += (KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES) as u32;
                let sealed = cipher.seal(segment, &header, packed)?;
                write_block(out, header, &sealed);
            }
            _ => write_block(out, header, packed),
        }
        Ok(header)
    }

    /// Compresses into `compressed`, unless the codec that it returns is `PLAIN`.
    fn compress(&mut self, raw: &[u8]) -> io::Result<u8> {
        let (codec, compressor) = match (&mut self.small, &mut self.plain) {
            (Some(small), _) if raw.len() <= DICTIONARY_MAX_RAW => (ZSTD_DICTIONARY_1, small),
            (_, Some(plain)) => (ZSTD, plain),
            _ => return Ok(PLAIN),
        };
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        compressor.compress_to_buffer(raw, &mut self.compressed)?;
        Ok(if self.compressed.len() < raw.len() { codec } else { PLAIN })
    }
}

/// No checksum, size or dictionary id inside the frame: the block has its own.
fn lean(mut compressor: Compressor<'static>) -> io::Result<Compressor<'static>> {
    compressor.set_parameter(CParameter::ChecksumFlag(false))?;
    compressor.set_parameter(CParameter::DictIdFlag(false))?;
    Ok(compressor)
}

/// Unpacks payloads.
pub(crate) struct Unpacker {
    plain: Decompressor<'static>,
    small: Decompressor<'static>,
    ciphers: Vec<Cipher>,
}

impl Unpacker {
    pub(crate) fn new(keys: Option<&Keys>) -> io::Result<Self> {
        static PREPARED: OnceLock<DecoderDictionary<'static>> = OnceLock::new();
        let dictionary = PREPARED.get_or_init(|| DecoderDictionary::copy(DICTIONARY_1));
        let ciphers = keys
            .map_or_else(Vec::new, |keys| [&keys.current].into_iter().chain(&keys.previous).map(Cipher::new).collect());
        Ok(Self { plain: Decompressor::new()?, small: Decompressor::with_prepared_dictionary(dictionary)?, ciphers })
    }

    /// The payload as it was before packing.
    pub(crate) fn unpack(&mut self, segment: u64, header: &Header, packed: &[u8]) -> Result<Vec<u8>, BadPayload> {
        let opened;
        let packed = if header.codec & 0xF0 == XCHACHA20_POLY1305 {
            opened = self.open(segment, header, packed)?;
            &opened[..]
        } else {
            packed
        };
        let raw_len = header.raw_len as usize;
        let raw = match header.codec & 0x0F {
            PLAIN => packed.to_vec(),
            ZSTD => self.plain.decompress(packed, raw_len).map_err(|_| BadPayload::Compression)?,
            ZSTD_DICTIONARY_1 => self.small.decompress(packed, raw_len).map_err(|_| BadPayload::Compression)?,
            codec => return Err(BadPayload::UnknownCodec { codec }),
        };
        if raw.len() == raw_len { Ok(raw) } else { Err(BadPayload::Compression) }
    }

    fn open(&self, segment: u64, header: &Header, sealed: &[u8]) -> Result<Vec<u8>, BadPayload> {
        let (key_id, rest) = sealed.split_first_chunk::<KEY_ID_BYTES>().ok_or(BadPayload::Compression)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(BadPayload::Compression)?;
        let cipher = self
            .ciphers
            .iter()
            .find(|cipher| cipher.id == *key_id)
            .ok_or_else(|| BadPayload::NoKey { key: hex(*key_id) })?;
        let place = place(segment, header);
        cipher
            .aead
            .decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad: &place })
            .map_err(|_| BadPayload::Forged)
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").field("keys", &self.ciphers.len()).finish_non_exhaustive()
    }
}

/// Why a payload whose checksum matches cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPayload {
    #[error("it cannot be decompressed")]
    Compression,
    #[error("its codec {codec} is unknown")]
    UnknownCodec { codec: u8 },
    #[error("it is encrypted with key {key}, which is not among the configured keys")]
    NoKey { key: String },
    #[error("its authentication tag does not match")]
    Forged,
}

struct Cipher {
    id: [u8; KEY_ID_BYTES],
    aead: XChaCha20Poly1305,
}

impl Cipher {
    fn new(key: &Key) -> Self {
        Self { id: key_id(key), aead: XChaCha20Poly1305::new(key.bytes().into()) }
    }

    fn seal(&self, segment: u64, header: &Header, packed: &[u8]) -> io::Result<Vec<u8>> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let place = place(segment, header);
        let ciphertext = self
            .aead
            .encrypt(&XNonce::from(nonce), Payload { msg: packed, aad: &place })
            .map_err(|_| io::Error::other("the payload is too long to encrypt"))?;
        Ok([&self.id[..], &nonce, &ciphertext].concat())
    }
}

/// Identifies a key on disk: a hash that does not reveal the key.
fn key_id(key: &Key) -> [u8; KEY_ID_BYTES] {
    let hash = blake3::derive_key("livekit-spool 2026 key id", key.bytes());
    [hash[0], hash[1], hash[2], hash[3]]
}

fn hex(id: [u8; KEY_ID_BYTES]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn place(segment: u64, header: &Header) -> Vec<u8> {
    [&segment.to_le_bytes()[..], &header.to_bytes()].concat()
}
