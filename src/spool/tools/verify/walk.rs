//! Walks one segment: checks its blocks against groups, sequence numbers and entries.

use std::{collections::BTreeMap, io, ops::Range, path::PathBuf};

use super::{
    report::{Finding, Severity, VerifyReport},
    subject::Subject,
};
use crate::{
    record::{PerStream, RecordBatch, Stream},
    spool::{
        dead_letters::DeadLetter,
        encoding::decode,
        journal::{
            block::{Header, Kind},
            codec::BadPayload,
            front::{Ending, Front},
            segment::{self, Damage},
        },
        queue::Entry,
        store::queue_directory,
    },
};

/// The walk's position among groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// The next block begins one.
    Boundary,
    /// In the group that begins there.
    In(u64),
    /// After damage.
    Unknown,
}

pub(super) struct Walk<'a> {
    subject: &'a Subject<'a>,
    pub(super) segment: u64,
    path: PathBuf,
    /// The sequence numbers after the streams' last records.
    pub(super) behind: PerStream<u64>,
    /// Sequence numbers below these were used before.
    used: PerStream<u64>,
    seen: PerStream<bool>,
    group: Group,
    blocks: u64,
    records: u64,
    damaged: bool,
    /// The queue's entries for which no block was found yet.
    entries: PerStream<&'a [(u64, Entry)]>,
    /// Damage that explains a gap in sequence numbers after it.
    last_damage: Option<Finding>,
    findings: Vec<Finding>,
    lost: PerStream<u64>,
    pub(super) locked: BTreeMap<String, u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(subject: &'a Subject<'a>, segment: u64, behind: PerStream<u64>) -> Self {
        let queue = subject.queue.as_ref().ok().and_then(Option::as_ref);
        let entries = queue.map_or([&[][..]; Stream::ALL.len()], |queue| queue.entries_of(segment));
        Self {
            subject,
            segment,
            path: segment::path(&subject.store.journal(), segment),
            behind,
            used: behind,
            seen: PerStream::default(),
            group: Group::Boundary,
            blocks: 0,
            records: 0,
            damaged: false,
            entries,
            last_damage: None,
            findings: Vec::new(),
            lost: PerStream::default(),
            locked: BTreeMap::new(),
        }
    }

    /// Checks the segment's front against the segments before it.
    pub(super) fn check_front(&mut self, front: &Front) {
        for stream in Stream::ALL {
            let (first, behind) = (front.first[stream as usize], self.behind[stream as usize]);
            if first < behind {
                let what = format!(
                    "its front says that {stream} begin at {first}, but the segments before it go up to {behind}"
                );
                self.problem(Some(0..0), what);
            }
            if front.ack_floor[stream as usize] > first {
                let floor = front.ack_floor[stream as usize];
                let what =
                    format!("its front says that {stream} before {floor} are done, and that they begin at {first}");
                self.problem(Some(0..0), what);
            }
            self.used[stream as usize] = behind.max(first);
        }
        if front.needed_from > self.segment {
            self.problem(
                Some(0..0),
                format!("its front says that segments before {} are no longer needed", front.needed_from),
            );
        }
    }

    pub(super) fn block(&mut self, offset: u64, header: &Header, raw: Result<Vec<u8>, BadPayload>) {
        if self.blocks == 0 && !self.damaged && header.kind != Kind::Front {
            self.problem(Some(0..0), "it does not begin with its front");
        }
        self.blocks += 1;
        self.check_group(offset, header);
        if header.kind != Kind::Front {
            let (stream, seqs) = (header.stream, header.seqs());
            if seqs.start < self.used[stream as usize] {
                let what = format!("{stream} {} to {} occur twice", seqs.start, seqs.end.saturating_sub(1));
                self.problem(Some(offset..offset + header.block_len()), what);
            }
            self.missing(stream, self.behind[stream as usize]..seqs.start);
            self.check_entries(offset, header);
            self.seen[stream as usize] = true;
            for at in [&mut self.behind, &mut self.used] {
                at[stream as usize] = at[stream as usize].max(seqs.end);
            }
            self.records += u64::from(header.count);
        }
        self.check_payload(offset, header, raw);
    }

    fn check_group(&mut self, offset: u64, header: &Header) {
        let begins = u64::from(header.group);
        let is_right = match self.group {
            Group::Boundary => begins == offset,
            Group::In(start) => begins == start,
            Group::Unknown => begins <= offset,
        };
        if !is_right {
            let what = format!("the block says that its group begins at byte {begins}, which is wrong");
            self.problem(Some(offset..offset + header.block_len()), what);
        }
        self.group = if header.ends_group { Group::Boundary } else { Group::In(begins) };
    }

    /// Checks that the entries for a block's records point at it.
    fn check_entries(&mut self, offset: u64, header: &Header) {
        let seqs = header.seqs();
        let entries = &mut self.entries[header.stream as usize];
        let mut wrong = Vec::new();
        while let Some(((key, entry), rest)) = entries.split_first().filter(|((key, _), _)| *key < seqs.end) {
            *entries = rest;
            let holds = entry.offset <= offset && offset + header.block_len() <= entry.end();
            if *key >= seqs.start && !holds {
                wrong.push((*key, entry.offset));
            }
        }
        for (key, at) in wrong {
            let what = format!(
                "the entry of {} {key} points at byte {at} of {}, but its record is at byte {offset}",
                header.stream,
                self.path.display()
            );
            let queue = queue_directory(&self.subject.store.home);
            self.findings.push(Finding::of(Severity::Problem, queue, what));
        }
    }

    /// Checks that a block's contents can be read.
    fn check_payload(&mut self, offset: u64, header: &Header, raw: Result<Vec<u8>, BadPayload>) {
        let what = match raw.map(|raw| is_readable(self.segment, header, raw)) {
            Ok(true) => return,
            Ok(false) => "the block's checksum matches, but its payload is invalid".to_owned(),
            Err(BadPayload::NoKey { key }) => {
                *self.locked.entry(key).or_default() += 1;
                return;
            }
            Err(error) => format!("the block's checksum matches, but its payload is unreadable: {error}"),
        };
        let mut lost = 0;
        if header.kind != Kind::Front {
            self.records -= u64::from(header.count);
            self.damaged = true;
            lost = self.subject.pending(self.segment, header.stream, &header.seqs());
            self.lost[header.stream as usize] += lost;
        }
        let finding = Finding::of(Severity::Problem, self.path.clone(), what).at(offset, header.block_len());
        self.findings.push(finding.losing(lost));
    }

    pub(super) fn damage(&mut self, damage: &Damage) {
        let unreadable = if damage.unreadable { "; some of it cannot be read" } else { "" };
        self.bad(damage.bytes.clone(), format!("{}{unreadable}", damage.reason));
    }

    /// Reports that synced bytes are missing.
    pub(super) fn cut(&mut self, bytes: Range<u64>) {
        self.bad(bytes, "the file ends here, but was longer".to_owned());
    }

    fn bad(&mut self, bytes: Range<u64>, what: String) {
        self.settle();
        (self.damaged, self.group) = (true, Group::Unknown);
        let finding = Finding::of(Severity::Problem, self.path.clone(), what);
        self.last_damage = Some(finding.at(bytes.start, bytes.end - bytes.start));
    }

    /// Reports that the file cannot be read further.
    pub(super) fn unreadable(&mut self, error: &io::Error) {
        self.settle();
        let finding = Finding::of(Severity::Problem, self.path.clone(), format!("it cannot be read: {error}"));
        self.findings.push(Finding { records_lost: None, ..finding });
    }

    /// Counts the records of a gap that are to be delivered, and attributes them to the damage before it, if there is
    /// any.
    fn missing(&mut self, stream: Stream, gap: Range<u64>) {
        let lost = if gap.is_empty() { 0 } else { self.subject.pending(self.segment, stream, &gap) };
        if lost == 0 {
            return;
        }
        self.lost[stream as usize] += lost;
        let finding = self.last_damage.take().map(|finding| finding.losing(lost));
        match finding {
            Some(finding) => self.last_damage = Some(finding),
            None => {
                let what = format!("{lost} {stream} that are to be delivered are missing, from {} on", gap.start);
                self.findings.push(Finding::of(Severity::Problem, self.path.clone(), what).losing(lost));
            }
        }
    }

    /// Reports records that are missing at the end, and differences from the next segment's front.
    pub(super) fn finish(&mut self, ending: Option<&Ending>) {
        for stream in Stream::ALL {
            self.missing(stream, self.behind[stream as usize]..self.subject.next[stream as usize]);
        }
        self.settle();
        if self.damaged {
            return;
        }
        if matches!(self.group, Group::In(_)) {
            self.problem(None, "its last group is incomplete");
        }
        let Some(ending) = ending else { return };
        if ending.records != self.records {
            let what = format!("it holds {} records, but the next front says {}", self.records, ending.records);
            self.problem(None, what);
        }
        for stream in Stream::ALL {
            let (next, behind) = (ending.next[stream as usize], self.behind[stream as usize]);
            if behind > next || (self.seen[stream as usize] && behind < next) {
                let what = format!("its {stream} end before {behind}, but before {next} according to the next front");
                self.problem(None, what);
            }
        }
    }

    pub(super) fn note(&mut self, bytes: Option<Range<u64>>, what: impl Into<String>) {
        self.add_finding(Severity::Note, bytes, what);
    }

    pub(super) fn problem(&mut self, bytes: Option<Range<u64>>, what: impl Into<String>) {
        self.add_finding(Severity::Problem, bytes, what);
    }

    fn add_finding(&mut self, severity: Severity, bytes: Option<Range<u64>>, what: impl Into<String>) {
        self.settle();
        let finding = Finding::of(severity, self.path.clone(), what);
        self.findings.push(match bytes {
            Some(bytes) => finding.at(bytes.start, bytes.end - bytes.start),
            None => finding,
        });
    }

    /// Attributes nothing more to the last damage.
    fn settle(&mut self) {
        self.findings.extend(self.last_damage.take());
    }

    /// Adds the findings to a report.
    pub(super) fn report_to(self, report: &mut VerifyReport) {
        report.blocks += self.blocks;
        let records = if self.subject.holds_dead_letters() { &mut report.dead_letters } else { &mut report.records };
        *records += self.records;
        for stream in Stream::ALL {
            report.lose(self.subject, stream, self.lost[stream as usize]);
        }
        self.findings.into_iter().for_each(|finding| report.add(finding));
    }
}

fn is_readable(segment: u64, header: &Header, raw: Vec<u8>) -> bool {
    if header.kind == Kind::Front {
        return Front::read(segment, &raw).is_some();
    }
    let Ok(batch) = RecordBatch::from_wrapper(header.stream, 0, raw.into()) else { return false };
    batch.count() == header.count
        && (header.kind == Kind::Records || batch.iter().all(|dead_letter| decode::<DeadLetter>(dead_letter).is_some()))
}
