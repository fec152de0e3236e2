//! One stream's files: `<stream>-<UTC time>.ndjson`, the newest of them being written.
//!
//! - A batch's lines are appended and fsynced before any of its records counts as delivered. What could not be written
//!   or synced whole is cut off again; where the sync itself failed the file is left for good and a new one begun.
//! - At start the newest file is taken up again: a torn last line is cut, and the `_id`s of its tail (and of the files
//!   before it, as far as needed) are remembered, see [`RecentIds`]. Where more may be redelivered than those, it looks
//!   further back, see [`LookedBack`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    closed,
    looked_back::{self, LookedBack},
    names::{EXTENSION, is_file_of, name_of},
    output::{DIRECTORY_MODE, Disk, Output},
    recent::{REMEMBERED, RecentIds},
};
use crate::{
    durable_fs::make_directories,
    files,
    record::{Stream, UnixMillis, now_millis},
};

/// When a file is closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotation {
    pub(super) bytes: u64,
    pub(super) age: Duration,
}

/// The file of a stream that is being written, if any, and what was written last.
pub(super) struct StreamFile {
    stream: Stream,
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    open: Option<Open>,
    recent: RecentIds,
    looked_back: LookedBack,
    /// The newest file's time: names never repeat and never go back, whatever the clock does.
    last_named: UnixMillis,
}

struct Open {
    path: PathBuf,
    output: Box<dyn Output>,
    /// Whole, synced lines.
    bytes: u64,
    /// Lines behind them, not yet synced.
    unsynced: u64,
    since: UnixMillis,
}

impl StreamFile {
    /// Takes up the stream's files where a run before this one left them.
    pub(super) fn recover(stream: Stream, directory: &Path, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let mut files = files_of(stream, directory)?;
        let mut file = Self {
            stream,
            directory: directory.to_owned(),
            disk,
            open: None,
            recent: RecentIds::default(),
            looked_back: LookedBack::default(),
            last_named: files.last().map_or(0, |(at, _)| *at),
        };
        let newest = files.pop_if(|(_, path)| path.to_string_lossy().ends_with(EXTENSION));
        let mut tails = Vec::new();
        let mut remembered = 0;
        if let Some((since, path)) = newest {
            let mut output = file.disk.open(&path)?;
            let (bytes, ids) = closed::whole_lines(&path)?;
            output.cut(bytes)?;
            // Lines that only the page cache holds would be taken for durable below.
            output.sync()?;
            remembered += ids.len();
            tails.push(ids);
            file.open = Some(Open { path, output, bytes, unsynced: 0, since });
        }
        while remembered < REMEMBERED
            && let Some((_, path)) = files.pop()
        {
            // A closed file that cannot be read costs at most a line that stands twice.
            let ids = closed::last_ids(&path).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "closed file cannot be read: redelivered lines may stand twice");
                Vec::new()
            });
            remembered += ids.len();
            tails.push(ids);
        }
        for id in tails.iter().rev().flatten() {
            file.recent.insert(id);
        }
        Ok(file)
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.recent.contains(id) || self.looked_back.contains(id)
    }

    /// Takes up the `_id`s of all lines written since then, in place of those of an earlier call; of none at the end of
    /// time.
    pub(super) fn look_back(&mut self, since: UnixMillis) -> io::Result<()> {
        self.looked_back = LookedBack::default();
        if since < UnixMillis::MAX {
            let files = match files_of(self.stream, &self.directory) {
                // Someone removed the directory; the next line makes it again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                files => files?,
            };
            self.looked_back =
                LookedBack::read(looked_back::written_since(files, since, now_millis()), looked_back::MAX_IDS);
        }
        Ok(())
    }

    /// Appends lines, each with its end. They count once they are synced; after an error none of those since then is there.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Some(open) = self.open.as_mut().filter(|open| open.unsynced == 0) {
            let left = open.output.len()?;
            if !open.output.is_linked() || (1..open.bytes).contains(&left) {
                // Removed, or cut within a line for all that is known.
                self.open = None;
            } else {
                // Emptied (logrotate's copytruncate): it is gone on with.
                open.bytes = open.bytes.min(left);
            }
        }
        if self.open.is_none() {
            self.open = Some(self.create()?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Err(error) = open.output.append(lines) {
            if open.output.cut(open.bytes).is_err() {
                self.abandon();
            } else {
                open.unsynced = 0;
            }
            return Err(error);
        }
        open.unsynced += lines.len() as u64;
        Ok(())
    }

    /// Makes durable what was appended, and remembers its `_id`s.
    pub(super) fn sync<'a>(&mut self, ids: impl Iterator<Item = &'a str>) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Err(error) = open.output.sync() {
            // What the disk holds now is unknown: nothing is appended to it any more. The lines go, if they can.
            let _ = open.output.cut(open.bytes);
            self.abandon();
            return Err(error);
        }
        let whole = open.bytes + open.unsynced;
        if open.output.len()? < whole {
            // Which of them are left nobody knows: they come again, into another file.
            let error = format!("{} was cut by someone else meanwhile", open.path.display());
            self.open = None;
            return Err(io::Error::other(error));
        }
        open.bytes = whole;
        open.unsynced = 0;
        for id in ids {
            self.recent.insert(id);
        }
        Ok(())
    }

    /// Takes back what was appended and not synced.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_mut().filter(|open| open.unsynced > 0) else { return Ok(()) };
        let cut = open.output.cut(open.bytes);
        open.unsynced = 0;
        if cut.is_err() {
            self.abandon();
        }
        cut
    }

    /// Goes on with another file. One that holds no line that counts is removed: each attempt on a disk that fails makes one.
    fn abandon(&mut self) {
        if let Some(open) = self.open.take().filter(|open| open.bytes == 0 && open.output.is_linked()) {
            let _ = fs::remove_file(&open.path);
        }
    }

    /// Closes the file if it is due; true where it was.
    pub(super) fn rotate(&mut self, rotation: Rotation) -> bool {
        let Some(open) = &self.open else { return false };
        let age = Duration::from_millis(u64::try_from(now_millis() - open.since).unwrap_or(0));
        let due = open.bytes > 0 && (open.bytes >= rotation.bytes || age >= rotation.age);
        if due {
            self.open = None;
        }
        due
    }

    /// Files that are closed and still as they were written.
    pub(super) fn closed(&self) -> io::Result<Vec<PathBuf>> {
        let open = self.open.as_ref().map(|open| &open.path);
        let files = files_of(self.stream, &self.directory)?.into_iter().map(|(_, path)| path);
        Ok(files.filter(|path| Some(path) != open && path.to_string_lossy().ends_with(EXTENSION)).collect())
    }

    fn create(&mut self) -> io::Result<Open> {
        make_directories(&self.directory, DIRECTORY_MODE)?;
        let since = now_millis();
        let named = since.max(self.last_named + 1);
        let path = self.directory.join(format!("{}-{}{EXTENSION}", self.stream, name_of(named)));
        let output = self.disk.create(&path)?;
        self.last_named = named;
        Ok(Open { path, output, bytes: 0, unsynced: 0, since })
    }
}

/// A stream's files, oldest first, with the time in their names.
fn files_of(stream: Stream, directory: &Path) -> io::Result<Vec<(UnixMillis, PathBuf)>> {
    let mut found = Vec::new();
    let whose = fs::metadata(directory).ok();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(at) = is_file_of(stream, name) else { continue };
        // Not those of a link: others may be able to put one there, and it is neither read nor gone on with.
        if entry.metadata().is_ok_and(|file| file.is_file() && files::is_ours(&file, whose.as_ref())) {
            found.push((at, path));
        }
    }
    found.sort();
    Ok(found)
}
