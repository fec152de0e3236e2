//! Checks all that a spool has on disk, block by block, and says what is wrong where. Changes no byte.
//!
//! On a stopped spool the queue is looked at through a copy, because sled writes when it opens. On an open one the check
//! runs beside the work: it keeps to what was synced when it began, and what goes meanwhile is not missed.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use serde::{Deserialize, Serialize};

use super::{
    StoppedSpool,
    block::{Header, Kind},
    codec::{BadPayload, Unpacker},
    core::Core,
    dead::{DeadLetter, Removal},
    error::OpenError,
    options::SpoolOptions,
    queue::Index,
    segment::{self, Damage, Found, Walker},
    state::{Note, SavedState, decode},
};
use crate::record::{RecordBatch, Stream};

mod queues;

/// So many findings are kept; the rest is counted.
const MOST_FINDINGS: usize = 1000;

/// What a check found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The spool's folder.
    pub folder: PathBuf,
    /// Files of journal and dead letters.
    pub files: u64,
    /// Whole blocks in them.
    pub blocks: u64,
    /// Bytes looked at.
    pub bytes: u64,
    /// Records in whole blocks of the journal; some may be delivered already.
    pub records: u64,
    /// Dead letters in whole blocks.
    pub dead_letters: u64,
    /// Entries of the queues.
    pub queue_entries: u64,
    /// Records that are to be delivered and are nowhere, by stream; absent means none.
    pub lost: BTreeMap<Stream, u64>,
    /// Copies of damaged bytes in `quarantine/`, from earlier starts.
    pub quarantine_bytes: u64,
    /// What is to be said, in the order it was met.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
    /// How many of all findings are problems.
    pub problems: u64,
}

/// Something to be said about a place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    /// Whether anything is wrong.
    pub severity: Severity,
    /// The file or folder.
    pub file: PathBuf,
    /// Where in it.
    pub offset: Option<u64>,
    /// How many bytes it concerns.
    pub bytes: u64,
    /// What it is.
    pub what: String,
    /// Records that are lost by it; `None` where that cannot be told.
    pub records_lost: Option<u64>,
}

/// Whether anything is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is: it is said for completeness.
    Note,
    /// Something is, even where it costs no record.
    Problem,
}

impl VerifyReport {
    /// True where nothing is wrong.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.problems == 0
    }

    fn add(&mut self, finding: Finding) {
        self.problems += u64::from(finding.severity == Severity::Problem);
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

/// Checks a spool that no process has open. Blocking.
///
/// # Errors
/// When the folder cannot be read or was written by a newer version; damage is no error.
pub fn verify(folder: &Path, options: SpoolOptions) -> Result<VerifyReport, OpenError> {
    let stopped = StoppedSpool::look(folder, options)?;
    let mut check = Check::new(&stopped.core).map_err(OpenError::io(folder))?;
    check.run(stopped.torn.as_ref()).map_err(OpenError::io(folder))?;
    queues::check_copy(&mut check).map_err(OpenError::io(folder))?;
    Ok(check.report)
}

/// The same for an open one.
pub(super) fn verify_live(core: &Core) -> io::Result<VerifyReport> {
    let mut check = Check::new(core)?;
    check.run(None)?;
    match core.index.read().clone() {
        Some(index) => queues::check(&mut check, index.as_ref()),
        None => check.problem(&core.folder.join("queue"), None, "the spool goes on without its queue".to_owned()),
    }
    Ok(check.report)
}

struct Check<'a> {
    core: &'a Core,
    unpacker: Unpacker,
    report: VerifyReport,
    /// Payloads by the key that is missing.
    locked: BTreeMap<String, u64>,
}

/// The last damage of a segment, to which a jump in ordinals after it is put down.
struct LastDamage {
    finding: Finding,
}

impl<'a> Check<'a> {
    fn new(core: &'a Core) -> io::Result<Self> {
        let report = VerifyReport {
            folder: core.folder.clone(),
            files: 0,
            blocks: 0,
            bytes: 0,
            records: 0,
            dead_letters: 0,
            queue_entries: 0,
            lost: BTreeMap::new(),
            quarantine_bytes: core.usage.quarantine.load(Ordering::Relaxed),
            findings: Vec::new(),
            more_findings: 0,
            problems: 0,
        };
        Ok(Self { core, unpacker: Unpacker::new(core.options.encryption.as_ref())?, report, locked: BTreeMap::new() })
    }

    fn run(&mut self, torn: Option<&(u64, Damage)>) -> io::Result<()> {
        let segments: Vec<u64> = self.core.books.lock().segments.keys().copied().collect();
        for (i, &segment) in segments.iter().enumerate() {
            let torn = torn.filter(|(of, _)| *of == segment).map(|(_, damage)| damage);
            self.segment(segment, segments.get(i + 1).copied(), torn)?;
        }
        self.dead_letters()?;
        if self.report.quarantine_bytes > 0 {
            let what = "copies of damaged bytes from earlier starts; see report.ndjson".to_owned();
            let (file, bytes) = (self.core.folder.join("quarantine"), self.report.quarantine_bytes);
            self.report.add(Finding {
                severity: Severity::Note,
                file,
                offset: None,
                bytes,
                what,
                records_lost: Some(0),
            });
        }
        for (key, blocks) in std::mem::take(&mut self.locked) {
            let what = format!("{blocks} payloads are encrypted with key {key}, which is not given: checksums hold");
            let file = self.core.journal_folder();
            let severity = Severity::Note;
            self.report.add(Finding { severity, file, offset: None, bytes: 0, what, records_lost: Some(0) });
        }
        Ok(())
    }

    /// A file of this spool up to `end`, and its length; `None` if it has gone since, as it may while the spool works.
    fn open(&mut self, folder: &Path, segment: u64, end: Option<u64>) -> io::Result<Option<(Walker, u64)>> {
        let file = match self.core.disk.open(&segment::path(folder, segment)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.len()?;
        let end = end.map_or(len, |end| end.min(len));
        self.report.files += 1;
        self.report.bytes += end;
        Ok(Some((Walker::new(file, 0, end), end)))
    }

    /// Walks a segment of the journal: checksums, payloads, and whether the ordinals go on without a gap.
    fn segment(&mut self, segment: u64, after: Option<u64>, torn: Option<&Damage>) -> io::Result<()> {
        let folder = self.core.journal_folder();
        let path = segment::path(&folder, segment);
        // Both in one look, before the file's: what is appended or sealed meanwhile is neither walked nor missed.
        let (ordinals, synced) = {
            let books = self.core.books.lock();
            (Stream::ALL.map(|stream| books.ordinals_of(segment, stream)), books.written_end(segment))
        };
        let mut expected = ordinals.each_ref().map(|ordinals| ordinals.start);
        // What lies behind the last whole block is looked at where nobody is about to write there.
        let end = synced.filter(|_| !self.core.read_only);
        let Some((mut walker, _)) = self.open(&folder, segment, end)? else { return Ok(()) };
        let mut last: Option<LastDamage> = None;
        while let Some(found) = walker.next()? {
            match found {
                Found::Damage(damage) => {
                    self.settle(last.take());
                    if torn == Some(&damage) {
                        let what = "a write that was cut off; nobody was told that it was kept".to_owned();
                        self.report.add(damage_finding(Severity::Note, &path, &damage, what));
                    } else {
                        let finding = damage_finding(Severity::Problem, &path, &damage, damage.reason.to_string());
                        last = Some(LastDamage { finding });
                    }
                }
                Found::Block { header, offset, payload } => {
                    self.report.blocks += 1;
                    if header.kind == Kind::Records {
                        let next = &mut expected[header.stream as usize];
                        let gap = *next..header.ordinal;
                        *next = (*next).max(header.ordinals().end);
                        self.missing(&path, header.stream, gap, &mut last);
                    }
                    self.payload(segment, &path, offset, &header, &payload);
                }
            }
        }
        for stream in Stream::ALL {
            let gap = expected[stream as usize]..ordinals[stream as usize].end;
            let next_is_missing = after.is_some_and(|after| after != segment + 1);
            let place = if next_is_missing { segment::path(&folder, segment + 1) } else { path.clone() };
            self.missing(&place, stream, gap, &mut last);
        }
        self.settle(last);
        Ok(())
    }

    /// Counts what is to be delivered of a gap, and puts it down to the damage in front of it, if there is any.
    fn missing(&mut self, path: &Path, stream: Stream, gap: std::ops::Range<u64>, last: &mut Option<LastDamage>) {
        let lost = self.open_in(stream, &gap);
        if lost == 0 {
            return;
        }
        *self.report.lost.entry(stream).or_default() += lost;
        match last {
            Some(LastDamage { finding }) => finding.records_lost = Some(finding.records_lost.unwrap_or(0) + lost),
            None => {
                let what = format!("{stream} {} to {} are missing", gap.start, gap.end - 1);
                let (file, severity) = (path.to_owned(), Severity::Problem);
                self.report.add(Finding { severity, file, offset: None, bytes: 0, what, records_lost: Some(lost) });
            }
        }
    }

    fn settle(&mut self, last: Option<LastDamage>) {
        if let Some(LastDamage { finding }) = last {
            self.report.add(finding);
        }
    }

    /// How many ordinals of a range are to be delivered.
    fn open_in(&self, stream: Stream, range: &std::ops::Range<u64>) -> u64 {
        let books = self.core.books.lock();
        let live = &books.streams[stream as usize].live;
        let (mut at, mut count) = (range.start, 0);
        while let Some(open) = live.first_open(at).filter(|open| open.start < range.end) {
            count += open.end.min(range.end) - open.start;
            at = open.end;
        }
        count
    }

    /// Unpacks a payload and reads what it holds.
    fn payload(&mut self, segment: u64, path: &Path, offset: u64, header: &Header, packed: &[u8]) {
        let wrong = match self.unpacker.unpack(segment, header, packed) {
            Err(BadPayload::NoKey { key }) => {
                *self.locked.entry(key).or_default() += 1;
                None
            }
            Err(error) => Some(format!("the block's checksum holds, but its payload is unreadable: {error}")),
            Ok(raw) => {
                let readable = match header.kind {
                    Kind::Records => RecordBatch::from_wrapper(header.stream, 0, raw.into())
                        .is_ok_and(|batch| batch.count() == header.count),
                    Kind::Notes => decode::<Vec<Note>>(&raw).is_some(),
                    Kind::State => decode::<SavedState>(&raw).is_some_and(|state| state.segment == segment),
                    Kind::DeadLetters => {
                        decode::<Vec<DeadLetter>>(&raw).is_some_and(|letters| letters.len() == header.count as usize)
                    }
                    Kind::DeadRemoved => Removal::read(header, &raw).is_some(),
                };
                (!readable).then(|| "the block's checksum holds, but its payload is something else".to_owned())
            }
        };
        match header.kind {
            _ if wrong.is_some() => {}
            Kind::Records => self.report.records += u64::from(header.count),
            Kind::DeadLetters => self.report.dead_letters += u64::from(header.count),
            Kind::Notes | Kind::State | Kind::DeadRemoved => {}
        }
        if let Some(what) = wrong {
            let lost = match header.kind {
                Kind::Records => Some(self.open_in(header.stream, &header.ordinals())),
                Kind::DeadLetters => self.letters_lost(segment, &(offset..offset + header.block_len())),
                Kind::Notes | Kind::State | Kind::DeadRemoved => Some(0),
            };
            if let (Kind::Records, Some(lost @ 1..)) = (header.kind, lost) {
                *self.report.lost.entry(header.stream).or_default() += lost;
            }
            let (severity, file) = (Severity::Problem, path.to_owned());
            let (offset, bytes, records_lost) = (Some(offset), header.block_len(), lost);
            self.report.add(Finding { severity, file, offset, bytes, what, records_lost });
        }
    }

    /// Walks the dead letters, and says what is missing beyond what their damage is known to have cost.
    fn dead_letters(&mut self) -> io::Result<()> {
        for (segment, len) in self.core.dead.lengths() {
            self.dead_segment(segment, len)?;
        }
        // An open spool counted them at its start.
        let lost: u64 = if self.core.read_only { self.core.dead.lost().iter().sum() } else { 0 };
        let named: u64 = self.core.dead.damage().iter().filter_map(|damaged| damaged.lost).sum();
        if lost > named {
            let what = "dead letters are missing: a file was deleted or cut, or the damage is among that named above";
            let (severity, file, records_lost) = (Severity::Problem, self.core.folder.join("dead"), Some(lost - named));
            self.report.add(Finding { severity, file, offset: None, bytes: 0, what: what.to_owned(), records_lost });
        }
        Ok(())
    }

    /// Letters that damage costs: a stopped spool was read just now, an open one knows what it had there.
    fn letters_lost(&self, segment: u64, bytes: &std::ops::Range<u64>) -> Option<u64> {
        if !self.core.read_only {
            return Some(self.core.dead.letters_in(segment, bytes));
        }
        let met = self.core.dead.damage();
        let met = met.iter().find(|met| met.segment == segment && met.damage.bytes.start == bytes.start);
        met.map_or(Some(0), |met| met.lost)
    }

    /// Walks a segment of the dead letters.
    fn dead_segment(&mut self, segment: u64, len: u64) -> io::Result<()> {
        let folder = self.core.folder.join("dead");
        let path = segment::path(&folder, segment);
        let Some((mut walker, _)) = self.open(&folder, segment, Some(len))? else { return Ok(()) };
        while let Some(found) = walker.next()? {
            match found {
                Found::Block { header, offset, payload } => {
                    self.report.blocks += 1;
                    self.payload(segment, &path, offset, &header, &payload);
                }
                Found::Damage(damage) => {
                    let mut finding = damage_finding(Severity::Problem, &path, &damage, damage.reason.to_string());
                    if self.core.dead.is_torn(segment, &damage)? {
                        finding.severity = Severity::Note;
                        finding.what = "a write that was cut off; its records are still in the queue".to_owned();
                    } else {
                        finding.records_lost = self.letters_lost(segment, &damage.bytes);
                    }
                    self.report.add(finding);
                }
            }
        }
        Ok(())
    }

    /// A problem that costs no record.
    fn problem(&mut self, file: &Path, offset: Option<u64>, what: String) {
        let (file, severity) = (file.to_owned(), Severity::Problem);
        self.report.add(Finding { severity, file, offset, bytes: 0, what, records_lost: Some(0) });
    }
}

/// Damage costs nothing until ordinals turn out to be missing.
fn damage_finding(severity: Severity, path: &Path, damage: &Damage, what: String) -> Finding {
    Finding {
        severity,
        file: path.to_owned(),
        offset: Some(damage.bytes.start),
        bytes: damage.bytes.end - damage.bytes.start,
        what,
        records_lost: Some(0),
    }
}
