//! Stories: what is done to a spool, step by step. Each step means something whatever was left out before it, so that a story
//! can be shrunk.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    disk::{Fault, Kind},
    medium::{End, Pages},
    queue::Remembers,
};
use crate::{record::Stream, spool::options::WhenFull};

/// A batch that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) stream: Stream,
    pub(super) records: u32,
    /// Of each record.
    pub(super) bytes: usize,
}

/// What a sink does with records that it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    Rejected,
    /// It did not take them.
    Failed,
    /// It took them, and its answer was lost.
    Unheard,
}

/// Which records of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    FirstHalf,
    SecondHalf,
    EveryOther,
}

/// What is done to the dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The sink takes some now.
    Retry(usize),
    /// It does not, again.
    RetryInVain(usize),
    /// All of a stream are dropped.
    Drop(Stream),
}

/// What a spool is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) max_bytes: u64,
    pub(super) when_full: WhenFull,
    pub(super) max_age_seconds: Option<u64>,
}

pub(super) const WIDE: Limits = Limits { max_bytes: 512 << 10, when_full: WhenFull::Reject, max_age_seconds: None };
pub(super) const NARROW: Limits = Limits { max_bytes: 160 << 10, ..WIDE };

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Batches of several callers, one group.
    Append(Vec<Offer>),
    /// The same, but they are only packed: made durable in the middle of something else, after so many operations of that, or
    /// else when the next ones come.
    Pack(Vec<Offer>, u64),
    /// Time passes, and the maintenance looks once a second.
    Time(u64),
    Lease(Stream, usize),
    /// One of the leases that are under way is answered.
    Answer(usize, Outcome, Part),
    State(State),
    Purge(Stream),
    /// Closed, and opened with these limits.
    Restart(Limits),
    /// The process or the machine ends at an operation from now on, and perhaps again in the recovery.
    Crash {
        after: u64,
        end: End,
        remembers: Remembers,
        again: Option<(u64, End, Remembers)>,
    },
    Fault(Fault),
    /// What fails, works again.
    Heal,
    /// Another program leaves this much of the disk.
    Fill(u64),
    /// A bit of a segment flips: which segment and where, in thousandths.
    Flip(u64, u64),
    /// A page of a segment cannot be read any more.
    BadPage(u64, u64),
    /// Nothing of a segment can be read until it heals.
    Unreadable(u64),
    /// A segment is out of sight; all are back.
    Hide(u64),
    Show,
    /// The wall clock jumps, by seconds.
    Jump(i64),
}

/// The story of a seed.
pub(super) fn of_seed(seed: u64) -> Vec<Step> {
    let mut random = StdRng::seed_from_u64(seed);
    let length = random.random_range(10..50);
    // Each story has its own inclinations, so that rare things meet.
    let faulty = random.random_bool(0.5);
    let damaging = random.random_bool(0.25);
    let tight = random.random_bool(0.4);
    let limits = limits(&mut random, tight);
    let mut story = vec![Step::Restart(limits)];
    story.extend((0..length).map(|_| step(&mut random, faulty, damaging, tight)));
    story
}

fn pick<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    from[random.random_range(0..from.len())]
}

fn limits(random: &mut StdRng, tight: bool) -> Limits {
    let max_bytes = if tight { pick(random, &[128 << 10, 160 << 10, 224 << 10]) } else { 512 << 10 };
    let when_full = pick(random, &[WhenFull::Reject, WhenFull::DropOldest, WhenFull::DropNewest]);
    let max_age_seconds = random.random_bool(0.1).then_some(30);
    Limits { max_bytes, when_full, max_age_seconds }
}

fn stream(random: &mut StdRng) -> Stream {
    pick(random, &[Stream::Events, Stream::Events, Stream::Stats, Stream::Stats, Stream::NodeRooms])
}

fn step(random: &mut StdRng, faulty: bool, damaging: bool, tight: bool) -> Step {
    match random.random_range(0..100) {
        kind @ 0..30 => {
            let count = pick(random, &[1, 1, 1, 2, 3]);
            let large = if random.random_bool(0.03) { 9000 } else { 1500 };
            let offers = (0..count).map(|_| offer(random, large)).collect();
            if kind < 22 { Step::Append(offers) } else { Step::Pack(offers, random.random_range(0..12)) }
        }
        30..40 => Step::Time(pick(random, &[1, 1, 1, 2, 8])),
        40..55 => Step::Lease(stream(random), pick(random, &[1, 4, 20, 100])),
        55..72 => Step::Answer(random.random_range(0..4), outcome(random), part(random)),
        72..75 => Step::State(dead_letters(random)),
        75..76 => Step::Purge(stream(random)),
        76..79 => Step::Restart(limits(random, tight)),
        79..88 => crash(random),
        88..93 if faulty => Step::Fault(fault(random)),
        93..95 if faulty => Step::Heal,
        92..93 if damaging => Step::Unreadable(random.random_range(0..1000)),
        95..96 if faulty => Step::Fill(pick(random, &[0, 8 << 10, 64 << 10, 5 << 20, 64 << 20])),
        96..97 if damaging => Step::Flip(random.random_range(0..1000), random.random_range(0..1000)),
        97..98 if damaging => Step::BadPage(random.random_range(0..1000), random.random_range(0..1000)),
        98..99 if damaging => {
            if random.random() {
                Step::Hide(random.random_range(0..1000))
            } else {
                Step::Show
            }
        }
        99..100 => Step::Jump(pick(random, &[-3600, 3600, 400 * 86400, -400 * 86400])),
        _ => Step::Append(vec![offer(random, 800)]),
    }
}

fn offer(random: &mut StdRng, most: usize) -> Offer {
    Offer { stream: stream(random), records: random.random_range(1..6), bytes: random.random_range(50..most) }
}

fn outcome(random: &mut StdRng) -> Outcome {
    pick(random, &[Outcome::Delivered, Outcome::Delivered, Outcome::Rejected, Outcome::Failed, Outcome::Unheard])
}

fn part(random: &mut StdRng) -> Part {
    pick(random, &[Part::All, Part::All, Part::FirstHalf, Part::SecondHalf, Part::EveryOther])
}

fn dead_letters(random: &mut StdRng) -> State {
    match random.random_range(0..4) {
        0 | 1 => State::Retry(random.random_range(1..20)),
        2 => State::RetryInVain(random.random_range(1..20)),
        _ => State::Drop(stream(random)),
    }
}

fn crash(random: &mut StdRng) -> Step {
    let after = random.random_range(1..60);
    let again = random.random_bool(0.3).then(|| {
        let (end, remembers) = end(random);
        (random.random_range(1..40), end, remembers)
    });
    let (end, remembers) = end(random);
    Step::Crash { after, end, remembers, again }
}

fn end(random: &mut StdRng) -> (End, Remembers) {
    if random.random() {
        let some = Remembers::Some(random.random_range(0..16));
        let remembers = pick(random, &[Remembers::All, Remembers::Flushed, some]);
        return (End::Kill { torn: random.random() }, remembers);
    }
    let pages = match random.random_range(0..8) {
        0 => Pages::Nothing,
        1 => Pages::All,
        2 => Pages::FirstHalf,
        3 => Pages::MiddleMissing,
        4 => Pages::LengthOnly,
        _ => Pages::Some(random.random()),
    };
    let remembers = [Remembers::All, Remembers::Flushed, Remembers::Older, Remembers::Nothing, Remembers::Broken];
    (End::Power { pages, names: random.random_range(0..=16) }, pick(random, &remembers))
}

fn fault(random: &mut StdRng) -> Fault {
    let kind = pick(random, &[Kind::Read, Kind::Write, Kind::Write, Kind::Sync, Kind::Sync, Kind::Change, Kind::Queue]);
    if kind == Kind::Read {
        // Twice at most, or for good from the next step on: anything else is a bad sector.
        return Fault { kind, after: 0, times: pick(random, &[1, 2, u16::MAX]), no_space: false };
    }
    let times = pick(random, &[1, 1, 2, 5, u16::MAX]);
    Fault { kind, after: random.random_range(0..20), times, no_space: random.random_bool(0.3) }
}
