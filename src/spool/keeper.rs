//! The keeper: follows the journal with the queue, deletes segments that are all delivered, watches the space left.
//!
//! It works off the path of appends and leases: when sled hangs, they go on, from memory and the journal.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{core::Core, failpoint, queue::Changes, segment, state::Checkpoint};
use crate::record::Stream;

/// How often it looks, when nobody rings.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two checkpoints, unless a segment was finished.
const CHECKPOINT_PERIOD: Duration = Duration::from_secs(2);
/// A drained spool begins a new segment when the old one is longer than this, so that it can go.
const IDLE_BYTES: u64 = 64 << 10;
/// How long a spool has to be drained for that.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// The keeper thread's own state.
pub(crate) struct Keeper {
    core: Arc<Core>,
    saved: Option<Checkpoint>,
    saved_at: Instant,
    drained_since: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(core: Arc<Core>, saved: Option<Checkpoint>) -> Self {
        Self { core, saved, saved_at: Instant::now(), drained_since: None }
    }

    /// Runs until the spool is closed; the last thing it does is a checkpoint.
    pub(crate) fn run(mut self) {
        loop {
            let core = Arc::clone(&self.core);
            let mut state = core.keeper.state.lock();
            if !state.rung && !state.closing {
                core.keeper.bell.wait_for(&mut state, PERIOD);
            }
            let (rung, closing) = (std::mem::take(&mut state.rung), state.closing);
            drop(state);
            self.turn(rung || closing);
            if closing {
                return;
            }
        }
    }

    /// One look at everything.
    fn turn(&mut self, now: bool) {
        self.core.refresh_free();
        if now || self.saved_at.elapsed() >= CHECKPOINT_PERIOD {
            self.save();
        }
        self.delete();
        self.roll_if_idle();
        let measure = |folder: &str| self.core.disk.folder_bytes(&self.core.folder.join(folder));
        if let Ok(bytes) = measure("queue") {
            self.core.usage.queue.store(bytes, Ordering::Relaxed);
        }
        self.core.room.notify_waiters();
    }

    /// Enters into the queue what the journal has gained and lost since.
    fn save(&mut self) {
        let Some(index) = self.core.index.read().clone() else { return };
        let books = self.core.books.lock();
        let checkpoint = books.checkpoint();
        let mut runs = Vec::new();
        for stream in Stream::ALL {
            let books = &books.streams[stream as usize];
            runs.extend(
                books
                    .sealed
                    .iter()
                    .chain(books.tail.as_ref().map(|(key, run)| (key, run)))
                    .map(|(&key, &run)| (stream, key, run)),
            );
        }
        let heads = std::array::from_fn(|i| books.streams[i].durable.head);
        drop(books);
        self.saved_at = Instant::now();
        if self.saved.as_ref() == Some(&checkpoint) {
            return;
        }
        failpoint::reach("queue_save");
        let changes = Changes { runs, heads, checkpoint };
        match index.save(&changes) {
            Ok(()) => {
                failpoint::reach("queue_saved");
                let mut books = self.core.books.lock();
                for (stream, key, run) in &changes.runs {
                    let sealed = &mut books.stream(*stream).sealed;
                    if sealed.get(key) == Some(run) {
                        sealed.remove(key);
                    }
                }
                drop(books);
                self.saved = Some(changes.checkpoint);
            }
            Err(error) => self.core.report(format!("spool {}: {error}", self.core.folder.display())),
        }
    }

    /// Deletes the segments that neither a record nor the checkpoint needs.
    fn delete(&mut self) {
        let core = &self.core;
        let needed = match (&self.saved, core.index.read().is_some()) {
            (Some(saved), true) => saved.position.0,
            (None, true) => return,
            (_, false) => u64::MAX,
        };
        let deletable = core.books.lock().deletable();
        let mut deleted = false;
        for segment in deletable.into_iter().filter(|&segment| segment < needed) {
            failpoint::reach("segment_delete");
            let path = segment::path(&core.journal_folder(), segment);
            if let Err(error) = core.disk.remove(&path) {
                core.report(format!("spool {}: deleting: {error}", path.display()));
                break;
            }
            failpoint::reach("segment_deleted");
            let mut books = core.books.lock();
            books.segments.remove(&segment);
            core.usage.journal.store(books.journal_bytes(), Ordering::Relaxed);
            deleted = true;
        }
        if deleted && let Err(error) = core.disk.sync_folder(&core.journal_folder()) {
            core.report(format!("spool {}: {error}", core.journal_folder().display()));
        }
    }

    /// Has the writer begin a new segment when all is delivered and the old one is long.
    fn roll_if_idle(&mut self) {
        let books = self.core.books.lock();
        let drained = books.streams.iter().all(|stream| stream.live.records() == 0);
        let long = books.journal_bytes() > IDLE_BYTES;
        drop(books);
        if !drained || !long {
            self.drained_since = None;
            return;
        }
        if self.drained_since.get_or_insert_with(Instant::now).elapsed() >= IDLE_TIME {
            self.drained_since = None;
            self.core.inbox.lock().roll = true;
            self.core.mail.notify_one();
        }
    }
}
