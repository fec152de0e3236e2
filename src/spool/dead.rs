//! Dead letters: what a sink rejected for good, with its reason, kept durably and apart from the journal, so that none
//! of them holds a big segment back.
//!
//! A small journal of the same blocks: kind 4 holds letters, kind 5 the keys of letters that are gone. A letter's key is
//! its stream and `_id`: a crash between setting a record aside and removing it from the queue makes no second letter.
//! In memory: per letter its key and place.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bincode::{Decode, Encode};
use parking_lot::Mutex;
use serde::Serialize;

use super::{
    block::{Header, Kind},
    codec::{Packer, Unpacker},
    failpoint,
    io::{Disk, DiskFile},
    segment::{self, Damage, Found, Walker},
    state::{decode, encode},
};
use crate::record::{Stream, UnixMillis, now_millis};

/// Segments of dead letters end at about this length.
const SEGMENT_BYTES: u64 = 4 << 20;
/// How many letters are read at once.
const PAGE: usize = 1000;
/// Letters of a block, unpacked, are at most about this long.
const BLOCK_RAW_BYTES: usize = 256 << 10;

/// A record that a sink rejected for good.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct DeadLetter {
    /// Its stream.
    pub stream: Stream,
    /// Its `_id`; with the stream, the letter's key.
    pub id: String,
    /// When it was received.
    pub received_at: UnixMillis,
    /// The sink's last reason.
    pub reason: String,
    /// How often delivery was tried.
    pub attempts: u32,
    /// The first attempt.
    pub first_attempt_at: UnixMillis,
    /// The last attempt.
    pub last_attempt_at: UnixMillis,
    /// The record as it came.
    #[serde(skip)]
    pub record: Vec<u8>,
}

/// A letter's key: its stream and `_id`.
pub(crate) type Key = (Stream, String);

/// Which letters are meant; each condition that is set has to hold.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    /// Of this stream.
    pub stream: Option<Stream>,
    /// With this `_id`.
    pub id: Option<String>,
    /// Whose reason contains this text.
    pub reason: Option<String>,
    /// Whose last attempt is before this time.
    pub before: Option<UnixMillis>,
}

impl DeadFilter {
    fn may_match(&self, (stream, id): &Key) -> bool {
        self.stream.is_none_or(|wanted| wanted == *stream) && self.id.as_ref().is_none_or(|wanted| wanted == id)
    }

    fn matches(&self, letter: &DeadLetter) -> bool {
        self.reason.as_ref().is_none_or(|text| letter.reason.contains(text))
            && self.before.is_none_or(|time| letter.last_attempt_at < time)
    }
}

/// Why dead letters could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadError {
    #[error("the dead letters are full: {bytes} bytes")]
    Full { bytes: u64 },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The dead letters of a spool.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    max_bytes: u64,
    inner: Mutex<Inner>,
    /// What is looked at while a write holds `inner`.
    bytes: AtomicU64,
    counts: [AtomicU64; Stream::ALL.len()],
}

struct Inner {
    letters: BTreeMap<Key, Place>,
    /// How many letters each stream has.
    counts: [u64; Stream::ALL.len()],
    segments: BTreeMap<u64, u64>,
    active: Option<(u64, Arc<dyn DiskFile>)>,
    packer: Packer,
    unpacker: Unpacker,
    damage: Vec<(u64, Damage)>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("letters", &self.letters.len()).finish_non_exhaustive()
    }
}

/// The block read last, unpacked: neighbouring letters are read from it.
#[derive(Default)]
struct LastBlock {
    segment: u64,
    offset: u64,
    letters: Vec<DeadLetter>,
}

/// Where a letter lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    segment: u64,
    offset: u64,
    nth: u32,
    /// Its share of the block.
    bytes: u32,
}

impl DeadLetters {
    /// Reads the folder; changes nothing.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        max_bytes: u64,
        packer: Packer,
        unpacker: Unpacker,
    ) -> io::Result<Self> {
        let mut inner = Inner {
            letters: BTreeMap::new(),
            counts: [0; Stream::ALL.len()],
            segments: segment::list(disk.as_ref(), &folder)?.into_iter().collect(),
            active: None,
            packer,
            unpacker,
            damage: Vec::new(),
        };
        for segment in inner.segments.clone().into_keys() {
            let mut walker = segment::walk(disk.as_ref(), &folder, segment, 0)?;
            while let Some(found) = walker.next()? {
                match found {
                    Found::Block { header, offset, payload } => inner.enter(segment, offset, &header, &payload),
                    Found::Damage(damage) => inner.damage.push((segment, damage)),
                }
            }
        }
        let (bytes, counts) = (AtomicU64::new(inner.bytes()), inner.counts.map(AtomicU64::new));
        Ok(Self { disk, folder, max_bytes, inner: Mutex::new(inner), bytes, counts })
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The segments and how long they are, as far as they are written.
    pub(crate) fn lengths(&self) -> Vec<(u64, u64)> {
        self.inner.lock().segments.iter().map(|(&segment, &len)| (segment, len)).collect()
    }

    /// Damaged bytes met at opening, for the quarantine.
    pub(crate) fn take_damage(&self) -> Vec<(u64, Damage)> {
        std::mem::take(&mut self.inner.lock().damage)
    }

    /// How many letters a stream has.
    pub(crate) fn count(&self, stream: Stream) -> u64 {
        self.counts[stream as usize].load(Ordering::Relaxed)
    }

    fn publish_counts(&self, inner: &Inner) {
        for (shown, count) in self.counts.iter().zip(inner.counts) {
            shown.store(count, Ordering::Relaxed);
        }
    }

    /// Keeps letters, durably. A letter that is there already is replaced; its history is kept.
    pub(crate) fn add(&self, mut letters: Vec<DeadLetter>) -> Result<(), DeadError> {
        let mut inner = self.inner.lock();
        let raw: usize = letters.iter().map(|letter| letter.record.len()).sum();
        if inner.bytes() + raw as u64 / 2 > self.max_bytes {
            self.compact(&mut inner)?;
        }
        if inner.bytes() + raw as u64 / 2 > self.max_bytes {
            return Err(DeadError::Full { bytes: inner.bytes() });
        }
        let mut last = LastBlock::default();
        for letter in &mut letters {
            let key = (letter.stream, letter.id.clone());
            if let Some(&place) = inner.letters.get(&key)
                && let Some(earlier) = self.read(&mut inner, place, &mut last)?
            {
                letter.attempts = letter.attempts.saturating_add(earlier.attempts);
                letter.first_attempt_at = letter.first_attempt_at.min(earlier.first_attempt_at);
            }
        }
        self.write_letters(&mut inner, &letters)
    }

    /// The letters that a filter means, oldest first, at most `limit` behind the first `skip`.
    pub(crate) fn list(&self, filter: &DeadFilter, skip: usize, limit: usize) -> Result<Vec<DeadLetter>, DeadError> {
        let mut inner = self.inner.lock();
        let mut places: Vec<Place> =
            inner.letters.iter().filter(|(key, _)| filter.may_match(key)).map(|(_, &place)| place).collect();
        places.sort_unstable();
        let mut letters = Vec::new();
        let mut skipped = 0;
        let mut last = LastBlock::default();
        for place in places {
            if letters.len() >= limit {
                break;
            }
            let Some(letter) = self.read(&mut inner, place, &mut last)? else { continue };
            if !filter.matches(letter) {
                continue;
            }
            if skipped < skip {
                skipped += 1;
                continue;
            }
            letters.push(letter.clone());
        }
        Ok(letters)
    }

    /// Removes the letters that a filter means; answers how many there were.
    pub(crate) fn drop_matching(&self, filter: &DeadFilter) -> Result<u64, DeadError> {
        let mut removed = 0;
        loop {
            let letters = self.list(filter, 0, PAGE)?;
            let keys: Vec<Key> = letters.into_iter().map(|letter| (letter.stream, letter.id)).collect();
            if keys.is_empty() {
                return Ok(removed);
            }
            removed += self.remove(&keys)?;
        }
    }

    /// Removes letters, durably; answers how many there were.
    pub(crate) fn remove(&self, keys: &[Key]) -> Result<u64, DeadError> {
        let mut inner = self.inner.lock();
        let present: BTreeSet<&Key> = keys.iter().filter(|key| inner.letters.contains_key(*key)).collect();
        if present.is_empty() {
            return Ok(0);
        }
        let removed = present.len() as u64;
        let keys: Vec<Key> = present.into_iter().cloned().collect();
        let header = header(Kind::DeadRemoved, keys.len());
        self.write(&mut inner, header, &encode(&keys))?;
        keys.iter().for_each(|key| inner.forget(key));
        self.publish_counts(&inner);
        let live: u64 = inner.letters.values().map(|place| u64::from(place.bytes)).sum();
        if inner.letters.is_empty() || inner.bytes() > 2 * live + SEGMENT_BYTES {
            self.compact(&mut inner)?;
        }
        Ok(removed)
    }

    /// Writes what is left into new segments and deletes the old ones, oldest first: a note that a letter is gone goes
    /// after the letter.
    fn compact(&self, inner: &mut Inner) -> Result<(), DeadError> {
        let old: Vec<u64> = inner.segments.keys().copied().collect();
        inner.active = None;
        let places: BTreeSet<Place> = inner.letters.values().copied().collect();
        let mut letters = Vec::new();
        let mut raw = 0;
        let mut last = LastBlock::default();
        for place in places {
            if let Some(letter) = self.read(inner, place, &mut last)? {
                raw += letter.record.len();
                letters.push(letter.clone());
            }
            if raw >= BLOCK_RAW_BYTES {
                self.write_letters(inner, &std::mem::take(&mut letters))?;
                raw = 0;
            }
        }
        self.write_letters(inner, &letters)?;
        for segment in old {
            let path = segment::path(&self.folder, segment);
            self.disk.remove(&path).map_err(io_error(path))?;
            inner.segments.remove(&segment);
        }
        self.bytes.store(inner.bytes(), Ordering::Relaxed);
        self.disk.sync_folder(&self.folder).map_err(io_error(self.folder.clone()))
    }

    fn write_letters(&self, inner: &mut Inner, mut letters: &[DeadLetter]) -> Result<(), DeadError> {
        while !letters.is_empty() {
            let mut raw = 0;
            let fits = letters.iter().take_while(|letter| {
                let room = raw < BLOCK_RAW_BYTES;
                raw += letter.record.len();
                room
            });
            let (now, later) = letters.split_at(fits.count());
            let payload = encode(&now.to_vec());
            let (segment, offset, header) = self.write(inner, header(Kind::DeadLetters, now.len()), &payload)?;
            inner.enter_letters(segment, offset, &header, now);
            self.publish_counts(inner);
            letters = later;
        }
        Ok(())
    }

    /// Appends a block and syncs it; answers where it lies.
    fn write(&self, inner: &mut Inner, header: Header, raw: &[u8]) -> Result<(u64, u64, Header), DeadError> {
        let begins = match &inner.active {
            Some((segment, _)) if inner.segments.get(segment).is_some_and(|len| *len < SEGMENT_BYTES) => false,
            _ => {
                let segment = inner.segments.last_key_value().map_or(1, |(newest, _)| newest + 1);
                let path = segment::path(&self.folder, segment);
                self.disk.remove(&path).map_err(io_error(path.clone()))?;
                inner.active = Some((segment, self.disk.create(&path).map_err(io_error(path))?));
                true
            }
        };
        let Some((segment, file)) = inner.active.clone() else {
            return Err(io_error(self.folder.clone())(io::ErrorKind::NotFound.into()));
        };
        let path = segment::path(&self.folder, segment);
        let end = inner.segments.get(&segment).copied().unwrap_or(0);
        let mut block = Vec::new();
        let header = inner.packer.write(&mut block, segment, header, raw).map_err(io_error(path.clone()))?;
        if header.kind == Kind::DeadLetters && inner.bytes() + block.len() as u64 > self.max_bytes {
            return Err(DeadError::Full { bytes: inner.bytes() });
        }
        failpoint::reach("dead_write");
        if let Err(error) = file.write_at(&block, end) {
            if file.set_len(end).is_err() {
                inner.active = None;
            }
            return Err(io_error(path)(error));
        }
        failpoint::reach("dead_written");
        let synced = file.sync().and_then(|()| if begins { self.disk.sync_folder(&self.folder) } else { Ok(()) });
        if let Err(error) = synced {
            // Nothing is known of the file now; the next letter goes into another one.
            inner.active = None;
            inner.segments.entry(segment).or_insert(end);
            return Err(io_error(path)(error));
        }
        failpoint::reach("dead_synced");
        inner.segments.insert(segment, end + block.len() as u64);
        self.bytes.store(inner.bytes(), Ordering::Relaxed);
        Ok((segment, end, header))
    }

    /// The letter at a place; `None` where its block is damaged.
    fn read<'a>(
        &self,
        inner: &mut Inner,
        place: Place,
        last: &'a mut LastBlock,
    ) -> Result<Option<&'a DeadLetter>, DeadError> {
        if (last.segment, last.offset) != (place.segment, place.offset) || last.letters.is_empty() {
            let letters = self.read_block(inner, place.segment, place.offset)?;
            *last = LastBlock { segment: place.segment, offset: place.offset, letters };
        }
        Ok(last.letters.get(place.nth as usize))
    }

    /// The letters of a block; none where it is damaged.
    fn read_block(&self, inner: &mut Inner, segment: u64, offset: u64) -> Result<Vec<DeadLetter>, DeadError> {
        let path = segment::path(&self.folder, segment);
        let file = self.disk.open(&path).map_err(io_error(path.clone()))?;
        let len = file.len().map_err(io_error(path.clone()))?;
        let Some(Found::Block { header, payload, .. }) =
            Walker::new(file, offset, len).next().map_err(io_error(path))?
        else {
            return Ok(Vec::new());
        };
        let raw = inner.unpacker.unpack(segment, &header, &payload).ok();
        Ok(raw.and_then(|raw| decode(&raw)).unwrap_or_default())
    }
}

impl Inner {
    fn bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    fn enter(&mut self, segment: u64, offset: u64, header: &Header, payload: &[u8]) {
        let Ok(raw) = self.unpacker.unpack(segment, header, payload) else { return };
        match header.kind {
            Kind::DeadLetters => {
                let letters = decode::<Vec<DeadLetter>>(&raw).unwrap_or_default();
                self.enter_letters(segment, offset, header, &letters);
            }
            Kind::DeadRemoved => {
                decode::<Vec<Key>>(&raw).unwrap_or_default().iter().for_each(|key| self.forget(key));
            }
            Kind::Records | Kind::Notes | Kind::State => {}
        }
    }

    fn enter_letters(&mut self, segment: u64, offset: u64, header: &Header, letters: &[DeadLetter]) {
        let bytes = (header.block_len() / letters.len().max(1) as u64) as u32;
        for (nth, letter) in letters.iter().enumerate() {
            let place = Place { segment, offset, nth: nth as u32, bytes };
            let key = (letter.stream, letter.id.clone());
            if self.letters.insert(key, place).is_none() {
                self.counts[letter.stream as usize] += 1;
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        if self.letters.remove(key).is_some() {
            self.counts[key.0 as usize] -= 1;
        }
    }
}

fn io_error(path: PathBuf) -> impl FnOnce(io::Error) -> DeadError {
    move |source| DeadError::Io { path, source }
}

fn header(kind: Kind, count: usize) -> Header {
    Header {
        kind,
        stream: Stream::Events,
        codec: 0,
        ordinal: 0,
        count: count as u32,
        raw_len: 0,
        stored_len: 0,
        received_at: now_millis(),
    }
}
