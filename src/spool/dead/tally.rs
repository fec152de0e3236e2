//! What damage cost in letters: every block tells how many there are once it is taken in, so what the last one told, less
//! what is there, is lost.
//!
//! One number holds all streams' counts, so that any later block tells of any earlier loss. Behind the blocks of a call
//! comes one that tells the counts and nothing else: damage to the last letters is counted too.

use std::{io, sync::Arc};

use crate::{
    record::Stream,
    spool::{
        block::{HEADER_BYTES, Header, Kind},
        io::DiskFile,
        segment::Damage,
    },
};

/// Letters by stream.
pub(super) type Counts = [u64; Stream::ALL.len()];

/// Set where the counts are told; blocks of earlier builds tell none.
const TOLD: u64 = 1 << 63;
const BITS: u32 = 21;
const MOST: u64 = (1 << BITS) - 1;

/// Counts as a header's ordinal.
pub(super) fn tell(counts: Counts) -> u64 {
    counts.iter().rev().fold(0, |told, &count| told << BITS | count.min(MOST)) | TOLD
}

/// The counts that a header's ordinal tells.
fn told(ordinal: u64) -> Option<Counts> {
    (ordinal & TOLD != 0).then(|| std::array::from_fn(|i| ordinal >> (BITS * i as u32) & MOST))
}

/// Damaged bytes among the letters.
#[derive(Debug, Clone)]
pub(crate) struct DamagedLetters {
    pub(crate) segment: u64,
    pub(crate) damage: Damage,
    /// Letters lost by it that nothing had counted before; `None` where that cannot be told.
    pub(crate) lost: Option<u64>,
}

/// Follows the counts through the files.
#[derive(Debug, Default)]
pub(super) struct Tally {
    told: Option<Counts>,
    /// Bytes behind the last block that tells may have held letters.
    end_is_unknown: bool,
    damaged: Vec<(DamagedLetters, Weight)>,
}

/// How many letters lay in damaged bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// None was ever told that it was kept.
    Torn,
    AtMost(u64),
    Unknown,
}

impl Tally {
    /// Takes in a whole block.
    pub(super) fn block(&mut self, header: &Header) {
        (self.told, self.end_is_unknown) = (told(header.ordinal), false);
    }

    /// Takes in a write that was cut off.
    pub(super) fn torn(&mut self, segment: u64, damage: Damage) {
        self.damaged.push((DamagedLetters { segment, damage, lost: Some(0) }, Weight::Torn));
    }

    /// Takes in damage; counts alone take `least` bytes, letters more.
    pub(super) fn damage(
        &mut self,
        segment: u64,
        damage: Damage,
        file: &Arc<dyn DiskFile>,
        least: u64,
    ) -> io::Result<()> {
        let mut weight = Weight::AtMost(0);
        let mut at = damage.bytes.start;
        while at + least < damage.bytes.end {
            let mut bytes = [0; HEADER_BYTES];
            let read = file.read_at(&mut bytes, at)?;
            let Ok(header) = Header::parse(&bytes[..read]) else {
                weight = Weight::Unknown;
                break;
            };
            if let (Kind::DeadLetters, Weight::AtMost(most)) = (header.kind, &mut weight) {
                *most += u64::from(header.count);
            }
            self.told = told(header.ordinal);
            at += header.block_len();
        }
        self.end_is_unknown |= weight == Weight::Unknown;
        self.damaged.push((DamagedLetters { segment, damage, lost: None }, weight));
        Ok(())
    }

    /// Whether the files tell another number than the letters that are there.
    pub(super) fn differs(&self, there: Counts) -> bool {
        self.told.unwrap_or_default() != there
    }

    /// What is lost, by stream, and by the damage that did it, as far as that can be told.
    pub(super) fn finish(mut self, there: Counts) -> (Counts, Vec<DamagedLetters>) {
        let counts = self.told.unwrap_or(there);
        let lost: Counts = std::array::from_fn(|i| counts[i].saturating_sub(there[i]));
        let mut rest: u64 = lost.iter().sum();
        let unknown = self.damaged.iter().filter(|(_, weight)| *weight == Weight::Unknown).count();
        for (damaged, weight) in &mut self.damaged {
            if let Weight::AtMost(most) = *weight
                && (self.told.is_some() || most == 0)
            {
                damaged.lost = Some(most.min(rest));
                rest -= most.min(rest);
            }
        }
        // Headers that do not hold: what is left is theirs, if it can be told whose.
        if self.told.is_some() && !self.end_is_unknown && (unknown == 1 || rest == 0) {
            let of_unknown = self.damaged.iter_mut().filter(|(_, weight)| *weight == Weight::Unknown);
            of_unknown.for_each(|(damaged, _)| damaged.lost = Some(rest));
        }
        (lost, self.damaged.into_iter().map(|(damaged, _)| damaged).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_back_as_they_were_told() {
        for counts in [[0, 0, 0], [1, 2, 3], [500_000, 0, MOST], [MOST, MOST, MOST]] {
            assert_eq!(told(tell(counts)), Some(counts));
        }
        assert_eq!(told(0), None, "earlier builds told nothing");
    }
}
