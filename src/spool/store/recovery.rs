//! What a start finds, and how a queue is filled from the journal.
//!
//! For each segment, in order:
//! - `entries + done == entered`, and all of it is entered: the queue is believed, nothing is read but the front behind it;
//! - the same, but blocks lie behind the last entered one: those are entered;
//! - either, but a front says that some of the entries are done: those are taken out, the rest is believed;
//! - anything else, or no queue: what the queue says of it is dropped, and all of it is entered that is not known to be done: what lies
//!   behind the ack floor that the fronts tell.
//!
//! Lost is what lay in bytes that do not hold, by the jump in sequence numbers, and what lies in a segment that is gone, unless a
//! `.done` or a front says that it was done. A write that was cut off at the end is cut away: nobody was told that it is kept.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use parking_lot::Mutex;

use super::{
    PAGE_BYTES, Segment, State, Store, StoreOptions, Unread,
    edit::Edit,
    entering::Entries,
    pending::{Pending, apply_in_parts, clear, each_entry},
    settling::settle_medium,
    survey::{Survey, other_version},
    walk::{Start, walk, walk_whole},
    writer_at,
};
use crate::{
    record::{PerStream, Stream, UnixMillis, instant},
    spool::{
        disk::{Disk, Listed},
        error::OpenError,
        failpoint,
        journal::{
            front::{Ending, Front},
            scan::{Extent, ScanError},
            segment::{self, Damage},
            writer::{Position, UNSEEN, beyond_unseen},
        },
        quarantine::Quarantine,
        queue::{
            Change, Entry, Progress, QueueFailed, QueueStore, Queues, Recorded, memory::MemoryQueue, ranges::RangeSet,
        },
        reports::Reports,
        totals::Disposition,
    },
};

/// Where a store lies, and what it needs of its surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) home: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) queues: Arc<dyn Queues>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) quarantine: Arc<Quarantine>,
    /// Nothing may be changed on the medium.
    pub(crate) read_only: bool,
}

/// What was found that is to be told.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Bytes that were whole once, by segment.
    pub(crate) damage: Vec<(u64, Damage)>,
    /// What a write that was cut off has left at the end.
    pub(crate) torn: Option<(u64, Damage)>,
    /// Sequence numbers of records lost to damage, or with a segment that is gone; by segment.
    pub(crate) lost: BTreeMap<u64, PerStream<RangeSet>>,
    /// Segments that were walked.
    pub(crate) walked: Vec<u64>,
    /// Segments that were gone at an earlier start, their records counted as lost, and are back too late: fronts that were
    /// written since say that what lies there is done.
    pub(crate) late: Vec<u64>,
    /// When the first record was received that comes again though it may be done.
    redelivers_since: Option<UnixMillis>,
    /// When the newest front or block that was met was written.
    pub(crate) written_at: Option<UnixMillis>,
}

/// Opens the store at a place over a queue that was opened there; without one, over its twin in memory. Blocking.
///
/// # Errors
/// When the journal is of another version, or cannot be listed or read.
pub(crate) fn open(
    place: Place,
    options: StoreOptions,
    queue: Option<Arc<dyn QueueStore>>,
) -> Result<(Store, Findings), OpenError> {
    let journal = place.home.join("journal");
    let survey = Survey::of(place.disk.as_ref(), &journal)?;
    failpoint::reach("replay");
    let had_queue = queue.is_some();
    let mut leaked = 0;
    let mut queue = queue.unwrap_or_else(|| Arc::new(MemoryQueue::default()));
    let recovered = match Recovery::run(&place, &options, &survey, queue.as_ref()) {
        Err(Stop::Open(error)) => return Err(error),
        Err(Stop::Queue(error)) => {
            place.reports.warn(&format!("spool {}: {error}; it is made again from the journal", place.home.display()));
            // Dropping the handle of a damaged database may hang.
            let failed: Arc<dyn QueueStore> = std::mem::replace(&mut queue, Arc::new(MemoryQueue::default()));
            failed.leak();
            leaked = 1;
            match Recovery::run(&place, &options, &survey, queue.as_ref()) {
                Err(Stop::Open(error)) => return Err(error),
                Err(Stop::Queue(error)) => return Err(OpenError::io(&place.home)(io::Error::other(error))),
                Ok(recovered) => recovered,
            }
        }
        Ok(recovered) => recovered,
    };
    failpoint::reach("replayed");
    let Recovered { state, position, findings } = recovered;
    let writer = writer_at(&place.disk, &place.home, &options, position).map_err(OpenError::io(&place.home))?;
    let lost = !had_queue || !queue.is_durable();
    let store = Store {
        home: place.home,
        disk: place.disk,
        queues: place.queues,
        options,
        state: Mutex::new(state),
        reports: place.reports,
        quarantine: place.quarantine,
        writer,
        queue: Mutex::new(queue),
        queue_is_lost: AtomicBool::new(lost),
        leaked_queues: AtomicU64::new(leaked),
        closing_queues: Arc::default(),
        restored: Mutex::new(instant()),
        changed: AtomicBool::new(true),
        flushing: Mutex::default(),
        read_only: place.read_only,
    };
    Ok((store, findings))
}

/// What a recovery ends with.
struct Recovered {
    state: State,
    position: Position,
    findings: Findings,
}

/// Why it could not be done.
enum Stop {
    Open(OpenError),
    Queue(QueueFailed),
}

impl From<QueueFailed> for Stop {
    fn from(error: QueueFailed) -> Self {
        Self::Queue(error)
    }
}

/// What the queue's entries say of a segment.
#[derive(Default)]
struct InQueue {
    records: u64,
    keys: Vec<(Stream, u64)>,
}

struct Recovery<'a> {
    place: &'a Place,
    survey: &'a Survey,
    queue: &'a dyn QueueStore,
    recorded: Recorded,
    needed_from: u64,
    floor: PerStream<u64>,
    /// The sequence numbers that the streams' next records should have at least, as far as is known.
    next: PerStream<u64>,
    /// Those behind the last records of the segment that was met last.
    behind: PerStream<u64>,
    /// A segment may hold later ones than that, and cannot be seen.
    unseen: bool,
    max_entry_span: u32,
    change: Change,
    entered: Vec<(Stream, u64, Option<Entry>)>,
    state: State,
    findings: Findings,
}

impl<'a> Recovery<'a> {
    fn run(
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
                .warn(&format!("spool {home}: the queue belongs to another journal; it is made again from this one"));
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
        let mut in_queue = recovery.look_at_entries()?;
        for (number, listed, front) in &survey.segments {
            let known = in_queue.remove(number).unwrap_or_default();
            recovery.segment(*number, listed, front.as_ref(), &known)?;
        }
        recovery.drop_gone(in_queue)?;
        // Behind all that are removed: an old one may have had the same key.
        recovery.change.entries.append(&mut recovery.entered);
        recovery.finish()
    }

    /// A queue that knows nothing, or less than the newest front, goes on with what that one says.
    fn begin_totals(&mut self) {
        let newest = self.survey.fronts().next_back();
        if let Some(front) = newest.filter(|front| !self.recorded.segments.contains_key(&front.segment)) {
            self.recorded.totals.iter_mut().zip(&front.totals).for_each(|(totals, front)| totals.rise_to(front));
        }
    }

    fn look_at_entries(&self) -> Result<BTreeMap<u64, InQueue>, QueueFailed> {
        let mut found: BTreeMap<u64, InQueue> = BTreeMap::new();
        each_entry(self.queue, &mut |stream, key, entry| {
            let of_segment = found.entry(entry.segment).or_default();
            of_segment.records += entry.records;
            of_segment.keys.push((stream, key));
        })?;
        Ok(found)
    }

    fn segment(&mut self, number: u64, listed: &Listed, front: Option<&Front>, in_queue: &InQueue) -> Result<(), Stop> {
        let journal = self.place.home.join("journal");
        let ending = self.survey.ending_of(number);
        let end = ending.map_or(listed.len, |ending| ending.len);
        if let Some(front) = front {
            self.count_gone_before(front);
            let first = self.next.iter_mut().zip(front.first);
            first.for_each(|(next, first)| *next = (*next).max(first));
        }
        let allocated = listed.len.next_multiple_of(PAGE_BYTES);
        let was_gone = |known: &Progress| known.entered_to == 0 && known.counts_lost();
        let is_known_gone = self.recorded.segments.get(&number).is_some_and(was_gone);
        if is_known_gone && number < self.needed_from && !self.survey.done.contains(&number) {
            self.findings.late.push(number);
            return Ok(());
        }
        if number < self.needed_from || self.survey.done.contains(&number) {
            // A front that is synced knows that all of it is done.
            self.remove_entries(in_queue);
            let progress = Progress { entered_to: end, ..Progress::default() };
            self.state
                .segments
                .insert(number, Segment { allocated, end, held: 0, sealed: true, progress, unread: None });
            self.change.segments.push((number, Some(progress)));
            return Ok(());
        }
        let recorded = self.recorded.segments.get(&number).copied();
        let checksum = self.survey.checksum_of(number);
        let complete = |progress: &Progress| {
            progress.entered_to >= end && ending.is_none_or(|ending| ending.records == progress.entered)
        };
        let agrees = |progress: &Progress| in_queue.records + progress.done == progress.entered;
        let usable = |progress: &Progress| agrees(progress) && (complete(progress) || progress.entered_to < end);
        let mut known = recorded.filter(usable);
        if let Some(progress) = &mut known {
            let done = self.cut_done(in_queue)?;
            if done > 0 {
                progress.done += done;
                self.change.segments.push((number, Some(*progress)));
            }
        }
        if let Some(progress) = known.filter(complete) {
            let held = progress.entered;
            self.state.segments.insert(number, Segment { allocated, end, held, sealed: true, progress, unread: None });
            self.behind = ending.map_or_else(|| self.seqs_behind(number, &progress), |ending| ending.next);
            self.know_next(self.behind);
            return Ok(());
        }
        // Blocks behind the last entered one; or all of it, where what is known does not add up.
        let mut progress = known.unwrap_or_else(|| recorded.unwrap_or_default().unwalked());
        progress.front = checksum.or(progress.front);
        let begins_in_it = progress.entered_to > 0;
        let mut entries = Entries::new(self.max_entry_span);
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
        let path = segment::path(&journal, number);
        let disk = self.place.disk.as_ref();
        let walked = if self.place.read_only {
            // Nobody waits for the medium who looks from outside.
            walk(disk, &journal, start, &mut entries).map_err(|error| (error, None))
        } else {
            walk_whole(disk, &journal, start, &mut entries)
        };
        let walked = match walked {
            Ok(walked) => walked,
            Err((ScanError::OtherVersion { version }, _)) => return Err(Stop::Open(other_version(path, version))),
            Err((ScanError::Io(error), since)) => {
                self.place.reports.error(format!("{}: {error}; it is read again later", path.display()));
                self.unseen |= ending.is_none();
                let unread = Some(Unread { extent, held: None, floor: self.floor, expected, since });
                let segment = Segment { allocated, end, held: progress.entered, sealed: true, progress, unread };
                self.state.segments.insert(number, segment);
                self.change.segments.push((number, Some(progress)));
                return Ok(());
            }
        };
        self.behind = walked.next;
        self.know_next(walked.next);
        if is_known_gone && walked.holds_lost_as_done() {
            self.findings.late.push(number);
            return Ok(());
        }
        self.entered.extend(entries.take());
        failpoint::reach("replay_block");
        self.recount_damaged(number, walked.counted, walked.progress.lost, walked.lost);
        let progress = walked.progress;
        if begins_in_it {
            // Done before a front was written, and the queue has lost it since.
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
        let segment = Segment {
            allocated,
            end: progress.entered_to,
            held: progress.entered,
            sealed: true,
            progress,
            unread: None,
        };
        self.state.segments.insert(number, segment);
        self.change.segments.push((number, Some(progress)));
        Ok(())
    }

    /// Counts what lay in segments that are gone and that neither the queue nor a front knows to be done: the front behind them
    /// says that there was one, and which sequence numbers are missing.
    fn count_gone_before(&mut self, front: &Front) {
        let Some(gone) = front.previous else { return };
        let there = self.survey.segments.binary_search_by_key(&gone.segment, |(number, ..)| *number);
        if there.is_ok() || gone.segment < self.needed_from || self.survey.done.contains(&gone.segment) {
            return;
        }
        let mut lost = PerStream::<RangeSet>::default();
        for (i, lost) in lost.iter_mut().enumerate() {
            let first = front.first[i];
            let from = self.next[i].max(self.floor[i]).max(self.recorded.next[i]);
            // What was passed over because it could not be seen was never there.
            lost.insert(first - first.saturating_sub(from) % UNSEEN..first);
        }
        let records: u64 = lost.iter().map(RangeSet::len).sum();
        if records == 0 {
            return;
        }
        let path = segment::path(&self.place.home.join("journal"), gone.segment);
        self.place.reports.error(format!(
            "{}: it is gone, and {records} records with it that nothing says were delivered; they are counted as damaged",
            path.display()
        ));
        self.mark_gone(gone.segment, lost);
    }

    /// Counts records of a segment that is gone; they are taken back where it returns.
    fn mark_gone(&mut self, segment: u64, lost: PerStream<RangeSet>) {
        let known = self.recorded.segments.entry(segment).or_default();
        let before = known.lost;
        known.lost = std::array::from_fn(|i| before[i] + lost[i].len());
        let now = known.lost;
        self.recount_damaged(segment, before, now, lost);
    }

    /// Counts records of a segment as damaged, so many of which were counted before.
    fn recount_damaged(
        &mut self,
        segment: u64,
        before: PerStream<u64>,
        now: PerStream<u64>,
        lost: PerStream<RangeSet>,
    ) {
        for (i, totals) in self.recorded.totals.iter_mut().enumerate() {
            totals.recount_damaged(before[i], now[i]);
        }
        if before != now {
            let found = self.findings.lost.entry(segment).or_default();
            for (found, lost) in found.iter_mut().zip(&lost) {
                for seqs in lost.iter() {
                    found.insert(seqs);
                }
            }
        }
    }

    /// Takes out of a segment's entries what a front says is done: a queue that holds it is older than that front. What it says is
    /// done is so all the same, and what was done since comes again. Answers how many records that were.
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

    /// Entries of segments that are not there: done, where something says so, and lost otherwise.
    fn drop_gone(&mut self, in_queue: BTreeMap<u64, InQueue>) -> Result<(), Stop> {
        for (segment, known) in in_queue {
            self.remove_entries(&known);
            // A front that knows it is done has counted what became of it.
            if segment < self.needed_from {
                continue;
            }
            let seqs = self.seqs_of(&known)?;
            if self.survey.done.contains(&segment) {
                for (totals, seqs) in self.recorded.totals.iter_mut().zip(&seqs) {
                    totals.count(Disposition::Delivered, seqs.len());
                }
                continue;
            }
            let path = segment::path(&self.place.home.join("journal"), segment);
            self.place.reports.error(format!(
                "{}: it is gone, and {} records that were still to be delivered with it; they are counted as damaged",
                path.display(),
                known.records
            ));
            self.mark_gone(segment, seqs);
        }
        let there = &self.state.segments;
        for (&segment, known) in self.recorded.segments.iter().filter(|(segment, _)| !there.contains_key(segment)) {
            let wanted = segment >= self.needed_from && !self.survey.done.contains(&segment);
            let is_counted = known.counts_lost();
            // That it is gone was seen before, or by the front behind it, unless some of it is entered.
            self.unseen |= wanted && (known.entered_to > 0 || !is_counted);
            // Until it returns, fronts do not tell whether it was done or gone.
            let stays = is_counted && (wanted || known.entered_to == 0);
            self.change.segments.push((segment, stays.then(|| known.unwalked())));
        }
        Ok(())
    }

    fn seqs_of(&self, known: &InQueue) -> Result<PerStream<RangeSet>, QueueFailed> {
        let mut seqs = PerStream::<RangeSet>::default();
        for &(stream, key) in &known.keys {
            if let Some((key, entry)) = self.queue.entry_from(stream, key)? {
                seqs[stream as usize].insert(entry.seqs(key));
            }
        }
        Ok(seqs)
    }

    fn remove_entries(&mut self, known: &InQueue) {
        self.change.entries.extend(known.keys.iter().map(|&(stream, key)| (stream, key, None)));
    }

    /// The sequence numbers behind the last records of a segment of which all is entered, and how it ended nothing says.
    fn seqs_behind(&self, segment: u64, known: &Progress) -> PerStream<u64> {
        let next = self.recorded.next;
        let used: u64 = next.iter().zip(self.next).map(|(next, first)| next.saturating_sub(first)).sum();
        if used == known.entered {
            return next;
        }
        // Some of those that the queue knows were used in a segment that is gone, or passed over.
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
        // How one ended that is yet to be read, the next front does not know.
        let ended = state.segments.last_key_value().filter(|(_, known)| known.unread.is_none());
        let ended =
            ended.map(|(&segment, known)| Ending { segment, len: known.end, records: known.held, next: behind });
        Ok(Recovered { state, position: Position::new(next_segment, next, ended), findings })
    }
}
