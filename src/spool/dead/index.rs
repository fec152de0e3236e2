//! Which letters there are and where they lie: in memory, some hundred bytes a letter, however long its `_id` is.
//!
//! A letter counts with its share of the block it lies in. What a segment has beyond its letters' shares is garbage:
//! letters that are gone or were replaced, and notes of removals.

use std::collections::{BTreeMap, HashMap};

use super::{DeadLetter, Key};
use crate::record::{Stream, UnixMillis};

/// Stands for a key; two keys never share one (128 bits of BLAKE3).
type Fingerprint = u128;

/// Where a letter lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    /// Of its block.
    pub(super) offset: u32,
    /// In its block.
    pub(super) nth: u32,
}

impl Place {
    /// Where its block lies.
    pub(super) const fn block(self) -> BlockKey {
        (self.segment, self.offset)
    }
}

/// A letter, as far as it is known without reading it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    last_attempt_at: UnixMillis,
    place: Place,
}

/// A block with letters.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// How many of them are still there.
    live: u32,
    /// What each counts.
    share: u32,
}

/// Where a block lies: segment, offset. Blocks are in the order in which they were written.
pub(super) type BlockKey = (u64, u32);

/// All letters.
#[derive(Debug, Default)]
pub(super) struct Index {
    letters: HashMap<Fingerprint, Entry>,
    blocks: BTreeMap<BlockKey, Block>,
    counts: [u64; Stream::ALL.len()],
    live_bytes: u64,
}

impl Index {
    /// How many letters there are.
    pub(super) fn len(&self) -> u64 {
        self.letters.len() as u64
    }

    /// How many letters each stream has.
    pub(super) const fn counts(&self) -> [u64; Stream::ALL.len()] {
        self.counts
    }

    /// What all letters count.
    pub(super) const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Enters a block; letters that were elsewhere are here from now on.
    pub(super) fn enter(&mut self, (segment, offset): BlockKey, bytes: u64, letters: &[DeadLetter]) {
        let share = (bytes / letters.len().max(1) as u64) as u32;
        self.blocks.insert((segment, offset), Block { live: 0, share });
        for (letter, nth) in letters.iter().zip(0..) {
            let entry = Entry { last_attempt_at: letter.last_attempt_at, place: Place { segment, offset, nth } };
            match self.letters.insert(fingerprint(letter.stream, &letter.id), entry) {
                Some(earlier) => self.leave(earlier.place),
                None => self.counts[letter.stream as usize] += 1,
            }
            if let Some(block) = self.blocks.get_mut(&(segment, offset)) {
                block.live += 1;
                self.live_bytes += u64::from(share);
            }
        }
    }

    /// Forgets a letter; false if there was none.
    pub(super) fn forget(&mut self, (stream, id): &Key) -> bool {
        let Some(entry) = self.letters.remove(&fingerprint(*stream, id)) else { return false };
        self.counts[*stream as usize] -= 1;
        self.leave(entry.place);
        true
    }

    /// A block has a letter less.
    fn leave(&mut self, place: Place) {
        let key = (place.segment, place.offset);
        if let Some(block) = self.blocks.get_mut(&key) {
            block.live -= 1;
            self.live_bytes -= u64::from(block.share);
            if block.live == 0 {
                self.blocks.remove(&key);
            }
        }
    }

    /// Where a letter lies.
    pub(super) fn place(&self, stream: Stream, id: &str) -> Option<Place> {
        self.letters.get(&fingerprint(stream, id)).map(|entry| entry.place)
    }

    /// Where all letters lie: those that were tried longest ago first.
    pub(super) fn places(&self) -> Vec<Place> {
        let mut entries: Vec<Entry> = self.letters.values().copied().collect();
        entries.sort_unstable_by_key(|entry| (entry.last_attempt_at, entry.place));
        entries.into_iter().map(|entry| entry.place).collect()
    }

    /// The first block at or after a place that has letters.
    pub(super) fn block_from(&self, from: BlockKey) -> Option<BlockKey> {
        self.blocks.range(from..).next().map(|(key, _)| *key)
    }

    /// The blocks of a segment that have letters.
    pub(super) fn blocks_of(&self, segment: u64) -> Vec<BlockKey> {
        self.blocks.range((segment, 0)..=(segment, u32::MAX)).map(|(key, _)| *key).collect()
    }

    /// How many letters of a block are still there.
    pub(super) fn live(&self, block: BlockKey) -> u32 {
        self.blocks.get(&block).map_or(0, |block| block.live)
    }

    /// Whether a segment has letters.
    pub(super) fn has_letters(&self, segment: u64) -> bool {
        self.blocks.range((segment, 0)..=(segment, u32::MAX)).next().is_some()
    }
}

fn fingerprint(stream: Stream, id: &str) -> Fingerprint {
    let hash = blake3::Hasher::new().update(&[stream as u8]).update(id.as_bytes()).finalize();
    hash.as_bytes().iter().take(size_of::<Fingerprint>()).fold(0, |value, &byte| value << 8 | Fingerprint::from(byte))
}
