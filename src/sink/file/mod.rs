//! The file sink: NDJSON in relaxed Extended JSON, one file at a time per stream. It needs no server.
//!
//! Delivered means appended and fsynced. A record that is redelivered after a crash is found in the tail of the files and
//! not written twice; after a rebuild of the queue, in all files since. A full disk is `Retry`. Closed files are compressed
//! in parallel with deliveries.

mod closed;
mod definition;
mod delivered_ids;
mod names;
mod options;
mod output;
mod recent;
mod stored;
mod stream_file;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fmt, fs, io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bson::RawDocument;
use parking_lot::Mutex;

pub use self::options::{FileCompression, FileOptions};
pub(crate) use self::stored::{StoredFile, stored_files};
use self::{
    output::{DIRECTORY_MODE, Disk, RealDisk},
    stream_file::{Rotation, StreamFile},
};
use super::{
    Batch, BatchOutcome, InvalidOption, Outcome, Sink, SinkError, SinkErrorKind, SinkOptions,
    encoding::{Cancelled, PART_BYTES, run_blocking},
    options::labels,
};
use crate::{
    document::{DocumentContext, Encoder, JsonStyle, Labels, NoJson, write_json},
    durable_fs::make_directories,
    files,
    record::{Stream, UnixMillis},
    tasks,
};

/// Held while the directory is in use, so that no second sink writes into the same files.
const LOCK: &str = ".livekit-spool.lock";

/// Delivers to files.
pub struct FileSink {
    inner: Arc<Inner>,
}

struct Inner {
    options: FileOptions,
    encoder: Arc<Encoder>,
    labels: Labels,
    disk: Arc<dyn Disk>,
    /// A stream's files, once opened; the lock orders the batches of a stream.
    streams: HashMap<Stream, Mutex<Option<StreamFile>>>,
    lock: Mutex<Option<fs::File>>,
    /// Held while closed files are compressed.
    compressing: Mutex<()>,
    /// Set when the directory is about to be released: no other file is compressed.
    closing: AtomicBool,
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl FileSink {
    /// A sink that has not accessed its directory yet.
    ///
    /// # Errors
    /// When a label cannot be a key.
    pub fn new(options: FileOptions, encoder: Arc<Encoder>) -> Result<Self, InvalidOption> {
        Self::on(options, encoder, Arc::new(RealDisk))
    }

    fn on(options: FileOptions, encoder: Arc<Encoder>, disk: Arc<dyn Disk>) -> Result<Self, InvalidOption> {
        let labels = labels(&options.labels)?;
        let streams = Stream::ALL.into_iter().map(|stream| (stream, Mutex::new(None))).collect();
        let (lock, compressing, closing) = (Mutex::new(None), Mutex::new(()), AtomicBool::new(false));
        let inner = Inner { options, encoder, labels, disk, streams, lock, compressing, closing };
        Ok(Self { inner: Arc::new(inner) })
    }
}

#[async_trait]
impl Sink for FileSink {
    fn kind(&self) -> &'static str {
        FileOptions::KIND
    }

    fn address(&self) -> String {
        self.inner.options.address()
    }

    async fn initialize(&self) -> Result<Vec<String>, SinkError> {
        let inner = Arc::clone(&self.inner);
        let prepared = tasks::run_blocking(move || inner.prepare()).await;
        prepared.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(|error| self.inner.error(&error))?;
        tasks::spawn(close_old_files(Arc::downgrade(&self.inner)));
        Ok(Vec::new())
    }

    async fn send_batch(&self, batch: Batch) -> BatchOutcome {
        let inner = Arc::clone(&self.inner);
        let records = batch.records.len();
        let written = run_blocking(move |cancelled| inner.write(&batch, cancelled)).await;
        written.unwrap_or_else(|panic| BatchOutcome {
            records: vec![Outcome::Retry; records],
            error: Some(SinkError { kind: SinkErrorKind::Unnamed, message: format!("writing failed: {panic}") }),
        })
    }

    fn recognizes(&self) -> Option<u64> {
        Some(recent::REMEMBERED as u64)
    }

    async fn load_delivered(&self, since: UnixMillis) -> Result<(), SinkError> {
        let inner = Arc::clone(&self.inner);
        let done = tasks::run_blocking(move || inner.load_delivered(since)).await;
        done.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(|error| self.inner.error(&error))
    }

    async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        // Releases only the lock and the open files; lines are durable since their batch.
        let _ = tasks::run_blocking(move || inner.release()).await;
    }
}

impl Inner {
    fn prepare(&self) -> io::Result<()> {
        let directory = &self.options.path;
        make_directories(directory, DIRECTORY_MODE)?;
        let mut lock = self.lock.lock();
        if lock.is_none() {
            let mut options = fs::OpenOptions::new();
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{LOCK}: {error}"));
            let file =
                files::open(&directory.join(LOCK), options.write(true).create(true).truncate(false)).map_err(named)?;
            if !files::lock(&file).map_err(named)? {
                let busy = "another sink or process writes into this directory";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, busy));
            }
            *lock = Some(file);
        }
        closed::remove_unfinished(directory)?;
        for (&stream, file) in &self.streams {
            *file.lock() = Some(StreamFile::recover(stream, directory, Arc::clone(&self.disk))?);
        }
        Ok(())
    }

    fn load_delivered(&self, since: UnixMillis) -> io::Result<()> {
        // No file is compressed, and so renamed, meanwhile.
        let _one_at_a_time = self.compressing.lock();
        for file in self.streams.values() {
            let mut file = file.lock();
            file.as_mut().ok_or_else(not_in_use)?.load_delivered(since)?;
        }
        Ok(())
    }

    /// Encodes, omits lines that are already written, appends, fsyncs. If that fails, what was appended is removed.
    fn write(self: &Arc<Self>, batch: &Batch, cancelled: &Cancelled) -> BatchOutcome {
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        let mut next = 0;
        // Encoded before it is this batch's turn, while the one before is being synced.
        let mut lines = self.encode(batch, &mut next, &mut outcomes, cancelled);
        let mut file = self.streams[&batch.stream].lock();
        let Some(file) = file.as_mut() else {
            let error = Some(self.error(&not_in_use()));
            return BatchOutcome { records: outcomes, error };
        };
        let (mut records, mut ids) = (Vec::with_capacity(lines.len()), HashSet::with_capacity(lines.len()));
        let mut written = file.take_back();
        loop {
            let mut text = Vec::with_capacity(lines.iter().map(|line| line.text.len()).sum());
            for line in lines {
                records.push(line.record);
                if !file.has(&line.id) && !ids.contains(&line.id) {
                    text.extend_from_slice(&line.text);
                    ids.insert(line.id);
                }
            }
            // Where another batch was first, nobody may wait any more: then nothing is begun.
            if !text.is_empty() && !cancelled.is_set() {
                written = written.and_then(|()| file.append(&text));
            }
            drop(text);
            if written.is_err() || cancelled.is_set() || next == batch.records.len() {
                break;
            }
            lines = self.encode(batch, &mut next, &mut outcomes, cancelled);
        }
        if cancelled.is_set() {
            written = written.and(file.take_back());
            let error = written.err().map(|error| self.error(&error));
            return BatchOutcome { records: outcomes, error };
        }
        if !ids.is_empty() {
            written = written.and_then(|()| file.sync(ids.iter().map(String::as_str)));
        }
        if let Err(error) = written {
            return BatchOutcome { records: outcomes, error: Some(self.error(&error)) };
        }
        for record in records {
            outcomes[record] = Outcome::Delivered;
        }
        if file.rotate(self.rotation()) {
            let inner = Arc::clone(self);
            drop(tasks::run_blocking(move || inner.compress_closed()));
        }
        BatchOutcome { records: outcomes, error: None }
    }

    /// The next part of the batch as lines, starting with record `next`; records that cannot be documents are rejected.
    fn encode(&self, batch: &Batch, next: &mut usize, outcomes: &mut [Outcome], cancelled: &Cancelled) -> Vec<Line> {
        let context = DocumentContext { expire_at: None, labels: &self.labels };
        let mut document = Vec::new();
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while let Some(record) = batch.records.get(*next).filter(|_| bytes < PART_BYTES && !cancelled.is_set()) {
            let i = *next;
            *next += 1;
            document.clear();
            let line = match self.encoder.encode(batch.stream, &record.bytes, &context, &mut document) {
                Ok(()) => line_of(&document).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match line {
                Ok((id, text)) => {
                    bytes += text.len();
                    lines.push(Line { record: i, id, text });
                }
                Err(reason) => outcomes[i] = Outcome::Rejected(format!("it cannot be a document: {reason}")),
            }
        }
        lines
    }

    /// Closes files that are due.
    fn rotate_all(&self) {
        for file in self.streams.values() {
            if let Some(file) = file.lock().as_mut() {
                file.rotate(self.rotation());
            }
        }
    }

    /// Compresses closed files. A file that cannot be compressed is kept, and is tried again next time.
    fn compress_closed(&self) {
        if self.options.compression == FileCompression::None {
            return;
        }
        let _one_at_a_time = self.compressing.lock();
        for file in self.streams.values() {
            let closed = file.lock().as_ref().map_or_else(|| Ok(Vec::new()), StreamFile::closed);
            for path in closed.unwrap_or_default() {
                if self.closing.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = closed::compress(&path, self.options.compression) {
                    tracing::warn!(path = %path.display(), %error, "closed file is not compressed yet");
                }
            }
        }
    }

    fn rotation(&self) -> Rotation {
        Rotation { bytes: self.options.rotate_bytes, age: self.options.rotate_age }
    }

    fn release(&self) {
        self.closing.store(true, Ordering::Relaxed);
        // The next user of the directory continues its newest file: that must not be one that is being replaced by its
        // compressed copy.
        let _none_is_compressed = self.compressing.lock();
        for file in self.streams.values() {
            *file.lock() = None;
        }
        *self.lock.lock() = None;
    }

    fn error(&self, error: &io::Error) -> SinkError {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let (kind, remedy) = match error.kind() {
            StorageFull | QuotaExceeded => (SinkErrorKind::Full, "; free space on that disk"),
            io::ErrorKind::PermissionDenied => {
                (SinkErrorKind::Unauthorized, "; let the user that runs livekit-spool write there")
            }
            _ => (SinkErrorKind::Unavailable, ""),
        };
        SinkError { kind, message: format!("{}: {error}{remedy}", self.options.path.display()) }
    }
}

fn not_in_use() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the directory is not in use yet")
}

/// A record as a line of the file.
struct Line {
    /// Its index in the batch.
    record: usize,
    id: String,
    /// Includes the line feed.
    text: Vec<u8>,
}

/// A document's `_id` and its line.
fn line_of(document: &[u8]) -> Result<(String, Vec<u8>), NoJson> {
    let id = RawDocument::from_bytes(document).ok().and_then(|document| document.get_str("_id").ok());
    let id = id.ok_or(NoJson::BadBson { at: 0 })?.to_owned();
    let mut text = Vec::with_capacity(document.len() * 3 / 2);
    write_json(document, JsonStyle::Relaxed, &mut text)?;
    text.push(b'\n');
    Ok((id, text))
}

/// Closes files by age, including the last file of an idle stream, and compresses closed files, until the sink is dropped.
async fn close_old_files(sink: Weak<Inner>) {
    let Some(age) = sink.upgrade().map(|inner| inner.options.rotate_age) else { return };
    let pause = (age / 10).clamp(Duration::from_millis(100), Duration::from_secs(60));
    loop {
        tokio::time::sleep(pause).await;
        let Some(inner) = sink.upgrade() else { return };
        let done = tasks::run_blocking(move || {
            inner.rotate_all();
            inner.compress_closed();
        });
        if done.await.is_err() {
            return;
        }
    }
}
