//! Random operations on dead letters against a plain map: they come, come again and go, with failing writes, syncs,
//! renamings and queues, kills and power cuts, in a quota so small that space has to be freed all the time.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use self::faults::{FakeQueue, FaultyDisk};
use super::{memory::NoQueues, *};
use crate::{
    spool::{
        dead_letters::{DeadError, DeadLetters},
        disk::{Disk, RealDisk},
        quarantine::Quarantine,
        queue::{QueueStore, memory::MemoryQueue},
        reports::Reports,
        store::Place,
    },
    testing::cases,
};

mod faults;

const QUOTA: u64 = 128 << 10;
/// So few that many come again.
const IDS: u64 = 20;
/// The longest group, which may be there refused where it could not be cut off, and pages that are begun.
const SLACK: u64 = 44 << 10;

#[derive(Debug, Clone)]
enum Step {
    Add { ids: Vec<u64>, length: usize },
    Remove { ids: Vec<u64> },
    DropAll,
    Maintain,
    FailWrite { after: u64, undo_fails: bool },
    FailSync { after: u64 },
    FailRename { after: u64 },
    FailQueue { after: u64 },
    FailFlush,
    Kill,
    PowerCut { seed: u64 },
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
        1 => Just(Step::Maintain),
        1 => (0_u64..3, any::<bool>()).prop_map(|(after, undo_fails)| Step::FailWrite { after, undo_fails }),
        1 => (0_u64..3).prop_map(|after| Step::FailSync { after }),
        1 => (0_u64..2).prop_map(|after| Step::FailRename { after }),
        2 => (0_u64..4).prop_map(|after| Step::FailQueue { after }),
        1 => Just(Step::FailFlush),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(|seed| Step::PowerCut { seed }),
    ]
}

/// A letter's attempts, and how long its record is; `None` where there is none.
type Letter = Option<(u32, usize)>;

struct World {
    directory: tempfile::TempDir,
    disk: FaultyDisk,
    queue: Arc<FakeQueue>,
    dead: DeadLetters,
    model: BTreeMap<u64, (u32, usize)>,
    /// What an operation that failed may have left, once the files are read again.
    perhaps: BTreeMap<u64, Vec<Letter>>,
    /// Letters that were removed while no queue was on disk: a restart may bring them again.
    may_return: BTreeSet<u64>,
}

fn open_dead(home: &Path, disk: &FaultyDisk, queue: &Arc<FakeQueue>) -> DeadLetters {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    disk.make_directory(&home.join("journal")).expect("made");
    let reports = Arc::new(Reports::new("test".to_owned()));
    let quarantine = Arc::new(Quarantine::new(Arc::clone(&disk), home.to_owned(), Arc::clone(&reports), false));
    let place =
        Place { home: home.to_owned(), disk, queues: Arc::new(NoQueues), reports, quarantine, read_only: false };
    let options = SpoolOptions { compression: Compression::NONE, ..options() };
    let queue: Arc<dyn QueueStore> = Arc::clone(queue) as _;
    DeadLetters::open(place, &options, QUOTA, Some(queue)).expect("opens").0
}

fn dead_letter(id: u64, attempts: u32, length: usize) -> DeadLetter {
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
        let directory = tempfile::tempdir().expect("a directory");
        let (disk, queue) = (FaultyDisk::default(), Arc::<FakeQueue>::default());
        let dead = open_dead(directory.path(), &disk, &queue);
        let (model, perhaps, may_return) = Default::default();
        Self { directory, disk, queue, dead, model, perhaps, may_return }
    }

    fn apply(&mut self, step: &Step) {
        let faults = &self.disk.0;
        match step {
            Step::Add { ids, length } => self.add(ids.clone(), *length),
            Step::Remove { ids } => self.remove(ids),
            Step::DropAll => {
                let there = self.model.len() as u64;
                let durable = match self.dead.drop_matching(&DeadFilter::default()) {
                    Ok(removed) => {
                        assert_eq!(removed, there);
                        self.dead.queue_health().0
                    }
                    Err(DeadError::NotDurable { removed, .. }) => {
                        assert_eq!(removed, there);
                        false
                    }
                    Err(error) => panic!("dropping is never refused: {error}"),
                };
                self.gone(&self.model.keys().copied().collect::<Vec<_>>(), durable);
            }
            Step::Maintain => {
                // A queue is put on disk again only where there is much space: here there is little.
                self.dead.maintain(5 << 20);
            }
            Step::FailWrite { after, undo_fails } => {
                *faults.write.lock() = Some(*after);
                *faults.set_len.lock() = undo_fails.then_some(0);
            }
            Step::FailSync { after } => *faults.sync.lock() = Some(*after),
            Step::FailRename { after } => *faults.rename.lock() = Some(*after),
            Step::FailQueue { after } => *self.queue.fail_apply.lock() = Some(*after),
            Step::FailFlush => *self.queue.fail_flush.lock() = Some(0),
            Step::Kill => self.restart(None),
            Step::PowerCut { seed } => self.restart(Some(*seed)),
        }
        self.check();
    }

    fn add(&mut self, mut ids: Vec<u64>, length: usize) {
        ids.sort_unstable();
        ids.dedup();
        let attempts = |id| self.model.get(id).map_or(1, |(attempts, _)| attempts + 1);
        let added: Vec<_> = ids.iter().map(|id| (*id, (attempts(id), length))).collect();
        match self.dead.add(ids.iter().map(|&id| dead_letter(id, 1, length)).collect()) {
            Ok(()) => {
                // The front of the next segment says where the one before it ends: what was refused is gone for good.
                self.perhaps.clear();
                self.model.extend(added);
            }
            Err(DeadError::Full { .. }) => {
                assert!(ids.len() > 1 || !self.model.is_empty(), "one letter alone is always kept");
            }
            Err(_) => added
                .into_iter()
                .for_each(|(id, dead_letter)| self.perhaps.entry(id).or_default().push(Some(dead_letter))),
        }
    }

    fn remove(&mut self, ids: &[u64]) {
        let keys: Vec<_> = ids.iter().map(|id| (Stream::Stats, id.to_string())).collect();
        let there: Vec<u64> = self.model.keys().copied().filter(|id| ids.contains(id)).collect();
        assert_eq!(self.dead.remove(&keys).expect("removing is never refused"), there.len() as u64);
        self.gone(&there, self.dead.queue_health().0);
    }

    fn gone(&mut self, ids: &[u64], durable: bool) {
        self.model.retain(|id, _| !ids.contains(id));
        if !durable {
            self.may_return.extend(ids);
        }
    }

    /// What was answered is there; what failed is there or not.
    fn restart(&mut self, power_cut: Option<u64>) {
        let after = tempfile::tempdir().expect("a directory");
        copy(self.directory.path(), after.path());
        let durable = self.dead.queue_health().0;
        if let Some(seed) = power_cut {
            let mut random = StdRng::seed_from_u64(seed);
            for (path, &synced) in &*self.disk.0.synced.lock() {
                let path = after.path().join(path.strip_prefix(self.directory.path()).expect("in it"));
                let Ok(metadata) = path.metadata() else { continue };
                if metadata.len() > synced {
                    let file = fs::OpenOptions::new().write(true).open(&path).expect("writable");
                    file.set_len(random.random_range(synced..=metadata.len())).expect("cut");
                }
            }
        }
        let queue = match power_cut {
            // Its files were emptied when it failed: any time a removal was not flushed before is another matter.
            _ if !durable => {
                self.may_return.extend(0..IDS);
                FakeQueue::over(&MemoryQueue::default())
            }
            None => FakeQueue::over(&self.queue.now),
            Some(_) => FakeQueue::over(&*self.queue.flushed.lock()),
        };
        self.disk = FaultyDisk::default();
        self.dead = open_dead(after.path(), &self.disk, &queue);
        (self.directory, self.queue) = (after, queue);
        self.adopt();
        self.perhaps.clear();
        self.may_return.clear();
    }

    fn adopt(&mut self) {
        let found = self.found();
        for id in 0..IDS {
            let (was, is) = (self.model.get(&id).copied(), found.get(&id).copied());
            let perhaps = self.perhaps.get(&id).is_some_and(|perhaps| perhaps.contains(&is));
            let returned = was.is_none() && self.may_return.contains(&id);
            assert!(is == was || perhaps || returned, "letter {id}: {was:?} before, {is:?} after");
        }
        self.model = found;
        assert_eq!(self.dead.lost(Stream::Stats), 0, "no byte was damaged");
    }

    fn found(&self) -> BTreeMap<u64, (u32, usize)> {
        let dead_letters = self.dead.list(&DeadFilter::default(), &HashSet::new(), 0, 1000).expect("readable");
        let count = dead_letters.len();
        let number = |found: DeadLetter| {
            let id: u64 = found.id.parse().expect("a number");
            assert_eq!(found.record, vec![id as u8; found.record.len()]);
            (id, (found.attempts, found.record.len()))
        };
        let found: BTreeMap<_, _> = dead_letters.into_iter().map(number).collect();
        assert_eq!(found.len(), count, "none twice");
        found
    }

    fn check(&self) {
        assert_eq!(self.found(), self.model);
        // Where the queue failed at that, what was removed is in the new one until the next operation.
        assert_eq!(self.found(), self.model);
        assert_eq!(self.dead.count(Stream::Stats), self.model.len() as u64);
        assert!(self.dead.bytes() <= QUOTA + SLACK, "{} bytes", self.dead.bytes());
        let files = RealDisk.list(&self.directory.path().join("journal")).expect("readable");
        let on_disk: u64 = files.iter().map(|file| file.len).sum();
        assert!(on_disk <= self.dead.bytes() + SLACK, "measured, not guessed: {on_disk} and {}", self.dead.bytes());
    }
}

fn run(steps: &[Step]) {
    let mut world = World::new();
    steps.iter().for_each(|step| world.apply(step));
    world.apply(&Step::DropAll);
    world.apply(&Step::DropAll);
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn whatever_happens_the_letters_that_were_answered_are_there_with_their_history(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(&steps);
    }
}

#[test]
fn letters_that_were_removed_do_not_come_back_when_the_queue_is_made_again() {
    let add = |ids: &[u64]| Step::Add { ids: ids.to_vec(), length: 1000 };
    run(&[
        add(&[1, 2, 3, 4, 5]),
        Step::Remove { ids: vec![1, 3] },
        Step::FailQueue { after: 0 },
        Step::Remove { ids: vec![2] },
        add(&[6]),
        Step::Maintain,
        Step::Kill,
    ]);
}

#[test]
fn a_removed_dead_letter_stays_removed_when_a_power_cut_reverts_the_queue_to_that_moment() {
    let add = |ids: &[u64], length| Step::Add { ids: ids.to_vec(), length };
    run(&[
        add(&[25], 10),
        add(&[4, 9], 10),
        // Behind one that stays, and flushed.
        Step::Remove { ids: vec![9] },
        // The front of their segment knows of the first one what the queue that was flushed does not.
        add(&[0, 25], 5000),
        add(&[0], 10),
        Step::PowerCut { seed: 0 },
    ]);
}

#[test]
fn a_write_that_a_power_cut_tore_in_its_middle_is_no_loss() {
    for seed in 0..64 {
        run(&[
            Step::FailSync { after: 0 },
            Step::FailWrite { after: 2, undo_fails: true },
            Step::Add { ids: vec![0], length: 5000 },
            Step::PowerCut { seed },
        ]);
    }
}

#[test]
fn a_refused_dead_letter_stays_refused_when_the_segment_that_says_so_goes() {
    let add = |id| Step::Add { ids: vec![id], length: 10 };
    run(&[
        add(1),
        Step::FailSync { after: 0 },
        Step::FailWrite { after: 5, undo_fails: true },
        add(0),
        add(14),
        Step::FailWrite { after: 0, undo_fails: true },
        add(0),
        add(2),
        Step::FailFlush,
        Step::Remove { ids: vec![14] },
        Step::Kill,
    ]);
}

#[test]
fn what_went_before_the_newest_front_is_no_loss_where_the_queue_fails_after_the_last_removal_behind_it() {
    let add = |ids: &[u64], length| Step::Add { ids: ids.to_vec(), length };
    run(&[
        add(&[8, 1], 5000),
        add(&[1, 2], 5000),
        // The first segment goes, and the front of the third one says so.
        Step::Remove { ids: vec![8] },
        add(&[9], 10),
        Step::Kill,
        Step::FailQueue { after: 0 },
        Step::Remove { ids: vec![9] },
        Step::Kill,
    ]);
}
