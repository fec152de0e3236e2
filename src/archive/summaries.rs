//! A list of sessions: rooms, their documents, folded.

use tokio::time::Instant;

use super::{Archive, ArchiveError, Limits, Listing, Query};
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
    let read = each_session(archive, query, limits, now, progress, &mut |session| sessions.push(Summary::of(session)));
    let Read { complete_from, cut, unread } = read.await?;
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
    let Listing { rooms, complete_from, unread } = archive.list(query, limits).await?;
    let mut read = Read { complete_from, cut: Vec::new(), unread };
    for (i, group) in rooms.chunks(ROOMS).enumerate() {
        progress(i * ROOMS, rooms.len());
        let left = Limits { time: limits.time.saturating_sub(begun.elapsed()), ..limits.clone() };
        let mut found = archive.records(group, &left).await?;
        read.cut.append(&mut found.cut);
        for line in found.unread.drain(..) {
            if !read.unread.contains(&line) {
                read.unread.push(line);
            }
        }
        let sids: Vec<String> = group.iter().map(|room| room.sid.clone()).collect();
        // It may take a second.
        let folded =
            tasks::run_blocking(move || sids.iter().filter_map(|sid| found.take(sid, now)).collect::<Vec<Session>>());
        let unavailable = |reason| ArchiveError::Unavailable { address: archive.address(), reason };
        let folded = folded.await.map_err(|panic| unavailable(format!("a session cannot be made: {panic}")))?;
        folded.iter().filter(|session| was_there(session, query)).for_each(&mut *each);
    }
    progress(rooms.len(), rooms.len());
    Ok(read)
}

/// A room whose node died has no end: it was there in the range if it has records of it.
fn was_there(session: &Session, query: &Query) -> bool {
    session.state != State::Lost || session.last_at >= query.from
}
