//! The files of one stream: `<stream>-<UTC time>.ndjson`, of which the newest is being written.
//!
//! - A batch's lines are appended and fsynced before any of its records counts as delivered. If they could not be written
//!   or synced completely, they are cut off again; if the sync itself failed, the file is closed for good and a new one is
//!   created.
//! - At start the newest file is opened again: a torn last line is cut off, and the `_id`s of its tail (and of the files
//!   before it, as far as needed) are remembered, see [`RecentIds`]. If more than those may be redelivered, it reads
//!   further back, see [`DeliveredIds`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    closed,
    delivered_ids::{self, DeliveredIds},
    names::{EXTENSION, is_file_of, name_of},
    output::{DIRECTORY_MODE, Disk, Output},
    recent::{REMEMBERED, RecentIds},
};
use crate::{
    durable_fs::make_directories,
    files,
    record::{Stream, UnixMillis, now_millis},
};

/// When to close a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotation {
    pub(super) bytes: u64,
    pub(super) age: Duration,
}

/// The file of a stream that is being written, if any, and the `_id`s written last.
pub(super) struct StreamFile {
    stream: Stream,
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    open: Option<Open>,
    recent: RecentIds,
    delivered_ids: DeliveredIds,
    /// The time of the newest file: names never repeat and never go back, whatever the clock does.
    last_named: UnixMillis,
}

struct Open {
    path: PathBuf,
    output: Box<dyn Output>,
    /// Whole, synced lines.
    bytes: u64,
    /// Lines after them, not yet synced.
    unsynced: u64,
    since: UnixMillis,
}

impl StreamFile {
    /// Opens the files of the stream that an earlier process left.
    pub(super) fn recover(stream: Stream, directory: &Path, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let mut files = files_of(stream, directory)?;
        let mut file = Self {
            stream,
            directory: directory.to_owned(),
            disk,
            open: None,
            recent: RecentIds::default(),
            delivered_ids: DeliveredIds::default(),
            last_named: files.last().map_or(0, |(at, _)| *at),
        };
        let newest = files.pop_if(|(_, path)| path.to_string_lossy().ends_with(EXTENSION));
        let mut tails = Vec::new();
        let mut remembered = 0;
        if let Some((since, path)) = newest {
            let mut output = file.disk.open(&path)?;
            let (bytes, ids) = closed::whole_lines(&path)?;
            output.cut(bytes)?;
            // Otherwise lines that are only in the page cache would count as durable below.
            output.sync()?;
            remembered += ids.len();
            tails.push(ids);
            file.open = Some(Open { path, output, bytes, unsynced: 0, since });
        }
        while remembered < REMEMBERED
            && let Some((_, path)) = files.pop()
        {
            // A closed file that cannot be read costs at most a line that is written twice.
            let ids = closed::last_ids(&path).unwrap_or_else(|error| {
                let message = "closed file cannot be read: redelivered lines may be written twice";
                tracing::warn!(path = %path.display(), %error, "{message}");
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
        self.recent.contains(id) || self.delivered_ids.contains(id)
    }

    /// Reads the `_id`s of all lines written since then, in place of those of an earlier call; none if `since` is the end
    /// of time.
    pub(super) fn load_delivered(&mut self, since: UnixMillis) -> io::Result<()> {
        self.delivered_ids = DeliveredIds::default();
        if since < UnixMillis::MAX {
            let files = match files_of(self.stream, &self.directory) {
                // Someone removed the directory; the next line creates it again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                files => files?,
            };
            self.delivered_ids =
                DeliveredIds::read(delivered_ids::written_since(files, since, now_millis()), delivered_ids::MAX_IDS);
        }
        Ok(())
    }

    /// Appends lines, each with its line feed. They count once they are synced; after an error none appended since the last
    /// sync remains.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Some(open) = self.open.as_mut().filter(|open| open.unsynced == 0) {
            let left = open.output.len()?;
            if !open.output.is_linked() || (1..open.bytes).contains(&left) {
                // Removed, or possibly cut within a line.
                self.open = None;
            } else {
                // Emptied (logrotate's copytruncate): it is continued.
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

    /// Makes the appended lines durable, and remembers their `_id`s.
    pub(super) fn sync<'a>(&mut self, ids: impl Iterator<Item = &'a str>) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Err(error) = open.output.sync() {
            // The content on disk is unknown now: the file gets no more lines. The unsynced lines are removed, if possible.
            let _ = open.output.cut(open.bytes);
            self.abandon();
            return Err(error);
        }
        let whole = open.bytes + open.unsynced;
        if open.output.len()? < whole {
            // It is unknown which of them are left: they are redelivered, into another file.
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

    /// Removes what was appended and not synced.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        let Some(open) = self.open.as_mut().filter(|open| open.unsynced > 0) else { return Ok(()) };
        let cut = open.output.cut(open.bytes);
        open.unsynced = 0;
        if cut.is_err() {
            self.abandon();
        }
        cut
    }

    /// Continues with another file. A file without a line that counts is removed: each attempt on a failing disk creates
    /// one.
    fn abandon(&mut self) {
        if let Some(open) = self.open.take().filter(|open| open.bytes == 0 && open.output.is_linked()) {
            let _ = fs::remove_file(&open.path);
        }
    }

    /// Closes the file if it is due; true if it was.
    pub(super) fn rotate(&mut self, rotation: Rotation) -> bool {
        let Some(open) = &self.open else { return false };
        let age = Duration::from_millis(u64::try_from(now_millis() - open.since).unwrap_or(0));
        let due = open.bytes > 0 && (open.bytes >= rotation.bytes || age >= rotation.age);
        if due {
            self.open = None;
        }
        due
    }

    /// Files that are closed and not compressed.
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
pub(super) fn files_of(stream: Stream, directory: &Path) -> io::Result<Vec<(UnixMillis, PathBuf)>> {
    let found = named_as_files_of(stream, directory)?.into_iter();
    Ok(found.filter(|(_, is_other, _)| !is_other).map(|(at, _, path)| (at, path)).collect())
}

/// The same, and whatever else has such a name (`true`), behind the file of the same time.
pub(super) fn named_as_files_of(stream: Stream, directory: &Path) -> io::Result<Vec<(UnixMillis, bool, PathBuf)>> {
    let mut found = Vec::new();
    let whose = fs::metadata(directory).ok();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(at) = is_file_of(stream, name) else { continue };
        // Links are ignored: others may be able to create one, and it is neither read nor continued.
        match entry.metadata() {
            Ok(file) => found.push((at, !(file.is_file() && files::is_ours(&file, whose.as_ref())), path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => found.push((at, true, path)),
        }
    }
    found.sort();
    Ok(found)
}
