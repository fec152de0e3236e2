//! The indices of the entries of a large map, by their keys: a hash table that a hostile record cannot slow down.
//!
//! Open addressing, at most half full. A slot has four bytes: a part of the key's hash, and the entry's index plus one.
//!
//! The hash is foldhash, for its speed with short keys. Its secret comes from addresses in memory, and it does not promise
//! to resist deliberate collisions. So the length of a search is limited to what chance explains. At the limit the table
//! changes to SipHash with random keys from the system, for which nobody can choose colliding keys.

use std::hash::{BuildHasher, Hasher};

use super::parts::MAX_PARTS;

/// Bits of a slot for the index.
const INDEX: u32 = (1 << INDEX_BITS) - 1;
const INDEX_BITS: u32 = 21;
const _: () = assert!(MAX_PARTS < INDEX as usize);

/// The maximum slots in use that a search passes. In the largest table, half full, a chain of this length occurs by chance
/// about once in ten thousand times, and changing the hash then costs little.
const MAX_SEARCH: usize = 128;

#[derive(Default)]
pub(super) struct KeyIndex {
    slots: Vec<u32>,
    used: usize,
    hash: Hash,
}

enum Hash {
    Quick(foldhash::fast::RandomState),
    /// After the quick hash put too many keys in a row.
    Keyed(std::hash::RandomState),
}

impl Default for Hash {
    fn default() -> Self {
        Self::Quick(foldhash::fast::RandomState::default())
    }
}

impl Hash {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a part of the hash")]
    fn of(&self, key: &[u8]) -> u32 {
        match self {
            Self::Quick(state) => {
                let mut hasher = state.build_hasher();
                hasher.write(key);
                hasher.finish() as u32
            }
            Self::Keyed(state) => state.hash_one(key) as u32,
        }
    }
}

impl KeyIndex {
    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The index of a key; a new key gets the next one. Indices are given in order.
    #[inline]
    pub(super) fn find_or_insert<'k>(
        &mut self,
        key: &[u8],
        new: usize,
        key_of: impl Fn(usize) -> &'k [u8],
    ) -> Option<usize> {
        if self.used * 2 >= self.slots.len() {
            self.rebuild(self.slots.len() * 4, new, &key_of);
        }
        loop {
            let mask = self.slots.len() - 1;
            let hash = self.hash.of(key);
            let mut at = hash as usize & mask;
            for _ in 0..MAX_SEARCH {
                let slot = self.slots[at];
                if slot == 0 {
                    self.slots[at] = slot_of(hash, new);
                    self.used += 1;
                    return None;
                }
                let index = (slot & INDEX) as usize - 1;
                if (slot ^ hash) >> INDEX_BITS == 0 && key_of(index) == key {
                    return Some(index);
                }
                at = (at + 1) & mask;
            }
            self.hash = Hash::Keyed(std::hash::RandomState::new());
            self.rebuild(self.slots.len(), new, &key_of);
        }
    }

    /// Builds a table of `len` slots, a power of two, for the existing entries.
    #[cold]
    pub(super) fn rebuild<'k>(&mut self, len: usize, entries: usize, key_of: impl Fn(usize) -> &'k [u8]) {
        self.slots.clear();
        self.slots.resize(len, 0);
        self.used = entries;
        for index in 0..entries {
            let hash = self.hash.of(key_of(index));
            let mut at = hash as usize & (len - 1);
            while self.slots[at] != 0 {
                at = (at + 1) & (len - 1);
            }
            self.slots[at] = slot_of(hash, index);
        }
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "indices are below MAX_PARTS")]
fn slot_of(hash: u32, index: usize) -> u32 {
    hash & !INDEX | (index + 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enters each key twice, as a map does.
    fn enter(key_index: &mut KeyIndex, keys: &[Vec<u8>]) {
        let key_of = |index: usize| &keys[index][..];
        key_index.rebuild(64, 0, key_of);
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(key_index.find_or_insert(key, index, key_of), None);
            assert_eq!(key_index.find_or_insert(key, index + 1, key_of), Some(index));
        }
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(key_index.find_or_insert(key, keys.len(), key_of), Some(index));
        }
    }

    #[test]
    fn keys_are_found_where_they_were_entered() {
        let mut key_index = KeyIndex::default();
        enter(&mut key_index, &(0..100_000).map(|n| format!("{n:x}").into_bytes()).collect::<Vec<_>>());
        assert!(matches!(key_index.hash, Hash::Quick(_)), "chance alone changes no hash");
    }

    #[test]
    fn keys_that_were_chosen_to_collide_are_found_by_another_hash() {
        let mut key_index = KeyIndex::default();
        // As an attacker who knew the secret could: they collide in every table of up to 2^12 slots.
        let colliding = |key: &Vec<u8>| key_index.hash.of(key) & 0xFFF == 0x123;
        let keys: Vec<_> =
            (0..).map(|n: u64| n.to_string().into_bytes()).filter(colliding).take(2 * MAX_SEARCH).collect();
        enter(&mut key_index, &keys);
        assert!(matches!(key_index.hash, Hash::Keyed(_)));
    }
}
