//! Bytes that are not a whole block are copied to `quarantine/` before anything is cut or deleted. Each line of
//! `quarantine/report.ndjson` reports one copy: when, which segment, which bytes, why.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use super::{
    disk::{Disk, DiskFile},
    journal::{
        block::{Header, Kind},
        segment::Damage,
    },
    reports::Reports,
};
use crate::record::now_millis;

/// Copies stop at this size; reports continue.
const MAX_BYTES: u64 = 256 << 20;
const CHUNK_BYTES: u64 = 1 << 20;
/// The smallest part that a medium loses: a chunk that cannot be read is read in pieces of this size.
const SECTOR_BYTES: usize = 4096;

/// One line of `report.ndjson`.
#[derive(Serialize)]
struct Report<'a> {
    at: i64,
    /// The file, relative to the spool's directory.
    file: String,
    segment: u64,
    offset: u64,
    bytes: u64,
    reason: String,
    /// The contents of the header at the damage, if known.
    stream: Option<&'a str>,
    first_seq: Option<u64>,
    records: Option<u32>,
    /// The copy's name; absent if there was no space for it.
    copy: Option<&'a str>,
}

/// A spool's quarantine: of its journal and of its dead letters' journal.
#[derive(Debug)]
pub(crate) struct Quarantine {
    disk: Arc<dyn Disk>,
    /// The spool's directory.
    home: PathBuf,
    reports: Arc<Reports>,
    read_only: bool,
    bytes: AtomicU64,
}

impl Quarantine {
    pub(crate) fn new(disk: Arc<dyn Disk>, home: PathBuf, reports: Arc<Reports>, read_only: bool) -> Self {
        let bytes = disk.directory_bytes(&home.join("quarantine")).unwrap_or(0);
        Self { disk, home, reports, read_only, bytes: AtomicU64::new(bytes) }
    }

    /// Bytes of all copies.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Copies damaged bytes. A failure is reported, and delivery continues.
    pub(crate) fn keep(&self, path: &Path, segment: u64, file: &dyn DiskFile, damage: &Damage) {
        if self.read_only {
            return;
        }
        match copy(self.disk.as_ref(), &self.home, path, segment, file, damage) {
            Ok(bytes) => _ = self.bytes.fetch_add(bytes, Ordering::Relaxed),
            Err(error) => self.reports.error(format!("spool {}: quarantine: {error}", self.home.display())),
        }
    }
}

/// Copies damaged bytes into a spool's quarantine and reports them; once, however often they are found.
fn copy(
    disk: &dyn Disk,
    home: &Path,
    path: &Path,
    segment: u64,
    file: &dyn DiskFile,
    damage: &Damage,
) -> io::Result<u64> {
    let directory = home.join("quarantine");
    disk.make_directory(&directory)?;
    let suffix = if path.starts_with(home.join("dead")) { "-dead" } else { "" };
    let name = format!("{segment:012}-{:010}{suffix}.bad", damage.bytes.start);
    let kept = disk.list(&directory)?;
    if kept.iter().any(|kept| kept.name == name) {
        return Ok(0);
    }
    let length = damage.bytes.end - damage.bytes.start;
    let used: u64 = kept.iter().map(|kept| kept.len).sum();
    let fits = used + length <= MAX_BYTES;
    if fits {
        let path = directory.join(&name);
        let copy = disk.create(&path)?;
        if let Err(error) = copy_bytes(file, copy.as_ref(), &damage.bytes) {
            // It would use the last space of a full disk, and be mistaken for the whole copy next time.
            let _ = disk.remove(&path);
            return Err(error);
        }
    }
    report(disk, home, path, segment, damage, fits.then_some(&name))?;
    disk.sync_directory(&directory)?;
    Ok(if fits { length } else { 0 })
}

/// Copies bytes of a file to the beginning of another one, durably.
fn copy_bytes(file: &dyn DiskFile, copy: &dyn DiskFile, bytes: &Range<u64>) -> io::Result<()> {
    let length = bytes.end - bytes.start;
    let mut done = 0;
    let mut buffer = vec![0; CHUNK_BYTES.min(length) as usize];
    while done < length {
        let want = CHUNK_BYTES.min(length - done) as usize;
        let read = read_what_can_be(file, &mut buffer[..want], bytes.start + done)?;
        if read == 0 {
            break;
        }
        copy.write_at(&buffer[..read], done)?;
        done += read as u64;
    }
    copy.sync()
}

/// Reads a part; sectors that cannot be read are zeros.
fn read_what_can_be(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    if let Ok(read) = file.read_at(buffer, offset) {
        return Ok(read);
    }
    let left = usize::try_from(file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
    for (sector, at) in buffer[..left].chunks_mut(SECTOR_BYTES).zip((offset..).step_by(SECTOR_BYTES)) {
        if file.read_at(sector, at).is_err() {
            sector.fill(0);
        }
    }
    Ok(left)
}

fn report(
    disk: &dyn Disk,
    home: &Path,
    path: &Path,
    segment: u64,
    damage: &Damage,
    copy: Option<&str>,
) -> io::Result<()> {
    let header: Option<&Header> = damage.header.as_ref().filter(|header| header.kind != Kind::Front);
    let report = Report {
        at: now_millis(),
        file: path.strip_prefix(home).unwrap_or(path).display().to_string(),
        segment,
        offset: damage.bytes.start,
        bytes: damage.bytes.end - damage.bytes.start,
        reason: damage.reason.to_string(),
        stream: header.map(|header| header.stream.as_str()),
        first_seq: header.map(|header| header.seq),
        records: header.map(|header| header.count),
        copy,
    };
    let mut line = serde_json::to_vec(&report)?;
    line.push(b'\n');
    let path = home.join("quarantine/report.ndjson");
    let file = match disk.open_writable(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path)?,
        file => file?,
    };
    file.write_at(&line, file.len()?)?;
    file.sync()
}
