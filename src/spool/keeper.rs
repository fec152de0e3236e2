//! The keeper: follows the journal with the queue, deletes segments that are all delivered, watches the space left.
//!
//! It works off the path of appends and leases: when sled hangs, they go on, from memory and the journal. sled is known
//! to hang for ever after a failed write, so it is given a time; past it the handle is leaked (its drop hangs too), its
//! files are emptied, and a new queue is made from the journal.

use std::{
    fs,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{
    ages::{Ages, Times},
    books::StreamBooks,
    core::Core,
    failpoint,
    io::Disk,
    queue::{Changes, Index, IndexError, SledIndex},
    segment::{self, Found},
    state::{Checkpoint, Run},
};
use crate::{
    caught::caught,
    record::{Stream, now_millis},
};

/// How often it looks, when nobody rings.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two checkpoints, unless a segment was finished.
const CHECKPOINT_PERIOD: Duration = Duration::from_secs(2);
/// The time is noted this often, where records have a `max_age`.
const TIME_PERIOD: Duration = Duration::from_secs(600);
/// A drained spool begins a new segment when the old one is longer than this, so that it can go.
const IDLE_BYTES: u64 = 64 << 10;
/// How long a spool has to be drained for that.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// How long sled may take for a save.
const SAVE_PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 30 });
/// sled is not asked to write where less than this is free, and not opened again below it.
const QUEUE_ROOM: u64 = 4 << 20;
/// Runs that wait for a queue that is not there; older ones are found by walking segments.
const MOST_RUNS: usize = 100_000;

/// The keeper thread's own state.
pub(crate) struct Keeper {
    core: Arc<Core>,
    saved: Option<Checkpoint>,
    saved_at: Instant,
    /// When the time was saved last.
    noted_at: Option<Instant>,
    drained_since: Option<Instant>,
    ages: Option<Ages>,
    /// Segments whose runs a new queue does not have yet, oldest last.
    unindexed: Vec<u64>,
}

impl Keeper {
    /// `saved` is the checkpoint that the queue was opened with; without one, it is filled from the journal.
    pub(crate) fn new(core: Arc<Core>, saved: Option<Checkpoint>, times: Option<Times>) -> Self {
        let ages = core.options.max_age.map(|max_age| {
            let books = core.books.lock();
            let next = std::array::from_fn(|i| books.streams[i].live.next);
            Ages::new(max_age, now_millis(), times, Instant::now(), next)
        });
        let mut keeper = Self {
            core,
            saved,
            saved_at: Instant::now(),
            noted_at: None,
            drained_since: None,
            ages,
            unindexed: Vec::new(),
        };
        if keeper.saved.is_none() {
            keeper.index_all();
        }
        keeper
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
            if let Err(panic) = caught(|| self.turn(rung, closing)) {
                self.core.report(format!("keeping the spool in order panicked, and is tried again: {panic}"));
            }
            if closing {
                return;
            }
        }
    }

    /// One look at everything.
    fn turn(&mut self, rung: bool, closing: bool) {
        self.core.refresh_free();
        if let Some(ages) = &mut self.ages {
            self.core.expire(ages);
        }
        if rung || closing || self.saved_at.elapsed() >= CHECKPOINT_PERIOD {
            self.open_queue();
            self.save(closing);
        }
        self.delete();
        self.roll_if_idle();
        self.core.keep_reserve();
        self.core.measure();
        self.core.room.notify_waiters();
    }

    /// Enters into the queue what the journal has gained and lost since.
    fn save(&mut self, closing: bool) {
        let Some(index) = self.core.index.read().clone() else {
            let mut books = self.core.books.lock();
            for stream in books.streams.iter_mut().filter(|stream| stream.sealed.len() > MOST_RUNS) {
                stream.sealed.clear();
            }
            return;
        };
        self.saved_at = Instant::now();
        if self.core.usage.free.load(Ordering::Relaxed) < QUEUE_ROOM {
            self.core.release_reserve();
            return;
        }
        let books = self.core.books.lock();
        let checkpoint = books.checkpoint();
        let mut runs = Vec::new();
        for stream in Stream::ALL {
            runs.extend(books.streams[stream as usize].runs().map(|(key, run)| (stream, key, run)));
        }
        let heads = std::array::from_fn(|i| books.streams[i].durable.head);
        drop(books);
        let walked = self.unindexed.pop();
        if walked.is_none() && self.saved.as_ref() == Some(&checkpoint) && !self.time_is_due(closing) {
            return;
        }
        if let Some(segment) = walked {
            runs.extend(
                self.runs_of(segment)
                    .into_iter()
                    .filter(|(stream, key, run)| key + run.records > heads[*stream as usize]),
            );
        }
        failpoint::reach("queue_save");
        let times = match &mut self.ages {
            Some(ages) => ages.times(Instant::now(), heads),
            None => Times::at(now_millis()),
        };
        let changes = Arc::new(Changes { runs, heads, checkpoint, times });
        match save_in_time(&index, &changes) {
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
                self.saved = Some(changes.checkpoint.clone());
                self.noted_at = Some(Instant::now());
            }
            Err(error) => self.give_up_queue(index, &error),
        }
        if !self.unindexed.is_empty() {
            self.core.keeper.ring();
        }
    }

    /// Whether the time has to be noted though nothing else has changed: ages go on from it after the next start.
    fn time_is_due(&self, closing: bool) -> bool {
        self.ages.is_some() && (closing || self.noted_at.is_none_or(|at| at.elapsed() >= TIME_PERIOD))
    }

    /// Lets go of a queue that failed, without ever dropping its handle, and gives its space back.
    fn give_up_queue(&mut self, index: Arc<dyn Index>, error: &IndexError) {
        let core = &self.core;
        core.report(format!("spool {}: {error}; the queue is made anew from the journal", core.folder.display()));
        core.index.write().take();
        std::mem::forget(index);
        let aside = core.folder.join("quarantine").join(format!("queue-{}", now_millis()));
        let queue = core.folder.join("queue");
        let emptied = core
            .disk
            .make_folder(&core.folder.join("quarantine"))
            .and_then(|()| core.disk.rename(&queue, &aside))
            .and_then(|()| empty(core.disk.as_ref(), &aside));
        if let Err(error) = emptied {
            core.report(format!("spool {}: {error}", queue.display()));
        }
        // Perhaps sled's threads make files in there yet; what is left is empty.
        let _ = fs::remove_dir_all(&aside);
        self.saved = None;
        self.index_all();
    }

    /// Opens a new queue in place of one that failed, once there is room for it.
    fn open_queue(&mut self) {
        let core = &self.core;
        let room = core.usage.free.load(Ordering::Relaxed) >= QUEUE_ROOM;
        if core.index.read().is_some() || !core.disk.has_queue() || !room {
            return;
        }
        match SledIndex::open(&core.folder.join("queue")) {
            Ok(index) => *core.index.write() = Some(Arc::new(index)),
            Err(error) => core.report(format!("spool {}: {error}", core.folder.display())),
        }
    }

    /// Has all segments entered into the queue anew, one at a time.
    fn index_all(&mut self) {
        let books = self.core.books.lock();
        self.unindexed = books.segments.keys().rev().copied().filter(|&segment| segment < books.position.0).collect();
    }

    fn runs_of(&self, segment: u64) -> Vec<(Stream, u64, Run)> {
        let mut streams: [StreamBooks; Stream::ALL.len()] = Default::default();
        let mut walk = || -> std::io::Result<()> {
            let mut walker = segment::walk(self.core.disk.as_ref(), &self.core.journal_folder(), segment, 0)?;
            while let Some(found) = walker.next()? {
                if let Found::Block { header, offset, .. } = found {
                    streams[header.stream as usize].enter_run_of(segment, offset, &header);
                }
            }
            Ok(())
        };
        if let Err(error) = walk() {
            // What is not entered is found by walking, when it is delivered.
            self.core.warn(&format!("segment {segment} is not entered into the queue: {error}"));
        }
        let runs = |stream: Stream| streams[stream as usize].runs().map(move |(key, run)| (stream, key, run));
        Stream::ALL.into_iter().flat_map(runs).collect()
    }

    /// Deletes the segments that neither a record nor the checkpoint needs.
    fn delete(&self) {
        let core = &self.core;
        // Where the queue cannot follow, the journal's own state has to do after a crash.
        let stuck = core.index.read().is_none() || core.usage.free.load(Ordering::Relaxed) < QUEUE_ROOM;
        let needed = match &self.saved {
            _ if stuck => u64::MAX,
            Some(saved) => saved.position.0,
            None => return,
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

/// Saves on a thread of its own, which may hang.
fn save_in_time(index: &Arc<dyn Index>, changes: &Arc<Changes>) -> Result<(), IndexError> {
    let (answer, answered) = mpsc::channel();
    let (thread_index, changes) = (Arc::clone(index), Arc::clone(changes));
    thread::Builder::new()
        .name("spool-queue".to_owned())
        .spawn(move || {
            // Who waited may have given up.
            let _ = answer.send(thread_index.save(&changes));
        })
        .map_err(|error| IndexError(error.to_string()))?;
    answered
        .recv_timeout(SAVE_PATIENCE)
        .unwrap_or_else(|_| Err(IndexError(format!("no answer for {} s", SAVE_PATIENCE.as_secs()))))
}

/// Cuts all files of a folder to nothing: open handles would keep their space otherwise.
fn empty(disk: &dyn Disk, folder: &std::path::Path) -> std::io::Result<()> {
    for (name, _) in disk.list(folder)? {
        disk.open_writable(&folder.join(name))?.set_len(0)?;
    }
    Ok(())
}
