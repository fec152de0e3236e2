//! Short stories with a crash at every operation, and at every operation of the recovery.
//!
//! The process ends at operation 1, 2, 3, … until it no longer does. Each end is tried in several ways: what the page cache
//! held survives, or part of it; the queues remember all, some, or nothing. From each, the recovery runs to its end, and once more
//! for each of its operations, ending there. After each, all continues to the end of [`World::go_on_to_the_end`].

use super::{
    disk::{Fault, Kind},
    medium::{End, Pages},
    queue::Remembers,
    story::{Limits, NARROW, Offer, Outcome, Part, State, Step, WIDE},
    world::{CrashImage, Ended, World},
};
use crate::{record::Stream, spool::options::WhenFull};

const KILL: End = End::Kill { torn: false };

const fn power(pages: Pages, names: u8) -> End {
    End::Power { pages, names }
}

/// The ends that are tried at each operation …
const ENDS: [Ended; 8] = [
    (KILL, Remembers::Flushed),
    (KILL, Remembers::All),
    (power(Pages::Nothing, 0), Remembers::Flushed),
    (power(Pages::All, 16), Remembers::Older),
    (power(Pages::FirstHalf, 16), Remembers::Nothing),
    (power(Pages::MiddleMissing, 16), Remembers::All),
    (power(Pages::LengthOnly, 16), Remembers::Flushed),
    (power(Pages::Nothing, 8), Remembers::Broken),
];
/// … and, after two of these four in turn, at each operation of the recovery.
const ENDS_OF_RECOVERY: [(usize, Ended); 4] = [
    (0, (KILL, Remembers::Flushed)),
    (3, (power(Pages::Nothing, 0), Remembers::Flushed)),
    (4, (power(Pages::Nothing, 0), Remembers::Older)),
    (7, (KILL, Remembers::All)),
];

/// Runs a story up to an operation; what is left there, or none where it ended before.
fn crash_images_at(story: &[Step], operation: u64, torn: bool) -> Result<Option<CrashImage>, String> {
    let mut world = World::new();
    world.arm(operation, (End::Kill { torn }, Remembers::All), None);
    let crashed = world.until_crash(|world| {
        world.open();
        for step in story {
            world.carry_out(step);
            world.check();
        }
    })?;
    if crashed {
        return Ok(Some(world.crash_image()));
    }
    world.go_on_to_the_end()?;
    Ok(None)
}

fn recover(crash_image: &CrashImage, (end, remembers): Ended, again: Option<(u64, Ended)>) -> Result<bool, String> {
    let mut world = World::from_image(crash_image.clone());
    world.apply_end(end, remembers);
    let mut crashed = false;
    if let Some((operation, (end, remembers))) = again {
        world.arm(operation, (end, remembers), None);
        crashed = world.until_crash(World::open)?;
        if crashed {
            world.apply_end(end, remembers);
        }
        world.disarm();
    }
    world.go_on_to_the_end()?;
    Ok(crashed)
}

fn crash_everywhere(story: &[Step]) {
    let (mut first, mut runs) = (1, 0_u64);
    let started = std::time::Instant::now();
    let fail = |what: String, error: String| -> ! {
        let steps: Vec<String> = story.iter().map(|step| format!("{step:?}")).collect();
        panic!("{what}\n{error}\nThe story:\n{}", steps.join("\n"))
    };
    loop {
        let at = format!("The process ends at operation {first}");
        let crash_image = match crash_images_at(story, first, false) {
            Ok(Some(crash_image)) => crash_image,
            Ok(None) => break,
            Err(error) => fail(at, error),
        };
        let torn = crash_images_at(story, first, true).unwrap_or_else(|error| fail(at.clone(), error));
        if let Some(torn) = torn
            && let Err(error) = recover(&torn, ENDS[0], None)
        {
            fail(format!("{at}, which is half done"), error);
        }
        for (i, ended) in ENDS.into_iter().enumerate() {
            if let Err(error) = recover(&crash_image, ended, None) {
                fail(format!("{at}, {ended:?}"), error);
            }
            runs += 1;
            let turn = first % 2 == i as u64 % 2 || std::env::var_os("LIVEKIT_SPOOL_ALL_ENDS").is_some();
            for (_, again) in ENDS_OF_RECOVERY.into_iter().filter(|(of, _)| turn && *of == i) {
                for second in 1.. {
                    runs += 1;
                    match recover(&crash_image, ended, Some((second, again))) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => fail(
                            format!("{at}, {ended:?}, then at operation {second} of the recovery, {again:?}"),
                            error,
                        ),
                    }
                }
            }
        }
        first += 1;
    }
    println!("{} operations, {runs} ends, {:?}", first - 1, started.elapsed());
}

const fn offer(stream: Stream, records: u32, bytes: usize) -> Offer {
    Offer { stream, records, bytes }
}

fn append(stream: Stream, records: u32, bytes: usize) -> Step {
    Step::Append(vec![offer(stream, records, bytes)])
}

const EVENTS: Stream = Stream::Events;
const STATS: Stream = Stream::Stats;
const ROOMS: Stream = Stream::NodeRooms;

fn delivered(lease: usize, part: Part) -> Step {
    Step::Answer(lease, Outcome::Delivered, part)
}

#[test]
fn a_crash_anywhere_in_a_trickle_of_one_stream() {
    crash_everywhere(&[
        append(EVENTS, 2, 100),
        append(EVENTS, 1, 6000),
        Step::Time(1),
        append(EVENTS, 3, 200),
        Step::Lease(EVENTS, 4),
        delivered(0, Part::All),
        Step::Time(1),
        append(EVENTS, 1, 50),
    ]);
}

#[test]
fn a_crash_anywhere_while_a_group_is_on_its_way() {
    let pack = |records, bytes, after| Step::Pack(vec![offer(EVENTS, records, bytes), offer(STATS, 1, 90)], after);
    crash_everywhere(&[
        append(EVENTS, 3, 4000),
        pack(2, 6000, 2),
        Step::Lease(EVENTS, 5),
        delivered(0, Part::All),
        Step::Time(1),
        pack(1, 300, 1),
        Step::Fault(Fault { kind: Kind::Queue, after: 0, times: 1, no_space: false }),
        Step::Time(1),
        Step::Heal,
        pack(3, 5000, 3),
        Step::Time(2),
    ]);
}

#[test]
fn a_crash_anywhere_with_streams_mixed_in_one_group() {
    crash_everywhere(&[
        Step::Append(vec![offer(EVENTS, 2, 300), offer(STATS, 3, 2500), offer(ROOMS, 1, 80), offer(EVENTS, 1, 90)]),
        Step::Lease(STATS, 2),
        Step::Append(vec![offer(STATS, 1, 40), offer(EVENTS, 2, 5000)]),
        delivered(0, Part::All),
        Step::Time(1),
        Step::Append(vec![offer(ROOMS, 2, 100), offer(EVENTS, 1, 100)]),
    ]);
}

#[test]
fn a_crash_anywhere_while_segments_roll_over_and_go() {
    crash_everywhere(&[
        append(EVENTS, 3, 5000),
        append(STATS, 3, 5000),
        Step::Lease(EVENTS, 3),
        delivered(0, Part::All),
        Step::Time(1),
        append(EVENTS, 3, 5000),
        Step::Lease(STATS, 3),
        delivered(0, Part::All),
        Step::Time(1),
        append(EVENTS, 2, 5000),
    ]);
}

#[test]
fn a_crash_anywhere_with_acknowledgements_out_of_order() {
    crash_everywhere(&[
        append(EVENTS, 8, 1500),
        append(EVENTS, 8, 1500),
        Step::Lease(EVENTS, 4),
        Step::Lease(EVENTS, 4),
        Step::Lease(EVENTS, 8),
        delivered(2, Part::EveryOther),
        delivered(1, Part::All),
        Step::Time(1),
        append(EVENTS, 4, 1500),
        delivered(0, Part::SecondHalf),
        Step::Time(1),
    ]);
}

#[test]
fn a_crash_anywhere_with_dead_letters() {
    let rejected = |part| Step::Answer(0, Outcome::Rejected, part);
    crash_everywhere(&[
        append(EVENTS, 4, 300),
        append(STATS, 2, 900),
        Step::Lease(EVENTS, 4),
        rejected(Part::EveryOther),
        delivered(0, Part::All),
        Step::Lease(STATS, 2),
        rejected(Part::All),
        Step::State(State::RetryInVain(2)),
        Step::Time(1),
        Step::State(State::Retry(3)),
        Step::Time(1),
    ]);
}

#[test]
fn a_crash_anywhere_while_dead_letters_are_compacted() {
    let mut story = vec![Step::Restart(NARROW)];
    for stream in [EVENTS, STATS, EVENTS] {
        story.push(append(stream, 6, 700));
        story.push(Step::Lease(stream, 6));
        story.push(Step::Answer(0, Outcome::Rejected, Part::All));
        story.push(Step::State(State::RetryInVain(3)));
    }
    story.push(Step::State(State::Drop(EVENTS)));
    story.push(Step::Time(1));
    crash_everywhere(&story);
}

#[test]
fn a_crash_anywhere_while_the_oldest_are_dropped() {
    let mut story = vec![Step::Restart(Limits { max_bytes: 96 << 10, when_full: WhenFull::DropOldest, ..NARROW })];
    story.extend((0..7).map(|i| append(Stream::ALL[i % 2], 3, 5000)));
    story.push(Step::Time(1));
    crash_everywhere(&story);
}

#[test]
fn a_crash_anywhere_in_a_purge() {
    crash_everywhere(&[
        append(EVENTS, 3, 5000),
        append(STATS, 3, 4000),
        Step::Lease(EVENTS, 1),
        Step::Purge(EVENTS),
        append(EVENTS, 1, 100),
        Step::Time(1),
        Step::Purge(STATS),
        Step::Time(1),
    ]);
}

#[test]
fn a_crash_anywhere_on_a_full_disk() {
    crash_everywhere(&[
        append(EVENTS, 3, 5000),
        Step::Time(1),
        Step::Fill(6 << 10),
        append(EVENTS, 2, 1500),
        append(EVENTS, 3, 5000),
        Step::Lease(EVENTS, 3),
        delivered(0, Part::All),
        Step::Time(2),
        append(EVENTS, 1, 100),
        Step::Heal,
        Step::Time(2),
        append(EVENTS, 1, 100),
    ]);
}

#[test]
fn a_crash_anywhere_in_a_reload_with_other_limits() {
    crash_everywhere(&[
        append(EVENTS, 3, 5000),
        append(STATS, 2, 3000),
        Step::Lease(EVENTS, 2),
        delivered(0, Part::All),
        Step::Restart(NARROW),
        append(EVENTS, 3, 1000),
        Step::Restart(Limits { when_full: WhenFull::DropOldest, ..WIDE }),
        Step::Lease(EVENTS, 9),
        delivered(0, Part::FirstHalf),
        Step::Restart(WIDE),
    ]);
}
