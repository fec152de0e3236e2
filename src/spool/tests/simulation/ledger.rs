//! The simulation's own ledger, kept apart from the spool: what was offered, answered, delivered, dead-lettered, dropped, damaged.
//!
//! What is checked, by record:
//! - what was kept is pending, delivered, a dead letter that was not removed, dropped by a policy and counted, or was damaged by
//!   the story and is counted;
//! - a batch is there as a whole or not at all; what was refused is not there; what was acknowledged does not come again
//!   without a crash or a fault;
//! - records are pending, and leased first, in the order in which they were kept;
//! - nothing counts as damaged where the story damaged nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::record::{PerStream, Stream};

/// A record: the so-many-th of its stream that was offered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) stream: Stream,
    pub(super) number: u32,
}

const DEAD_LETTERS: [u8; 3] = *b"esn";
pub(super) const MARKER_BYTES: usize = 16;

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.stream, self.number)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", DEAD_LETTERS[self.stream as usize] as char, self.number)
    }
}

impl Id {
    /// The record that stands for it: a marker, filled up to a length.
    pub(super) fn record(self, bytes: usize) -> Vec<u8> {
        let bytes = bytes.max(MARKER_BYTES);
        let mut record =
            format!("<{}{:08}:{:04}>", DEAD_LETTERS[self.stream as usize] as char, self.number, bytes).into_bytes();
        record.resize(bytes, b'.');
        record
    }

    /// The record at the front of these bytes, and how long it is.
    pub(super) fn of(bytes: &[u8]) -> Option<(Self, usize)> {
        let marker = std::str::from_utf8(bytes.get(..MARKER_BYTES)?).ok()?;
        let dead_letter = DEAD_LETTERS.iter().position(|dead_letter| bytes[1] == *dead_letter)?;
        let (number, length) = marker.get(2..15)?.split_once(':')?;
        Some((Self { stream: Stream::ALL[dead_letter], number: number.parse().ok()? }, length.parse().ok()?))
    }
}

/// The records in some bytes, and where they begin.
pub(super) fn markers(bytes: &[u8]) -> impl Iterator<Item = (usize, Id)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at + MARKER_BYTES <= bytes.len() {
            // `contains` is quick even where nothing is optimised.
            if bytes[at] != b'<' {
                at += if bytes[at..bytes.len().min(at + 64)].contains(&b'<') { 1 } else { 64 };
            } else if let Some((id, length)) = Id::of(&bytes[at..]) {
                let found = at;
                at += length;
                return Some((found, id));
            } else {
                at += 1;
            }
        }
        None
    })
}

/// What the caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: the process ended before.
    None,
    Kept,
    Refused,
    /// Dropped as the newest, with an OK that says so.
    Dropped,
}

/// What happened to a record.
#[derive(Debug, Clone, Copy)]
struct History {
    answer: Answer,
    batch: u32,
    leased: bool,
    /// A sink has it.
    delivered: bool,
    /// In which life of the process that was acknowledged.
    acknowledged: Option<u32>,
    /// It is a dead letter, as the spool said.
    dead_letter: bool,
    /// … and was removed.
    removed: bool,
    dropped: bool,
    damaged: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    histories: PerStream<Vec<History>>,
    /// Kept, and not known to be settled.
    open: BTreeSet<Id>,
    /// Neither kept nor known to be gone.
    unsure: BTreeMap<u32, Vec<Id>>,
    batches: u32,
    last_leased: PerStream<Option<u32>>,
    /// The step that is under way may drop records of these streams.
    pub(super) may_drop: PerStream<bool>,
    /// Dropped by a policy since the last count.
    pub(super) dropped: PerStream<u64>,
    /// As lost to damage the spool reported so many.
    pub(super) reported: PerStream<u64>,
    /// Bytes were damaged, or files hidden: what is pending cannot always be told.
    pub(super) disturbed: bool,
    /// A start could not read some of what it found: what is behind goes first.
    pub(super) unordered: bool,
    pub(super) life: u32,
    /// What appeared with this life was inspected.
    pub(super) inspected: bool,
    /// Something failed in this life: what was acknowledged may be redelivered.
    pub(super) faulted: bool,
    /// A queue may have forgotten something: the process ended without a stop, or it was kept in memory.
    pub(super) forgetful: bool,
    pub(super) violations: Vec<String>,
}

impl Ledger {
    pub(super) fn fail(&mut self, violation: String) {
        self.violations.push(violation);
    }

    fn history(&mut self, id: Id) -> Option<&mut History> {
        self.histories[id.stream as usize].get_mut(id.number as usize)
    }

    /// A batch is offered.
    pub(super) fn offer(&mut self, stream: Stream, records: u32) -> Vec<Id> {
        self.batches += 1;
        let first = self.histories[stream as usize].len() as u32;
        let ids: Vec<Id> = (first..first + records).map(|number| Id { stream, number }).collect();
        self.histories[stream as usize].extend(ids.iter().map(|_| History {
            answer: Answer::None,
            batch: self.batches,
            leased: false,
            delivered: false,
            acknowledged: None,
            dead_letter: false,
            removed: false,
            dropped: false,
            damaged: false,
        }));
        self.unsure.insert(self.batches, ids.clone());
        ids
    }

    pub(super) fn answer(&mut self, ids: &[Id], answer: Answer) {
        for &id in ids {
            let Some(history) = self.history(id) else { continue };
            history.answer = answer;
            let batch = history.batch;
            if answer == Answer::Kept {
                self.open.insert(id);
                self.unsure.remove(&batch);
            }
        }
    }

    /// Whether a copy of it has to stay.
    pub(super) fn needs(&self, id: Id) -> bool {
        let may_drop = self.may_drop[id.stream as usize];
        let history = self.histories[id.stream as usize].get(id.number as usize);
        !may_drop && self.open.contains(&id) && history.is_some_and(|history| !history.damaged)
    }

    pub(super) fn lease(&mut self, id: Id) {
        let (disturbed, last) = (self.disturbed || self.unordered, self.last_leased[id.stream as usize]);
        let Some(history) = self.history(id) else { return self.fail(format!("{id} was leased and never offered")) };
        let (first, batch) = (!std::mem::replace(&mut history.leased, true), history.batch);
        if !self.inspected
            && let Some(ids) = self.unsure.get(&batch).cloned()
        {
            self.answer(&ids, Answer::Kept);
        }
        if first {
            if last.is_some_and(|last| id.number < last) && !disturbed {
                self.fail(format!("{id} is leased for the first time after {}", last.unwrap_or_default()));
            }
            self.last_leased[id.stream as usize] = last.max(Some(id.number));
        }
    }

    /// The sink has it, whether the spool will hear of that or not.
    pub(super) fn deliver(&mut self, id: Id) {
        self.open.remove(&id);
        self.history(id).into_iter().for_each(|history| history.delivered = true);
    }

    pub(super) fn acknowledge(&mut self, id: Id) {
        let life = self.life;
        self.history(id).into_iter().for_each(|history| history.acknowledged = Some(life));
    }

    pub(super) fn dead_lettered(&mut self, id: Id) {
        self.history(id).into_iter().for_each(|history| history.dead_letter = true);
    }

    /// A letter is removed, or about to be.
    pub(super) fn remove_dead_letter(&mut self, id: Id) {
        self.open.remove(&id);
        self.history(id).into_iter().for_each(|history| history.removed = true);
    }

    /// The story damages its bytes.
    pub(super) fn damage(&mut self, id: Id) {
        self.disturbed = true;
        self.history(id).into_iter().for_each(|history| history.damaged = true);
    }

    /// What was not answered is there as a whole or not at all. After a start, in which it may appear.
    pub(super) fn check_batches(&mut self, pending: &PerStream<Vec<Id>>) {
        let found: BTreeSet<Id> = pending.iter().flatten().copied().collect();
        for (batch, ids) in std::mem::take(&mut self.unsure) {
            let there = ids.iter().filter(|id| found.contains(id)).count();
            if there == ids.len() {
                self.answer(&ids, Answer::Kept);
                continue;
            }
            let damaged = ids.iter().any(|id| self.history(*id).is_some_and(|history| history.damaged));
            if there > 0 && !damaged {
                self.fail(format!("of a batch {there} of {} records are there: {ids:?}", ids.len()));
            }
            self.unsure.insert(batch, ids);
        }
    }

    /// What is pending; answers what is owed and is not among it.
    pub(super) fn check_pending(&mut self, pending: &PerStream<Vec<Id>>) -> Vec<Id> {
        for ids in pending {
            for pair in ids.windows(2).filter(|pair| pair[0] >= pair[1]) {
                if !self.disturbed {
                    self.violations.push(format!("{} is pending before {}", pair[0], pair[1]));
                }
            }
            for &id in ids {
                let (life, faulted) = (self.life, self.faulted);
                match self.history(id).copied() {
                    Some(History { answer: Answer::Kept, acknowledged, .. }) => {
                        if acknowledged == Some(life) && !faulted {
                            self.fail(format!("{id} is pending, though it was acknowledged"));
                        }
                    }
                    Some(History { damaged: true, .. }) => {}
                    other => self.fail(format!("{id} is pending: {:?}", other.map(|history| history.answer))),
                }
            }
        }
        let found: BTreeSet<Id> = pending.iter().flatten().copied().collect();
        self.open.iter().filter(|id| !found.contains(id)).copied().collect()
    }

    /// What is owed and not pending is a dead letter, or was dropped, or damaged.
    pub(super) fn check_missing(&mut self, missing: Vec<Id>, dead_letters: &BTreeSet<Id>) {
        for id in missing {
            let may_drop = self.may_drop[id.stream as usize];
            let Some(history) = self.history(id) else { continue };
            if dead_letters.contains(&id) {
                // Perhaps among those that fitted before the dead letters were full.
                history.dead_letter = true;
            } else if may_drop && !history.dead_letter {
                history.dropped = true;
                let damaged = history.damaged;
                self.open.remove(&id);
                self.dropped[id.stream as usize] += u64::from(!damaged);
            } else if !history.damaged {
                let was = if history.dead_letter { "dead-lettered" } else { "kept" };
                self.fail(format!("{id} was {was}, and is missing"));
            }
        }
    }

    /// All is drained.
    pub(super) fn check_end(&mut self) {
        for id in std::mem::take(&mut self.open) {
            match self.history(id) {
                Some(history) if history.damaged => {}
                _ => self.fail(format!("{id} was kept, and was never delivered")),
            }
        }
        for stream in Stream::ALL {
            let of_stream = &self.histories[stream as usize];
            let settled = |history: &&History| history.delivered || history.removed || history.dropped;
            let lost = of_stream
                .iter()
                .filter(|history| history.answer == Answer::Kept && history.damaged && !settled(history))
                .count();
            let (any_damage, reported) = (self.disturbed, self.reported[stream as usize]);
            // How many was at the journal's end, only a queue knew that is gone too.
            if (lost as u64) > reported && !self.forgetful {
                self.fail(format!("{lost} {stream} are lost to damage, and {reported} are counted"));
            }
            if reported > 0 && !any_damage {
                self.fail(format!("{reported} {stream} are counted as damaged, and nothing was"));
            }
        }
    }
}
