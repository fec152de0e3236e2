//! Power cuts: from a recording of what a process did to a directory (strace), the directories that a cut may leave.
//!
//! What is taken for granted after a cut at time `t`: what an fsync or fdatasync that had returned before `t` covered,
//! for a file its bytes and its length, for a directory its entries. Everything later may be there or not: each 4 KiB page
//! as it was at any moment since the file's last sync, the length as it was at any such moment, each change of a
//! directory's entries for itself. `sync_file_range` counts for nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rand::{Rng, rngs::StdRng};

pub mod trace;

use trace::{Call, Event};

const PAGE: u64 = 4096;

/// A file's contents as the process changed them, and when.
#[derive(Debug, Default, Clone)]
struct File {
    changes: Vec<Change>,
    /// When its syncs began and ended.
    syncs: Vec<(f64, f64)>,
}

#[derive(Debug, Clone)]
struct Change {
    at: f64,
    end: f64,
    what: Contents,
}

#[derive(Debug, Clone)]
enum Contents {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

/// A change of a directory's entries.
#[derive(Debug, Clone)]
struct Entry {
    at: f64,
    end: f64,
    what: Naming,
}

#[derive(Debug, Clone)]
enum Naming {
    Make { path: PathBuf, node: Node },
    Remove { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Directory,
}

/// All that a process did to a directory that was empty (or not there) when the recording began.
#[derive(Debug, Default)]
pub struct Recording {
    files: Vec<File>,
    entries: Vec<Entry>,
    directory_syncs: BTreeMap<PathBuf, Vec<(f64, f64)>>,
    first: f64,
    last: f64,
}

impl Recording {
    /// Replays the calls of a trace that touch `root`.
    ///
    /// # Panics
    /// On a call that changes files in a way this model does not know: a wrong model proves nothing.
    pub fn of(events: &[Event], root: &Path) -> Self {
        let mut recording = Self { first: f64::MAX, ..Self::default() };
        let mut live: BTreeMap<PathBuf, Node> = BTreeMap::new();
        for event in events {
            recording.take(event, root, &mut live);
        }
        recording
    }

    /// The time of the first and of the last change.
    pub const fn span(&self) -> (f64, f64) {
        (self.first, self.last)
    }

    /// How many writes and syncs of files were recorded.
    pub fn figures(&self) -> (usize, usize) {
        let writes = self.files.iter().map(|file| file.changes.len()).sum();
        (writes, self.files.iter().map(|file| file.syncs.len()).sum())
    }

    fn take(&mut self, event: &Event, root: &Path, live: &mut BTreeMap<PathBuf, Node>) {
        let (at, end) = (event.at, event.end);
        let inside = |path: &Path| path.starts_with(root);
        let file_at = |live: &BTreeMap<PathBuf, Node>, path: &Path| match live.get(path) {
            Some(Node::File(file)) => Some(*file),
            _ => None,
        };
        match &event.call {
            Call::Open { path, create, truncate } if inside(path) => match file_at(live, path) {
                Some(file) if *truncate => self.change(file, at, end, Contents::Length(0)),
                None if *create && !live.contains_key(path) => {
                    self.files.push(File::default());
                    let node = Node::File(self.files.len() - 1);
                    live.insert(path.clone(), node);
                    self.name(at, end, Naming::Make { path: path.clone(), node });
                }
                _ => {}
            },
            Call::MakeDirectory { path } if inside(path) => {
                live.insert(path.clone(), Node::Directory);
                self.name(at, end, Naming::Make { path: path.clone(), node: Node::Directory });
            }
            Call::Write { path, offset, bytes } if inside(path) => {
                // Not in the tree any more: removed while open, and gone with the cut.
                if let Some(file) = file_at(live, path) {
                    let offset = offset.unwrap_or_else(|| self.files[file].length());
                    self.change(file, at, end, Contents::Write { offset, bytes: bytes.clone() });
                }
            }
            Call::Length { path, length, only_extend } if inside(path) => {
                if let Some(file) = file_at(live, path)
                    && !(*only_extend && self.files[file].length() >= *length)
                {
                    self.change(file, at, end, Contents::Length(*length));
                }
            }
            Call::Sync { path } if inside(path) => match live.get(path) {
                Some(Node::File(file)) => self.files[*file].syncs.push((at, end)),
                Some(Node::Directory) => self.directory_syncs.entry(path.clone()).or_default().push((at, end)),
                None if path == root => self.directory_syncs.entry(path.clone()).or_default().push((at, end)),
                None => {}
            },
            Call::Remove { path } if inside(path) => {
                live.remove(path);
                self.name(at, end, Naming::Remove { path: path.clone() });
            }
            Call::Rename { from, to } if inside(from) || inside(to) => {
                assert!(inside(from) && inside(to), "a rename across the directory's border: {from:?} to {to:?}");
                let moved: Vec<_> = live.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    let node = live.remove(&path).expect("just seen");
                    live.insert(join(to, path.strip_prefix(from).expect("starts with it")), node);
                }
                self.name(at, end, Naming::Rename { from: from.clone(), to: to.clone() });
            }
            Call::Unknown { text } if text.contains(root.to_str().expect("a UTF-8 path")) => {
                panic!("the model of power cuts does not know: {text}")
            }
            _ => {}
        }
    }

    fn change(&mut self, file: usize, at: f64, end: f64, what: Contents) {
        self.extend_span(at, end);
        self.files[file].changes.push(Change { at, end, what });
    }

    fn name(&mut self, at: f64, end: f64, what: Naming) {
        self.extend_span(at, end);
        self.entries.push(Entry { at, end, what });
    }

    fn extend_span(&mut self, at: f64, end: f64) {
        // A call that the process's end cut short never returned.
        let last = if end.is_finite() { end } else { at };
        (self.first, self.last) = (self.first.min(at), self.last.max(last));
    }

    /// Writes a directory that a power cut at `cut` may leave of `root` into `target`.
    pub fn image(&self, root: &Path, cut: f64, random: &mut StdRng, target: &Path) {
        let mut tree: BTreeMap<PathBuf, Node> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.at < cut) {
            if !self.is_entry_synced(entry, cut) && random.random() {
                continue;
            }
            match &entry.what {
                Naming::Make { path, node } => {
                    tree.insert(path.clone(), *node);
                }
                Naming::Remove { path } => {
                    tree.remove(path);
                }
                Naming::Rename { from, to } => {
                    let moved: Vec<_> = tree.keys().filter(|path| path.starts_with(from)).cloned().collect();
                    if moved.is_empty() {
                        continue;
                    }
                    tree.retain(|path, _| !path.starts_with(to));
                    for path in moved {
                        if let Some(node) = tree.remove(&path) {
                            tree.insert(join(to, path.strip_prefix(from).expect("starts with it")), node);
                        }
                    }
                }
            }
        }
        fs::create_dir_all(target).expect("the image's directory");
        for (path, node) in &tree {
            let inside = path.strip_prefix(root).expect("all paths are in the directory");
            let to = join(target, inside);
            // An entry whose directory was lost is lost with it.
            let parent = path.parent().expect("a parent");
            if parent != root && tree.get(parent) != Some(&Node::Directory) {
                continue;
            }
            match node {
                Node::Directory => fs::create_dir_all(&to).expect("a directory of the image"),
                Node::File(file) => {
                    if to.parent().is_some_and(Path::is_dir) {
                        fs::write(&to, self.files[*file].after(cut, random)).expect("a file of the image");
                    }
                }
            }
        }
    }

    fn is_entry_synced(&self, entry: &Entry, cut: f64) -> bool {
        let synced = |path: &Path| {
            let directory = path.parent().expect("a parent");
            let syncs = self.directory_syncs.get(directory).map_or(&[][..], Vec::as_slice);
            syncs.iter().any(|&(begun, done)| begun >= entry.end && done <= cut)
        };
        match &entry.what {
            Naming::Make { path, .. } | Naming::Remove { path } => synced(path),
            // One fsync of either directory carries the whole rename: it is atomic.
            Naming::Rename { from, to } => synced(from) || synced(to),
        }
    }
}

impl File {
    fn length(&self) -> u64 {
        self.changes.iter().fold(0, |length, change| change.what.length_after(length))
    }

    /// The contents that a cut may leave.
    fn after(&self, cut: f64, random: &mut StdRng) -> Vec<u8> {
        let covered = self.syncs.iter().filter(|(_, done)| *done <= cut).map(|(begun, _)| *begun).fold(0.0, f64::max);
        let (safe, loose): (Vec<_>, Vec<_>) =
            self.changes.iter().filter(|change| change.at < cut).partition(|change| change.end <= covered);
        let mut contents = Vec::new();
        for change in &safe {
            change.what.apply(&mut contents, None);
        }
        let mut length = contents.len() as u64;
        let mut lengths = vec![length];
        let mut pages: BTreeMap<u64, Vec<&Contents>> = BTreeMap::new();
        for change in &loose {
            length = change.what.length_after(length);
            lengths.push(length);
            for page in change.what.pages() {
                pages.entry(page).or_default().push(&change.what);
            }
        }
        for (page, writes) in pages {
            let seen = random.random_range(0..=writes.len());
            for write in &writes[..seen] {
                write.apply(&mut contents, Some(page));
            }
        }
        let length = lengths[random.random_range(0..lengths.len())];
        contents.resize(usize::try_from(length).expect("a length"), 0);
        contents
    }
}

impl Contents {
    fn length_after(&self, before: u64) -> u64 {
        match self {
            Self::Write { offset, bytes } => before.max(offset + bytes.len() as u64),
            Self::Length(length) => *length,
        }
    }

    fn pages(&self) -> std::ops::Range<u64> {
        match self {
            Self::Write { offset, bytes } => offset / PAGE..(offset + bytes.len() as u64).div_ceil(PAGE),
            Self::Length(_) => 0..0,
        }
    }

    /// Applies the change, or the part of it that is in one page.
    fn apply(&self, contents: &mut Vec<u8>, page: Option<u64>) {
        match self {
            Self::Write { offset, bytes } => {
                let all = (*offset, offset + bytes.len() as u64);
                let (from, to) = page.map_or(all, |page| (all.0.max(page * PAGE), all.1.min((page + 1) * PAGE)));
                let range = usize::try_from(from).expect("an offset")..usize::try_from(to).expect("an offset");
                if contents.len() < range.end {
                    contents.resize(range.end, 0);
                }
                let skip = usize::try_from(from - offset).expect("an offset");
                contents[range.clone()].copy_from_slice(&bytes[skip..skip + range.len()]);
            }
            Self::Length(length) => contents.resize(usize::try_from(*length).expect("a length"), 0),
        }
    }
}

/// `Path::join` that leaves no trailing slash for an empty rest.
fn join(directory: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { directory.to_owned() } else { directory.join(rest) }
}
