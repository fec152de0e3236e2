//! Random operations on dead letters against a plain map: letters come, come again and go, beside failing writes,
//! syncs and deletions, kills and power cuts, in a quota so small that space has to be given back all the time.

use std::{collections::BTreeMap, io::ErrorKind};

use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::{memory::MemoryDisk, *};
use crate::spool::{
    codec::{Packer, Unpacker},
    dead::{DeadError, DeadLetters},
    io::Disk,
};

const QUOTA: u64 = 64 << 10;
/// So few that many come again.
const IDS: u64 = 40;

#[derive(Debug, Clone)]
enum Step {
    Add { ids: Vec<u64>, length: usize },
    Remove { ids: Vec<u64> },
    DropAll,
    FailWrite { after: u64, undo_fails: bool },
    FailSync { after: u64 },
    FailRemove { after: u64 },
    Kill,
    PowerLoss { seed: u64 },
}

fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..IDS, 1..8)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (ids(), prop_oneof![Just(10_usize), Just(1000), Just(5000)])
            .prop_map(|(ids, length)| Step::Add { ids, length }),
        4 => ids().prop_map(|ids| Step::Remove { ids }),
        1 => Just(Step::DropAll),
        1 => (0_u64..3, any::<bool>()).prop_map(|(after, undo_fails)| Step::FailWrite { after, undo_fails }),
        1 => (0_u64..3).prop_map(|after| Step::FailSync { after }),
        1 => (0_u64..2).prop_map(|after| Step::FailRemove { after }),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(|seed| Step::PowerLoss { seed }),
    ]
}

/// A letter's attempts, and how long its record is; `None` where there is none.
type Letter = Option<(u32, usize)>;

struct World {
    disk: MemoryDisk,
    dead: DeadLetters,
    model: BTreeMap<u64, (u32, usize)>,
    /// What an operation that failed may have left, once the files are read again.
    perhaps: BTreeMap<u64, Vec<Letter>>,
}

fn open(disk: &MemoryDisk) -> DeadLetters {
    let packer = Packer::new(Compression::None, None).expect("a packer");
    let unpacker = Unpacker::new(None).expect("an unpacker");
    DeadLetters::open(Arc::new(disk.clone()), "/dead".into(), QUOTA, packer, unpacker).expect("opens")
}

fn letter(id: u64, attempts: u32, length: usize) -> DeadLetter {
    DeadLetter {
        stream: Stream::Stats,
        id: id.to_string(),
        received_at: 0,
        reason: "no".to_owned(),
        attempts,
        first_attempt_at: 0,
        last_attempt_at: 0,
        record: vec![id as u8; length],
    }
}

impl World {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        Self { dead: open(&disk), disk, model: BTreeMap::new(), perhaps: BTreeMap::new() }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Add { mut ids, length } => {
                ids.sort_unstable();
                ids.dedup();
                let after =
                    |model: &BTreeMap<u64, (u32, usize)>, id| model.get(id).map_or(1, |(attempts, _)| attempts + 1);
                let added: Vec<_> = ids.iter().map(|id| (*id, (after(&self.model, id), length))).collect();
                match self.dead.add(ids.iter().map(|&id| letter(id, 1, length)).collect()) {
                    Ok(()) => {
                        self.perhaps.retain(|id, _| !ids.contains(id));
                        self.model.extend(added);
                    }
                    Err(DeadError::Full { .. }) => {}
                    Err(_) => {
                        added.into_iter().for_each(|(id, letter)| self.suspect(id, Some(letter)));
                        // A part of them may be durable.
                        self.adopt();
                    }
                }
            }
            Step::Remove { ids } => self.remove(&ids),
            Step::DropAll => {
                let all: Vec<u64> = self.model.keys().copied().collect();
                self.remove(&all);
            }
            Step::FailWrite { after, undo_fails } => {
                *self.disk.faults.write.lock() = Some((after, ErrorKind::StorageFull));
                *self.disk.faults.set_len.lock() = undo_fails.then_some((0, ErrorKind::Other));
            }
            Step::FailSync { after } => *self.disk.faults.sync.lock() = Some((after, ErrorKind::Other)),
            Step::FailRemove { after } => *self.disk.faults.remove.lock() = Some((after, ErrorKind::Other)),
            Step::Kill => self.restart(self.disk.after_kill()),
            Step::PowerLoss { seed } => self.restart(self.disk.after_power_loss(&mut StdRng::seed_from_u64(seed))),
        }
        self.check();
    }

    fn remove(&mut self, ids: &[u64]) {
        let keys: Vec<_> = ids.iter().map(|id| (Stream::Stats, id.to_string())).collect();
        let there =
            ids.iter().filter(|id| self.model.contains_key(id)).collect::<std::collections::BTreeSet<_>>().len();
        match self.dead.remove(&keys) {
            Ok(removed) => {
                assert_eq!(removed, there as u64);
                self.perhaps.retain(|id, _| !(ids.contains(id) && self.model.contains_key(id)));
                self.model.retain(|id, _| !ids.contains(id));
            }
            Err(DeadError::Full { .. }) => panic!("removing is never refused for lack of quota"),
            Err(_) => ids.iter().for_each(|id| self.suspect(*id, None)),
        }
    }

    fn suspect(&mut self, id: u64, letter: Letter) {
        self.perhaps.entry(id).or_default().push(letter);
    }

    /// What was answered is there; what failed is there or not.
    fn restart(&mut self, disk: MemoryDisk) {
        self.disk = disk;
        self.dead = open(&self.disk);
        self.dead.sync().expect("a spool does so before it counts on them");
        assert_eq!(self.dead.lost(), [0; 3], "no byte was damaged");
        self.adopt();
        self.perhaps.clear();
    }

    fn adopt(&mut self) {
        let found = self.found();
        for id in 0..IDS {
            let (was, is) = (self.model.get(&id).copied(), found.get(&id).copied());
            let allowed = self.perhaps.get(&id).is_some_and(|perhaps| perhaps.contains(&is));
            assert!(is == was || allowed, "letter {id}: {was:?} before, {is:?} after");
        }
        self.model = found;
    }

    fn found(&self) -> BTreeMap<u64, (u32, usize)> {
        let letters = self.dead.list(&DeadFilter::default(), &Default::default(), 0, 1000).expect("readable");
        let count = letters.len();
        let found: BTreeMap<_, _> = letters
            .into_iter()
            .map(|found| {
                let id: u64 = found.id.parse().expect("a number");
                assert_eq!(found.record, vec![id as u8; found.record.len()]);
                (id, (found.attempts, found.record.len()))
            })
            .collect();
        assert_eq!(found.len(), count, "none twice");
        found
    }

    fn check(&self) {
        assert_eq!(self.found(), self.model);
        assert_eq!(self.dead.count(Stream::Stats), self.model.len() as u64);
        assert!(
            self.dead.bytes() <= QUOTA + 2048,
            "{} bytes; notes of removals may go beyond, by little",
            self.dead.bytes()
        );
        let files = self.disk.list(Path::new("/dead")).expect("in memory");
        assert!(files.iter().map(|(_, bytes)| bytes).sum::<u64>() >= self.dead.bytes(), "measured, not guessed");
    }
}

fn run(steps: Vec<Step>) {
    let mut world = World::new();
    steps.into_iter().for_each(|step| world.apply(step));
    world.apply(Step::DropAll);
    world.apply(Step::DropAll);
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn whatever_happens_the_letters_that_were_answered_are_there_with_their_history(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(steps);
    }
}

#[test]
fn a_removal_that_was_refused_and_is_on_the_disk_all_the_same_is_no_loss() {
    run(vec![
        Step::Add { ids: vec![0, 10], length: 5000 },
        Step::Add { ids: vec![0], length: 10 },
        Step::FailSync { after: 0 },
        Step::FailWrite { after: 1, undo_fails: true },
        Step::Remove { ids: vec![0] },
        Step::Add { ids: vec![0], length: 10 },
        Step::Add { ids: vec![10], length: 10 },
        Step::Kill,
    ]);
}

#[test]
fn a_write_that_a_power_cut_tore_in_its_middle_is_no_loss() {
    for seed in 0..64 {
        run(vec![
            Step::FailSync { after: 0 },
            Step::FailWrite { after: 2, undo_fails: true },
            Step::Add { ids: vec![0], length: 5000 },
            Step::PowerLoss { seed },
        ]);
    }
}

#[test]
fn letters_stay_removed_where_a_deletion_was_not_durable_when_the_next_one_failed() {
    let add = |ids: &[u64], length| Step::Add { ids: ids.to_vec(), length };
    let fail_write = || Step::FailWrite { after: 0, undo_fails: false };
    run(vec![
        add(&[0, 1, 2], 1000),
        add(&[0], 1000),
        add(&[38], 10),
        add(&[0, 16], 5000),
        fail_write(),
        add(&[0], 10),
        Step::Remove { ids: vec![38] },
        Step::FailRemove { after: 1 },
        Step::DropAll,
        add(&[18], 1000),
        fail_write(),
        add(&[0], 10),
        add(&[32, 5], 10),
        Step::FailRemove { after: 0 },
        Step::Remove { ids: vec![18] },
        Step::FailSync { after: 2 },
        Step::Remove { ids: vec![32] },
        Step::FailSync { after: 1 },
        Step::DropAll,
        Step::PowerLoss { seed: 11_661_329_465_102_898_183 },
    ]);
}
