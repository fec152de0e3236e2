//! The framed format of exported records: `export --raw` and `recover` write it, and `import` reads it.
//!
//! ```text
//! header   8  magic "LKSRAW\r\n"
//!          1  format version (1)
//!          3  zero
//!          4  CRC-32 of bytes 0 to 11
//!
//! frame    1  stream: 0 events, 1 stats, 2 node rooms
//!          8  received at, milliseconds since 1970, signed
//!          4  length of the record (L)
//!          L  the record, as received
//!          4  CRC-32 of bytes 0 to 12+L
//!
//! end      1  0xFF
//!          8  number of frames before it
//!          4  zero
//!          4  CRC-32 of bytes 0 to 12
//! ```
//!
//! Integers are little-endian. A file without its end is torn, even if it ends between two frames. Another file may
//! follow an end, header first: files can be joined with `cat`.

use std::io::{self, Read, Write};

use crate::record::{Stream, UnixMillis};

const MAGIC: [u8; 8] = *b"LKSRAW\r\n";
const VERSION: u8 = 1;
const FILE_HEADER_BYTES: usize = 16;
const FRAME_HEADER_BYTES: usize = 13;
const CRC_BYTES: usize = 4;
/// The value of the end's first byte, in place of a stream.
const END: u8 = 0xFF;
/// A longer record is damage: no spool accepts one (its blocks hold at most 64 MiB of a record).
const MAX_RECORD_BYTES: u32 = 64 << 20;

/// A record, its stream and its time of receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Its stream.
    pub stream: Stream,
    /// When it was received.
    pub received_at: UnixMillis,
    /// The record as it was received.
    pub bytes: Vec<u8>,
}

/// Writes records. [`RawWriter::finish`] writes the end; readers report a file without it as torn.
#[derive(Debug)]
pub struct RawWriter<W> {
    out: W,
    frames: u64,
}

impl<W: Write> RawWriter<W> {
    /// Begins a file. `out` gets small writes: pass a buffered writer.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = [0; FILE_HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8] = VERSION;
        let crc = crc32fast::hash(&header[..12]);
        header[12..].copy_from_slice(&crc.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self { out, frames: 0 })
    }

    /// Writes a record.
    ///
    /// # Errors
    /// When `out` fails, or the record is longer than any spool accepts.
    pub fn push(&mut self, stream: Stream, received_at: UnixMillis, record: &[u8]) -> io::Result<()> {
        let length = u32::try_from(record.len()).ok().filter(|&length| length <= MAX_RECORD_BYTES);
        let length =
            length.ok_or_else(|| io::Error::other(format!("a record of {} bytes is too long", record.len())))?;
        self.frame(stream as u8, received_at.to_le_bytes(), length, record)?;
        self.frames += 1;
        Ok(())
    }

    /// Records written so far.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.frames
    }

    /// Writes the end, flushes, and returns `out`.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.frame(END, self.frames.to_le_bytes(), 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn frame(&mut self, tag: u8, number: [u8; 8], length: u32, bytes: &[u8]) -> io::Result<()> {
        let mut header = [tag; FRAME_HEADER_BYTES];
        header[1..9].copy_from_slice(&number);
        header[9..].copy_from_slice(&length.to_le_bytes());
        self.out.write_all(&header)?;
        self.out.write_all(bytes)?;
        self.out.write_all(&checksum(&header, bytes).to_le_bytes())
    }
}

/// Reads what [`RawWriter`] wrote, record by record; it ends after an error.
#[derive(Debug)]
pub struct RawReader<R> {
    input: R,
    /// Frames since the last file header.
    frames: u64,
    offset: u64,
    done: bool,
}

impl<R: Read> RawReader<R> {
    /// Reads the header. `input` gets small reads: pass a buffered reader.
    ///
    /// # Errors
    /// When this is not such a file, or of a newer version.
    pub fn new(input: R) -> Result<Self, RawError> {
        let mut reader = Self { input, frames: 0, offset: 0, done: false };
        let mut header = [0; FILE_HEADER_BYTES];
        match reader.fill(&mut header)? {
            FILE_HEADER_BYTES => reader.begin(&header)?,
            _ => return Err(RawError::NotRaw { offset: 0 }),
        }
        Ok(reader)
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    fn begin(&mut self, header: &[u8; FILE_HEADER_BYTES]) -> Result<(), RawError> {
        let offset = self.offset - FILE_HEADER_BYTES as u64;
        if header[..8] != MAGIC {
            return Err(RawError::NotRaw { offset });
        }
        if crc32fast::hash(&header[..12]).to_le_bytes() != header[12..] {
            return Err(RawError::Damaged { offset });
        }
        if header[8] > VERSION {
            return Err(RawError::Newer { found: header[8], known: VERSION });
        }
        self.frames = 0;
        Ok(())
    }

    fn read(&mut self) -> Result<Option<RawRecord>, RawError> {
        loop {
            let offset = self.offset;
            let mut header = [0; FRAME_HEADER_BYTES];
            if self.fill(&mut header)? < FRAME_HEADER_BYTES {
                return Err(RawError::Torn { offset });
            }
            let (tag, rest) = (header[0], &header[1..]);
            let (number, length) = rest.split_at(8);
            let number: [u8; 8] = number.try_into().map_err(|_| RawError::Damaged { offset })?;
            let length = u32::from_le_bytes(length.try_into().map_err(|_| RawError::Damaged { offset })?);
            if length > MAX_RECORD_BYTES {
                return Err(RawError::Damaged { offset });
            }
            // Grows as bytes arrive: a damaged length costs no more memory than the file has bytes.
            let mut bytes = Vec::new();
            let wanted = u64::from(length) + CRC_BYTES as u64;
            let read = self.input.by_ref().take(wanted).read_to_end(&mut bytes).map_err(RawError::Io)?;
            self.offset += read as u64;
            if (read as u64) < wanted {
                return Err(RawError::Torn { offset });
            }
            let crc = bytes.split_off(length as usize);
            if checksum(&header, &bytes).to_le_bytes()[..] != crc[..] {
                return Err(RawError::Damaged { offset });
            }
            if let Some(stream) = Stream::from_number(tag) {
                self.frames += 1;
                return Ok(Some(RawRecord { stream, received_at: i64::from_le_bytes(number), bytes }));
            }
            if tag != END || u64::from_le_bytes(number) != self.frames {
                return Err(RawError::Damaged { offset });
            }
            let mut next = [0; FILE_HEADER_BYTES];
            match self.fill(&mut next)? {
                0 => return Ok(None),
                FILE_HEADER_BYTES => self.begin(&next)?,
                _ => return Err(RawError::Torn { offset: self.offset }),
            }
        }
    }

    /// Reads until `buffer` is full or the input ends; returns how many bytes were read.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, RawError> {
        let mut done = 0;
        while done < buffer.len() {
            match self.input.read(&mut buffer[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(RawError::Io(error)),
            }
        }
        self.offset += done as u64;
        Ok(done)
    }
}

impl<R: Read> Iterator for RawReader<R> {
    type Item = Result<RawRecord, RawError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let read = self.read().transpose();
        self.done = !matches!(read, Some(Ok(_)));
        read
    }
}

fn checksum(header: &[u8], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(bytes);
    crc.finalize()
}

/// Why a raw file cannot be read further. The records before that are intact.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// It begins with something else.
    #[error("byte {offset}: this is not a file of raw records (`livekit-spool export --raw` and `recover` write them)")]
    NotRaw {
        /// Where a header should be.
        offset: u64,
    },
    /// A newer livekit-spool wrote it.
    #[error("raw records of format version {found}, this build reads up to {known}: use the newer livekit-spool")]
    Newer {
        /// Its version.
        found: u8,
        /// The newest one this build knows.
        known: u8,
    },
    /// It ends too early: writing it was interrupted, or a part is missing.
    #[error("byte {offset}: the file is torn: it ends without its end mark; the records before it are whole")]
    Torn {
        /// Where the incomplete frame begins.
        offset: u64,
    },
    /// A checksum does not match.
    #[error("byte {offset}: the file is damaged: a checksum does not match; the records before it are whole")]
    Damaged {
        /// Where the bad frame begins.
        offset: u64,
    },
    /// It cannot be read.
    #[error("could not read raw records: {0}")]
    Io(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::cases;

    fn written(records: &[RawRecord]) -> Vec<u8> {
        let mut writer = RawWriter::new(Vec::new()).expect("memory accepts it");
        for record in records {
            writer.push(record.stream, record.received_at, &record.bytes).expect("memory accepts it");
        }
        writer.finish().expect("memory accepts it")
    }

    fn read(bytes: &[u8]) -> (Vec<RawRecord>, Option<RawError>) {
        let mut records = Vec::new();
        match RawReader::new(bytes) {
            Err(error) => return (records, Some(error)),
            Ok(reader) => {
                for record in reader {
                    match record {
                        Ok(record) => records.push(record),
                        Err(error) => return (records, Some(error)),
                    }
                }
            }
        }
        (records, None)
    }

    fn three() -> Vec<RawRecord> {
        vec![
            RawRecord { stream: Stream::Events, received_at: 1_700_000_000_000, bytes: b"one".to_vec() },
            RawRecord { stream: Stream::NodeRooms, received_at: -1, bytes: Vec::new() },
            RawRecord { stream: Stream::Stats, received_at: 3, bytes: vec![0xFF; 300] },
        ]
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn records_come_back_as_they_were(
            records in prop::collection::vec(
                (0_u8..3, any::<i64>(), prop::collection::vec(any::<u8>(), 0..400)),
                0..20,
            ),
        ) {
            let records: Vec<RawRecord> = records
                .into_iter()
                .filter_map(|(stream, received_at, bytes)| {
                    Some(RawRecord { stream: Stream::from_number(stream)?, received_at, bytes })
                })
                .collect();
            let (back, error) = read(&written(&records));
            prop_assert!(error.is_none(), "{error:?}");
            prop_assert_eq!(back, records);
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_noticed_and_gives_what_is_whole() {
        let (records, bytes) = (three(), written(&three()));
        for cut in 0..bytes.len() {
            let (back, error) = read(&bytes[..cut]);
            assert!(matches!(error, Some(RawError::Torn { .. } | RawError::NotRaw { offset: 0 })), "{cut}: {error:?}");
            assert_eq!(back[..], records[..back.len()]);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_no_wrong_record_comes_out() {
        let (records, bytes) = (three(), written(&three()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (back, error) = read(&bad);
            assert!(error.is_some(), "bit {bit}");
            assert_eq!(back[..], records[..back.len()], "bit {bit}");
        }
    }

    #[test]
    fn joined_files_read_as_one() {
        let joined = [written(&three()), written(&[]), written(&three())].concat();
        let (back, error) = read(&joined);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(back, [three(), three()].concat());
        let (_, error) = read(&[&joined[..], b"x"].concat());
        assert!(matches!(error, Some(RawError::Torn { .. })));
    }

    #[test]
    fn a_file_of_a_newer_version_is_named_as_such() {
        let mut bytes = written(&[]);
        bytes[8] = VERSION + 1;
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(read(&bytes).1, Some(RawError::Newer { found: 2, known: 1 })));
    }
}
