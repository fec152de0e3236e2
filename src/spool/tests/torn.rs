//! What a power cut leaves of the last group, distinguished from what a medium damages in it: every bit of its headers flipped, every sector of
//! it not written, every length of it cut. Without a queue, which would know what was synced.

use super::{
    memory::{MemoryDisk, NoQueues},
    *,
};
use crate::spool::{
    disk::Disk,
    journal::{block::HEADER_BYTES, segment},
    open,
    quarantine::Quarantine,
    reports::Reports,
    store::Place,
};

const SECTOR: usize = 512;
/// Records of the first group, and of the last one's two blocks.
const FIRST: u64 = 10;
const EVENTS: u64 = 12;
const STATS: u64 = 3;

/// A journal whose last group is in these bytes, and where its blocks begin.
struct Journal {
    disk: MemoryDisk,
    path: PathBuf,
    bytes: Vec<u8>,
    group: Range<usize>,
    blocks: [usize; 2],
}

impl Journal {
    async fn new(stats_bytes: usize) -> Self {
        let disk = MemoryDisk::new();
        let spool = memory::over(&disk, None);
        let store = &spool.shared.store;
        let stats = batch_of(Stream::Stats, (0..STATS).map(|_| "s".repeat(stats_bytes)));
        append_together(store, &[batch(Stream::Events, 0..FIRST)]);
        append_together(store, &[batch(Stream::Events, FIRST..FIRST + EVENTS), stats]);
        let path = segment::path(&store.journal(), 1);
        let bytes = disk.contents(&path);
        let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"LKSB")).collect();
        let [.., events, stats] = places[..] else { panic!("front and three blocks: {places:?}") };
        spool.close().await;
        Self { disk: disk.after_kill(), path, group: events..bytes.len(), blocks: [events, stats], bytes }
    }

    /// What a start finds in these bytes: records to be delivered, and those counted as damaged.
    fn found(&self, bytes: Vec<u8>) -> (u64, u64) {
        let disk = self.disk.after_kill();
        disk.change(&self.path, |contents| *contents = bytes);
        let (disk, home): (Arc<dyn Disk>, _) = (Arc::new(disk), PathBuf::from("/spool"));
        let reports = Arc::new(Reports::new("test".to_owned()));
        let quarantine = Arc::new(Quarantine::new(Arc::clone(&disk), home.clone(), Arc::clone(&reports), false));
        let place = Place { home, disk, queues: Arc::new(NoQueues), reports, quarantine, read_only: false };
        let (shared, _) = open::open_at(place, options()).expect("opens");
        let state = shared.store.state.lock();
        let damaged =
            |stream: &crate::spool::store::state::StreamState| stream.totals.dropped.get(&DropReason::Damaged).copied();
        let streams = || state.streams.iter();
        (streams().map(|stream| stream.records).sum(), streams().filter_map(damaged).sum())
    }

    fn zeroed(&self, bytes: Range<usize>) -> Vec<u8> {
        let mut zeroed = self.bytes.clone();
        zeroed[bytes.start.max(self.group.start)..bytes.end.min(self.group.end)].fill(0);
        zeroed
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_last_group_is_damage_and_counted() {
    let journal = Journal::new(600).await;
    assert_eq!(journal.found(journal.bytes.clone()), (FIRST + EVENTS + STATS, 0));
    for (block, records) in journal.blocks.into_iter().zip([EVENTS, STATS]) {
        // All of its header, and the beginning of its payload.
        for bit in 0..(HEADER_BYTES + 20) * 8 {
            let mut bytes = journal.bytes.clone();
            bytes[block + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                journal.found(bytes),
                (FIRST + EVENTS + STATS - records, records),
                "bit {bit} of the block at {block}"
            );
        }
    }
}

#[tokio::test]
async fn sectors_of_the_last_group_that_were_not_written_make_it_torn_and_nothing_is_counted() {
    // The last sector holds from one byte to all of a block.
    for stats_bytes in [600, 650, 651, 652, 653, 700, 800] {
        let journal = Journal::new(stats_bytes).await;
        let sectors = journal.group.start / SECTOR..journal.group.end.div_ceil(SECTOR);
        for first in sectors.clone() {
            for end in first + 1..=sectors.end {
                let bytes = journal.zeroed(first * SECTOR..end * SECTOR);
                assert_eq!(journal.found(bytes), (FIRST, 0), "sectors {first} to {end} of {}", journal.group.end);
            }
        }
    }
}

#[tokio::test]
async fn every_length_to_which_the_last_group_is_cut_makes_it_torn() {
    let journal = Journal::new(600).await;
    for len in journal.group.clone() {
        assert_eq!(journal.found(journal.bytes[..len].to_vec()), (FIRST, 0), "length {len}");
    }
}
