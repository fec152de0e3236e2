//! Recovery: what a start finds, and how a queue is filled from the journal.
//!
//! For each segment, in order:
//! - `entries + done == entered`, and all of it is entered: the queue is trusted, only the front after the segment is
//!   read;
//! - the same, but there are blocks after the last entered one: those are entered;
//! - either, but a front says that some of the entries are done: those are removed, the rest is trusted;
//! - anything else, or no queue: the queue's data on the segment is dropped, and everything in it is entered that is
//!   not known to be done, which is everything after the ack floor that the fronts record.
//!
//! Records are lost if their bytes are damaged, which the gap in the sequence numbers shows, or if their segment is
//! missing and neither a `.done` nor a front says that it was done. A torn group at the end is cut off: its callers
//! were not answered OK.

use std::collections::BTreeMap;

use super::{
    Place, StoreOptions,
    edit::Edit,
    entering::Entries,
    pending::{Pending, apply_in_parts, clear, each_entry},
    settling::{Findings, settle_medium},
    state::{PAGE_BYTES, Segment, State, Unread},
    survey::{Survey, other_version},
    walk::{Start, Walked, walk, walk_whole},
};
use crate::{
    record::{PerStream, Stream},
    spool::{
        disk::Listed,
        error::OpenError,
        failpoint,
        journal::{
            front::{Ending, Front},
            position::{Position, beyond_unseen},
            scan::{Extent, ScanError},
            segment,
        },
        queue::{Change, Entry, Progress, QueueFailed, QueueStore, Recorded},
        totals::Disposition,
    },
};

/// The result of a recovery.
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) position: Position,
    pub(super) findings: Findings,
}

/// Why a recovery could not be completed.
pub(super) enum Stop {
    Open(OpenError),
    Queue(QueueFailed),
}

impl From<QueueFailed> for Stop {
    fn from(error: QueueFailed) -> Self {
        Self::Queue(error)
    }
}

/// The queue's entries of a segment.
#[derive(Default)]
pub(super) struct InQueue {
    pub(super) records: u64,
    pub(super) keys: Vec<(Stream, u64)>,
}

/// A segment that exists.
struct There {
    number: u64,
    /// Bytes it takes on the medium.
    allocated: u64,
    /// Its end.
    end: u64,
    /// How it ended, if the front after it says so.
    ending: Option<Ending>,
    /// The queue's data on it.
    recorded: Option<Progress>,
}

impl There {
    /// It was missing at an earlier start, and its records were counted as lost.
    fn was_gone(&self) -> bool {
        self.recorded.is_some_and(|known| known.entered_to == 0 && known.counts_lost())
    }

    /// All of it is entered.
    fn is_complete(&self, progress: &Progress) -> bool {
        progress.entered_to >= self.end && self.ending.is_none_or(|ending| ending.records == progress.entered)
    }

    /// The queue's data on it is consistent, in itself and with the file.
    fn is_usable(&self, progress: &Progress, in_queue: &InQueue) -> bool {
        in_queue.records + progress.done == progress.entered
            && (self.is_complete(progress) || progress.entered_to < self.end)
    }
}

/// The state while the segments are processed.
pub(super) struct Recovery<'a> {
    pub(super) place: &'a Place,
    pub(super) survey: &'a Survey,
    pub(super) queue: &'a dyn QueueStore,
    pub(super) recorded: Recorded,
    pub(super) needed_from: u64,
    pub(super) floor: PerStream<u64>,
    /// The lowest possible sequence numbers of the streams' next records, as far as is known.
    pub(super) next: PerStream<u64>,
    /// The sequence numbers after the last records of the previous segment.
    behind: PerStream<u64>,
    /// A segment that cannot be found may hold later ones.
    pub(super) unseen: bool,
    max_entry_span: u32,
    pub(super) change: Change,
    entered: Vec<(Stream, u64, Option<Entry>)>,
    pub(super) state: State,
    pub(super) findings: Findings,
}

impl<'a> Recovery<'a> {
    pub(super) fn run(
        place: &'a Place,
        options: &'a StoreOptions,
        survey: &'a Survey,
        queue: &'a dyn QueueStore,
    ) -> Result<Recovered, Stop> {
        let mut recorded = queue.recorded()?;
        if survey.is_of_another_history(&recorded) {
            let home = place.home.display();
            place
                .reports
                .warn(&format!("spool {home}: the queue belongs to another journal; it is rebuilt from this one"));
            clear(queue, &recorded)?;
            recorded = queue.recorded()?;
        }
        let floor = std::array::from_fn(|i| survey.fronts().map(|front| front.ack_floor[i]).max().unwrap_or(0));
        let needed_from = survey.fronts().map(|front| front.needed_from).max().unwrap_or(0);
        let mut recovery = Self {
            place,
            survey,
            queue,
            recorded,
            needed_from,
            floor,
            next: PerStream::default(),
            behind: PerStream::default(),
            unseen: false,
            max_entry_span: options.max_entry_span,
            change: Change::default(),
            entered: Vec::new(),
            state: State::default(),
            findings: Findings::default(),
        };
        recovery.begin_totals();
        let mut in_queue = recovery.sum_entries()?;
        for (number, listed, front) in &survey.segments {
            let known = in_queue.remove(number).unwrap_or_default();
            recovery.segment(*number, listed, front.as_ref(), &known)?;
        }
        recovery.drop_gone(in_queue)?;
        // After all removals: an old entry may have had the same key.
        recovery.change.entries.append(&mut recovery.entered);
        recovery.finish()
    }

    /// A queue that knows nothing, or less than the newest front, continues with the front's totals.
    fn begin_totals(&mut self) {
        let newest = self.survey.fronts().next_back();
        if let Some(front) = newest.filter(|front| !self.recorded.segments.contains_key(&front.segment)) {
            self.recorded.totals.iter_mut().zip(&front.totals).for_each(|(totals, front)| totals.rise_to(front));
        }
    }

    fn sum_entries(&self) -> Result<BTreeMap<u64, InQueue>, QueueFailed> {
        let mut found: BTreeMap<u64, InQueue> = BTreeMap::new();
        each_entry(self.queue, &mut |stream, key, entry| {
            let of_segment = found.entry(entry.segment).or_default();
            of_segment.records += entry.records;
            of_segment.keys.push((stream, key));
        })?;
        Ok(found)
    }

    /// Processes one segment: as done, as the queue knows it, or by walking it.
    fn segment(&mut self, number: u64, listed: &Listed, front: Option<&Front>, in_queue: &InQueue) -> Result<(), Stop> {
        if let Some(front) = front {
            self.count_gone_before(front);
            self.know_next(front.first);
        }
        let ending = self.survey.ending_of(number);
        let there = There {
            number,
            allocated: listed.len.next_multiple_of(PAGE_BYTES),
            end: ending.map_or(listed.len, |ending| ending.len),
            ending,
            recorded: self.recorded.segments.get(&number).copied(),
        };
        let is_done = self.survey.done.contains(&number);
        if there.was_gone() && number < self.needed_from && !is_done {
            self.findings.late.push(number);
            return Ok(());
        }
        if number < self.needed_from || is_done {
            // A synced front says that all of it is done.
            self.remove_entries(in_queue);
            let progress = Progress { entered_to: there.end, ..Progress::default() };
            self.keep(&there, there.end, 0, progress, None);
            self.change.segments.push((number, Some(progress)));
            return Ok(());
        }
        let mut known = there.recorded.filter(|progress| there.is_usable(progress, in_queue));
        if let Some(progress) = &mut known {
            let done = self.cut_done(in_queue)?;
            if done > 0 {
                progress.done += done;
                self.change.segments.push((number, Some(*progress)));
            }
        }
        if let Some(progress) = known.filter(|progress| there.is_complete(progress)) {
            self.keep(&there, there.end, progress.entered, progress, None);
            self.behind = ending.map_or_else(|| self.seqs_behind(number, &progress), |ending| ending.next);
            self.know_next(self.behind);
            return Ok(());
        }
        self.walk_segment(&there, known, in_queue)
    }

    /// Enters the blocks after the last entered one; or all of a segment, if `known` is inconsistent.
    fn walk_segment(&mut self, there: &There, known: Option<Progress>, in_queue: &InQueue) -> Result<(), Stop> {
        let &There { number, end, ending, recorded, .. } = there;
        let mut progress = known.unwrap_or_else(|| recorded.unwrap_or_default().unwalked());
        progress.front = self.survey.checksum_of(number).or(progress.front);
        let begins_in_it = progress.entered_to > 0;
        if !begins_in_it {
            self.remove_entries(in_queue);
        }
        let expected = if begins_in_it { self.max_next(self.recorded.next) } else { self.next };
        let extent = Extent {
            segment: number,
            from: progress.entered_to,
            end,
            synced: recorded.map_or(0, |recorded| recorded.entered_to),
            is_last: ending.is_none() && self.survey.is_last(number),
        };
        let start = Start { extent, progress, floor: self.floor, expected, next: ending.map(|ending| ending.next) };
        let journal = self.place.home.join("journal");
        let path = segment::path(&journal, number);
        let disk = self.place.disk.as_ref();
        let mut entries = Entries::new(self.max_entry_span);
        let walked = if self.place.read_only {
            // An inspection from outside does not wait for the medium.
            walk(disk, &journal, start, &mut entries).map_err(|error| (error, None))
        } else {
            walk_whole(disk, &journal, start, &mut entries)
        };
        match walked {
            Ok(walked) => self.take_walked(there, walked, entries, begins_in_it),
            Err((ScanError::OtherVersion { version }, _)) => return Err(Stop::Open(other_version(path, version))),
            Err((ScanError::Io(error), since)) => {
                self.place.reports.error(format!("{}: {error}; it is retried later", path.display()));
                self.unseen |= ending.is_none();
                let unread = Some(Unread { extent, held: None, floor: self.floor, expected, since });
                self.keep(there, end, progress.entered, progress, unread);
                self.change.segments.push((number, Some(progress)));
            }
        }
        Ok(())
    }

    /// Adds the result of walking a segment; with `begins_in_it`, the walk began after what was entered before.
    fn take_walked(&mut self, there: &There, walked: Walked, mut entries: Entries, begins_in_it: bool) {
        let number = there.number;
        self.behind = walked.next;
        self.know_next(walked.next);
        if there.was_gone() && walked.holds_lost_as_done() {
            self.findings.late.push(number);
            return;
        }
        self.entered.extend(entries.take());
        self.findings.entered += walked.entered();
        failpoint::reach("replay_block");
        self.recount_damaged(number, walked.counted, walked.progress.lost, walked.lost);
        let progress = walked.progress;
        if begins_in_it {
            // Done before a front was written; the queue has lost that since.
            for (totals, records) in self.recorded.totals.iter_mut().zip(walked.done_before) {
                totals.count(Disposition::Delivered, records);
            }
        } else {
            let since = &mut self.findings.redelivers_since;
            *since = [*since, walked.oldest].into_iter().flatten().min();
        }
        self.findings.walked.push(number);
        self.findings.written_at = self.findings.written_at.max(walked.newest);
        self.findings.damage.extend(walked.damage.into_iter().map(|damage| (number, damage)));
        self.findings.torn = walked.torn.map(|torn| (number, torn)).or(self.findings.torn.take());
        self.keep(there, progress.entered_to, progress.entered, progress, None);
        self.change.segments.push((number, Some(progress)));
    }

    /// Adds a segment to the state; a start continues in a new one, so this one is sealed.
    fn keep(&mut self, there: &There, end: u64, held: u64, progress: Progress, unread: Option<Unread>) {
        let segment = Segment { allocated: there.allocated, end, held, sealed: true, progress, unread };
        self.state.segments.insert(there.number, segment);
    }

    /// Removes from a segment's entries what a front says is done: a queue that still holds it is older than that
    /// front. Those records are done nevertheless; records done since then are redelivered. Returns how many records
    /// were removed.
    fn cut_done(&mut self, in_queue: &InQueue) -> Result<u64, QueueFailed> {
        let is_done = |&(stream, key): &(Stream, u64)| key < self.floor[stream as usize];
        if !in_queue.keys.iter().any(is_done) {
            return Ok(0);
        }
        let (mut edit, mut oldest) = (Edit::default(), None);
        for &(stream, key) in &in_queue.keys {
            let Some((key, entry)) = self.queue.entry_from(stream, key)? else { continue };
            oldest = [oldest, Some(entry.received_at)].into_iter().flatten().min();
            let done = key..entry.seqs(key).end.min(self.floor[stream as usize]);
            if !done.is_empty() {
                edit.cut(stream, key, &entry, &[done]);
            }
        }
        if edit.records > 0 {
            self.change.entries.extend(edit.change.entries);
            let since = &mut self.findings.redelivers_since;
            *since = [*since, oldest].into_iter().flatten().min();
        }
        Ok(edit.records)
    }

    pub(super) fn remove_entries(&mut self, known: &InQueue) {
        self.change.entries.extend(known.keys.iter().map(|&(stream, key)| (stream, key, None)));
    }

    /// The sequence numbers after the last records of a segment that is entered completely, if nothing says how it
    /// ended.
    fn seqs_behind(&self, segment: u64, known: &Progress) -> PerStream<u64> {
        let next = self.recorded.next;
        let used: u64 = next.iter().zip(self.next).map(|(next, first)| next.saturating_sub(first)).sum();
        if used == known.entered {
            return next;
        }
        // Some that the queue knows were used in a segment that is missing, or were skipped.
        let extent = Extent { segment, from: 0, end: known.entered_to, synced: u64::MAX, is_last: false };
        let floor = [u64::MAX; Stream::ALL.len()];
        let start = Start { extent, progress: Progress::default(), floor, expected: self.next, next: None };
        let journal = self.place.home.join("journal");
        let walked = walk(self.place.disk.as_ref(), &journal, start, &mut Entries::new(0));
        walked.map_or(next, |walked| walked.next)
    }

    fn know_next(&mut self, next: PerStream<u64>) {
        self.next = self.max_next(next);
    }

    fn max_next(&self, other: PerStream<u64>) -> PerStream<u64> {
        std::array::from_fn(|i| self.next[i].max(other[i]))
    }

    fn finish(mut self) -> Result<Recovered, Stop> {
        self.know_next(self.recorded.next);
        let numbers = self.state.segments.keys().chain(&self.survey.done).chain(self.recorded.segments.keys());
        let next_segment = numbers.max().map_or(1, |newest| newest + 1).max(self.needed_from);
        if self.unseen {
            self.next.iter_mut().for_each(|next| *next = beyond_unseen(*next, next_segment));
        }
        self.change.totals = Some(self.recorded.totals.clone());
        self.change.next = Some(self.next);
        if !self.place.read_only {
            let journal = self.place.home.join("journal");
            let settled = settle_medium(self.place, self.survey, &self.findings);
            settled.map_err(OpenError::io(journal)).map_err(Stop::Open)?;
        }
        apply_in_parts(self.queue, std::mem::take(&mut self.change))?;
        let Self { queue, survey, next, behind, recorded, mut state, findings, needed_from, .. } = self;
        state.needed_from = needed_from;
        state.newest_front = survey.fronts().next_back().map_or(0, |front| front.segment);
        state.done = survey.done.iter().map(|&segment| (segment, ())).collect();
        let mut pending = Pending::default();
        each_entry(queue, &mut |stream, key, entry| pending.add(stream, key, entry))?;
        for (stream, totals) in state.streams.iter_mut().zip(recorded.totals) {
            stream.totals = totals;
        }
        for (stream, next) in state.streams.iter_mut().zip(next) {
            stream.next = next;
        }
        state.take_pending(pending);
        for stream in &mut state.streams {
            stream.cursor = stream.ack_floor;
        }
        state.expect_redeliveries(findings.redelivers_since);
        state.newest = next_segment - 1;
        // The next front does not know how a segment ended that could not be read yet.
        let ended = state.segments.last_key_value().filter(|(_, known)| known.unread.is_none());
        let ended =
            ended.map(|(&segment, known)| Ending { segment, len: known.end, records: known.held, next: behind });
        Ok(Recovered { state, position: Position::new(next_segment, next, ended), findings })
    }
}
