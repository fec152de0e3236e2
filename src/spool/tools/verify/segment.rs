//! Checks a journal's segments, block by block: checksums, payloads, groups, fronts, sequence numbers, and where the
//! queue's entries point.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    report::{Finding, Severity, VerifyReport},
    subject::Subject,
    walk::Walk,
};
use crate::{
    record::{PerStream, Stream},
    spool::{
        disk::DiskFile,
        journal::{
            codec::Unpacker,
            front::{Ending, Front},
            scan::{self, FrontFound},
            segment::{self, Found, Walker},
        },
        store::state::Segment,
    },
};

/// The segments of a store.
pub(super) struct Segments<'a, 'r> {
    subject: &'a Subject<'a>,
    report: &'r mut VerifyReport,
    unpacker: Unpacker,
    /// The segments' fronts.
    fronts: BTreeMap<u64, Front>,
    /// The sequence numbers after the last records that were read.
    behind: PerStream<u64>,
    /// Payloads by the id of the missing key.
    locked: BTreeMap<String, u64>,
}

impl<'a, 'r> Segments<'a, 'r> {
    pub(super) fn new(subject: &'a Subject<'a>, report: &'r mut VerifyReport) -> io::Result<Self> {
        let store = subject.store;
        let mut unpacker = Unpacker::new(store.options.keys.as_ref())?;
        let mut fronts = BTreeMap::new();
        for &number in subject.segments.keys() {
            // The walk reports what is wrong with it.
            if let Ok(FrontFound::Whole(front, _)) =
                scan::front(store.disk.as_ref(), &store.journal(), number, &mut unpacker)
            {
                fronts.insert(number, *front);
            }
        }
        let (behind, locked) = (PerStream::default(), BTreeMap::new());
        Ok(Self { subject, report, unpacker, fronts, behind, locked })
    }

    /// Checks all of them.
    ///
    /// # Errors
    /// When the length of a file cannot be determined.
    pub(super) fn check(&mut self) -> io::Result<()> {
        for number in self.subject.numbers() {
            self.segment(number)?;
        }
        self.late_segments();
        self.done_segments()?;
        for (key, blocks) in std::mem::take(&mut self.locked) {
            let what = format!("{blocks} payloads are encrypted with key {key}, which is not given: checksums match");
            self.report.add(Finding::of(Severity::Note, self.subject.store.journal(), what));
        }
        Ok(())
    }

    fn segment(&mut self, number: u64) -> io::Result<()> {
        let store = self.subject.store;
        let path = segment::path(&store.journal(), number);
        let known = self.subject.segments.get(&number);
        let (known, file) = match (known, store.disk.open(&path)) {
            (Some(known), Ok(file)) => (known, file),
            (None, _) => return self.gone(number),
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => return self.gone(number),
            (_, Err(error)) => {
                let finding = Finding::of(Severity::Problem, path, format!("it cannot be opened: {error}"));
                self.report.add(Finding { records_lost: None, ..finding });
                return Ok(());
            }
        };
        let len = file.len()?;
        let mut walk = Walk::new(self.subject, number, self.behind);
        let ending = self.fronts.values().filter_map(|front| front.previous).find(|ending| ending.segment == number);
        if let Some(front) = self.fronts.get(&number) {
            walk.check_front(front);
        }
        let readable = self.blocks(&mut walk, &file, known.end.min(len))?;
        self.check_end(&mut walk, number, known, len, ending.as_ref());
        if readable {
            walk.finish(ending.as_ref());
        }
        // It may have been deleted meanwhile, and truncated.
        let is_there = || store.disk.identity(&path).is_ok_and(|there| file.identity().is_ok_and(|ours| ours == there));
        if self.subject.is_live && !is_there() {
            return self.gone(number);
        }
        self.report.files += 1;
        self.report.bytes += len.min(known.end);
        self.behind = walk.behind;
        walk.locked.iter().for_each(|(key, blocks)| *self.locked.entry(key.clone()).or_default() += blocks);
        walk.report_to(self.report);
        Ok(())
    }

    /// Walks the blocks; false if the file cannot be read.
    fn blocks(&mut self, walk: &mut Walk<'_>, file: &Arc<dyn DiskFile>, end: u64) -> io::Result<bool> {
        let mut walker = Walker::new(Arc::clone(file), 0, end);
        loop {
            match walker.next() {
                Ok(None) => return Ok(true),
                Ok(Some(Found::Damage(damage))) => walk.damage(&damage),
                Ok(Some(Found::Block { header, offset, payload })) => {
                    let raw = self.unpacker.unpack(walk.segment, &header, &payload);
                    walk.block(offset, &header, raw);
                }
                Err(error) => {
                    walk.unreadable(&error);
                    return Ok(false);
                }
            }
        }
    }

    /// Checks what follows the last whole block, and what should.
    fn check_end(&self, walk: &mut Walk<'_>, number: u64, known: &Segment, len: u64, ending: Option<&Ending>) {
        let synced = ending.map_or(known.end, |ending| ending.len.max(known.end));
        if let Some((_, torn)) = self.subject.torn.as_ref().filter(|(segment, _)| *segment == number) {
            let what = "a torn write; its batches were not answered OK";
            walk.note(Some(torn.bytes.clone()), what);
        } else if len < synced {
            walk.cut(len..synced);
        } else if len == 0 {
            walk.note(None, "an empty segment: its first write was torn, or never began");
        } else if known.sealed && len > synced {
            walk.note(Some(synced..len), "bytes after the segment's end: a write that was refused");
        }
        if known.unread.is_some() {
            walk.problem(None, "it could not be read to be entered into the queue; it is retried later");
        }
    }

    /// A missing segment.
    fn gone(&mut self, number: u64) -> io::Result<()> {
        let next = self.subject.next;
        let mut finding =
            Finding::of(Severity::Problem, segment::path(&self.subject.store.journal(), number), "it is missing");
        for stream in Stream::ALL {
            let pending = self.subject.pending(number, stream, &(0..next[stream as usize]));
            if pending > 0 {
                finding = finding.losing(pending);
                self.report.lose(self.subject, stream, pending);
            }
        }
        if finding.records_lost != Some(0) {
            self.report.add(finding);
        }
        Ok(())
    }

    /// Segments that a start moves to the quarantine.
    fn late_segments(&mut self) {
        for &number in &self.subject.late {
            let what = "it was missing at an earlier start, its records are counted as damaged, and the journal \
                        continued without it; the next start moves it to quarantine/, where `livekit-spool recover` reads \
                        it";
            let path = segment::path(&self.subject.store.journal(), number);
            self.report.add(Finding::of(Severity::Problem, path, what));
        }
    }

    /// Segments that are being deleted.
    fn done_segments(&mut self) -> io::Result<()> {
        let store = self.subject.store;
        for &number in &self.subject.done {
            let path = segment::done_path(&store.journal(), number);
            let bytes = match store.disk.open(&path).and_then(|file| file.len()) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let what = "all of it is done; the file is deleted when a newer segment's front says so";
            self.report.add(Finding { bytes, ..Finding::of(Severity::Note, path, what) });
        }
        let needed_from = store.state.lock().needed_from;
        for &number in self.subject.segments.keys().take_while(|number| **number < needed_from) {
            let what = "all of it is done, as a newer segment's front says; the next start deletes it";
            self.report.add(Finding::of(Severity::Note, segment::path(&store.journal(), number), what));
        }
        Ok(())
    }
}
