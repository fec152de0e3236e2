//! A list of sessions: rooms, their documents, folded.

use tokio::time::Instant;

use super::{Archive, ArchiveError, Found, Limits, Listing, Query, Room};
use crate::{
    session::{Session, State, Summary, Time},
    tasks,
};

/// Sessions of a time range, without what happened in them.
#[derive(Debug, Clone)]
pub struct Summaries {
    /// The newest first.
    pub sessions: Vec<Summary>,
    /// Set where a limit ended the search: the sessions are those that began at this time or later.
    pub complete_from: Option<Time>,
    /// Sessions of which a limit left records out: their figures are too low.
    pub cut: Vec<String>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

/// Rooms whose documents are held at the same time.
const ROOMS: usize = 64;

/// The sessions of a time range; `now` is the time of asking. The limit in bytes is for the documents that are held at the same
/// time, those of 64 rooms. `progress` is told how many of how many rooms were read.
///
/// # Errors
/// When the archive cannot be reached, or does not answer within the limits.
pub async fn summaries(
    archive: &dyn Archive,
    query: &Query,
    limits: &Limits,
    now: Time,
    progress: &(dyn Fn(usize, usize) + Send + Sync),
) -> Result<Summaries, ArchiveError> {
    let mut sessions = Vec::new();
    let mut each = |session: &Session| sessions.push(Summary::of(session));
    let Read { complete_from, cut, unread } = each_session(archive, query, limits, now, progress, &mut each).await?;
    Ok(Summaries { sessions, complete_from, cut, unread })
}

/// What a list of sessions lacks.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Set where a limit ended the search: the sessions are those that began at this time or later.
    pub complete_from: Option<Time>,
    /// Sessions of which a limit left records out.
    pub cut: Vec<String>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

/// The same, with all of each session, the newest first.
///
/// # Errors
/// As there.
pub async fn each_session(
    archive: &dyn Archive,
    query: &Query,
    limits: &Limits,
    now: Time,
    progress: &(dyn Fn(usize, usize) + Send + Sync),
    each: &mut (dyn FnMut(&Session) + Send),
) -> Result<Read, ArchiveError> {
    let begun = Instant::now();
    let Listing { rooms, complete_from, mut unread } = archive.list(query, limits).await?;
    let left = Limits { time: limits.time.saturating_sub(begun.elapsed()), ..limits.clone() };
    let read = each_of(archive, &rooms, query.from, &left, now, progress, each).await?;
    add_new(&mut unread, read.unread);
    Ok(Read { complete_from, cut: read.cut, unread })
}

/// The same, of these rooms, in their order; without those that were lost before `from`.
///
/// # Errors
/// As there.
pub async fn each_of(
    archive: &dyn Archive,
    rooms: &[Room],
    from: Time,
    limits: &Limits,
    now: Time,
    progress: &(dyn Fn(usize, usize) + Send + Sync),
    each: &mut (dyn FnMut(&Session) + Send),
) -> Result<Read, ArchiveError> {
    let begun = Instant::now();
    let left = || Limits { time: limits.time.saturating_sub(begun.elapsed()), ..limits.clone() };
    let mut read = Read::default();
    for (i, group) in rooms.chunks(ROOMS).enumerate() {
        progress(i * ROOMS, rooms.len());
        let mut found = archive.records(group, &left()).await?;
        add_new(&mut read.unread, std::mem::take(&mut found.unread));
        let cut = std::mem::take(&mut found.cut);
        let mut sessions = folded(archive, group, found, now).await?;
        // What did not fit beside the others may fit alone.
        for room in group.iter().filter(|room| cut.contains(&room.sid)) {
            let mut found = archive.records(std::slice::from_ref(room), &left()).await?;
            read.cut.append(&mut found.cut);
            let again = folded(archive, std::slice::from_ref(room), found, now).await?;
            sessions.retain(|session| session.room_sid != room.sid);
            sessions.extend(again);
        }
        let place = |session: &Session| group.iter().position(|room| room.sid == session.room_sid);
        sessions.sort_by_cached_key(place);
        sessions.iter().filter(|session| was_there(session, from)).for_each(&mut *each);
    }
    progress(rooms.len(), rooms.len());
    Ok(read)
}

fn add_new(lines: &mut Vec<String>, more: Vec<String>) {
    for line in more {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
}

/// Folds on a thread for blocking work: it may take a second.
async fn folded(
    archive: &dyn Archive,
    rooms: &[Room],
    mut found: Found,
    now: Time,
) -> Result<Vec<Session>, ArchiveError> {
    let sids: Vec<String> = rooms.iter().map(|room| room.sid.clone()).collect();
    let folding = tasks::run_blocking(move || sids.iter().filter_map(|sid| found.take(sid, now)).collect());
    folding.await.map_err(|panic| ArchiveError::Unavailable {
        address: archive.address(),
        reason: format!("a session cannot be made: {panic}"),
    })
}

/// A room whose node died has no end: it was there in the range if it has records of it.
fn was_there(session: &Session, from: Time) -> bool {
    session.state != State::Lost || session.last_at >= from
}
