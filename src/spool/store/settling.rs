//! Applies what a start found to the medium, before the queue learns of it.

use std::{collections::BTreeMap, io};

use super::{Place, retention::truncate, state::PAGE_BYTES, survey::Survey};
use crate::{
    record::{PerStream, UnixMillis},
    spool::{
        journal::segment::{self, Damage},
        queue::ranges::RangeSet,
    },
};

/// The findings of a start that are reported.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Bytes that were synced and are damaged, by segment.
    pub(crate) damage: Vec<(u64, Damage)>,
    /// What a torn write left at the end.
    pub(crate) torn: Option<(u64, Damage)>,
    /// Sequence numbers of records lost to damage, or with a segment that is missing; by segment.
    pub(crate) lost: BTreeMap<u64, PerStream<RangeSet>>,
    /// Segments that were walked.
    pub(crate) walked: Vec<u64>,
    /// Records that were entered by that: a kill loses what was not in the queue's files yet.
    pub(crate) entered: u64,
    /// Segments that were missing at an earlier start, their records counted as lost, and that returned too late:
    /// fronts written since say that their records are done.
    pub(crate) late: Vec<u64>,
    /// When the first record was received that is redelivered although it may be done.
    pub(super) redelivers_since: Option<UnixMillis>,
    /// When the newest front or block that was found was written.
    pub(crate) written_at: Option<UnixMillis>,
}

/// Copies damage to the quarantine, moves segments there that returned too late, cuts off torn groups, releases
/// reserved space, and syncs what was found before the queue learns of it: it may have been written just before a kill,
/// and a power cut could still lose it.
pub(super) fn settle_medium(place: &Place, survey: &Survey, findings: &Findings) -> io::Result<()> {
    let (disk, journal) = (place.disk.as_ref(), place.home.join("journal"));
    for (segment, damage) in findings.damage.iter().chain(&findings.torn) {
        let path = segment::path(&journal, *segment);
        place.quarantine.keep(&path, *segment, disk.open(&path)?.as_ref(), damage);
        place.reports.warn(&format!(
            "{}: {} bytes at {} are not a whole block ({}); kept in quarantine/",
            path.display(),
            damage.bytes.end - damage.bytes.start,
            damage.bytes.start,
            damage.reason
        ));
    }
    for &segment in &findings.late {
        let quarantine = place.home.join("quarantine");
        let (path, kept) = (segment::path(&journal, segment), segment::path(&quarantine, segment));
        disk.make_directory(&quarantine)?;
        disk.rename(&path, &kept)?;
        disk.sync_directory(&quarantine)?;
        disk.sync_directory(&place.home)?;
        place.reports.error(format!(
            "{}: the segment was missing at an earlier start, its records are counted as damaged, and the journal \
             continued without it; it is kept as {}: `livekit-spool recover` reads its records",
            path.display(),
            kept.display()
        ));
    }
    for (number, listed, _) in survey.segments.iter().filter(|(number, ..)| !findings.late.contains(number)) {
        let torn =
            findings.torn.as_ref().filter(|(segment, _)| segment == number).map(|(_, damage)| damage.bytes.start);
        let walked = findings.walked.contains(number);
        let reserved = listed.allocated > listed.len.next_multiple_of(PAGE_BYTES);
        if torn.is_none() && !walked && !reserved {
            continue;
        }
        let settle = || {
            let file = disk.open_writable(&segment::path(&journal, *number))?;
            if torn.is_some() || reserved {
                file.set_len(torn.unwrap_or(listed.len))?;
            }
            file.sync()
        };
        match settle() {
            // Space stays reserved until the next start: nothing depends on it.
            Err(error) if torn.is_none() && !walked => {
                let path = segment::path(&journal, *number);
                place.reports.error(format!("{}: could not release reserved space: {error}", path.display()));
            }
            settled => settled?,
        }
    }
    for segment in &survey.done {
        truncate(disk, &segment::done_path(&journal, *segment))?;
    }
    disk.sync_directory(&journal)
}
