//! Takes records out of whatever is left of a spool: damaged, partial, copied from elsewhere. Needs no queue, no state, no
//! order; reads every block whose checksums hold, in the journal, the dead letters and the quarantine.
//!
//! All records that are found are taken, those that were delivered before included: a sink knows them by their `_id`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    block::{Header, Kind, MAGIC},
    codec::{BadPayload, Unpacker},
    dead::{self, DeadLetter, Removal},
    io::{Disk, RealDisk, files_below},
    options::Keys,
    raw::RawWriter,
    segment::{Found, Walker},
    state::{SavedState, decode},
};
use crate::record::{RecordBatch, Stream};

/// Unreadable bytes are stepped over in pieces of this.
const SECTOR_BYTES: u64 = 4096;
/// So many bad places are named; the rest is counted.
const MOST_PLACES: usize = 1000;

/// What was found.
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
    /// Records in whole blocks that could not be opened, by the id of the key that is missing.
    pub locked: BTreeMap<String, u64>,
    /// Where bytes are no whole block, or could not be read.
    pub damaged: Vec<DamagedPlace>,
    /// Such places beyond those.
    pub more_damaged: u64,
}

/// Bytes that gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedPlace {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

impl RecoverReport {
    /// Records of all streams.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.records.values().sum()
    }

    fn damage(&mut self, file: &Path, offset: u64, bytes: u64, reason: String) {
        if self.damaged.len() < MOST_PLACES {
            self.damaged.push(DamagedPlace { file: file.to_owned(), offset, bytes, reason });
        } else {
            self.more_damaged += 1;
        }
    }
}

/// Why records could not be taken out.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is no such folder or file, or it cannot be listed.
    #[error("{path}: {source}")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was found could not be written.
    #[error("writing the records: {0}")]
    Write(#[source] io::Error),
}

/// Takes the records out of a file, or of all files below a folder that look like a spool's: of a spool, of a data folder
/// with several, of a part of either. Blocking.
///
/// # Errors
/// When the folder cannot be listed, or `out` cannot be written. Damage is none, nor is a file that cannot be read.
pub fn recover<W: Write>(
    folder: &Path,
    keys: Option<&Keys>,
    out: &mut RawWriter<W>,
) -> Result<RecoverReport, RecoverError> {
    let unreadable = |source| RecoverError::Read { path: folder.to_owned(), source };
    let files = files_below(folder).map_err(unreadable)?;
    let named = files.len() == 1 && files[0] == folder;
    let unpacker = Unpacker::new(keys).map_err(unreadable)?;
    let mut search = Search { unpacker, out, report: RecoverReport::default() };
    let files: Vec<PathBuf> = files.into_iter().filter(|file| named || search.looks_like_ours(file)).collect();
    let mut removals = Removals::default();
    for file in files.iter().filter(|file| is_in(file, "dead")) {
        search.each_block(file, false, &mut |search, segment, offset, header, payload| {
            if header.kind == Kind::DeadRemoved
                && let Ok(raw) = search.unpacker.unpack(segment, header, payload)
                && let Some(removal) = Removal::read(header, &raw)
            {
                removals.push(parent(file), (segment, offset), removal);
            }
            Ok(())
        })?;
    }
    let removed = removals.by_key();
    for file in &files {
        search.report.files += 1;
        search.each_block(file, true, &mut |search, segment, offset, header, payload| {
            let gone = |letter: &DeadLetter| {
                let key = (parent(file), letter.key());
                removed.get(&key).is_some_and(|removed| *removed > (segment, offset))
            };
            search.take(file, segment, offset, header, payload, &gone)
        })?;
    }
    Ok(search.report)
}

/// Which dead letters are gone, of all folders that have some.
#[derive(Default)]
struct Removals {
    keys: Vec<(PathBuf, dead::Key, Place)>,
    /// Where segments end; what lies behind was refused.
    ends: BTreeMap<(PathBuf, u64), u64>,
}

/// Segment, offset.
type Place = (u64, u64);

impl Removals {
    fn push(&mut self, folder: PathBuf, at: Place, removal: Removal) {
        match removal {
            Removal::Keys(keys) => self.keys.extend(keys.into_iter().map(|key| (folder.clone(), key, at))),
            Removal::Counts { end_before: Some((segment, end)) } => _ = self.ends.insert((folder, segment), end),
            Removal::Counts { end_before: None } => {}
        }
    }

    /// Where each letter was last removed.
    fn by_key(self) -> BTreeMap<(PathBuf, dead::Key), Place> {
        let mut last = BTreeMap::new();
        for (folder, key, (segment, offset)) in self.keys {
            let end = self.ends.get(&(folder.clone(), segment)).copied().unwrap_or(u64::MAX);
            if offset < end {
                last.insert((folder, key), (segment, offset));
            }
        }
        last
    }
}

struct Search<'a, W> {
    unpacker: Unpacker,
    out: &'a mut RawWriter<W>,
    report: RecoverReport,
}

/// What is done with each whole block: segment, offset, header, payload.
type Visit<'a, 'b, W> = dyn FnMut(&mut Search<'b, W>, u64, u64, &Header, &[u8]) -> Result<(), RecoverError> + 'a;

impl<'b, W: Write> Search<'b, W> {
    /// By its name, or by how it begins.
    fn looks_like_ours(&mut self, file: &Path) -> bool {
        if file.extension().is_some_and(|extension| extension == "journal" || extension == "bad") {
            return true;
        }
        let mut begin = [0; MAGIC.len()];
        RealDisk.open(file).and_then(|file| file.read_at(&mut begin, 0)).is_ok_and(|_| begin == MAGIC)
    }

    /// Walks a file; bad places are named in the report if `report` is set.
    fn each_block(&mut self, path: &Path, report: bool, visit: &mut Visit<'_, 'b, W>) -> Result<(), RecoverError> {
        let opened = RealDisk.open(path).and_then(|file| Ok((file.len()?, file)));
        let (len, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if report {
                    self.report.damage(path, 0, 0, error.to_string());
                }
                return Ok(());
            }
        };
        let mut segment = segment_of(path);
        let mut walker = Walker::new(file, 0, len);
        loop {
            match walker.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Found::Block { header, offset, payload })) => {
                    if header.kind == Kind::State
                        && let Ok(raw) = self.unpacker.unpack(0, &header, &payload)
                    {
                        // The file may have got another name.
                        segment = decode::<SavedState>(&raw).map_or(segment, |state| state.segment);
                    }
                    visit(self, segment, offset, &header, &payload)?;
                }
                Ok(Some(Found::Damage(damage))) if report && !is_in(path, "quarantine") => {
                    let bytes = damage.bytes.end - damage.bytes.start;
                    self.report.damage(path, damage.bytes.start, bytes, damage.reason.to_string());
                }
                Ok(Some(Found::Damage(_))) => {}
                Err(error) => {
                    let bytes = walker.step_over(SECTOR_BYTES);
                    if report {
                        self.report.damage(path, bytes.start, bytes.end - bytes.start, error.to_string());
                    }
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
        gone: &dyn Fn(&DeadLetter) -> bool,
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
        if header.kind == Kind::Records {
            let Ok(batch) = RecordBatch::from_wrapper(header.stream, header.received_at, raw.into()) else {
                self.report.damage(path, offset, header.block_len(), "its payload is no records".to_owned());
                return Ok(());
            };
            for record in &batch {
                self.out.push(header.stream, header.received_at, record).map_err(RecoverError::Write)?;
            }
            *self.report.records.entry(header.stream).or_default() += u64::from(batch.count());
        } else {
            for letter in decode::<Vec<DeadLetter>>(&raw).unwrap_or_default().iter().filter(|letter| !gone(letter)) {
                self.out.push(letter.stream, letter.received_at, &letter.record).map_err(RecoverError::Write)?;
                *self.report.records.entry(letter.stream).or_default() += 1;
                self.report.from_dead_letters += 1;
            }
        }
        if is_in(path, "quarantine") {
            self.report.from_quarantine += self.report.total() - before;
        }
        Ok(())
    }
}

/// The segment's number, as file names have it: `000000000001.journal`, `000000000001-0000012345.bad`.
fn segment_of(path: &Path) -> u64 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let digits = name.find(|c: char| !c.is_ascii_digit()).map_or(&name[..], |end| &name[..end]);
    digits.parse().unwrap_or(0)
}

fn is_in(path: &Path, folder: &str) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|name| name == folder)
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}
