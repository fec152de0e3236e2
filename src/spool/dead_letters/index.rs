//! The index of the dead letters and their places: about a hundred bytes each, in memory.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::{DeadFilter, Key};
use crate::{
    record::{Stream, UnixMillis},
    spool::queue::ranges::RangeSet,
};

/// Represents a dead letter's key: 128 bits of BLAKE3, which no two keys share.
pub(super) type Fingerprint = u128;

/// Where a dead letter is stored. Ordered as dead letters are listed: those with the oldest last attempt first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    pub(super) last_attempt_at: UnixMillis,
    pub(super) stream: Stream,
    pub(super) seq: u64,
}

/// The dead letters by their keys.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_key: HashMap<Fingerprint, Location>,
}

impl Index {
    pub(super) fn len(&self) -> u64 {
        self.by_key.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn get(&self, stream: Stream, id: &str) -> Option<(Fingerprint, Location)> {
        let key = fingerprint(stream, id);
        self.by_key.get(&key).map(|location| (key, *location))
    }

    /// Where a dead letter is stored now.
    pub(super) fn at(&self, key: Fingerprint) -> Option<Location> {
        self.by_key.get(&key).copied()
    }

    /// Enters a dead letter; returns the one that it replaces. Of two with one key, the one appended later is kept.
    pub(super) fn insert(&mut self, id: &str, location: Location) -> Option<Location> {
        let known = self.by_key.entry(fingerprint(location.stream, id)).or_insert(location);
        if *known == location {
            return None;
        }
        let later = if known.seq > location.seq { *known } else { location };
        let earlier = if known.seq > location.seq { location } else { *known };
        *known = later;
        (earlier.seq != later.seq).then_some(earlier)
    }

    pub(super) fn remove(&mut self, key: Fingerprint) {
        self.by_key.remove(&key);
    }

    /// Removes dead letters that are lost.
    pub(super) fn forget(&mut self, stream: Stream, lost: &Range<u64>) {
        self.by_key.retain(|_, location| location.stream != stream || !lost.contains(&location.seq));
    }

    /// The dead letters that may match a filter, in the order of a list; their reasons are not known here.
    pub(super) fn matching(&self, filter: &DeadFilter, except: &HashSet<Key>) -> Vec<(Fingerprint, Location)> {
        let except: HashSet<Fingerprint> = except.iter().map(|(stream, id)| fingerprint(*stream, id)).collect();
        let is_meant = |(key, location): &(Fingerprint, Location)| {
            filter.stream.is_none_or(|stream| location.stream == stream)
                && filter.before.is_none_or(|time| location.last_attempt_at < time)
                && !except.contains(key)
        };
        let mut found: Vec<_> = match &filter.id {
            Some(id) => Stream::ALL.into_iter().filter_map(|stream| self.get(stream, id)).filter(is_meant).collect(),
            None => self.by_key.iter().map(|(&key, &location)| (key, location)).filter(is_meant).collect(),
        };
        found.sort_unstable_by_key(|(_, location)| *location);
        found
    }

    /// The sequence numbers of a stream's dead letters.
    pub(super) fn seqs(&self, stream: Stream) -> RangeSet {
        let of_stream = self.by_key.values().filter(|location| location.stream == stream);
        let mut seqs: Vec<u64> = of_stream.map(|location| location.seq).collect();
        seqs.sort_unstable();
        seqs.into_iter().map(|seq| seq..seq + 1).collect()
    }
}

fn fingerprint(stream: Stream, id: &str) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[stream as u8]);
    hasher.update(id.as_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}
