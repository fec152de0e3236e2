//! Losses: records that were not kept although their call was answered OK, counted so that a kill does not lose the
//! count.
//!
//! ```text
//! <home>/losses   0   "LKSPLOSS"
//!                 8   newest: events, stats, node_rooms    dropped by `when_full: drop_newest`    u64, little-endian
//!                 32  missed                               copies that an optional sink's spool did not take
//!                 40  the first 8 bytes of BLAKE3 over all before
//!                 48  zeros, up to 512
//! ```
//!
//! The file is one sector that exists from the first start on. It is written in place before the call is answered,
//! which needs no space and no sync. A kill loses nothing. The file is synced about once a second, and a power cut
//! loses what was counted since. Counts only rise, and the queue and the fronts record those of `drop_newest` too: the
//! largest count is right.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    disk::{DirectoryLock, Disk, DiskFile, RealDisk},
    reports::Reports,
    totals::{DropReason, Totals},
};
use crate::record::{PerStream, Stream};

const MAGIC: &[u8; 8] = b"LKSPLOSS";
/// The size that a medium writes as a whole.
const SECTOR_BYTES: usize = 512;
/// The bytes that the checksum covers.
const SUMMED_BYTES: usize = 40;

/// The losses so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    newest: PerStream<u64>,
    missed: u64,
}

impl Counts {
    fn to_bytes(self) -> [u8; SECTOR_BYTES] {
        let mut bytes = [0; SECTOR_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        let numbers = self.newest.into_iter().chain([self.missed]);
        bytes[8..]
            .chunks_exact_mut(8)
            .zip(numbers)
            .for_each(|(place, number)| place.copy_from_slice(&number.to_le_bytes()));
        let sum = checksum(&bytes);
        bytes[SUMMED_BYTES..SUMMED_BYTES + 8].copy_from_slice(&sum);
        bytes
    }

    fn read(bytes: &[u8; SECTOR_BYTES]) -> Option<Self> {
        let holds = bytes.starts_with(MAGIC) && bytes[SUMMED_BYTES..SUMMED_BYTES + 8] == checksum(bytes);
        let number = |i: usize| bytes[8 + 8 * i..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        holds.then(|| Self { newest: [number(0), number(1), number(2)], missed: number(3) })
    }

    /// Reads the counts of a file; `None` if its contents are not valid.
    fn of(file: &dyn DiskFile) -> io::Result<Option<Self>> {
        let mut bytes = [0; SECTOR_BYTES];
        file.read_at(&mut bytes, 0)?;
        Ok(Self::read(&bytes))
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    blake3::Hasher::new().update(&bytes[..SUMMED_BYTES]).finalize_xof().fill(&mut sum);
    sum
}

/// The counts of one spool.
#[derive(Debug)]
pub(super) struct Losses {
    home: PathBuf,
    disk: Arc<dyn Disk>,
    reports: Arc<Reports>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    counts: Counts,
    /// `None` if it could not be created or opened yet.
    file: Option<Arc<dyn DiskFile>>,
    is_synced: bool,
}

impl Losses {
    /// Reads the earlier counts. `totals` is what the queue and the fronts recorded, and is raised to them. A missing
    /// file is created, unless nothing may be changed.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        home: &Path,
        reports: &Arc<Reports>,
        read_only: bool,
        totals: [&mut Totals; Stream::ALL.len()],
    ) -> Self {
        let mut counts = Counts::default();
        match disk.open(&path(home)).and_then(|file| Counts::of(file.as_ref())) {
            Ok(Some(found)) => counts = found,
            Ok(None) => reports.error(format!(
                "{}: the file is damaged: earlier losses are counted as far as the queue knows them",
                path(home).display()
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => reports.error(format!("{}: {error}", path(home).display())),
        }
        for (newest, totals) in counts.newest.iter_mut().zip(totals) {
            let known = totals.dropped.get(&DropReason::Newest).copied().unwrap_or_default();
            *newest = (*newest).max(known);
            if *newest > known {
                totals.dropped.insert(DropReason::Newest, *newest);
            }
        }
        let inner = Mutex::new(Inner { counts, file: None, is_synced: true });
        let losses = Self { home: home.to_owned(), disk: Arc::clone(disk), reports: Arc::clone(reports), inner };
        if !read_only {
            losses.count(|_| {});
            losses.sync();
        }
        losses
    }

    /// Counts records that `when_full: drop_newest` dropped.
    pub(super) fn add_newest(&self, stream: Stream, records: u64) {
        self.count(|counts| counts.newest[stream as usize] += records);
    }

    /// Counts records that an optional sink missed.
    pub(super) fn add_missed(&self, records: u64) {
        self.count(|counts| counts.missed += records);
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        let inner = &mut *self.inner.lock();
        add(&mut inner.counts);
        let file = match inner.file.take().map_or_else(|| open(self.disk.as_ref(), &self.home), Ok) {
            Ok(file) => file,
            Err(error) => return self.report(&error),
        };
        inner.is_synced = false;
        match file.write_at(&inner.counts.to_bytes(), 0) {
            Ok(()) => inner.file = Some(file),
            // Opened again next time.
            Err(error) => self.report(&error),
        }
    }

    fn report(&self, error: &io::Error) {
        let path = path(&self.home);
        self.reports.error(format!("{}: {error}: a kill may lose the counts of lost records", path.display()));
    }

    /// Makes the counts durable.
    pub(super) fn sync(&self) {
        let file = {
            let mut inner = self.inner.lock();
            if std::mem::replace(&mut inner.is_synced, true) {
                return;
            }
            inner.file.clone()
        };
        if let Some(Err(error)) = file.map(|file| file.sync()) {
            self.report(&error);
        }
    }
}

fn path(home: &Path) -> PathBuf {
    home.join("losses")
}

/// Opens the file for writing, or creates it: its space is allocated before the disk is full.
fn open(disk: &dyn Disk, home: &Path) -> io::Result<Arc<dyn DiskFile>> {
    match disk.open_writable(&path(home)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let file = disk.create(&path(home))?;
    let made = file.write_at(&Counts::default().to_bytes(), 0).and_then(|()| file.sync());
    if let Err(error) = made.and_then(|()| disk.sync_directory(home)) {
        // An incomplete file would be mistaken for a damaged one.
        let _ = disk.remove(&path(home));
        return Err(error);
    }
    Ok(file)
}

/// What an optional sink missed so far, whether its spool is open or not. Blocking.
#[must_use]
pub fn missed(home: &Path) -> u64 {
    let counts = RealDisk.open(&path(home)).and_then(|file| Counts::of(file.as_ref()));
    counts.ok().flatten().unwrap_or_default().missed
}

/// Counts what an optional sink missed because its spool does not open. Blocking.
///
/// # Errors
/// When another process has the spool open, or the file cannot be created or written.
pub fn add_missed(home: &Path, records: u64) -> io::Result<()> {
    let Some(_lock) = DirectoryLock::take(home)? else { return Err(io::ErrorKind::ResourceBusy.into()) };
    let file = open(&RealDisk, home)?;
    let mut counts = Counts::of(file.as_ref())?.unwrap_or_default();
    counts.missed += records;
    file.write_at(&counts.to_bytes(), 0)
}
