//! Long stories by seed.

use std::fmt::Write;

use super::{
    story::{Step, of_seed},
    world::World,
};

/// Tells a story; what it broke, if it did.
pub(super) fn tell(story: &[Step]) -> Result<(), String> {
    let mut world = World::new();
    story.iter().try_for_each(|step| world.step(step))?;
    world.go_on_to_the_end()
}

/// The same story without the steps that it fails without.
pub(super) fn shrink(story: &[Step]) -> Vec<Step> {
    let mut story = story.to_vec();
    let mut size = story.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let before = story.len();
        while at < story.len() {
            let mut shorter = story.clone();
            shorter.drain(at..(at + size).min(story.len()));
            if tell(&shorter).is_err() { story = shorter } else { at += size }
        }
        if story.len() == before || size > 1 {
            size = if size == 1 { 0 } else { size / 2 };
        }
    }
    story
}

/// A story that fails, for people: its steps, the last operations, and what is wrong.
pub(super) fn report(story: &[Step]) -> String {
    let mut world = World::new();
    let mut text = String::new();
    let mut told = |world: &mut World, what: String, result: Result<(), String>| {
        let trace = std::mem::take(world.machine.state().trace.get_or_insert_default());
        let _ = writeln!(text, "{what}");
        trace.iter().for_each(|operation| _ = writeln!(text, "        {operation}"));
        if let Err(error) = &result {
            let _ = writeln!(text, "{error}");
        }
        result
    };
    let _ = told(&mut world, "The story:".to_owned(), Ok(()));
    for step in story {
        let result = world.step(step);
        if told(&mut world, format!("{step:?}"), result).is_err() {
            return text;
        }
    }
    let result = world.go_on_to_the_end();
    let _ = told(&mut world, "The end: sink unavailable, appends, time, restart, drain".to_owned(), result);
    text
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn whatever_happens_in_a_long_story_nothing_that_was_kept_is_lost() {
    let first = number("LIVEKIT_SPOOL_FIRST_SEED").unwrap_or(0);
    let seeds = number("LIVEKIT_SPOOL_SEEDS").unwrap_or(2000);
    for seed in first..first + seeds {
        let story = of_seed(seed);
        let Err(error) = tell(&story) else { continue };
        let shrunk = shrink(&story);
        panic!(
            "seed {seed} fails: {error}\n{}\nRepeat it: LIVEKIT_SPOOL_FIRST_SEED={seed} LIVEKIT_SPOOL_SEEDS=1 cargo test --lib -- long_story",
            report(&shrunk)
        );
    }
}
