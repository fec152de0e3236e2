//! Dead letters: what a sink rejected for good, with its reason, kept durably and apart from the journal, so that none
//! of them holds a big segment back.
//!
//! A small journal of the same blocks: kind 4 holds letters, kind 5 the keys of letters that are gone. A letter's key is
//! its stream and `_id`: a crash between setting a record aside and removing it from the queue makes no second letter.
//! Where a write failed and could not be undone, a new segment begins, and says where the one before it ends: what was
//! refused stays refused, whatever of it reached the disk.
//!
//! Removing letters always works: a note of it may go beyond the quota, by little. Space is given back from the oldest
//! segment on: what is left of it is written anew at the end, then it is deleted. A part of the quota is kept for that,
//! so that letters can be dropped or retried when no new ones fit.

use std::{
    collections::HashSet,
    io,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    codec::{Packer, Unpacker},
    io::Disk,
    segment::Damage,
};
use crate::record::Stream;

mod index;
mod letter;
mod log;
mod removal;
mod store;
mod tally;

use self::{index::BlockKey, log::Log, store::Store};
pub(crate) use letter::Key;
pub use letter::{DeadFilter, DeadLetter};
pub(crate) use removal::Removal;
pub(crate) use tally::DamagedLetters;

/// Segments end at about this length; at a sixteenth of a small quota.
const MOST_SEGMENT_BYTES: u64 = 4 << 20;
/// Letters of a block, unpacked, are at most about this long; a thirty-second of a small quota.
const MOST_BLOCK_RAW_BYTES: u64 = 256 << 10;
/// A letter's place in memory takes some hundred bytes: there are no more letters than this much of the quota for each …
const LEAST_BYTES_A_LETTER: u64 = 1 << 10;
/// … and never more than these.
const MOST_LETTERS: u64 = 500_000;
/// How many letters are removed at once.
const PAGE: usize = 1000;

/// Why dead letters could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadError {
    #[error("the dead letters are full by {over} bytes or letters")]
    Full { over: u64 },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is encrypted with key {key}")]
    NoKey { path: PathBuf, key: String },
}

impl DeadError {
    /// True where the disk is full.
    pub(crate) fn is_no_space(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { source, .. } if full.contains(&source.kind()))
    }
}

/// The dead letters of a spool.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    max_bytes: u64,
    block_raw_bytes: usize,
    /// What only rewriting may use …
    spare_bytes: u64,
    /// … and what only it and letters that come again may.
    again_bytes: u64,
    inner: Mutex<Store>,
    /// What is looked at while a write holds `inner`.
    bytes: AtomicU64,
    counts: [AtomicU64; Stream::ALL.len()],
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
        let segment_bytes = MOST_SEGMENT_BYTES.min(max_bytes / 16);
        let block_raw_bytes = MOST_BLOCK_RAW_BYTES.min(max_bytes / 32);
        let log = Log::open(disk, folder, segment_bytes, packer, unpacker)?;
        let store = Store::open(log)?;
        let dead = Self {
            max_bytes,
            block_raw_bytes: block_raw_bytes as usize,
            spare_bytes: segment_bytes + block_raw_bytes,
            again_bytes: 2 * block_raw_bytes,
            bytes: AtomicU64::default(),
            counts: Default::default(),
            inner: Mutex::new(store),
        };
        dead.publish(&dead.inner.lock());
        Ok(dead)
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many letters a stream has.
    pub(crate) fn count(&self, stream: Stream) -> u64 {
        self.counts[stream as usize].load(Ordering::Relaxed)
    }

    /// The segments and how long they are, as far as they are written.
    pub(crate) fn lengths(&self) -> Vec<(u64, u64)> {
        self.inner.lock().log.segments().iter().map(|(&segment, &len)| (segment, len)).collect()
    }

    /// Whether damage in a segment is a write that was cut off.
    pub(crate) fn is_torn(&self, segment: u64, damage: &Damage) -> io::Result<bool> {
        self.inner.lock().log.is_torn(segment, damage)
    }

    /// Damaged bytes met at opening.
    pub(crate) fn damage(&self) -> Vec<DamagedLetters> {
        self.inner.lock().damage.clone()
    }

    /// Letters that damage cost before opening and nothing had counted, by stream.
    pub(crate) fn lost(&self) -> [u64; Stream::ALL.len()] {
        self.inner.lock().lost
    }

    /// Letters that are there now and lie, as far as is known, in a stretch of a segment.
    pub(crate) fn letters_in(&self, segment: u64, bytes: &Range<u64>) -> u64 {
        self.inner.lock().letters_in(segment, bytes)
    }

    /// Notes that the letters lost before opening are counted: the next start counts them no more.
    pub(crate) fn settle(&self) -> Result<(), DeadError> {
        let mut inner = self.inner.lock();
        inner.settle()?;
        self.publish(&inner);
        Ok(())
    }

    /// Makes durable what was found: it may have been written just before a kill, and is counted on from now on.
    pub(crate) fn sync(&self) -> Result<(), DeadError> {
        self.inner.lock().log.sync()
    }

    /// Fails where letters are encrypted with a key that is not there.
    pub(crate) fn check_key(&self) -> Result<(), DeadError> {
        self.inner.lock().check_key()
    }

    fn publish(&self, inner: &Store) {
        self.bytes.store(inner.log.bytes(), Ordering::Relaxed);
        for (shown, count) in self.counts.iter().zip(inner.index.counts()) {
            shown.store(count, Ordering::Relaxed);
        }
    }

    /// Keeps letters, durably: all of them, or none where they do not fit. A letter that is there already is replaced;
    /// its history is kept.
    pub(crate) fn add(&self, mut letters: Vec<DeadLetter>) -> Result<(), DeadError> {
        let mut inner = self.inner.lock();
        inner.check_key()?;
        let fresh = inner.add_history(&mut letters)?;
        let most = (self.max_bytes / LEAST_BYTES_A_LETTER).min(MOST_LETTERS);
        let letters_over = (inner.index.len() + fresh).saturating_sub(most);
        if fresh > 0 && letters_over > 0 {
            return Err(DeadError::Full { over: letters_over });
        }
        // Letters in place of earlier ones have some room of their own: the earlier ones are garbage then.
        let kept_free = if fresh > 0 { self.spare_bytes + self.again_bytes } else { self.spare_bytes };
        let limit = self.max_bytes - kept_free;
        let kept = match inner.write_letters(&letters, self.block_raw_bytes, limit) {
            Err(DeadError::Full { over }) if inner.garbage().saturating_sub(inner.residue) >= over => {
                let enough = inner.log.bytes() - over;
                self.rewrite(&mut inner, enough)
                    .and_then(|()| inner.write_letters(&letters, self.block_raw_bytes, limit))
            }
            kept => kept,
        };
        self.publish(&inner);
        kept
    }

    /// The letters that a filter means and that are not among `except`, at most `limit` of them behind the first `skip`;
    /// those that were tried longest ago first.
    pub(crate) fn list(
        &self,
        filter: &DeadFilter,
        except: &HashSet<Key>,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DeadError> {
        let mut inner = self.inner.lock();
        inner.check_key()?;
        let mut letters = Vec::new();
        let mut left = skip;
        // Neighbours are read from the same block.
        let mut last = None;
        for place in inner.places(filter) {
            if letters.len() >= limit {
                break;
            }
            let letter = inner.read_through(&mut last, place)?;
            match letter.filter(|letter| filter.matches(letter) && !except.contains(&letter.key())) {
                Some(_) if left > 0 => left -= 1,
                Some(letter) => letters.push(letter.clone()),
                None => {}
            }
        }
        Ok(letters)
    }

    /// Removes the letters that a filter means; answers how many there were.
    pub(crate) fn drop_matching(&self, filter: &DeadFilter) -> Result<u64, DeadError> {
        let (mut removed, mut at) = (0, (0, 0));
        loop {
            let (letters, next) = self.scan(at, filter)?;
            if letters.is_empty() {
                return Ok(removed);
            }
            let keys: Vec<Key> = letters.iter().map(DeadLetter::key).collect();
            removed += self.remove(&keys)?;
            at = next;
        }
    }

    /// Letters that a filter means, about a page of them, in the blocks from a place on; and where to go on.
    fn scan(&self, mut at: BlockKey, filter: &DeadFilter) -> Result<(Vec<DeadLetter>, BlockKey), DeadError> {
        let mut inner = self.inner.lock();
        inner.check_key()?;
        let mut found = Vec::new();
        while found.len() < PAGE
            && let Some(block) = inner.index.block_from(at)
        {
            at = (block.0, block.1 + 1);
            found.extend(inner.read(block)?.unwrap_or_default().into_iter().filter(|letter| filter.matches(letter)));
        }
        Ok((found, at))
    }

    /// Removes letters, durably; answers how many there were.
    pub(crate) fn remove(&self, keys: &[Key]) -> Result<u64, DeadError> {
        let mut inner = self.inner.lock();
        inner.check_key()?;
        let mut present: Vec<&Key> =
            keys.iter().filter(|(stream, id)| inner.index.place(*stream, id).is_some()).collect();
        present.sort_unstable();
        present.dedup();
        if present.is_empty() {
            return Ok(0);
        }
        inner.write_removal(&present)?;
        if let Err(error) = self.give_back(&mut inner) {
            // They are gone all the same; the next removal tries again.
            tracing::warn!(%error, "the space of removed dead letters is not given back yet");
        }
        self.publish(&inner);
        Ok(present.len() as u64)
    }

    /// Gives back the space of removed letters, where it is worth it.
    fn give_back(&self, inner: &mut Store) -> Result<(), DeadError> {
        while let Some(oldest) = inner.oldest().filter(|oldest| !inner.index.has_letters(*oldest)) {
            inner.log.delete(oldest)?;
        }
        let live = inner.index.live_bytes();
        if inner.garbage() > live + self.spare_bytes {
            self.rewrite(inner, live + live / 2 + self.spare_bytes)?;
        }
        Ok(())
    }

    /// Writes what is left of the oldest segments anew and deletes them, until at most `enough` bytes are taken, or what
    /// is left of one does not fit beside the others.
    fn rewrite(&self, inner: &mut Store, enough: u64) -> Result<(), DeadError> {
        inner.log.seal();
        let newest = inner.log.segments().last_key_value().map_or(0, |(newest, _)| *newest);
        while let Some(oldest) = inner.oldest().filter(|oldest| *oldest <= newest) {
            if inner.log.bytes() <= enough {
                return Ok(());
            }
            if !inner.move_letters(oldest, self.block_raw_bytes, self.max_bytes)? {
                return Ok(());
            }
            inner.log.delete(oldest)?;
        }
        inner.residue = inner.garbage();
        Ok(())
    }
}

fn io_error(path: PathBuf) -> impl FnOnce(io::Error) -> DeadError {
    move |source| DeadError::Io { path, source }
}
