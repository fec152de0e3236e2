//! What the file sink has stored: NDJSON files, also compressed ones, and the one that is being written.
//!
//! A file's name has the time at which it was begun, and its lines were delivered until the next one was begun. A record is
//! delivered after it was made, so nothing that began later than a file's name is in an older file: a list is read from the
//! newest file back, and is whole from the oldest file that was read. The other way it is not so: after an outage, records are
//! delivered late. A newer file is skipped if its first record is more than a day newer than what is asked for.
//!
//! The records of rooms are read forward, from the file that may have the first of them. Records are delivered in order, so
//! that soon after the events' file with the last ROOM_ENDED nothing more is expected.
//!
//! Files come and go meanwhile: one that was compressed is read under its new name, one that retention removed is left out. A
//! file that cannot be read, or not to its end, is named in `unread`.

use std::{
    collections::HashSet,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::Value;

use super::{
    Archive, ArchiveError, Found, LOOK_BACK, Limits, Listing, Query, Room,
    lines::{End, MAX_LINE, Pattern, Scanned, matching_lines},
    rooms::{MARKS, Mark, Rooms, room_of, span_of, time_of},
};
use crate::{
    record::Stream,
    session::Time,
    sink::{
        SinkOptions,
        file::{FileOptions, StoredFile, stored_files},
    },
    tasks,
};

/// A newer file is skipped if its first record is so much newer than what is asked for.
const NEWER: Duration = Duration::from_secs(24 * 3600);
/// How much later than the event that ends a room its last stats and webhooks may be delivered.
const TRAILING: Duration = Duration::from_secs(600);

/// The most bytes of a first line that are looked at.
const MAX_FIRST: u64 = 1 << 20;

/// Reads from a directory.
pub(super) struct FileArchive {
    address: String,
    directory: PathBuf,
}

impl FileArchive {
    pub(super) fn new(options: &FileOptions) -> Self {
        Self { address: options.address(), directory: options.path.clone() }
    }

    /// Reads on a thread that may block; the reading ends when nobody waits for it any more.
    async fn read<T: Send + 'static>(
        &self,
        limits: &Limits,
        read: impl FnOnce(&mut Reading) -> io::Result<T> + Send + 'static,
    ) -> Result<(T, Vec<String>), ArchiveError> {
        let gone = Arc::new(AtomicBool::new(false));
        let _gone = SetOnDrop(Arc::clone(&gone));
        let (directory, deadline) = (self.directory.clone(), Instant::now() + limits.time);
        let mut reading = Reading { directory, deadline, gone, bytes_left: limits.bytes, unread: Vec::new() };
        let done = tasks::run_blocking(move || read(&mut reading).map(|read| (read, reading.unread))).await;
        let unavailable = |reason: String| ArchiveError::Unavailable { address: self.address.clone(), reason };
        let read = done.map_err(|panic| unavailable(panic.to_string()))?;
        read.map_err(|error| {
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            let remedy = if is_missing { ": the sink creates the directory when it first runs" } else { "" };
            unavailable(format!("{error}{remedy}"))
        })
    }

    fn slow(&self, limits: &Limits) -> ArchiveError {
        ArchiveError::Slow { address: self.address.clone(), limit: limits.time }
    }
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Archive for FileArchive {
    fn address(&self) -> String {
        self.address.clone()
    }

    async fn list(&self, query: &Query, limits: &Limits) -> Result<Listing, ArchiveError> {
        let (query, limit) = (query.clone(), limits.rooms);
        let (mut listing, unread) = self.read(limits, move |reading| reading.list(&query, limit)).await?;
        listing.unread = unread;
        Ok(listing)
    }

    async fn records(&self, rooms: &[Room], limits: &Limits) -> Result<Found, ArchiveError> {
        if rooms.is_empty() {
            return Ok(Found::default());
        }
        let rooms = rooms.to_vec();
        let ((mut found, is_late), unread) =
            self.read(limits, move |reading| Ok((reading.records(&rooms)?, reading.is_late()))).await?;
        if is_late && !found.cut.is_empty() {
            return Err(self.slow(limits));
        }
        found.unread = unread;
        Ok(found)
    }

    async fn room(&self, sid: &str, limits: &Limits) -> Result<Option<Room>, ArchiveError> {
        let sid = sid.to_owned();
        match self.read(limits, move |reading| reading.room(&sid)).await? {
            ((None, End::Stopped), _) => Err(self.slow(limits)),
            // It may be there.
            ((None, End::Whole), unread) if !unread.is_empty() => {
                let reason = format!("nothing was found, and not everything could be read: {}", unread.join("; "));
                Err(ArchiveError::Unavailable { address: self.address.clone(), reason })
            }
            ((room, _), _) => Ok(room),
        }
    }
}

/// One request.
struct Reading {
    directory: PathBuf,
    deadline: Instant,
    /// Nobody waits for the answer any more.
    gone: Arc<AtomicBool>,
    bytes_left: u64,
    unread: Vec<String>,
}

/// A file with the time at which the next one was begun; `None`: it is the newest.
type Dated = (StoredFile, Option<Time>);

impl Reading {
    /// Oldest first.
    fn files(&self, stream: Stream) -> io::Result<Vec<Dated>> {
        let files = stored_files(stream, &self.directory)?;
        let ends: Vec<_> = files.iter().skip(1).map(|next| Some(begun(next))).chain([None]).collect();
        Ok(files.into_iter().zip(ends).collect())
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Hands the documents of a file's lines with the pattern to `each`. A line that is no JSON is left out.
    fn scan(&mut self, file: &StoredFile, pattern: &Pattern<'_>, each: &mut dyn FnMut(Value)) -> End {
        let left = std::cell::Cell::new(Some(self.bytes_left));
        let stops = || left.get().is_none() || self.gone.load(Ordering::Relaxed) || self.is_late();
        let mut broken = 0_u64;
        let scanned = file.open().and_then(|content| {
            let Some(mut content) = content else { return Ok(Scanned { end: End::Whole, too_long: 0 }) };
            matching_lines(&mut content, pattern, &stops, &mut |line| {
                let Some(bytes) = left.get().and_then(|left| left.checked_sub(line.len() as u64)) else {
                    return left.set(None);
                };
                left.set(Some(bytes));
                match serde_json::from_slice(line) {
                    Ok(document) => each(document),
                    Err(_) => broken += 1,
                }
            })
        });
        let is_exhausted = left.get().is_none();
        self.bytes_left = left.get().unwrap_or(0);
        if broken > 0 {
            self.unread.push(format!("{}: lines that are not valid JSON: {broken}", file.name()));
        }
        if let Ok(Scanned { too_long: 1.., .. }) = scanned {
            let mebibytes = MAX_LINE >> 20;
            self.unread.push(format!("{}: lines longer than {mebibytes} MiB were left out", file.name()));
        }
        match scanned {
            Ok(_) if is_exhausted => End::Stopped,
            Ok(scanned) => scanned.end,
            Err(error) => {
                self.unread.push(format!("{}: {error}", file.name()));
                End::Whole
            }
        }
    }

    /// True if the records of a file are newer than what is asked for.
    fn is_newer(&mut self, file: &StoredFile, asked: Time) -> bool {
        // No record of an older file can be.
        if begun(file) <= asked.after(NEWER) {
            return false;
        }
        // A file that cannot be read is named when it is scanned.
        let Ok(Some(content)) = file.open() else { return false };
        let mut first = Vec::new();
        let read = BufReader::new(content.take(MAX_FIRST)).read_until(b'\n', &mut first);
        let first = read.ok().and_then(|_| serde_json::from_slice(&first).ok());
        first.and_then(|record: Value| time_of(&record)).is_some_and(|at| at > asked.after(NEWER))
    }

    fn scan_marks(&mut self, file: &StoredFile, rooms: &mut Rooms<'_>) -> End {
        let accepts = |rest: &[u8]| MARKS.iter().any(|mark| starts_with_text(rest, mark.as_bytes()));
        let pattern = Pattern { text: b"\"type\":\"", accepts: &accepts };
        self.scan(file, &pattern, &mut |event| Mark::of(&event).into_iter().for_each(|mark| rooms.add(mark)))
    }

    fn list(&mut self, query: &Query, limit: usize) -> io::Result<Listing> {
        let mut rooms = Rooms::new(query);
        let earliest = query.from.before(LOOK_BACK);
        let mut complete_from = None;
        for (file, end) in self.files(Stream::Events)?.into_iter().rev() {
            if end.is_some_and(|end| end < earliest) {
                break;
            }
            if self.is_newer(&file, query.to) {
                continue;
            }
            if self.scan_marks(&file, &mut rooms) == End::Stopped {
                complete_from = Some(end.unwrap_or(query.to));
                break;
            }
            if rooms.began_since(begun(&file)) >= limit && begun(&file) > query.from {
                complete_from = Some(begun(&file));
                break;
            }
        }
        Ok(rooms.into_listing(limit, complete_from))
    }

    /// Searches from the newest file back, as far as the limits reach.
    fn room(&mut self, sid: &str) -> io::Result<(Option<Room>, End)> {
        let query = Query::any_time();
        let quoted = in_json(sid);
        let pattern = Pattern { text: &quoted, accepts: &|rest| rest.first() == Some(&b'"') };
        let mut rooms = Rooms::new(&query);
        let (mut is_found, mut end) = (false, End::Whole);
        for (file, _) in self.files(Stream::Events)?.into_iter().rev() {
            let mut is_here = false;
            end = self.scan(&file, &pattern, &mut |event| {
                if let Some(mark) = Mark::of(&event).filter(|mark| mark.is_of(sid)) {
                    is_here = true;
                    rooms.add(mark);
                }
            });
            // Its first events may be in the file before.
            if end == End::Stopped || (is_found && !is_here) {
                break;
            }
            is_found |= is_here;
        }
        Ok((rooms.into_listing(1, None).rooms.pop(), end))
    }

    fn records(&mut self, rooms: &[Room]) -> io::Result<Found> {
        let mut found = Found::default();
        let (first, latest) = span_of(rooms);
        let sids: HashSet<Vec<u8>> = rooms.iter().map(|room| in_json(&room.sid)).collect();
        let common = common_beginning(&sids);
        let rests: HashSet<&[u8]> = sids.iter().map(|sid| &sid[common.len()..]).collect();
        let accepts = |rest: &[u8]| memchr::memchr(b'"', rest).is_some_and(|end| rests.contains(&rest[..end]));
        let pattern = Pattern { text: &common, accepts: &accepts };
        let names: HashSet<&str> = rooms.iter().map(|room| room.sid.as_str()).collect();
        let mut open: HashSet<&str> = names.clone();
        // When no more is expected of any room.
        let mut last = None;
        for stream in [Stream::Events, Stream::Stats] {
            for (file, end) in self.files(stream)? {
                if end.is_some_and(|end| end < first) {
                    continue;
                }
                if last.is_some_and(|last| begun(&file) > last) {
                    break;
                }
                if self.is_newer(&file, latest) {
                    continue;
                }
                let scanned = self.scan(&file, &pattern, &mut |document| {
                    let room = room_of(stream, &document);
                    let Some(sid) = room.and_then(|room| names.get(room).copied()) else { return };
                    if document.get("type").and_then(Value::as_str) == Some("ROOM_ENDED") {
                        open.remove(sid);
                    }
                    found.add(sid, stream, &document);
                });
                if scanned == End::Stopped {
                    found.cut = rooms.iter().map(|room| room.sid.clone()).collect();
                    return Ok(found);
                }
                if stream == Stream::Events && open.is_empty() && last.is_none() {
                    last = end.map(|end| end.after(TRAILING));
                }
            }
        }
        Ok(found)
    }
}

fn begun(file: &StoredFile) -> Time {
    Time(file.begun_at.saturating_mul(1_000_000))
}

/// A quote and the text, as JSON has it.
fn in_json(text: &str) -> Vec<u8> {
    let mut quoted = Value::from(text).to_string().into_bytes();
    quoted.pop();
    quoted
}

fn starts_with_text(rest: &[u8], text: &[u8]) -> bool {
    rest.strip_prefix(text).is_some_and(|rest| rest.first() == Some(&b'"'))
}

/// What all begin with: with one room its whole SID, with more the quote and `RM_`.
fn common_beginning(texts: &HashSet<Vec<u8>>) -> Vec<u8> {
    let mut texts = texts.iter();
    let mut common = texts.next().cloned().unwrap_or_default();
    for text in texts {
        let length = common.iter().zip(text).take_while(|(a, b)| a == b).count();
        common.truncate(length);
    }
    common
}
