//! A list of sessions: rooms, their documents, folded.

use super::{Archive, ArchiveError, Found, Limits, Query, Room};
use crate::{
    session::{State, Summary, Time},
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

/// The sessions of a time range; `now` is the time of asking. `progress` is told how many of how many rooms were read.
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
    let begun = tokio::time::Instant::now();
    let listing = archive.list(query, limits).await?;
    let left = limits.time.saturating_sub(begun.elapsed());
    progress(0, listing.rooms.len());
    let found = archive.records(&listing.rooms, &Limits { time: left, ..limits.clone() }).await?;
    progress(listing.rooms.len(), listing.rooms.len());
    let (cut, mut unread) = (found.cut.clone(), listing.unread);
    unread.extend(found.unread.iter().filter(|line| !unread.contains(line)).cloned().collect::<Vec<_>>());
    let from = query.from;
    let folded = tasks::run_blocking(move || of_rooms(listing.rooms, found, from, now)).await;
    let sessions =
        folded.map_err(|panic| ArchiveError::Unavailable { address: archive.address(), reason: panic.to_string() })?;
    Ok(Summaries { sessions, complete_from: listing.complete_from, cut, unread })
}

/// A room whose node died has no end: it was there in the range if it has records of it.
fn of_rooms(rooms: Vec<Room>, mut found: Found, from: Time, now: Time) -> Vec<Summary> {
    let folded = rooms.iter().filter_map(|room| found.take(&room.sid, now));
    folded
        .map(|session| Summary::of(&session))
        .filter(|summary| summary.state != State::Lost || summary.last_at >= from)
        .collect()
}
