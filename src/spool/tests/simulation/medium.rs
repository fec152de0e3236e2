//! What is on a simulated medium, what of it is synced, and what of the rest a crash leaves.
//!
//! - A kill leaves all that was written, synced or not; a later power cut may still take what was not.
//! - A power cut leaves what was synced, and of what was not the part that the story says: whole pages, half of one, zeros in its
//!   place, a length without contents. Names (created, renamed, removed) that were not synced are kept in order, up to some point.
//! - After a sync that failed, the pages it should have written count as written and are not: no later sync brings them.
//!
//! Directories last from the start. What was reserved behind a file's end outlasts a kill.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    ledger::{Id, MARKER_BYTES, markers},
    queue::QueueImage,
};

pub(super) const PAGE: usize = 4096;
/// Space is given out in these: the spool is small here, and so is what rounding costs it.
pub(super) const BLOCK: usize = 512;
/// What a queue takes, whatever it holds.
pub(super) const QUEUE_BYTES: u64 = 2048;

/// Which part of what is not synced survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    Nothing,
    All,
    /// The first half, torn within a page.
    FirstHalf,
    /// All but the middle page.
    MiddleMissing,
    /// Files have their new length, and none of the new contents.
    LengthOnly,
    /// As these bits say.
    Some(u64),
}

/// How the process or the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As `kill -9`; a write that was under way is half done, if so said.
    Kill { torn: bool },
    /// Of names that are not synced, so many sixteenths survive.
    Power { pages: Pages, names: u8 },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Medium {
    pub(super) files: BTreeMap<u64, File>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    pub(super) directories: BTreeMap<PathBuf, u64>,
    pub(super) queues: BTreeMap<PathBuf, QueueImage>,
    /// Files that are gone for a while.
    pub(super) hidden: BTreeMap<PathBuf, u64>,
    last_inode: u64,
    /// What there is for us and for other programs.
    pub(super) capacity: u64,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, u64),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Set(path, _) | Self::Remove(path) | Self::Rename(path, _) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Set(path, inode) => _ = names.insert(path.clone(), *inode),
            Self::Remove(path) => _ = names.remove(path),
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    pub(super) now: Arc<Vec<u8>>,
    synced: Arc<Vec<u8>>,
    dirty: BTreeSet<usize>,
    /// Pages that a failed sync should have written.
    stuck: BTreeSet<usize>,
    /// Space is reserved up to here.
    pub(super) reserved: usize,
    /// Which records are where.
    pub(super) records: Vec<(usize, Id)>,
    /// Pages that cannot be read.
    pub(super) bad: BTreeSet<usize>,
    /// Nor can these, for a while.
    pub(super) failing: Range<usize>,
}

impl File {
    pub(super) fn allocated(&self) -> u64 {
        self.now.len().max(self.reserved).next_multiple_of(BLOCK) as u64
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let now = Arc::make_mut(&mut self.now);
        let end = offset + bytes.len();
        if now.len() < end {
            now.resize(end, 0);
        }
        now[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.dirty.extend(offset / PAGE..=(end - 1) / PAGE);
        }
        self.records.retain(|(at, _)| !(offset..end).contains(at));
        self.records.extend(markers(bytes).map(|(at, id)| (offset + at, id)));
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let now = Arc::make_mut(&mut self.now);
        if len != now.len() {
            self.dirty.insert(len / PAGE);
        }
        now.resize(len, 0);
        self.records.retain(|(at, _)| *at < len);
        self.reserved = 0;
    }

    pub(super) fn flip(&mut self, bit: usize) {
        let byte = bit / 8;
        for contents in [&mut self.now, &mut self.synced] {
            if let Some(byte) = Arc::make_mut(contents).get_mut(byte) {
                *byte ^= 1 << (bit % 8);
            }
        }
        self.records = markers(&self.now).collect();
    }

    pub(super) fn sync(&mut self) {
        if self.stuck.is_empty() {
            self.synced = Arc::clone(&self.now);
        } else {
            let synced = Arc::make_mut(&mut self.synced);
            synced.resize(self.now.len(), 0);
            self.dirty.iter().for_each(|&page| copy_page(synced, &self.now, page, PAGE));
        }
        self.dirty.clear();
    }

    pub(super) fn fail_sync(&mut self) {
        self.stuck.append(&mut self.dirty);
    }

    /// Whether the marker there is on the medium too.
    fn is_synced(&self, at: usize) -> bool {
        let bytes = at..at + MARKER_BYTES;
        self.now.get(bytes.clone()).is_some_and(|marker| self.synced.get(bytes) == Some(marker))
    }

    fn after_power_cut(&self, pages: Pages) -> Self {
        let unsynced: Vec<usize> = self.dirty.union(&self.stuck).copied().collect();
        let image = match pages {
            _ if unsynced.is_empty() => Arc::clone(&self.synced),
            Pages::Nothing => Arc::clone(&self.synced),
            Pages::All => Arc::clone(&self.now),
            _ => {
                let mut image = self.synced.to_vec();
                image.resize(self.now.len(), 0);
                let half = unsynced.len() / 2;
                for (i, &page) in unsynced.iter().enumerate() {
                    let kept = match pages {
                        Pages::FirstHalf if i == half => PAGE / 2,
                        Pages::FirstHalf if i < half => PAGE,
                        Pages::MiddleMissing if i != half => PAGE,
                        Pages::Some(bits) if bits >> (i % 64) & 1 == 1 => PAGE,
                        _ => 0,
                    };
                    copy_page(&mut image, &self.now, page, kept);
                }
                Arc::new(image)
            }
        };
        let reserved = if pages == Pages::All { self.reserved } else { 0 };
        let records = markers(&image).collect();
        Self { now: Arc::clone(&image), synced: image, reserved, records, bad: self.bad.clone(), ..Self::default() }
    }
}

fn copy_page(to: &mut [u8], from: &[u8], page: usize, bytes: usize) {
    let (start, end) = (page * PAGE, (page * PAGE + bytes).min(from.len()).min(to.len()));
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

impl Medium {
    pub(super) fn new(directories: &[&str], capacity: u64) -> Self {
        let mut medium = Self { capacity, ..Self::default() };
        directories.iter().for_each(|directory| medium.make_directory(Path::new(directory)));
        medium
    }

    pub(super) fn make_directory(&mut self, directory: &Path) {
        if !self.directories.contains_key(directory) {
            let inode = self.inode();
            self.directories.insert(directory.to_owned(), inode);
        }
    }

    fn inode(&mut self) -> u64 {
        self.last_inode += 1;
        self.last_inode
    }

    pub(super) fn create(&mut self, path: &Path) -> u64 {
        let inode = self.inode();
        self.files.insert(inode, File::default());
        self.change(NameChange::Set(path.to_owned(), inode));
        inode
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        self.change(NameChange::Rename(from.to_owned(), to.to_owned()));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.change(NameChange::Remove(path.to_owned()));
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    pub(super) fn sync_directory(&mut self, directory: &Path) {
        let durable = &mut self.durable_names;
        self.unsynced_names.retain(|change| {
            let here = change.directory() == Some(directory);
            if here {
                change.apply(durable);
            }
            !here
        });
    }

    /// Bytes of all files below a directory, and of its queues.
    pub(super) fn allocated(&self, directory: &Path) -> u64 {
        // By bytes: components take long where nothing is optimised.
        let directory = directory.as_os_str().as_encoded_bytes();
        let below = |path: &Path| path.as_os_str().as_encoded_bytes().starts_with(directory);
        let files = self.names.iter().chain(&self.hidden).filter(|(path, _)| below(path));
        let queues = self.queues.keys().filter(|path| below(path)).count() as u64;
        files.filter_map(|(_, inode)| self.files.get(inode)).map(File::allocated).sum::<u64>() + queues * QUEUE_BYTES
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.allocated(Path::new("/")))
    }

    /// Whether a segment that is not on its way out holds a record that a power cut leaves, besides this file.
    pub(super) fn has_durable_copy(&self, id: Id, beside: u64) -> bool {
        self.durable_names.iter().any(|(path, inode)| {
            is_segment(path)
                && *inode != beside
                && self
                    .files
                    .get(inode)
                    .is_some_and(|file| file.records.iter().any(|(at, record)| *record == id && file.is_synced(*at)))
        })
    }

    /// The segments, and what was one.
    pub(super) fn segments(&self) -> Vec<(PathBuf, u64)> {
        self.names.iter().filter(|(path, _)| is_segment(path)).map(|(path, inode)| (path.clone(), *inode)).collect()
    }

    /// What there is after the end of the process or the machine.
    pub(super) fn after(&self, end: End) -> Self {
        let mut after = self.clone();
        if let End::Power { pages, names } = end {
            let kept = self.unsynced_names.len() * usize::from(names) / 16;
            self.unsynced_names[..kept].iter().for_each(|change| change.apply(&mut after.durable_names));
            after.unsynced_names.clear();
            after.names = after.durable_names.clone();
            after.hidden.retain(|path, inode| after.names.get(path) == Some(inode));
            after.names.retain(|path, _| !after.hidden.contains_key(path));
            for file in after.files.values_mut() {
                *file = file.after_power_cut(pages);
            }
        }
        // A name that was removed may come back with a later power cut, and its file with it.
        let unsynced = after.unsynced_names.iter().filter_map(|change| match change {
            NameChange::Set(_, inode) => Some(inode),
            NameChange::Remove(_) | NameChange::Rename(..) => None,
        });
        let names = after.names.values().chain(after.hidden.values()).chain(after.durable_names.values());
        let used: BTreeSet<u64> = names.chain(unsynced).copied().collect();
        after.files.retain(|inode, _| used.contains(inode));
        after
    }
}

pub(super) fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "journal")
}
