//! Stories that met a fault of the spool once, cut down to what it takes, each named after what has to hold. The number is the seed
//! that found it.

use std::time::Duration;

use super::{
    disk::{Fault, Kind},
    medium::{End, Pages},
    queue::Remembers,
    seeds::{report, tell},
    story::{Limits, Offer, Outcome, Part, Step, WIDE},
    world::World,
};
use crate::record::{Stream, instant, simulated};

const EVENTS: Stream = Stream::Events;
const STATS: Stream = Stream::Stats;
const ROOMS: Stream = Stream::NodeRooms;
const KILL: End = End::Kill { torn: false };
const FOR_GOOD: u16 = u16::MAX;
/// Of two segments, in thousandths.
const SECOND: u64 = 500;

#[track_caller]
fn holds(story: &[Step]) {
    if let Err(error) = tell(story) {
        panic!("{error}\n{}", report(story));
    }
}

fn append(stream: Stream, records: u32, bytes: usize) -> Step {
    Step::Append(vec![Offer { stream, records, bytes }])
}

const fn fails(kind: Kind, after: u16, times: u16) -> Step {
    Step::Fault(Fault { kind, after, times, no_space: false })
}

/// The process is killed at the so-manieth operation from here.
const fn killed(after: u64, remembers: Remembers) -> Step {
    Step::Crash { after, end: KILL, remembers, again: None }
}

/// 2732: a refused first group that could not be removed was mistaken for one that was kept and is damaged, once a later segment
/// followed it.
#[test]
fn a_refused_group_whose_file_could_not_be_removed_is_gone_before_the_next_segment_begins() {
    holds(&[
        append(ROOMS, 1, 100),
        Step::Restart(WIDE),
        // It is created and reserved; the write fails, and so does undoing it.
        fails(Kind::Write, 2, FOR_GOOD),
        fails(Kind::Change, 0, FOR_GOOD),
        append(STATS, 4, 600),
    ]);
}

/// 2948: a group that a kill left unsynced was entered into the queue before it was synced; a power cut in the same start took it
/// from the journal and not from the queue, and it counted as damaged.
#[test]
fn what_a_start_finds_unsynced_is_synced_before_the_queue_knows_of_it() {
    let power_cut = End::Power { pages: Pages::Nothing, names: 16 };
    for operation in 1..=8 {
        holds(&[
            append(EVENTS, 1, 100),
            // It is written, and not synced.
            Step::Crash {
                after: 2,
                end: KILL,
                remembers: Remembers::All,
                again: Some((operation, power_cut, Remembers::All)),
            },
            append(STATS, 2, 700),
            append(ROOMS, 1, 100),
        ]);
    }
}

/// 577: a segment that could not be read while its queue was rebuilt went on being entered; its next group took the unread part
/// for entered, and that part was lost.
#[test]
fn what_could_not_be_read_for_a_new_queue_is_entered_later_whatever_was_appended_behind_it() {
    holds(&[
        fails(Kind::Read, 0, FOR_GOOD),
        // Opened and changed; then entering fails.
        fails(Kind::Queue, 0, 1),
        append(STATS, 4, 100),
        Step::Time(8),
        append(STATS, 1, 100),
    ]);
}

/// 5754: a segment that was out of sight at a start came back with sequence numbers that had been given out again; its entries took
/// the place of records that were kept since.
#[test]
fn sequence_numbers_that_a_missing_segment_may_hold_are_not_assigned_again() {
    holds(&[
        append(STATS, 1, 100),
        Step::Restart(WIDE),
        append(ROOMS, 1, 100),
        Step::Time(1),
        // In the same segment, and what the queue is told of it is not flushed.
        append(EVENTS, 1, 100),
        Step::Hide(SECOND),
        killed(1, Remembers::Flushed),
        Step::Time(1),
        append(EVENTS, 1, 100),
        Step::Show,
    ]);
}

/// 12672: a queue that a power cut took back to before a purge was believed, though a front recorded the purge; the purged records
/// came again.
#[test]
fn a_queue_that_is_older_than_what_a_front_says_is_done_is_not_believed() {
    let mut world = World::new();
    let story = [
        append(EVENTS, 2, 100),
        append(STATS, 1, 100),
        Step::Time(1),
        Step::Purge(EVENTS),
        // A segment of its own, whose front says so.
        append(ROOMS, 3, 5500),
        Step::Crash {
            after: 1,
            end: End::Power { pages: Pages::All, names: 16 },
            remembers: Remembers::Older,
            again: None,
        },
        append(ROOMS, 1, 100),
    ];
    story.iter().try_for_each(|step| world.step(step)).unwrap();
    assert_eq!(world.pending(EVENTS), 0, "purged");
    assert_eq!((world.pending(STATS), world.pending(ROOMS)), (1, 3));
    world.go_on_to_the_end().unwrap();
}

/// 9575: a segment that was out of sight at a start, and unknown to the queue, was back when its number was due. The next number was
/// used, and its sequence numbers were assigned again.
#[test]
fn a_segment_whose_number_turns_out_to_be_used_has_used_its_sequence_numbers_too() {
    holds(&[
        append(STATS, 1, 100),
        Step::Restart(WIDE),
        append(EVENTS, 1, 100),
        Step::Hide(SECOND),
        killed(1, Remembers::Nothing),
        Step::Time(1),
        Step::Show,
        append(EVENTS, 1, 100),
    ]);
}

/// Records of two segments, the second one the newest.
fn of_two_segments() -> World {
    let mut world = World::new();
    let story = [append(EVENTS, 4, 3000), append(STATS, 2, 700), Step::Restart(WIDE), append(EVENTS, 4, 3000)];
    story.iter().try_for_each(|step| world.step(step)).unwrap();
    world
}

/// A sector that failed for seconds was given up after a tenth of one, while a segment that could not be read was waited for.
#[test]
fn a_sector_that_fails_in_passing_costs_nothing() {
    for (segment, restarts) in [(0, false), (0, true), (SECOND, false), (SECOND, true)] {
        let mut world = of_two_segments();
        if restarts {
            world.close();
        }
        world.let_fail(segment, Some(1));
        // Records of other streams and segments go meanwhile.
        let meanwhile =
            [Step::Lease(EVENTS, 8), Step::Time(3), Step::Lease(EVENTS, 8), Step::Lease(STATS, 2), Step::Heal];
        meanwhile.iter().try_for_each(|step| world.step(step)).unwrap();
        world.go_on_to_the_end().unwrap();
        assert_eq!(world.machine.state().ledger.reported, [0; 3], "segment {segment}, a start: {restarts}");
    }
}

/// A newest segment of which nothing could be read stopped its sink: how it ends is known by itself alone.
#[test]
fn a_newest_segment_of_which_nothing_can_be_read_at_a_start_is_passed_over() {
    for ends in [None, Some(false), Some(true)] {
        for remembers in [Remembers::All, Remembers::Nothing] {
            for heals_before_the_next_start in [true, false] {
                let mut world = of_two_segments();
                match ends {
                    None => world.close(),
                    Some(torn) => {
                        world.arm(1, (End::Kill { torn }, remembers), None);
                        world.until_crash(|world| world.carry_out(&append(STATS, 3, 2000))).unwrap();
                        world.apply_end(End::Kill { torn }, remembers);
                        world.disarm();
                    }
                }
                world.let_fail(SECOND, None);
                world.step(&append(ROOMS, 2, 100)).unwrap();
                assert!(world.process.is_some() && world.pending(ROOMS) == 2, "it opens, and accepts records");
                if heals_before_the_next_start {
                    world.step(&Step::Heal).unwrap();
                    world.step(&Step::Time(2)).unwrap();
                    assert_eq!(world.pending(EVENTS), 8);
                }
                world.step(&Step::Restart(WIDE)).unwrap();
                world.go_on_to_the_end().unwrap();
                assert_eq!(world.machine.state().ledger.reported, [0; 3], "{ends:?} {remembers:?}");
            }
        }
    }
}

/// What was refused and could not be cut off appeared where neither its segment nor the front behind it could be read at a
/// start, and was over what was kept later with the same sequence numbers (1549).
#[test]
fn what_was_refused_stays_out_where_the_front_that_says_so_is_read_later() {
    holds(&[
        append(EVENTS, 5, 137),
        fails(Kind::Sync, 0, 1),
        fails(Kind::Change, 0, FOR_GOOD),
        append(STATS, 4, 1044),
        append(STATS, 3, 1499),
        fails(Kind::Read, 0, FOR_GOOD),
        Step::Restart(WIDE),
        Step::Time(2),
    ]);
}

/// The queue gathers its changes until a flush, and the time alone was none: a backlog that only waited grew no older by it.
#[test]
fn a_stop_notes_the_time_though_nothing_else_has_changed() {
    let mut world = World::new();
    let limits = Limits { max_age_seconds: Some(3600), ..WIDE };
    let story = [Step::Restart(limits), append(EVENTS, 1, 100), Step::Time(3)];
    story.iter().try_for_each(|step| world.step(step)).unwrap();
    simulated::advance(Duration::from_secs(100));
    world.close();
    let stopped_at = simulated::wall();
    world.open();
    let noted = world.process.as_ref().and_then(|process| process.shared.store.clock());
    assert_eq!(noted.map(|noted| noted.written_at), Some(stopped_at));
}

/// Each bad sector of a segment held its stream up for as long as the first one.
#[test]
fn bad_sectors_of_one_segment_are_waited_for_once() {
    let mut world = World::new();
    for _ in 0..3 {
        world.step(&append(EVENTS, 1, 4500)).unwrap();
    }
    for at in [500, 900] {
        world.step(&Step::BadPage(0, at)).unwrap();
    }
    world.step(&append(EVENTS, 1, 100)).unwrap();
    let began = instant();
    while world.pending(EVENTS) > 0 && instant().duration_since(began) < Duration::from_secs(60) {
        world.step(&Step::Lease(EVENTS, 8)).unwrap();
        world.step(&Step::Answer(0, Outcome::Delivered, Part::All)).unwrap();
        world.step(&Step::Time(1)).unwrap();
    }
    let waited = instant().duration_since(began);
    assert!(waited < Duration::from_secs(15), "{waited:?}");
    assert_eq!((world.pending(EVENTS), world.machine.state().ledger.reported[0]), (0, 2));
}

/// 77009198: a purge began a segment with reserved space, although the spool had almost reached its limit, which a reload had
/// lowered. At 63 appends, a block of 512 bytes is left.
#[test]
fn a_purge_of_a_full_spool_stays_within_its_limit() {
    let limits = Limits { max_bytes: 128 << 10, ..WIDE };
    for records in 50..64 {
        let mut story: Vec<Step> = (0..records).map(|_| append(EVENTS, 1, 1900)).collect();
        story.extend([append(STATS, 1, 100), Step::Restart(limits), Step::Purge(STATS)]);
        holds(&story);
    }
}
