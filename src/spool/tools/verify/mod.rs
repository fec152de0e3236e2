//! Checks everything that a spool has on disk, block by block, and reports problems with their place. Changes no byte.
//!
//! The spool's store and the dead letters' store are checked the same way: the journal's segments ([`segment`]), then
//! the queue ([`queue`]).
//! Nothing is inferred: a record is lost if it is still to be delivered and no whole, readable block holds it.
//!
//! On a stopped spool the queue is read through a copy, and the records to be delivered are those that a start would
//! find. On an open one the check runs during the work: it covers what was synced when it began, and segments that are
//! deleted meanwhile are not reported as missing.

use std::io;

use crate::spool::shared::Shared;

mod queue;
mod report;
mod segment;
mod subject;
mod walk;

pub use self::report::{Finding, Severity, VerifyReport};
pub(crate) use self::subject::StoppedStore;
use self::{segment::Segments, subject::Subject};

/// Checks a spool. `stopped` is what was found in the journal and the dead letters if no process has the spool open.
/// Blocking.
///
/// # Errors
/// When the length of a file cannot be determined; damage is no error.
pub(crate) fn verify(shared: &Shared, stopped: Option<&[StoppedStore; 2]>) -> io::Result<VerifyReport> {
    let (store, dead) = (&shared.store, shared.dead.store());
    let subjects = match stopped {
        Some([records, dead_letters]) => [Subject::stopped(store, records), Subject::stopped(dead, dead_letters)],
        None => [Subject::live(store), Subject::live(dead)],
    };
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
