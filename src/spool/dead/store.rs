//! Letters in files and where each lies: the two change together.

use std::{collections::HashSet, io, ops::Range, path::PathBuf};

use super::{
    DeadError, DeadFilter, DeadLetter, Key,
    index::{BlockKey, Index, Place},
    log::{Draft, Log},
    removal::Removal,
    tally::{Counts, DamagedLetters, Tally},
};
use crate::{
    record::Stream,
    spool::{
        block::{BadBlock, Header, Kind},
        codec::BadPayload,
        segment::{Damage, Found},
        state::{decode, encode},
    },
};

/// So much is moved at once, unpacked.
const MOVED_RAW_BYTES: usize = 4 << 20;

/// The letters: their files, and where each lies.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) index: Index,
    pub(super) log: Log,
    /// Damage met at opening, and the letters it cost, by stream.
    pub(super) damage: Vec<DamagedLetters>,
    pub(super) lost: Counts,
    /// Letters that cannot be opened: where, and the id of the key that is missing.
    locked: Option<(PathBuf, String)>,
    /// Garbage that rewriting everything left: estimates are not exact.
    pub(super) residue: u64,
}

impl Store {
    /// Takes in what the files hold.
    pub(super) fn open(log: Log) -> io::Result<Self> {
        let (index, lost) = (Index::default(), Counts::default());
        let mut store = Self { index, log, damage: Vec::new(), lost, locked: None, residue: 0 };
        let mut tally = Tally::default();
        for segment in store.log.segments().clone().into_keys() {
            store.take_in(segment, &mut tally)?;
        }
        let there = store.index.counts();
        store.log.unsettled = tally.differs(there);
        (store.lost, store.damage) = tally.finish(there);
        if store.locked.is_some() {
            // What cannot be read is not lost.
            store.lost = Counts::default();
            store.damage.iter_mut().for_each(|damaged| damaged.lost = None);
        }
        Ok(store)
    }

    /// Takes in what a segment holds.
    fn take_in(&mut self, segment: u64, tally: &mut Tally) -> io::Result<()> {
        let mut walker = self.log.walk(segment)?;
        // From a write that was cut off on: nobody was told of what is left of it.
        let mut torn = false;
        while let Some(found) = walker.next()? {
            let damage = match found {
                Found::Damage(damage) => damage,
                Found::Block { header, offset, payload } => {
                    let entered = match self.log.unpack(segment, &header, &payload) {
                        Ok(raw) => self.enter(segment, offset, &header, &raw),
                        Err(BadPayload::NoKey { key }) => {
                            self.locked.get_or_insert_with(|| (self.log.path(segment), key));
                            continue;
                        }
                        Err(_) => None,
                    };
                    if entered.is_some() {
                        if !torn {
                            tally.block(&header);
                        }
                        continue;
                    }
                    let bytes = offset..offset + header.block_len();
                    Damage { bytes, reason: BadBlock::Unknown, header: Some(header) }
                }
            };
            torn |= self.log.is_torn(segment, &damage)?;
            if torn {
                tally.torn(segment, damage);
            } else {
                let least = self.log.least_block_len()?;
                tally.damage(segment, damage, &self.log.file(segment)?, least)?;
            }
        }
        Ok(())
    }

    /// Enters what a block says; `None` if it makes no sense.
    fn enter(&mut self, segment: u64, offset: u64, header: &Header, raw: &[u8]) -> Option<()> {
        match header.kind {
            Kind::DeadLetters => {
                let letters: Vec<DeadLetter> = decode(raw)?;
                self.index.enter((segment, u32::try_from(offset).ok()?), header.block_len(), &letters);
            }
            Kind::DeadRemoved => {
                if let Removal::Keys(keys) = Removal::read(header, raw)? {
                    keys.iter().for_each(|key| _ = self.index.forget(key));
                }
            }
            Kind::Records | Kind::Notes | Kind::State => {}
        }
        Some(())
    }

    pub(super) fn check_key(&self) -> Result<(), DeadError> {
        match self.locked.clone() {
            Some((path, key)) => Err(DeadError::NoKey { path, key }),
            None => Ok(()),
        }
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.log.segments().first_key_value().map(|(oldest, _)| *oldest)
    }

    /// Bytes that no letter needs.
    pub(super) fn garbage(&self) -> u64 {
        self.log.bytes().saturating_sub(self.index.live_bytes())
    }

    /// Where letters lie that a filter may mean, those that were tried longest ago first.
    pub(super) fn places(&self, filter: &DeadFilter) -> Vec<Place> {
        let Some(id) = &filter.id else { return self.index.places() };
        Stream::ALL.into_iter().filter_map(|stream| self.index.place(stream, id)).collect()
    }

    /// The letter at a place, by way of the block that was read last; `None` where it is damaged.
    pub(super) fn read_through<'a>(
        &mut self,
        last: &'a mut Option<(BlockKey, Vec<DeadLetter>)>,
        place: Place,
    ) -> Result<Option<&'a DeadLetter>, DeadError> {
        if last.as_ref().is_none_or(|(block, _)| *block != place.block()) {
            let letters = self.log.read(place.segment, place.offset)?.unwrap_or_default();
            *last = Some((place.block(), letters));
        }
        Ok(last.as_ref().and_then(|(_, letters)| letters.get(place.nth as usize)))
    }

    /// The letters of a block that are still there; `None` where it is damaged.
    pub(super) fn read(&mut self, (segment, offset): BlockKey) -> Result<Option<Vec<DeadLetter>>, DeadError> {
        let Some(letters) = self.log.read(segment, offset)? else { return Ok(None) };
        let is_there = |letter: &DeadLetter, nth| {
            self.index.place(letter.stream, &letter.id) == Some(Place { segment, offset, nth })
        };
        Ok(Some(letters.into_iter().zip(0..).filter(|(letter, nth)| is_there(letter, *nth)).map(|(l, _)| l).collect()))
    }

    /// How many letters that are still there begin in a stretch of a segment.
    pub(super) fn letters_in(&self, segment: u64, bytes: &Range<u64>) -> u64 {
        let blocks = self.index.blocks_of(segment).into_iter();
        let hit = blocks.filter(|(_, offset)| bytes.contains(&u64::from(*offset)));
        hit.map(|block| u64::from(self.index.live(block))).sum()
    }

    /// Makes the files tell how many letters there are, where they do not.
    pub(super) fn settle(&mut self) -> Result<(), DeadError> {
        if !self.log.unsettled {
            return Ok(());
        }
        self.log.append(self.index.counts(), &[], u64::MAX, |_, _| {})
    }

    /// Notes that letters are removed, and forgets them.
    pub(super) fn write_removal(&mut self, keys: &[&Key]) -> Result<(), DeadError> {
        let now = self.index.counts();
        let mut then = now;
        keys.iter().for_each(|(stream, _)| then[*stream as usize] -= 1);
        let note = Draft { kind: Kind::DeadRemoved, count: keys.len(), raw: Removal::write_keys(keys), then };
        self.log.append(now, &[note], u64::MAX, |_, _| {})?;
        for key in keys {
            self.index.forget(key);
        }
        Ok(())
    }

    /// Adds to letters what is known of them; answers how many are new.
    pub(super) fn add_history(&mut self, letters: &mut [DeadLetter]) -> Result<u64, DeadError> {
        let mut fresh = 0;
        let mut last = None;
        for letter in letters {
            let Some(place) = self.index.place(letter.stream, &letter.id) else {
                fresh += 1;
                continue;
            };
            if let Some(earlier) = self.read_through(&mut last, place)? {
                letter.attempts = letter.attempts.saturating_add(earlier.attempts);
                letter.first_attempt_at = letter.first_attempt_at.min(earlier.first_attempt_at);
            }
        }
        Ok(fresh)
    }

    /// Writes letters in blocks, and enters them.
    pub(super) fn write_letters(
        &mut self,
        letters: &[DeadLetter],
        block_raw_bytes: usize,
        limit: u64,
    ) -> Result<(), DeadError> {
        let mut raw = 0;
        let blocks: Vec<&[DeadLetter]> = letters
            .chunk_by(|letter, _| {
                raw += letter.record.len();
                let more = raw < block_raw_bytes;
                raw *= usize::from(more);
                more
            })
            .collect();
        let Self { index, log, .. } = self;
        let now = index.counts();
        let mut then = now;
        let mut seen = HashSet::new();
        let mut drafts = Vec::with_capacity(blocks.len());
        for block in &blocks {
            for DeadLetter { stream, id, .. } in *block {
                let is_new = index.place(*stream, id).is_none() && seen.insert((*stream, id));
                then[*stream as usize] += u64::from(is_new);
            }
            drafts.push(Draft { kind: Kind::DeadLetters, count: block.len(), raw: encode(block), then });
        }
        log.append(now, &drafts, limit, |nth, (segment, offset, len)| {
            index.enter((segment, offset), len, blocks[nth]);
        })
    }

    /// Writes the letters of a segment anew; false if they do not fit below `limit`, or one cannot be read.
    pub(super) fn move_letters(&mut self, segment: u64, block_raw_bytes: usize, limit: u64) -> Result<bool, DeadError> {
        let mut moving = Vec::new();
        let mut raw = 0;
        let mut blocks = self.index.blocks_of(segment).into_iter().peekable();
        while let Some(block) = blocks.next() {
            let Some(letters) = self.read(block)? else { return Ok(false) };
            raw += letters.iter().map(|letter| letter.record.len()).sum::<usize>();
            moving.extend(letters);
            if raw >= MOVED_RAW_BYTES || blocks.peek().is_none() {
                match self.write_letters(&moving, block_raw_bytes, limit) {
                    Err(DeadError::Full { .. }) => return Ok(false),
                    written => written?,
                }
                moving.clear();
                raw = 0;
            }
        }
        Ok(true)
    }
}
