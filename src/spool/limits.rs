//! Room: what is dropped when the spool is full or records are too old, and the reserve that lets notes be written on a
//! full disk.

use std::{io, path::PathBuf, time::Instant};

use super::{
    ages::Ages,
    block::Kind,
    books::BlockPlace,
    core::Core,
    segment::{self, Found},
    state::{DropReason, Fate},
};
use crate::record::Stream;

/// Kept on disk so that, when all else is taken, notes can still be written and segments deleted.
const RESERVE_BYTES: u64 = 1 << 20;
/// The reserve is made only where this much more is free.
const PLENTY_BYTES: u64 = 64 << 20;
/// Blocks that one look drops for their age.
const MOST_BLOCKS: usize = 10_000;

impl Core {
    fn reserve_path(&self) -> PathBuf {
        self.folder.join("reserve")
    }

    /// Makes the reserve if it is not there and there is plenty of room.
    pub(crate) fn keep_reserve(&self) {
        let path = self.reserve_path();
        let plenty = self.disk.free_bytes(&self.folder).is_ok_and(|free| free >= PLENTY_BYTES);
        if !plenty || self.disk.open(&path).is_ok() {
            return;
        }
        let made = self.disk.create(&path).and_then(|file| {
            file.write_at(&vec![0; RESERVE_BYTES as usize], 0)?;
            file.sync()
        });
        if made.is_err() {
            // Half a reserve is none.
            let _ = self.disk.remove(&path);
        }
    }

    /// Gives the reserve back to the disk; true if there was one.
    pub(crate) fn release_reserve(&self) -> bool {
        let path = self.reserve_path();
        self.disk.open(&path).is_ok() && self.disk.remove(&path).is_ok()
    }

    /// Drops the records of a segment that are not done; answers how many.
    pub(crate) fn drop_segment(&self, segment: u64, reason: DropReason) -> io::Result<u64> {
        let mut walker = segment::walk(self.disk.as_ref(), &self.journal_folder(), segment, 0)?;
        let mut dropped = 0;
        while let Some(found) = walker.next()? {
            if let Found::Block { header, offset, .. } = found
                && header.kind == Kind::Records
            {
                dropped += self.drop_block(BlockPlace { segment, offset, header }, reason);
            }
        }
        // What is damaged in there has no block to go with.
        for stream in Stream::ALL {
            let ordinals = self.books.lock().ordinals_of(segment, stream);
            dropped += self.finish(stream, &[ordinals], Fate::Dropped(DropReason::Damaged));
        }
        Ok(dropped)
    }

    /// Drops the records of a block that are not done; answers how many.
    fn drop_block(&self, place: BlockPlace, reason: DropReason) -> u64 {
        let (stream, ordinals) = (place.header.stream, place.header.ordinals());
        let mut books = self.books.lock();
        if books.streams[stream as usize].live.is_done(&ordinals) {
            return 0;
        }
        books.stream(stream).in_flight.insert(ordinals.start, place);
        drop(books);
        self.finish(stream, &[ordinals], Fate::Dropped(reason))
    }

    /// Drops what is older than `max_age`.
    pub(crate) fn expire(&self, ages: &mut Ages) {
        let now = Instant::now();
        let next = {
            let books = self.books.lock();
            std::array::from_fn(|i| books.streams[i].live.next)
        };
        ages.mark(now, next);
        for stream in Stream::ALL {
            let mut dropped = 0;
            for _ in 0..MOST_BLOCKS {
                let Some(open) = self.books.lock().streams[stream as usize].live.first_open(0) else { break };
                let Ok(Some(place)) = self.readers[stream as usize].lock().place(self, open.start) else { break };
                let last = place.header.ordinals().end - 1;
                if !ages.is_over(now, stream, last, place.header.received_at) {
                    break;
                }
                dropped += self.drop_block(place, DropReason::Expired);
            }
            if dropped > 0 {
                self.warn(&format!("{dropped} {stream} were older than max_age and are dropped"));
            }
        }
    }
}
