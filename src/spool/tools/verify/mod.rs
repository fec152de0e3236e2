//! Checks all that a spool has on disk, block by block, and says what is wrong where. Changes no byte.
//!
//! The spool's store and the dead letters' are checked the same way: the journal's segments ([`segment`]), then the queue ([`queue`]).
//! Nothing is inferred: a record is lost where it is still to be delivered and no whole, readable block holds it.
//!
//! On a stopped spool the queue is looked at through a copy, and what a start would make of it is what is to be delivered. On
//! an open one the check runs beside the work: it keeps to what was synced when it began, and what goes meanwhile is not missed.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use self::{segment::Segments, subject::Subject};
use super::inspect::StoppedSpool;
use crate::{
    record::Stream,
    spool::{error::OpenError, options::SpoolOptions, shared::Shared},
};

mod queue;
mod segment;
mod subject;
mod walk;

/// So many findings are kept; the rest is counted.
const MAX_FINDINGS: usize = 1000;

/// What a check found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The spool's directory.
    pub folder: PathBuf,
    /// Files of journal and dead letters.
    pub files: u64,
    /// Whole blocks in them.
    pub blocks: u64,
    /// Bytes looked at.
    pub bytes: u64,
    /// Records in whole blocks of the journal; some may be delivered already.
    pub records: u64,
    /// Dead letters in whole blocks; some may be removed already.
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
    /// The file or directory.
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

impl Finding {
    /// About a file or directory as a whole; it costs no record.
    fn of(severity: Severity, file: PathBuf, what: impl Into<String>) -> Self {
        Self { severity, file, offset: None, bytes: 0, what: what.into(), records_lost: Some(0) }
    }

    /// About bytes of it.
    fn at(self, offset: u64, bytes: u64) -> Self {
        Self { offset: Some(offset), bytes, ..self }
    }

    /// That cost records.
    fn losing(self, records: u64) -> Self {
        Self { records_lost: Some(self.records_lost.unwrap_or(0) + records), ..self }
    }
}

impl VerifyReport {
    /// True where nothing is wrong.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.problems == 0
    }

    fn new(shared: &Shared) -> Self {
        Self {
            folder: shared.home.clone(),
            files: 0,
            blocks: 0,
            bytes: 0,
            records: 0,
            dead_letters: 0,
            queue_entries: 0,
            lost: BTreeMap::new(),
            quarantine_bytes: shared.quarantine.bytes(),
            findings: Vec::new(),
            more_findings: 0,
            problems: 0,
        }
    }

    fn add(&mut self, finding: Finding) {
        self.problems += u64::from(finding.severity == Severity::Problem);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

/// Checks a spool that no process has open. Blocking.
///
/// # Errors
/// When the directory cannot be read or was written by another version; damage is no error.
pub fn verify(home: &Path, options: SpoolOptions) -> Result<VerifyReport, OpenError> {
    let (spool, [met, dead_met]) = StoppedSpool::look_closely(home, options)?;
    let (store, dead) = (&spool.shared.store, spool.shared.dead.store());
    let subjects = [Subject::stopped(store, met), Subject::stopped(dead, dead_met)];
    check(&spool.shared, subjects).map_err(OpenError::io(home))
}

/// The same for an open one.
pub(crate) fn verify_live(shared: &Shared) -> io::Result<VerifyReport> {
    check(shared, [Subject::live(&shared.store), Subject::live(shared.dead.store())])
}

fn check(shared: &Shared, subjects: [Subject<'_>; 2]) -> io::Result<VerifyReport> {
    let mut report = VerifyReport::new(shared);
    for subject in subjects {
        let mut segments = Segments::new(&subject, &mut report)?;
        segments.check()?;
        queue::check(&subject, &mut report);
    }
    if let Some(gone) = shared.dead_letters_gone() {
        let finding = Finding::of(Severity::Problem, shared.home.join("dead"), gone);
        report.add(Finding { records_lost: None, ..finding });
    }
    if report.quarantine_bytes > 0 {
        let what = "copies of damaged bytes from earlier starts; see report.ndjson";
        let finding = Finding::of(Severity::Note, shared.home.join("quarantine"), what);
        report.add(Finding { bytes: report.quarantine_bytes, ..finding });
    }
    Ok(report)
}
