//! What a start finds on disk.
//!
//! Trusted: blocks whose checksums hold, and the order of ordinals. The newest state (the queue's checkpoint, else the
//! front of the newest segment that has one) is where the replay begins; it takes in every block and note after it.
//! Not guessed: a block that does not hold is stepped over; the jump in ordinals tells what it cost. At the end of the
//! newest segment lies perhaps a write that was cut off: what a cut leaves (a short file, pages of zeros) is cut away,
//! nobody was told it was kept. Anything else there was kept once and is damaged since: it counts as lost.

use std::{io, path::Path, sync::Arc};

use super::{
    block::{BadBlock, FORMAT_VERSION, HEADER_BYTES, Header, Kind, check_block},
    books::{Books, SegmentBooks},
    codec::{BadPayload, Unpacker},
    error::OpenError,
    failpoint,
    io::{Disk, DiskFile},
    segment::{self, ChunkReader, Damage, Found, Walker},
    state::{Checkpoint, Note, Progress, SavedState, decode},
};
use crate::record::{Stream, UnixMillis};

const STREAMS: usize = Stream::ALL.len();
/// Stands for an ordinal that neither a front nor a block tells.
const UNKNOWN: u64 = u64::MAX;
const PAGE_BYTES: u64 = 4096;
/// Fewer zeros at the begin of a page may be the contents; at a block's begin there are none.
const LEAST_ZEROS: usize = 8;

/// What was found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) books: Books,
    /// The checkpoint could be used.
    pub(crate) used_checkpoint: bool,
    /// Bytes that are no whole blocks, behind the place where the replay began.
    pub(crate) damage: Vec<(u64, Damage)>,
    /// What a cut-off write left at the end of the newest segment.
    pub(crate) torn: Option<(u64, Damage)>,
    /// The wall clock when the last note or state that was met was written.
    pub(crate) written_at: Option<UnixMillis>,
}

/// Reads the journal from the checkpoint on, or from the newest state; changes nothing.
pub(crate) fn read(disk: &dyn Disk, journal: &Path, checkpoint: Option<&Checkpoint>) -> Result<Recovered, OpenError> {
    let segments = segment::list(disk, journal).map_err(OpenError::io(journal))?;
    let mut unpacker = Unpacker::new(None).map_err(OpenError::io(journal))?;
    let mut fronts = Vec::with_capacity(segments.len());
    for &(segment, len) in &segments {
        fronts.push((segment, len, front(disk, journal, segment, len, &mut unpacker)?));
    }

    let mut books = Books { segments: segment_books(disk, journal, &fronts)?, ..Books::default() };
    let newest_state = fronts.iter().rev().find_map(|(segment, _, state)| Some((*segment, state.as_ref()?)));
    // What a checkpoint says was true; it is passed over only where a state is newer and the journal between is gone.
    let checkpoint = checkpoint.filter(|checkpoint| {
        let there = fronts.iter().any(|(segment, _, _)| *segment == checkpoint.position.0);
        there || newest_state.is_none_or(|(newest, _)| newest <= checkpoint.position.0)
    });
    let start = if let Some(checkpoint) = checkpoint {
        for (stream, progress) in books.streams.iter_mut().zip(checkpoint.state.clone().into_progress()) {
            stream.restore(progress);
        }
        for (stream, tail) in books.streams.iter_mut().zip(checkpoint.tails) {
            stream.tail = tail;
        }
        checkpoint.position
    } else if let Some((segment, state)) = newest_state {
        for (stream, progress) in books.streams.iter_mut().zip(state.clone().into_progress()) {
            stream.restore(progress);
        }
        (segment, 0)
    } else {
        // No state anywhere: the first ordinal that is found is where the stream begins.
        let first = books.segments.values().next().map_or([0; STREAMS], |books| books.first);
        for (stream, first) in books.streams.iter_mut().zip(first) {
            let first = if first == UNKNOWN { 0 } else { first };
            stream.restore(Progress { next: first, head: first, ..Progress::default() });
        }
        (segments.first().map_or(0, |(segment, _)| *segment), 0)
    };
    books.position = start;

    let mut recovered =
        Recovered { books, used_checkpoint: checkpoint.is_some(), damage: Vec::new(), torn: None, written_at: None };
    for &(segment, len) in segments.iter().filter(|(segment, _)| *segment >= start.0) {
        let from = if segment == start.0 { start.1 } else { 0 };
        replay(disk, journal, (segment, from, len), &mut unpacker, &mut recovered)?;
    }
    for stream in &mut recovered.books.streams {
        let progress = stream.durable.clone();
        stream.restore(progress);
    }
    judge_the_end(disk, journal, &mut recovered)?;
    settle_unknown_fronts(&mut recovered.books);
    Ok(recovered)
}

/// Refuses a journal that a newer version wrote; reads the segments' fronts only.
pub(crate) fn check_format(disk: &dyn Disk, journal: &Path) -> Result<(), OpenError> {
    let mut unpacker = Unpacker::new(None).map_err(OpenError::io(journal))?;
    for (segment, len) in segment::list(disk, journal).map_err(OpenError::io(journal))? {
        front(disk, journal, segment, len, &mut unpacker)?;
    }
    Ok(())
}

/// The state at a segment's front, if it holds.
fn front(
    disk: &dyn Disk,
    journal: &Path,
    segment: u64,
    len: u64,
    unpacker: &mut Unpacker,
) -> Result<Option<SavedState>, OpenError> {
    let path = segment::path(journal, segment);
    let file = disk.open(&path).map_err(OpenError::io(&path))?;
    let mut head = [0; HEADER_BYTES];
    let read = file.read_at(&mut head, 0).map_err(OpenError::io(&path))?;
    let header = match Header::parse(&head[..read]) {
        Ok(header) if header.kind == Kind::State && header.block_len() <= len => header,
        Err(BadBlock::Newer { version }) => {
            return Err(OpenError::NewerFormat { path, found: version, known: FORMAT_VERSION });
        }
        _ => return Ok(None),
    };
    let mut block = vec![0; header.block_len() as usize];
    file.read_at(&mut block, 0).map_err(OpenError::io(&path))?;
    let Ok(packed) = check_block(&header, &block) else { return Ok(None) };
    let state = unpacker.unpack(segment, &header, packed).ok().and_then(|raw| decode::<SavedState>(&raw));
    // Another segment's state says nothing about this one.
    Ok(state.filter(|state| state.segment == segment))
}

/// A segment whose front does not hold, and that has no block of a stream, nor has any newer one, begins where the stream
/// ends. Anything lower would say that the segments before it hold nothing of the stream: they would be deleted with all
/// that they hold, and not be looked into for it.
fn settle_unknown_fronts(books: &mut Books) {
    let next: [u64; STREAMS] = std::array::from_fn(|i| books.streams[i].live.next);
    for segment in books.segments.values_mut() {
        let unknown = segment.first.iter_mut().zip(next).filter(|(first, _)| **first == UNKNOWN);
        unknown.for_each(|(first, next)| *first = next);
    }
}

/// The ordinals at which the segments begin; where a front does not hold, the first blocks tell it, and where there is
/// none either, it is [`UNKNOWN`].
fn segment_books(
    disk: &dyn Disk,
    journal: &Path,
    fronts: &[(u64, u64, Option<SavedState>)],
) -> Result<std::collections::BTreeMap<u64, SegmentBooks>, OpenError> {
    let mut books = std::collections::BTreeMap::new();
    // From the newest on: a stream without a block in a segment begins where it begins in the next one.
    let mut next = [UNKNOWN; STREAMS];
    for (segment, len, state) in fronts.iter().rev() {
        let mut first = next;
        if let Some(state) = state {
            first = state.first_ordinals();
        } else {
            let path = segment::path(journal, *segment);
            let mut walker = segment::walk(disk, journal, *segment, 0).map_err(OpenError::io(&path))?;
            while let Some(found) = walker.next().map_err(OpenError::io(&path))? {
                if let Found::Block { header, .. } = found
                    && header.kind == Kind::Records
                {
                    let first = &mut first[header.stream as usize];
                    *first = (*first).min(header.ordinal);
                }
            }
        }
        next = first;
        books.insert(*segment, SegmentBooks { bytes: *len, first });
    }
    Ok(books)
}

/// Takes in the blocks of one segment: (number, from, length).
fn replay(
    disk: &dyn Disk,
    journal: &Path,
    (segment, from, len): (u64, u64, u64),
    unpacker: &mut Unpacker,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    let path = segment::path(journal, segment);
    let file = disk.open(&path).map_err(OpenError::io(&path))?;
    let mut walker = Walker::new(file, from, len);
    while let Some(found) = walker.next().map_err(OpenError::io(&path))? {
        failpoint::reach("replay_block");
        let (header, offset, payload) = match found {
            Found::Block { header, offset, payload } => (header, offset, payload),
            Found::Damage(Damage { reason: BadBlock::Newer { version }, .. }) => {
                return Err(OpenError::NewerFormat { path, found: version, known: FORMAT_VERSION });
            }
            Found::Damage(damage) => {
                recovered.damage.push((segment, damage));
                continue;
            }
        };
        let books = &mut recovered.books;
        match header.kind {
            Kind::Records => books.enter_block(segment, offset, &header),
            Kind::Notes | Kind::State => {
                recovered.written_at = Some(header.received_at);
                let raw = match unpacker.unpack(segment, &header, &payload) {
                    Ok(raw) => raw,
                    Err(BadPayload::NoKey { key }) => return Err(OpenError::WrongKey { path, key }),
                    Err(_) => continue,
                };
                if header.kind == Kind::Notes {
                    books.enter_notes(&decode::<Vec<Note>>(&raw).unwrap_or_default());
                } else if let Some(state) = decode::<SavedState>(&raw).filter(|state| state.segment == segment) {
                    supersede(books, state);
                }
            }
            Kind::DeadLetters | Kind::DeadRemoved => {}
        }
        books.position = (segment, offset + header.block_len());
    }
    Ok(())
}

/// A whole state says at least as much as the notes before it; ordinals that were seen stay used.
fn supersede(books: &mut Books, state: SavedState) {
    for (stream, mut progress) in books.streams.iter_mut().zip(state.into_progress()) {
        if stream.durable.next > progress.next {
            progress.next = stream.durable.next;
            progress.size = stream.durable.size;
        }
        stream.durable = progress;
    }
}

/// Tells a write that was cut off from damage, at the end of the newest segment.
fn judge_the_end(disk: &dyn Disk, journal: &Path, recovered: &mut Recovered) -> Result<(), OpenError> {
    let Some(newest) = recovered.books.newest() else { return Ok(()) };
    let path = segment::path(journal, newest);
    let file = disk.open(&path).map_err(OpenError::io(&path))?;
    let len = file.len().map_err(OpenError::io(&path))?;
    let Some((segment, damage)) = recovered.damage.last() else { return Ok(()) };
    if *segment != newest || damage.bytes.end != len {
        return Ok(());
    }
    let damage = damage.clone();
    if is_torn(file, &damage).map_err(OpenError::io(&path))? {
        recovered.damage.pop();
        recovered.torn = Some((newest, damage));
    } else if let Some(header) = damage.header
        && header.kind == Kind::Records
    {
        // It was whole once: its records are missed from here on.
        for progress in {
            let stream = recovered.books.stream(header.stream);
            [&mut stream.live, &mut stream.durable]
        } {
            progress.next = progress.next.max(header.ordinals().end);
        }
    }
    Ok(())
}

/// Whether the end looks like what a cut leaves: shorter than its header says, or a page of nothing but zeros in it.
pub(crate) fn is_torn(file: Arc<dyn DiskFile>, damage: &Damage) -> io::Result<bool> {
    let bytes = &damage.bytes;
    match damage.header {
        Some(header) if header.block_len() > bytes.end - bytes.start => return Ok(true),
        None if bytes.end - bytes.start < HEADER_BYTES as u64 => return Ok(true),
        _ => {}
    }
    let mut reader = ChunkReader::new(file);
    let mut page = bytes.start;
    while page < bytes.end {
        let next = (page / PAGE_BYTES + 1) * PAGE_BYTES;
        let slice = reader.slice(page, (next.min(bytes.end) - page) as usize, bytes.end)?;
        let least = if page == bytes.start { 1 } else { LEAST_ZEROS };
        if slice.len() >= least && slice.iter().all(|&byte| byte == 0) {
            return Ok(true);
        }
        page = next;
    }
    Ok(false)
}
