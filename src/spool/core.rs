//! What the spool's threads share: the writer (journal), the keeper (queue, deletion) and the callers.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::{Condvar, Mutex, RwLock};
use serde::Serialize;
use tokio::sync::{Notify, oneshot};

use super::{
    QueueError,
    books::Books,
    codec::{Packer, Unpacker},
    dead::{DeadError, DeadLetters},
    error::{AppendError, FullLimit},
    io::Disk,
    options::SpoolOptions,
    queue::Index,
    reader::Reader,
    state::{DropReason, Fate, Note, PendingNotes, Size},
    status::DiskBytes,
};
use crate::histogram::{self, Histogram};
use crate::record::{RecordBatch, Stream, UnixMillis, now_millis};

/// A spool's shared parts. Locks are taken in this order: reader, books, inbox.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) folder: PathBuf,
    pub(crate) options: SpoolOptions,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) index: RwLock<Option<Arc<dyn Index>>>,
    pub(crate) readers: [Mutex<Reader>; Stream::ALL.len()],
    pub(crate) books: Mutex<Books>,
    pub(crate) inbox: Mutex<Inbox>,
    /// Wakes the writer.
    pub(crate) mail: Condvar,
    /// Wakes the keeper.
    pub(crate) keeper: Keeping,
    /// Per stream: records came or came back.
    pub(crate) ready: [Notify; Stream::ALL.len()],
    /// Room was given back.
    pub(crate) room: Notify,
    /// A group is durable and in the books.
    pub(crate) published: Notify,
    pub(crate) usage: Usage,
    pub(crate) dead: DeadLetters,
    pub(crate) last_error: Mutex<Option<LastError>>,
    /// Only looking: nothing may be changed on disk.
    pub(crate) read_only: bool,
    pub(crate) meters: Meters,
}

/// What is measured sync by sync.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) sync_latency: Histogram,
    pub(crate) sync_records: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        Self { sync_latency: Histogram::new(histogram::LATENCY), sync_records: Histogram::new(histogram::RECORDS) }
    }
}

/// What waits for the writer.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) appends: VecDeque<Waiting>,
    pub(crate) notes: PendingNotes,
    pub(crate) notes_since: Option<Instant>,
    /// Write the notes now.
    pub(crate) hurry: bool,
    /// Begin a new segment, so that the present one can go.
    pub(crate) roll: bool,
    pub(crate) closing: bool,
}

impl Inbox {
    pub(crate) fn add_note(&mut self, note: &Note) {
        self.notes.add(note);
        self.notes_since.get_or_insert_with(Instant::now);
    }
}

/// A batch and who waits for it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) batch: RecordBatch,
    /// Gets the first record's ordinal.
    pub(crate) answer: oneshot::Sender<Result<u64, AppendError>>,
}

/// The keeper's bell.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    pub(crate) state: Mutex<KeeperState>,
    pub(crate) bell: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct KeeperState {
    pub(crate) rung: bool,
    pub(crate) closing: bool,
}

impl Keeping {
    pub(crate) fn ring(&self) {
        self.state.lock().rung = true;
        self.bell.notify_one();
    }
}

/// Bytes on disk, by part.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) journal: AtomicU64,
    pub(crate) queue: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) quarantine: AtomicU64,
    /// Free on the disk, as last seen.
    pub(crate) free: AtomicU64,
}

impl Usage {
    pub(crate) fn total(&self) -> u64 {
        [&self.journal, &self.queue, &self.dead].iter().map(|part| part.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn parts(&self) -> DiskBytes {
        DiskBytes {
            journal: self.journal.load(Ordering::Relaxed),
            queue: self.queue.load(Ordering::Relaxed),
            dead: self.dead.load(Ordering::Relaxed),
            quarantine: self.quarantine.load(Ordering::Relaxed),
        }
    }
}

/// The last thing that went wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When, by the wall clock.
    pub at: UnixMillis,
    /// What.
    pub message: String,
}

impl Core {
    /// The shared parts over what was found on disk.
    pub(crate) fn new(
        folder: &Path,
        options: SpoolOptions,
        disk: Arc<dyn Disk>,
        books: Books,
        read_only: bool,
    ) -> io::Result<Self> {
        let keys = options.encryption.as_ref();
        let unpacker = || Unpacker::new(keys);
        let dead = DeadLetters::open(
            Arc::clone(&disk),
            folder.join("dead"),
            dead_max_bytes(&options),
            Packer::new(options.compression, keys)?,
            unpacker()?,
        )?;
        let [events, stats, node_rooms] =
            Stream::ALL.map(|stream| unpacker().map(|unpacker| Mutex::new(Reader::new(stream, unpacker))));
        let core = Self {
            folder: folder.to_owned(),
            disk,
            index: RwLock::new(None),
            readers: [events?, stats?, node_rooms?],
            books: Mutex::new(books),
            inbox: Mutex::default(),
            mail: Condvar::new(),
            keeper: Keeping::default(),
            ready: Default::default(),
            room: Notify::new(),
            published: Notify::new(),
            usage: Usage::default(),
            dead,
            last_error: Mutex::new(None),
            read_only,
            meters: Meters::default(),
            options,
        };
        core.measure();
        Ok(core)
    }

    /// Unpacks this spool's payloads.
    pub(crate) fn unpacker(&self) -> Result<Unpacker, QueueError> {
        Unpacker::new(self.options.encryption.as_ref())
            .map_err(|source| QueueError::Io { path: self.folder.display().to_string(), source })
    }

    /// Measures what is on disk and what is free.
    pub(crate) fn measure(&self) {
        let store = |part: &AtomicU64, bytes: io::Result<u64>| match bytes {
            Ok(bytes) => part.store(bytes, Ordering::Relaxed),
            Err(error) => self.report(format!("spool {}: measuring: {error}", self.folder.display())),
        };
        store(&self.usage.queue, self.disk.folder_bytes(&self.folder.join("queue")));
        store(&self.usage.quarantine, self.disk.folder_bytes(&self.folder.join("quarantine")));
        store(&self.usage.journal, Ok(self.books.lock().journal_bytes()));
        store(&self.usage.dead, Ok(self.dead.bytes()));
        self.refresh_free();
    }

    /// What `max_bytes` leaves for appends: some is kept for notes, so that a full spool can drain, and for the dead
    /// letters, so that they can be set aside.
    pub(crate) fn append_limit(&self) -> u64 {
        let dead = dead_max_bytes(&self.options).saturating_sub(self.usage.dead.load(Ordering::Relaxed));
        (self.options.max_bytes - notes_room(&self.options)).saturating_sub(dead)
    }

    /// What an empty spool has for records: no batch that takes up more ever fits.
    pub(crate) fn max_append(&self) -> u64 {
        self.options.max_bytes - notes_room(&self.options) - dead_max_bytes(&self.options)
    }

    /// Whether `bytes` more fit on top of what is used.
    pub(crate) fn admits(&self, bytes: u64) -> Result<(), FullLimit> {
        let used = self.usage.total();
        if used + bytes > self.append_limit() {
            return Err(FullLimit::Quota { used, max: self.options.max_bytes });
        }
        let free = self.usage.free.load(Ordering::Relaxed);
        if free < self.options.min_free_bytes.saturating_add(bytes) {
            return Err(FullLimit::Disk { free, min: self.options.min_free_bytes });
        }
        Ok(())
    }

    /// Takes in what became of records: at once in memory, with the journal's next group on disk.
    /// Answers how many of them were not done before.
    pub(crate) fn finish(&self, stream: Stream, ranges: &[Range<u64>], fate: Fate) -> u64 {
        let mut books = self.books.lock();
        let Some((finished, note)) = books.finish(stream, ranges, fate) else { return 0 };
        self.inbox.lock().add_note(&note);
        self.mail.notify_one();
        finished
    }

    /// Counts records that have no ordinal as dropped.
    pub(crate) fn count_dropped(&self, stream: Stream, reason: DropReason, records: u64) {
        let fate = Fate::Dropped(reason);
        let note = Note { stream, fate, ranges: Vec::new(), unnumbered: records, size: Size::default() };
        let mut books = self.books.lock();
        books.stream(stream).live.apply(&note);
        self.inbox.lock().add_note(&note);
        self.mail.notify_one();
    }

    /// Has the notes that wait written now.
    pub(crate) fn hurry_notes(&self) {
        self.inbox.lock().hurry = true;
        self.mail.notify_one();
    }

    /// Remembers, and logs, what went wrong; the same thing again is not logged again.
    pub(crate) fn report(&self, message: String) {
        let mut last = self.last_error.lock();
        if last.as_ref().is_none_or(|last| last.message != message) {
            tracing::error!(sink = %self.options.name, "{message}");
        }
        *last = Some(LastError { at: now_millis(), message });
    }

    /// The same, for what is only worth a warning.
    pub(crate) fn warn(&self, message: &str) {
        tracing::warn!(sink = %self.options.name, "{message}");
    }

    /// A failure of the dead letters, as the flusher is told.
    pub(crate) fn dead_error(&self, error: DeadError) -> QueueError {
        match error {
            DeadError::Full { .. } => QueueError::DeadLettersFull {
                sink: self.options.name.clone(),
                letters: Stream::ALL.iter().map(|&stream| self.dead.count(stream)).sum(),
                bytes: self.dead.bytes(),
            },
            DeadError::NoKey { path, key } => QueueError::NoKey { path: path.display().to_string(), key },
            DeadError::Io { path, source } => QueueError::Io { path: path.display().to_string(), source },
        }
    }

    pub(crate) fn journal_folder(&self) -> PathBuf {
        self.folder.join("journal")
    }

    pub(crate) fn refresh_free(&self) {
        match self.disk.free_bytes(&self.folder) {
            Ok(free) => self.usage.free.store(free, Ordering::Relaxed),
            Err(error) => self.report(format!("spool {}: free space: {error}", self.folder.display())),
        }
    }
}

/// What of `max_bytes` only notes may use.
pub(crate) fn notes_room(options: &SpoolOptions) -> u64 {
    (options.max_bytes / 16).min(1 << 20)
}

/// What dead letters may take: their own limit, and at most an eighth of the whole.
pub(crate) fn dead_max_bytes(options: &SpoolOptions) -> u64 {
    options.dead_max_bytes.min(options.max_bytes / 8)
}

/// How long segments get: at least four (and room for the queue) fit into `max_bytes`.
pub(crate) fn segment_bytes(options: &SpoolOptions) -> u64 {
    options.segment_bytes.min(options.max_bytes / 6).max(LEAST_SEGMENT_BYTES)
}

const LEAST_SEGMENT_BYTES: u64 = 256 << 10;
/// The smallest `max_bytes` that four segments and the queue fit into.
pub(crate) const LEAST_MAX_BYTES: u64 = 4 << 20;
