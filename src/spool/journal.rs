//! The journal's one writer: group commit.
//!
//! It packs what waits, from all callers, into blocks; one write, one `fdatasync`; then the books, then the answers.
//! A failed write is undone. After a failed sync nothing is known about the file: no more is written to it, the next
//! segment is begun, and the ordinals of the refused records are never used again. So it is after a panic.

use std::{
    io,
    mem::take,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    active::{Active, Refusal},
    block::{Header, Kind},
    books::SegmentBooks,
    codec::Packer,
    core::{Core, Waiting, segment_bytes},
    draft::{Draft, drafts},
    error::{AppendError, FullLimit},
    options::WhenFull,
    segment,
    state::{DropReason, Fate, Note, SavedState, encode},
};
use crate::{
    caught::caught,
    record::{Stream, now_millis},
};

/// A group's records, unpacked, are at most this long (a longer batch is a group of its own).
const GROUP_RAW_BYTES: usize = 4 << 20;
/// Notes wait this long for a group to go with.
const NOTES_PATIENCE: Duration = Duration::from_millis(300);
/// How long dropping the oldest segment may take.
const DROP_PATIENCE: Duration = Duration::from_secs(5);
/// Room on the medium is reserved in steps of this.
const RESERVE_BYTES: u64 = 4 << 20;

/// The writer thread's own state.
pub(crate) struct Writer {
    core: Arc<Core>,
    packer: Packer,
    active: Option<Active>,
    /// The number that the next segment gets.
    next_segment: u64,
    /// The ordinals that the streams' next records get.
    next: [u64; Stream::ALL.len()],
    out: Vec<u8>,
    raw: Vec<u8>,
}

/// A block of records in the group, at its offset in the group's bytes.
type Placed = (u64, Header);

impl Writer {
    pub(crate) fn new(core: Arc<Core>, packer: Packer) -> Self {
        let books = core.books.lock();
        // Numbers are not used again, not even of segments that someone deleted.
        let next_segment = books.newest().unwrap_or(0).max(books.position.0) + 1;
        let next = std::array::from_fn(|i| books.streams[i].live.next);
        drop(books);
        Self { core, packer, active: None, next_segment, next, out: Vec::new(), raw: Vec::new() }
    }

    /// Runs until the spool is closed and nothing waits any more.
    pub(crate) fn run(mut self) {
        loop {
            let core = Arc::clone(&self.core);
            let mut inbox = core.inbox.lock();
            while inbox.appends.is_empty() && !inbox.hurry && !inbox.roll && !inbox.closing {
                match inbox.notes_since {
                    None => core.mail.wait(&mut inbox),
                    Some(since) => {
                        if core.mail.wait_until(&mut inbox, since + NOTES_PATIENCE).timed_out() {
                            break;
                        }
                    }
                }
            }
            let mut group = Vec::new();
            let mut raw = 0;
            while let Some(waiting) = inbox.appends.front() {
                let len = waiting.batch.bytes().len();
                if raw > 0 && raw + len > GROUP_RAW_BYTES {
                    break;
                }
                raw += len;
                group.extend(inbox.appends.pop_front());
            }
            let (closing, roll) = (inbox.closing, take(&mut inbox.roll));
            let notes = inbox.notes.take();
            (inbox.notes_since, inbox.hurry) = (None, false);
            drop(inbox);
            if group.is_empty() && notes.is_empty() && !roll {
                if closing {
                    self.seal();
                    return;
                }
                continue;
            }
            let kept = self.commit_or_survive(group, notes, roll);
            if closing && !kept {
                // Nobody is left to answer them.
                self.core.inbox.lock().appends.clear();
                return;
            }
        }
    }

    /// As [`Self::commit`]; where that panics, the group is refused, and the writer goes on behind it: without it nobody
    /// would be answered any more.
    fn commit_or_survive(&mut self, group: Vec<Waiting>, notes: Vec<Note>, roll: bool) -> bool {
        let mut next = self.next;
        group.iter().for_each(|waiting| next[waiting.batch.stream as usize] += u64::from(waiting.batch.count()));
        let again = notes.clone();
        caught(|| self.commit(group, notes, roll)).unwrap_or_else(|panic| {
            next.iter_mut().zip(self.next).for_each(|(next, used)| *next = used.max(*next));
            self.abandon(&next);
            self.put_back(&again);
            self.core.report(format!("the journal's writer panicked, and goes on in a new segment: {panic}"));
            false
        })
    }

    /// Makes a group durable and answers it; false if it could not be.
    fn commit(&mut self, group: Vec<Waiting>, notes: Vec<Note>, roll: bool) -> bool {
        let mut ordinals = self.next;
        match self.try_commit(&group, &notes, roll) {
            Ok(()) => {
                for Waiting { batch, answer } in group {
                    let ordinal = &mut ordinals[batch.stream as usize];
                    // Who no longer waits has its records kept all the same.
                    let _ = answer.send(Ok(*ordinal));
                    *ordinal += u64::from(batch.count());
                }
                true
            }
            // Perhaps a part of it fits.
            Err(Refusal::Full(_)) if group.len() > 1 || !(notes.is_empty() || group.is_empty()) => {
                let mut first = group;
                let second = first.split_off(first.len() / 2);
                let noted = notes.is_empty() || self.commit(Vec::new(), notes, false);
                let first = first.is_empty() || self.commit(first, Vec::new(), false);
                let second = second.is_empty() || self.commit(second, Vec::new(), false);
                noted && first && second
            }
            Err(Refusal::Full(_))
                if self.core.options.when_full == WhenFull::DropOldest && !group.is_empty() && self.drop_oldest() =>
            {
                self.commit(group, notes, false)
            }
            Err(refusal) if group.is_empty() && refusal.is_no_space() && self.core.release_reserve() => {
                self.commit(group, notes, roll)
            }
            Err(refusal) => {
                self.put_back(&notes);
                let error = self.name(refusal);
                for waiting in group {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
                false
            }
        }
    }

    fn try_commit(&mut self, group: &[Waiting], notes: &[Note], roll: bool) -> Result<(), Refusal> {
        let mut drafts = drafts(group);
        let raw: u64 = drafts.iter().map(|draft| u64::from(draft.raw_len)).sum();
        let full = |active: &Active| active.end + raw / 4 > segment_bytes(&self.core.options);
        if roll || self.active.as_ref().is_some_and(full) {
            self.seal();
        }
        let mut blocks = Vec::with_capacity(drafts.len());
        let mut next = self.next;
        let begun = self.pack(&mut drafts, notes, &mut next, &mut blocks).map_err(Refusal::NoFile)?;
        if let ([_], Some((offset, _))) = (group, blocks.first()) {
            let (bytes, max) = (self.out.len() as u64 - offset, self.core.max_append());
            if bytes > max {
                return Err(Refusal::NeverFits { bytes, max });
            }
        }
        self.admit(!group.is_empty())?;
        if begun {
            self.begin()?;
        }
        let spare = self.core.append_limit().saturating_sub(self.core.usage.total());
        let step = RESERVE_BYTES.min(segment_bytes(&self.core.options) / 4).min(spare);
        let Some(active) = &mut self.active else { return Err(Refusal::NoFile(io::ErrorKind::NotFound.into())) };
        let start = active.end;
        if let Err(error) = active.write(&self.out, step) {
            self.undo(&next);
            return Err(error);
        }
        crate::spool::failpoint::reach("block_written");
        let syncing = std::time::Instant::now();
        if let Err(error) = active.sync(&self.core, begun) {
            self.abandon(&next);
            return Err(error);
        }
        crate::spool::failpoint::reach("block_synced");
        self.core.meters.sync_latency.record_time(syncing.elapsed());
        self.core.meters.sync_records.record(f64::from(group.iter().map(|waiting| waiting.batch.count()).sum::<u32>()));
        active.end += self.out.len() as u64;
        self.next = next;
        self.publish(start, notes, &blocks);
        Ok(())
    }

    /// Packs the group into `out`; true if it begins a new segment, with the state in front.
    fn pack(
        &mut self,
        drafts: &mut [Draft],
        notes: &[Note],
        next: &mut [u64; Stream::ALL.len()],
        blocks: &mut Vec<Placed>,
    ) -> io::Result<bool> {
        self.out.clear();
        let begins = self.active.is_none();
        let segment = self.active.as_ref().map_or(self.next_segment, |active| active.segment);
        if begins {
            let books = self.core.books.lock();
            let [a, b, c] = &books.streams;
            let state = encode(&SavedState::new(segment, [&a.durable, &b.durable, &c.durable]));
            drop(books);
            self.packer.write(&mut self.out, segment, service_header(Kind::State), &state)?;
        }
        if !notes.is_empty() {
            self.packer.write(&mut self.out, segment, service_header(Kind::Notes), &encode(&notes.to_vec()))?;
        }
        for draft in drafts {
            let ordinal = &mut next[draft.stream as usize];
            let header = Header {
                kind: Kind::Records,
                stream: draft.stream,
                codec: 0,
                ordinal: *ordinal,
                count: draft.count,
                raw_len: draft.raw_len,
                stored_len: 0,
                received_at: draft.received_at,
            };
            *ordinal += u64::from(draft.count);
            let offset = self.out.len() as u64;
            let raw = draft.payload(&mut self.raw);
            blocks.push((offset, self.packer.write(&mut self.out, segment, header, raw)?));
        }
        Ok(begins)
    }

    /// Whether the packed group may be written: records within the limits, notes as long as the disk takes them.
    fn admit(&self, records: bool) -> Result<(), Refusal> {
        if !records {
            return Ok(());
        }
        let room = self.active.as_ref().map_or(0, |active| active.reserved - active.end);
        self.core.admits((self.out.len() as u64).saturating_sub(room)).map_err(Refusal::Full)
    }

    /// Makes the next segment's file.
    fn begin(&mut self) -> Result<(), Refusal> {
        let folder = self.core.journal_folder();
        let segment = self.next_segment;
        let path = segment::path(&folder, segment);
        // Whatever lies there is from an attempt that failed before it was known to anyone.
        self.core.disk.remove(&path).map_err(Refusal::NoFile)?;
        crate::spool::failpoint::reach("segment_roll");
        let file = self.core.disk.create(&path).map_err(Refusal::NoFile)?;
        self.active = Some(Active { segment, path, file, end: 0, reserved: 0 });
        Ok(())
    }

    /// Closes the active segment for writing and gives back what it had reserved.
    fn seal(&mut self) {
        if let Some(active) = self.active.take() {
            if active.reserved > active.end
                && let Err(error) = active.file.set_len(active.end)
            {
                self.core.report(format!("spool {}: cutting to length: {error}", active.path.display()));
            }
            let mut books = self.core.books.lock();
            if let Some(segment) = books.segments.get_mut(&active.segment) {
                segment.bytes = active.end;
            }
            self.core.usage.journal.store(books.journal_bytes(), Ordering::Relaxed);
            drop(books);
            self.core.keeper.ring();
        }
    }

    /// After a failed write: the file ends where it ended before. Where even that fails, it is abandoned.
    fn undo(&mut self, next: &[u64; Stream::ALL.len()]) {
        let Some(active) = &mut self.active else { return };
        let undone = if active.end == 0 {
            self.core.disk.remove(&active.path)
        } else {
            active.file.set_len(active.end).map(|()| active.reserved = active.end)
        };
        match undone {
            Ok(()) if active.end == 0 => self.active = None,
            Ok(()) => {}
            Err(_) => self.abandon(next),
        }
    }

    /// After a failed sync: the file may or may not hold the group. It is not written to again, and the group's
    /// ordinals are void, so that nothing of it is taken for something else later.
    fn abandon(&mut self, next: &[u64; Stream::ALL.len()]) {
        for stream in Stream::ALL {
            let i = stream as usize;
            let void: Range<u64> = self.next[i]..next[i];
            if !void.is_empty() {
                self.core.finish(stream, &[void], Fate::Void);
            }
        }
        self.next = *next;
        if let Some(active) = self.active.take() {
            // It may work; nothing depends on it.
            let _ = match active.end {
                0 => self.core.disk.remove(&active.path),
                end => active.file.set_len(end),
            };
            self.next_segment = active.segment + 1;
            let mut books = self.core.books.lock();
            if let Some(segment) = books.segments.get_mut(&active.segment) {
                segment.bytes = active.end;
            }
        }
    }

    /// Makes room: drops what the oldest segment still holds, durably, and waits until it is deleted. False if there is
    /// none, or nothing comes of it.
    fn drop_oldest(&mut self) -> bool {
        let core = Arc::clone(&self.core);
        let oldest = {
            let books = core.books.lock();
            if books.streams.iter().all(|stream| stream.live.records() == 0) {
                return false;
            }
            books.segments.keys().next().copied()
        };
        let Some(oldest) = oldest else { return false };
        match core.drop_segment(oldest, DropReason::Oldest) {
            Ok(records) => core.warn(&format!("the spool is full: its oldest {records} records are dropped")),
            Err(error) => {
                core.report(format!("spool {}: {error}", core.journal_folder().display()));
                return false;
            }
        }
        let notes = core.inbox.lock().notes.take();
        // The newest segment is never deleted: where the oldest is the newest, the next one is begun.
        let newest = core.books.lock().newest() == Some(oldest);
        if !self.commit(Vec::new(), notes, newest) {
            return false;
        }
        let until = Instant::now() + DROP_PATIENCE;
        while core.books.lock().segments.contains_key(&oldest) {
            if Instant::now() >= until {
                return false;
            }
            core.keeper.ring();
            std::thread::sleep(Duration::from_millis(2));
        }
        core.refresh_free();
        true
    }

    /// Enters the durable group into the books and wakes who waits for records.
    fn publish(&mut self, start: u64, notes: &[Note], blocks: &[Placed]) {
        let Some(active) = &self.active else { return };
        self.next_segment = active.segment + 1;
        let mut books = self.core.books.lock();
        let first = std::array::from_fn(|i| books.streams[i].durable.next);
        let segment = books.segments.entry(active.segment).or_insert(SegmentBooks { bytes: 0, first });
        let bytes = active.reserved.max(active.end);
        // After a failed write it may take less than before: what was reserved is given back.
        let grown = bytes.saturating_sub(segment.bytes);
        segment.bytes = bytes;
        let free = &self.core.usage.free;
        free.store(free.load(Ordering::Relaxed).saturating_sub(grown), Ordering::Relaxed);
        books.enter_notes(notes);
        for (offset, header) in blocks {
            books.enter_block(active.segment, start + offset, header);
        }
        books.position = (active.segment, active.end);
        self.core.usage.journal.store(books.journal_bytes(), Ordering::Relaxed);
        drop(books);
        self.core.published.notify_waiters();
        for stream in Stream::ALL {
            if blocks.iter().any(|(_, header)| header.stream == stream) {
                self.core.ready[stream as usize].notify_waiters();
            }
        }
    }

    fn put_back(&self, notes: &[Note]) {
        let mut inbox = self.core.inbox.lock();
        for note in notes {
            inbox.notes.add(note);
        }
        if !inbox.notes.is_empty() {
            inbox.notes_since.get_or_insert_with(Instant::now);
        }
    }

    /// What the callers are told, and what is remembered.
    fn name(&self, refusal: Refusal) -> AppendError {
        let sink = self.core.options.name.clone();
        let folder = self.core.journal_folder();
        let no_space = refusal.is_no_space();
        match refusal {
            Refusal::Full(limit) => AppendError::Full { sink, limit },
            Refusal::NeverFits { bytes, max } => AppendError::NeverFits { bytes, max },
            Refusal::NoFile(error) | Refusal::Write(error) | Refusal::Sync(error) => {
                self.core.report(format!("spool {}: {error}", folder.display()));
                if no_space {
                    self.core.refresh_free();
                    AppendError::Full { sink, limit: FullLimit::NoSpace }
                } else {
                    AppendError::Io { path: folder, source: Arc::new(error) }
                }
            }
        }
    }
}

fn service_header(kind: Kind) -> Header {
    Header {
        kind,
        stream: Stream::Events,
        codec: 0,
        ordinal: 0,
        count: 0,
        raw_len: 0,
        stored_len: 0,
        received_at: now_millis(),
    }
}
