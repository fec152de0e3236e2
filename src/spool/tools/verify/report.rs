//! The result of a check: findings, each with a place, and sums.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::subject::Subject;
use crate::{record::Stream, spool::shared::Shared};

/// How many findings are listed; the rest is counted.
const MAX_FINDINGS: usize = 1000;

/// The result of a check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The spool's directory.
    pub directory: PathBuf,
    /// Files of journal and dead letters.
    pub files: u64,
    /// Whole blocks in them.
    pub blocks: u64,
    /// Bytes that were read.
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
    /// The findings, in the order of their discovery.
    pub findings: Vec<Finding>,
    /// Findings that are not listed.
    pub more_findings: u64,
    /// How many of all findings are problems.
    pub problems: u64,
}

/// A finding about a place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    /// Whether it is a problem.
    pub severity: Severity,
    /// The file or directory.
    pub file: PathBuf,
    /// The offset in the file.
    pub offset: Option<u64>,
    /// The number of bytes concerned.
    pub bytes: u64,
    /// The finding in words.
    pub what: String,
    /// Records that it loses; `None` if that is unknown.
    pub records_lost: Option<u64>,
}

/// Whether a finding is a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Not a problem: reported for completeness.
    Note,
    /// A problem, even if it loses no record.
    Problem,
}

impl Finding {
    /// About a file or directory as a whole; it loses no record.
    pub(super) fn of(severity: Severity, file: PathBuf, what: impl Into<String>) -> Self {
        Self { severity, file, offset: None, bytes: 0, what: what.into(), records_lost: Some(0) }
    }

    /// About some of its bytes.
    pub(super) fn at(self, offset: u64, bytes: u64) -> Self {
        Self { offset: Some(offset), bytes, ..self }
    }

    /// Sets how many records it loses.
    pub(super) fn losing(self, records: u64) -> Self {
        Self { records_lost: Some(self.records_lost.unwrap_or(0) + records), ..self }
    }
}

impl VerifyReport {
    /// True if there are no problems.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.problems == 0
    }

    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            directory: shared.home.clone(),
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

    pub(super) fn add(&mut self, finding: Finding) {
        self.problems += u64::from(finding.severity == Severity::Problem);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }

    /// Counts records that are nowhere; for dead letters only the findings report losses.
    pub(super) fn lose(&mut self, subject: &Subject<'_>, stream: Stream, records: u64) {
        if records > 0 && !subject.holds_dead_letters() {
            *self.lost.entry(stream).or_default() += records;
        }
    }
}
