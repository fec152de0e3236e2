//! Extracts records from whatever is left of a spool: damaged, partial, copied from elsewhere. Needs no queue, no
//! front, no order; reads every block whose checksums match, in the journal, the dead letters and the quarantine.
//!
//! All records that are found are extracted, including delivered ones: a sink recognizes them by their `_id`. So are
//! dead letters that were retried or dropped, as long as their segments exist. What cannot be extracted is reported:
//! bytes that are damaged or cannot be read, blocks of another version, payloads whose key is missing.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::raw::RawWriter;
use crate::{
    record::{RecordBatch, Stream},
    spool::{
        dead_letters::DeadLetter,
        disk::{Disk, RealDisk, files_below},
        encoding::decode,
        journal::{
            block::{Header, Kind, MAGIC},
            codec::{BadPayload, Unpacker},
            front::Front,
            segment::{CHUNK_BYTES, Found, Walker},
        },
        options::Keys,
    },
};

/// How many damaged places are listed; the rest is counted.
const MAX_PLACES: usize = 1000;

/// The result of a recovery.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RecoverReport {
    /// Files that were read.
    pub files: u64,
    /// Whole blocks of records or dead letters.
    pub blocks: u64,
    /// Records that were written, by stream.
    pub records: BTreeMap<Stream, u64>,
    /// Of these, from dead letters.
    pub from_dead_letters: u64,
    /// Of these, from the quarantine.
    pub from_quarantine: u64,
    /// Records in whole blocks that could not be decrypted, by the id of the key that is missing.
    pub locked: BTreeMap<String, u64>,
    /// Bytes that are not a whole block, or could not be read.
    pub damaged: Vec<DamagedPlace>,
    /// Damaged places that are not listed.
    pub more_damaged: u64,
}

/// Bytes from which nothing was extracted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedPlace {
    /// The file.
    pub file: PathBuf,
    /// The offset in the file.
    pub offset: u64,
    /// The number of bytes.
    pub bytes: u64,
    /// The reason.
    pub reason: String,
}

impl RecoverReport {
    /// Records of all streams.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.records.values().sum()
    }

    fn damage(&mut self, file: &Path, offset: u64, bytes: u64, reason: String) {
        // Blocks of another version follow each other.
        if let Some(last) = self.damaged.last_mut()
            && (&last.file, &last.reason, last.offset + last.bytes) == (&file.to_owned(), &reason, offset)
        {
            last.bytes += bytes;
        } else if self.damaged.len() < MAX_PLACES {
            self.damaged.push(DamagedPlace { file: file.to_owned(), offset, bytes, reason });
        } else {
            self.more_damaged += 1;
        }
    }
}

/// Why records could not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory or file is missing, or cannot be listed.
    #[error("{path}: {source}")]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The records could not be written.
    #[error("could not write the records: {0}")]
    Write(#[source] io::Error),
}

/// Extracts the records of a file, or of all files below a directory that look like a spool's: of a spool, of a data
/// directory with several, or of a part of either. Blocking.
///
/// # Errors
/// When the directory cannot be listed, or `out` cannot be written. Damage is no error, nor is a file that cannot be
/// read.
pub fn recover<W: Write>(
    directory: &Path,
    keys: Option<&Keys>,
    out: &mut RawWriter<W>,
) -> Result<RecoverReport, RecoverError> {
    let unreadable = |source| RecoverError::Read { path: directory.to_owned(), source };
    let files = files_below(directory).map_err(unreadable)?;
    let named = files.len() == 1 && files[0] == directory;
    let unpacker = Unpacker::new(keys).map_err(unreadable)?;
    let mut search = Search { unpacker, out, report: RecoverReport::default() };
    let files: Vec<PathBuf> = files.into_iter().filter(|file| named || search.looks_like_ours(file)).collect();
    for file in &files {
        search.report.files += 1;
        search.each_block(file)?;
    }
    Ok(search.report)
}

struct Search<'a, W> {
    unpacker: Unpacker,
    out: &'a mut RawWriter<W>,
    report: RecoverReport,
}

impl<W: Write> Search<'_, W> {
    /// By its name, or by its first bytes.
    fn looks_like_ours(&mut self, file: &Path) -> bool {
        if file.extension().is_some_and(|extension| extension == "journal" || extension == "bad") {
            return true;
        }
        let mut begin = [0; MAGIC.len()];
        RealDisk.open(file).and_then(|file| file.read_at(&mut begin, 0)).is_ok_and(|_| begin == MAGIC)
    }

    /// Walks a file, and writes the records of its blocks.
    fn each_block(&mut self, path: &Path) -> Result<(), RecoverError> {
        let opened = RealDisk.open(path).and_then(|file| Ok((file.len()?, file)));
        let (len, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.report.damage(path, 0, 0, error.to_string());
                return Ok(());
            }
        };
        let mut segment = segment_of(path);
        let mut walker = Walker::new(file, 0, len);
        loop {
            match walker.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Found::Block { header, offset, payload })) => {
                    if header.kind == Kind::Front
                        && let Ok(raw) = self.unpacker.unpack(0, &header, &payload)
                    {
                        // The file may have been renamed.
                        segment = decode::<Front>(&raw).map_or(segment, |front| front.segment);
                    }
                    self.take(path, segment, offset, &header, &payload)?;
                }
                Ok(Some(Found::Damage(damage))) if !is_in(path, "quarantine") => {
                    let unreadable = if damage.unreadable { "; some of it cannot be read" } else { "" };
                    let (bytes, reason) = (damage.bytes.end - damage.bytes.start, damage.reason);
                    self.report.damage(path, damage.bytes.start, bytes, format!("{reason}{unreadable}"));
                }
                Ok(Some(Found::Damage(_))) => {}
                Err(error) => {
                    // None of it could be read, not even sector by sector.
                    let bytes = walker.step_over(CHUNK_BYTES as u64);
                    self.report.damage(path, bytes.start, bytes.end - bytes.start, error.to_string());
                }
            }
        }
    }

    /// Writes the records of a block.
    fn take(
        &mut self,
        path: &Path,
        segment: u64,
        offset: u64,
        header: &Header,
        payload: &[u8],
    ) -> Result<(), RecoverError> {
        if !matches!(header.kind, Kind::Records | Kind::DeadLetters) {
            return Ok(());
        }
        let raw = match self.unpacker.unpack(segment, header, payload) {
            Ok(raw) => raw,
            Err(BadPayload::NoKey { key }) => {
                *self.report.locked.entry(key).or_default() += u64::from(header.count);
                return Ok(());
            }
            Err(error) => {
                self.report.damage(path, offset, header.block_len(), error.to_string());
                return Ok(());
            }
        };
        self.report.blocks += 1;
        let before = self.report.total();
        let Ok(batch) = RecordBatch::from_wrapper(header.stream, header.received_at, raw.into()) else {
            self.report.damage(path, offset, header.block_len(), "its payload is not records".to_owned());
            return Ok(());
        };
        for record in &batch {
            let dead_letter;
            let (received_at, record) = if header.kind == Kind::DeadLetters {
                dead_letter = decode::<DeadLetter>(record);
                let Some(dead_letter) = &dead_letter else {
                    self.report.damage(path, offset, header.block_len(), "a dead letter in it is invalid".to_owned());
                    continue;
                };
                self.report.from_dead_letters += 1;
                (dead_letter.received_at, &dead_letter.record[..])
            } else {
                (header.received_at, record)
            };
            self.out.push(header.stream, received_at, record).map_err(RecoverError::Write)?;
            *self.report.records.entry(header.stream).or_default() += 1;
        }
        if is_in(path, "quarantine") {
            self.report.from_quarantine += self.report.total() - before;
        }
        Ok(())
    }
}

/// The segment's number, from the file's name: `000000000001.journal`, `000000000001-0000012345.bad`.
fn segment_of(path: &Path) -> u64 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let digits = name.find(|c: char| !c.is_ascii_digit()).map_or(&name[..], |end| &name[..end]);
    digits.parse().unwrap_or(0)
}

fn is_in(path: &Path, directory: &str) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|name| name == directory)
}
