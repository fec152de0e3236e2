//! Checks a store's queue against its journal. A problem here loses no record: a start walks the segments concerned
//! again.

use super::{
    report::{Finding, Severity, VerifyReport},
    subject::Subject,
};
use crate::spool::{
    journal::segment,
    queue::{Progress, Recorded},
    store::queue_directory,
    tools::queue_copy::NoCopy,
};

pub(super) fn check(subject: &Subject<'_>, report: &mut VerifyReport) {
    let directory = queue_directory(&subject.store.home);
    let mut problem = |what: String| report.add(Finding::of(Severity::Problem, directory.clone(), what));
    if !subject.queue_is_on_disk {
        problem("the queue is kept in memory: the disk is full, or its files failed; see the last error".to_owned());
    }
    let queue = match &subject.queue {
        Ok(Some(queue)) => queue,
        Ok(None) if subject.segments.is_empty() => return,
        Ok(None) => return problem("the queue is missing; the next start rebuilds it from the journal".to_owned()),
        Err(error @ NoCopy::NotCopied(_)) => return problem(error.to_string()),
        Err(error) => return problem(format!("{error}; the next start rebuilds it from the journal")),
    };
    // A spool that has begun its second segment flushed its queue long ago.
    if queue.recorded == Recorded::default() && subject.segments.len() > 1 {
        return problem("the queue is empty; the next start rebuilds it from the journal".to_owned());
    }
    for (&segment, &Progress { entered, done, .. }) in &queue.recorded.segments {
        let entries = queue.entries_of(segment).into_iter().flatten();
        let pending: u64 = entries.map(|(_, entry)| entry.records).sum();
        if pending + done != entered {
            problem(format!(
                "of segment {segment} {entered} records were entered, but {pending} are to be delivered and {done} are \
                 done; the next start enters it again"
            ));
        }
    }
    let entries = queue.entries.values().flatten().map(|entries| entries.len() as u64);
    report.queue_entries += entries.sum::<u64>();
    let without_row = queue.entries.keys().filter(|segment| !queue.recorded.segments.contains_key(segment));
    for segment in without_row {
        let what = format!(
            "there are entries of segment {segment}, but no progress is recorded for it; the next start enters it again"
        );
        report.add(Finding::of(Severity::Problem, directory.clone(), what));
    }
    if !subject.is_live {
        check_entered(subject, report);
    }
}

/// Records that the next start enters: usual after a kill.
fn check_entered(subject: &Subject<'_>, report: &mut VerifyReport) {
    let Ok(Some(queue)) = &subject.queue else { return };
    let needed_from = subject.store.state.lock().needed_from;
    for (&number, known) in subject.segments.range(needed_from..) {
        let entered_to = queue.recorded.segments.get(&number).map_or(0, |progress| progress.entered_to);
        if entered_to < known.end && known.held > 0 {
            let path = segment::path(&subject.store.journal(), number);
            let what = "synced, but not in the queue yet; the next start enters it";
            let finding = Finding::of(Severity::Note, path, what);
            report.add(finding.at(entered_to, known.end - entered_to));
        }
    }
}
