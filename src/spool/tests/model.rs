//! Random operations against a plain queue, by content and order: appends, deliveries, rejections, restarts, kills, power
//! cuts, failing writes and syncs.

use std::{collections::VecDeque, io::ErrorKind};

use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::{
    memory::{MemoryDisk, MemoryIndex},
    *,
};
use crate::spool::{open, queue::Index, recovery};

#[derive(Debug, Clone)]
enum Step {
    Append {
        stream: Stream,
        records: u64,
        length: usize,
    },
    /// Several callers at once.
    AppendTogether {
        stream: Stream,
        batches: u64,
    },
    /// Hand out, deliver some of them, give back the rest.
    Deliver {
        stream: Stream,
        records: usize,
        deliver: usize,
    },
    /// Hand out and reject.
    Reject {
        stream: Stream,
        records: usize,
    },
    /// Wait for the notes to be written.
    Settle,
    Reopen,
    Kill {
        seed: u64,
    },
    PowerLoss {
        seed: u64,
    },
    FailWrite {
        after: u64,
        full: bool,
        undo_fails: bool,
    },
    FailSync {
        after: u64,
    },
}

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![3 => Just(Stream::Events), 1 => Just(Stream::Stats)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (stream(), 1_u64..40, prop_oneof![Just(10_usize), Just(3000)])
            .prop_map(|(stream, records, length)| Step::Append { stream, records, length }),
        2 => (stream(), 2_u64..6).prop_map(|(stream, batches)| Step::AppendTogether { stream, batches }),
        4 => (stream(), 1_usize..60, 0_usize..60)
            .prop_map(|(stream, records, deliver)| Step::Deliver { stream, records, deliver }),
        1 => (stream(), 1_usize..5).prop_map(|(stream, records)| Step::Reject { stream, records }),
        1 => Just(Step::Settle),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(|seed| Step::Kill { seed }),
        1 => any::<u64>().prop_map(|seed| Step::PowerLoss { seed }),
        1 => (0_u64..3, any::<bool>(), any::<bool>())
            .prop_map(|(after, full, undo_fails)| Step::FailWrite { after, full, undo_fails }),
        1 => (0_u64..3).prop_map(|after| Step::FailSync { after }),
    ]
}

/// What the spool should hold.
#[derive(Debug, Default)]
struct Model {
    /// Numbers that are to be delivered, in order.
    waiting: [VecDeque<u64>; Stream::ALL.len()],
    /// Delivered or set aside; after a crash they may come again.
    done: [Vec<u64>; Stream::ALL.len()],
    /// Refused; after a crash they may come all the same.
    refused: [Vec<u64>; Stream::ALL.len()],
    next: u64,
}

struct World {
    disk: MemoryDisk,
    index: Arc<MemoryIndex>,
    spool: Option<Spool>,
    model: Model,
}

fn memory_options() -> SpoolOptions {
    SpoolOptions { segment_bytes: 256 << 10, ..options() }
}

impl World {
    fn new() -> Self {
        let mut world = Self { disk: MemoryDisk::new(), index: Arc::default(), spool: None, model: Model::default() };
        world.open();
        world
    }

    fn open(&mut self) {
        let folder = Path::new("/spool");
        let checkpoint = self.index.checkpoint().expect("in memory");
        let journal = folder.join("journal");
        let mut recovered = recovery::read(&self.disk, &journal, checkpoint.as_ref()).expect("readable");
        if !recovered.used_checkpoint {
            self.index = Arc::default();
            recovered = recovery::read(&self.disk, &journal, None).expect("readable");
        } else if let Some(checkpoint) = &checkpoint {
            self.index.rewind(checkpoint).expect("in memory");
        }
        let disk = Arc::new(self.disk.clone());
        let index = Arc::clone(&self.index) as Arc<dyn Index>;
        let spool = open::start(folder, memory_options(), disk, Some(index), (checkpoint, None), recovered, None);
        self.spool = Some(spool.expect("the spool opens"));
    }

    fn spool(&self) -> &Spool {
        self.spool.as_ref().expect("open")
    }

    fn numbered(&mut self, stream: Stream, records: u64, length: usize) -> (RecordBatch, Vec<u64>) {
        let numbers: Vec<u64> = (self.model.next..self.model.next + records).collect();
        self.model.next += records;
        let mut builder = RecordBatchBuilder::new(stream);
        for number in &numbers {
            builder.push(format!("{number} {}", "abc".repeat(length / 3)).as_bytes());
        }
        (builder.build(now_millis()), numbers)
    }

    fn answered(&mut self, stream: Stream, numbers: Vec<u64>, taken: bool) {
        let i = stream as usize;
        if taken {
            self.model.waiting[i].extend(numbers);
        } else {
            self.model.refused[i].extend(numbers);
        }
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Append { stream, records, length } => {
                let (batch, numbers) = self.numbered(stream, records, length);
                let taken = self.spool().append(batch).await.is_ok();
                self.answered(stream, numbers, taken);
            }
            Step::AppendTogether { stream, batches } => {
                let made: Vec<_> = (0..batches).map(|_| self.numbered(stream, 5, 10)).collect();
                let (batches, numbers): (Vec<_>, Vec<_>) = made.into_iter().unzip();
                let answers =
                    futures::future::join_all(batches.into_iter().map(|batch| self.spool().append(batch))).await;
                for (answer, numbers) in answers.into_iter().zip(numbers) {
                    self.answered(stream, numbers, answer.is_ok());
                }
            }
            Step::Deliver { stream, records, deliver } => {
                let Some(lease) = self.spool().lease(stream, limit(records)).expect("readable") else { return };
                self.check_prefix(stream, &lease.records);
                let (sent, kept) = lease.records.split_at(deliver.min(lease.records.len()));
                let ranges = |records: &[QueuedRecord]| -> Vec<Range<u64>> {
                    records.iter().map(|record| record.seq..record.seq + 1).collect()
                };
                // Given back first, so that acknowledgements come out of order too.
                self.spool().release(stream, &ranges(kept));
                self.spool().acknowledge(stream, &ranges(sent)).expect("noted");
                let done = self.model.waiting[stream as usize].drain(..sent.len()).collect::<Vec<_>>();
                self.model.done[stream as usize].extend(done);
            }
            Step::Reject { stream, records } => {
                let Some(lease) = self.spool().lease(stream, limit(records)).expect("readable") else { return };
                self.check_prefix(stream, &lease.records);
                let all: Vec<_> = lease.records.iter().map(|record| record.seq..record.seq + 1).collect();
                let rejections = lease.records.into_iter().map(|record| Rejection {
                    record,
                    reason: "no".into(),
                    attempts: 1,
                    first_attempt_at: 0,
                });
                match self.spool().dead_letter(stream, rejections.collect()) {
                    Ok(()) => {
                        let done = self.model.waiting[stream as usize].drain(..all.len()).collect::<Vec<_>>();
                        self.model.done[stream as usize].extend(done);
                    }
                    Err(_) => self.spool().release(stream, &all),
                }
            }
            Step::Settle => tokio::time::sleep(Duration::from_millis(20)).await,
            Step::Reopen => {
                *self.disk.faults.write.lock() = None;
                *self.disk.faults.sync.lock() = None;
                self.spool().close().await;
                self.spool = None;
                self.open();
                self.check_all(false);
            }
            Step::Kill { seed } => {
                let disk = self.disk.after_kill();
                self.crash(disk, seed).await;
            }
            Step::PowerLoss { seed } => {
                let disk = self.disk.after_power_loss(&mut StdRng::seed_from_u64(seed));
                self.crash(disk, seed).await;
            }
            Step::FailWrite { after, full, undo_fails } => {
                let kind = if full { ErrorKind::StorageFull } else { ErrorKind::Other };
                *self.disk.faults.write.lock() = Some((after, kind));
                *self.disk.faults.set_len.lock() = undo_fails.then_some((0, ErrorKind::Other));
            }
            Step::FailSync { after } => *self.disk.faults.sync.lock() = Some((after, ErrorKind::Other)),
        }
    }

    /// Goes on from an image of the disk; the old spool runs out on its own disk.
    async fn crash(&mut self, disk: MemoryDisk, seed: u64) {
        self.disk = disk;
        self.index = match seed % 4 {
            0 => Arc::default(),
            lost => Arc::new(self.index.after_crash(lost == 1)),
        };
        if let Some(spool) = self.spool.take() {
            spool.close().await;
        }
        self.open();
        self.check_all(true);
    }

    fn check_prefix(&self, stream: Stream, records: &[QueuedRecord]) {
        let got: Vec<u64> = numbers(records);
        let wanted: Vec<u64> = self.model.waiting[stream as usize].iter().copied().take(got.len()).collect();
        assert_eq!(got, wanted, "{stream}: the head of the queue, in order");
    }

    /// Looks at everything, then puts it back. After a crash, what was done or refused may be there again.
    fn check_all(&mut self, crashed: bool) {
        for stream in Stream::ALL {
            let i = stream as usize;
            let records = lease_all(self.spool(), stream);
            let got = numbers(&records);
            let waiting: Vec<u64> = self.model.waiting[i].iter().copied().collect();
            if crashed {
                let missing: Vec<_> = waiting.iter().filter(|number| !got.contains(number)).collect();
                assert!(missing.is_empty(), "{stream}: {missing:?} were answered and are gone");
                let known =
                    |number: &u64| self.model.done[i].contains(number) || self.model.refused[i].contains(number);
                let strange: Vec<_> = got.iter().filter(|number| !waiting.contains(number) && !known(number)).collect();
                assert!(strange.is_empty(), "{stream}: {strange:?} came from nowhere");
                assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "{stream}: in order, none twice: {got:?}");
                self.model.waiting[i] = got.iter().copied().collect();
            } else {
                assert_eq!(got, waiting, "{stream}: after a restart");
            }
            let status = self.spool().status();
            let status = &status.streams[&stream];
            assert_eq!(status.records, got.len() as u64, "{stream}: the count");
            assert!(status.dropped.is_empty(), "{stream}: nothing was damaged: {:?}", status.dropped);
            let all: Vec<_> = records.iter().map(|record| record.seq..record.seq + 1).collect();
            self.spool().release(stream, &all);
        }
    }
}

fn numbers(records: &[QueuedRecord]) -> Vec<u64> {
    let number = |record: &QueuedRecord| {
        let text = String::from_utf8_lossy(&record.bytes).into_owned();
        text.split(' ').next().and_then(|number| number.parse().ok()).expect("each record begins with its number")
    };
    records.iter().map(number).collect()
}

fn run(steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new();
        for step in steps {
            world.apply(step).await;
        }
        world.apply(Step::Reopen).await;
    });
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn whatever_happens_what_was_answered_is_delivered_in_order(steps in prop::collection::vec(step(), 1..40)) {
        run(steps);
    }
}
