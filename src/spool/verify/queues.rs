//! The queues and their checkpoint, held against the journal. Whatever is wrong here costs no record: the next start
//! makes the queue anew.

use std::{io, path::Path};

use super::{Check, Index};
use crate::{
    record::Stream,
    spool::{
        block::{HEADER_BYTES, Header, Kind},
        io::TemporaryFolder,
        queue::{IndexError, SledIndex},
        ranges::RangeSet,
        segment,
        state::Run,
    },
};

/// How many entries are read at once.
const PAGE: usize = 1000;

/// Checks the queue of a stopped spool through a copy of its folder.
pub(super) fn check_copy(check: &mut Check<'_>) -> io::Result<()> {
    let folder = check.core.folder.join("queue");
    let copy = TemporaryFolder::new("livekit-spool-verify")?;
    if !copy.fill(&folder)? {
        if !check.core.books.lock().segments.is_empty() {
            check.problem(&folder, None, "the queue is missing; the next start makes it from the journal".to_owned());
        }
        return Ok(());
    }
    match SledIndex::open(copy.path()) {
        Ok(index) => self::check(check, &index),
        Err(error) => check.problem(&folder, None, format!("{error}; the next start makes it anew")),
    }
    Ok(())
}

/// Checks entries and checkpoint.
pub(super) fn check(check: &mut Check<'_>, index: &dyn Index) {
    let folder = check.core.folder.join("queue");
    if let Err(error) = check_entries(check, index, &folder) {
        check.problem(&folder, None, format!("{error}; the next start makes it anew"));
    }
}

fn check_entries(check: &mut Check<'_>, index: &dyn Index, folder: &Path) -> Result<(), IndexError> {
    let Some(checkpoint) = index.checkpoint()? else {
        // A spool that has begun its second segment has made one long ago.
        if check.core.books.lock().segments.len() > 1 {
            check.problem(folder, None, "the queue has no checkpoint; the next start makes it anew".to_owned());
        }
        return Ok(());
    };
    let (segment, offset) = checkpoint.position;
    let known = check.core.books.lock().segments.get(&segment).map(|books| books.bytes);
    if segment != 0 && known.is_none_or(|bytes| offset > bytes) {
        let what = format!("the checkpoint stands at byte {offset} of segment {segment}, which the journal lacks");
        check.problem(folder, None, what);
    }
    for stream in Stream::ALL {
        let followed = checkpoint.state.first_ordinals()[stream as usize];
        let mut covered: RangeSet = checkpoint.tails[stream as usize].iter().map(span).collect();
        let mut from = 0;
        loop {
            let page = index.runs_from(stream, from, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            from = last + 1;
            for entry in &page {
                check.report.queue_entries += 1;
                check_entry(check, folder, stream, entry);
                covered.insert(span(entry));
            }
        }
        let uncovered = uncovered(check, stream, followed, &covered);
        if uncovered > 0 {
            check.problem(folder, None, format!("{uncovered} {stream} are not in the queue; the journal has them"));
        }
    }
    Ok(())
}

fn span((key, run): &(u64, Run)) -> std::ops::Range<u64> {
    *key..key.saturating_add(run.records)
}

/// Whether an entry points at a block that begins with its ordinal. Where no block is, the journal's check has said so.
fn check_entry(check: &mut Check<'_>, folder: &Path, stream: Stream, entry @ (key, run): &(u64, Run)) {
    let path = segment::path(&check.core.journal_folder(), run.segment);
    let file = check.core.disk.open(&path).and_then(|file| Ok((file.len()?, file)));
    let mut head = [0; HEADER_BYTES];
    let wrong = match file {
        Err(_) => Some("a segment that is not there".to_owned()),
        Ok((len, _)) if run.end() > len => Some(format!("a place behind the end of {}", path.display())),
        Ok((_, file)) => match file.read_at(&mut head, run.offset).map(|read| Header::parse(&head[..read])) {
            Ok(Ok(header)) if header.kind != Kind::Records || header.stream != stream || header.ordinal != *key => {
                Some(format!("another block, in {} at {}", path.display(), run.offset))
            }
            _ => None,
        },
    };
    // What is delivered may be gone, and its entry goes with the next checkpoint.
    if let Some(wrong) = wrong
        && check.open_in(stream, &span(entry)) > 0
    {
        check.problem(folder, None, format!("the entry of {stream} {key} points at {wrong}"));
    }
}

/// Records to be delivered before `followed` that no entry holds, nor a run that is on its way into the queue.
fn uncovered(check: &Check<'_>, stream: Stream, followed: u64, covered: &RangeSet) -> u64 {
    let books = check.core.books.lock();
    let books = &books.streams[stream as usize];
    let (mut at, mut count) = (0, 0);
    while let Some(open) = books.live.first_open(at).filter(|open| open.start < followed) {
        let end = open.end.min(followed);
        let run = covered.range_at(open.start).or_else(|| books.run_at(open.start).as_ref().map(span));
        at = match run {
            Some(run) => run.end,
            None => {
                let next = covered.range_after(open.start).map_or(end, |run| run.start.min(end));
                count += next - open.start;
                next
            }
        };
    }
    count
}
