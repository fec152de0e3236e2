//! Bytes that are no whole block are copied to `quarantine/` before anything is cut or deleted, with a report per line in
//! `quarantine/report.ndjson`: when, which segment, which bytes, why.

use std::{io, path::Path, sync::atomic::Ordering};

use serde::Serialize;

use super::{
    block::{BadBlock, Header},
    books::BlockPlace,
    core::Core,
    dead::DamagedLetters,
    io::{Disk, DiskFile},
    segment::Damage,
};
use crate::record::now_millis;

/// Copies stop at this much; reports go on.
const MOST_BYTES: u64 = 256 << 20;
const CHUNK_BYTES: u64 = 1 << 20;

/// One line of `report.ndjson`.
#[derive(Serialize)]
struct Report<'a> {
    at: i64,
    segment: u64,
    offset: u64,
    bytes: u64,
    reason: String,
    /// What the header at the damage says, if its own checksum holds.
    stream: Option<&'a str>,
    first_ordinal: Option<u64>,
    records: Option<u32>,
    /// Dead letters lost by it; null where that cannot be told, and in the journal, where the ordinals will tell.
    records_lost: Option<u64>,
    /// The copy's name; absent where there was no room for it.
    copy: Option<&'a str>,
}

/// Where damaged bytes lie, and what is known of them there.
#[derive(Debug, Clone, Copy)]
enum Place {
    Journal,
    Dead { lost: Option<u64> },
}

/// Keeps a copy of damaged bytes; where that fails, it is reported and delivery goes on.
pub(crate) fn keep(core: &Core, segment: u64, file: &dyn DiskFile, damage: &Damage) {
    keep_in(core, Place::Journal, segment, file, damage);
}

/// The same for dead letters.
pub(crate) fn keep_letters(core: &Core, file: &dyn DiskFile, damaged: &DamagedLetters) {
    keep_in(core, Place::Dead { lost: damaged.lost }, damaged.segment, file, &damaged.damage);
}

fn keep_in(core: &Core, place: Place, segment: u64, file: &dyn DiskFile, damage: &Damage) {
    if core.read_only {
        return;
    }
    match copy(core.disk.as_ref(), &core.folder, place, segment, file, damage) {
        Ok(bytes) => {
            core.usage.quarantine.fetch_add(bytes, Ordering::Relaxed);
        }
        Err(error) => core.report(format!("spool {}: quarantine: {error}", core.folder.display())),
    }
}

/// The same for a block whose checksum holds and whose payload cannot be unpacked.
pub(crate) fn keep_block(core: &Core, segment: u64, file: &dyn DiskFile, place: &BlockPlace) {
    let bytes = place.offset..place.offset + place.header.block_len();
    keep(core, segment, file, &Damage { bytes, reason: BadBlock::Unknown, header: Some(place.header) });
}

/// Copies damaged bytes into the quarantine of a spool and reports them; once, however often they are met.
fn copy(
    disk: &dyn Disk,
    spool: &Path,
    place: Place,
    segment: u64,
    file: &dyn DiskFile,
    damage: &Damage,
) -> io::Result<u64> {
    let folder = spool.join("quarantine");
    disk.make_folder(&folder)?;
    let suffix = if matches!(place, Place::Journal) { "" } else { "-dead" };
    let name = format!("{segment:012}-{:010}{suffix}.bad", damage.bytes.start);
    let kept = disk.list(&folder)?;
    if kept.iter().any(|(kept, _)| *kept == name) {
        return Ok(0);
    }
    let length = damage.bytes.end - damage.bytes.start;
    let used: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
    let fits = used + length <= MOST_BYTES;
    if fits {
        let copy = disk.create(&folder.join(&name))?;
        let mut done = 0;
        let mut buffer = vec![0; CHUNK_BYTES.min(length) as usize];
        while done < length {
            let want = CHUNK_BYTES.min(length - done) as usize;
            let read = file.read_at(&mut buffer[..want], damage.bytes.start + done)?;
            if read == 0 {
                break;
            }
            copy.write_at(&buffer[..read], done)?;
            done += read as u64;
        }
        copy.sync()?;
    }
    report(disk, &folder, place, segment, damage, fits.then_some(&name))?;
    disk.sync_folder(&folder)?;
    Ok(if fits { length } else { 0 })
}

fn report(
    disk: &dyn Disk,
    folder: &Path,
    place: Place,
    segment: u64,
    damage: &Damage,
    copy: Option<&str>,
) -> io::Result<()> {
    let header: Option<&Header> = damage.header.as_ref();
    let numbered = header.filter(|_| matches!(place, Place::Journal));
    let report = Report {
        at: now_millis(),
        segment,
        offset: damage.bytes.start,
        bytes: damage.bytes.end - damage.bytes.start,
        reason: damage.reason.to_string(),
        stream: numbered.map(|header| header.stream.as_str()),
        first_ordinal: numbered.map(|header| header.ordinal),
        records: header.map(|header| header.count),
        records_lost: match place {
            Place::Journal => None,
            Place::Dead { lost } => lost,
        },
        copy,
    };
    let mut line = serde_json::to_vec(&report)?;
    line.push(b'\n');
    let path = folder.join("report.ndjson");
    let file = match disk.open_writable(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path)?,
        file => file?,
    };
    file.write_at(&line, file.len()?)?;
    file.sync()
}
