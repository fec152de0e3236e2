//! A list of sessions: rooms, their documents, folded.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use super::{Archive, ArchiveError, Found, Limits, Listing, Query, Room};
use crate::{
    session::{Session, State, Summary, Time},
    tasks,
};

/// Rooms whose documents are held at the same time.
const ROOMS: usize = 64;

/// The sessions of a time range, the newest first, without what happened in them; `now` is the time of asking. The limit in
/// bytes is for the documents that are held at the same time, those of 64 rooms. `progress` gets how many of how many rooms
/// were read.
///
/// # Errors
/// When the archive cannot be reached, or does not answer within the limits.
pub async fn summaries(
    archive: &dyn Archive,
    query: &Query,
    limits: &Limits,
    now: Time,
    progress: &(dyn Fn(usize, usize) + Send + Sync),
) -> Result<(Vec<Summary>, Read), ArchiveError> {
    let mut sessions = Vec::new();
    let mut each = |session: &Session| sessions.push(Summary::of(session));
    let read = each_session(archive, query, limits, now, progress, &mut each).await?;
    Ok((sessions, read))
}

/// What an answer lacks.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Set where a limit ended the search: the sessions are those that began at this time or later.
    pub complete_from: Option<Time>,
    /// Sessions of which a limit left records out: their figures are too low.
    pub cut: Vec<String>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

impl Read {
    /// What one answer lacks that was read in parts: the sessions before the latest `complete_from` are not all there.
    pub fn add(&mut self, part: Self) {
        self.complete_from = self.complete_from.max(part.complete_from);
        self.cut.extend(part.cut);
        for line in part.unread {
            if !self.unread.contains(&line) {
                self.unread.push(line);
            }
        }
    }

    /// The same in words, a sentence each; none: the answer is whole.
    pub fn lacks(&self) -> Vec<String> {
        let from = self.complete_from.map(|from| format!("only sessions that began at {from} or later were read"));
        let cut = match self.cut.len() {
            0 => None,
            cut => Some(format!("sessions with too many records, of which some were left out: {cut}")),
        };
        from.into_iter().chain(cut).chain(self.unread.iter().cloned()).collect()
    }
}

impl From<&Listing> for Read {
    fn from(listing: &Listing) -> Self {
        Self { complete_from: listing.complete_from, cut: Vec::new(), unread: listing.unread.clone() }
    }
}

impl From<Found> for Read {
    fn from(Found { cut, unread, .. }: Found) -> Self {
        Self { complete_from: None, cut, unread }
    }
}

/// The same, with all of each session.
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
    let listing = archive.list(query, limits).await?;
    let left = Limits { time: limits.time.saturating_sub(begun.elapsed()), ..limits.clone() };
    let sessions = each_of(archive, &listing.rooms, query.from, &left, now, progress, each).await;
    let mut read = Read::from(&listing);
    read.add(sessions.map_err(|error| of_request(error, limits))?);
    Ok(read)
}

/// The same, of these rooms, in their order; without those that were lost before `from`. Where the time ends between two rooms,
/// `complete_from` is the time of the last one that was read.
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
    let mut reading = Reading { archive, limits, begun, now, read: Read::default() };
    for (i, group) in rooms.chunks(ROOMS).enumerate() {
        progress(i * ROOMS, rooms.len());
        let mut last = rooms[..i * ROOMS].last();
        let mut each_there = |session: &Session| {
            if was_there(session, from) {
                each(session);
            }
        };
        let done = reading.each_of_group(group, &mut last, &mut each_there).await;
        match (done, last) {
            (Ok(()), _) => {}
            (Err(ArchiveError::Slow { .. }), Some(last)) => {
                reading.read.complete_from = Some(last.started_at);
                break;
            }
            (Err(error), _) => return Err(of_request(error, limits)),
        }
    }
    progress(rooms.len(), rooms.len());
    Ok(reading.read)
}

/// Reads the sessions of rooms.
struct Reading<'a> {
    archive: &'a dyn Archive,
    limits: &'a Limits,
    begun: Instant,
    now: Time,
    read: Read,
}

impl Reading<'_> {
    /// `last` is set to the last room whose session was handed to `each`.
    async fn each_of_group<'r>(
        &mut self,
        group: &'r [Room],
        last: &mut Option<&'r Room>,
        each: &mut (dyn FnMut(&Session) + Send),
    ) -> Result<(), ArchiveError> {
        let mut found = self.records(group).await?;
        // What did not fit beside the others may fit alone. One after the other: each may be as large as all others together.
        let cut: HashSet<String> = std::mem::take(&mut found.cut).into_iter().collect();
        let mut sessions = self.folded(group.iter().filter(|room| !cut.contains(&room.sid)), found).await?;
        for room in group {
            let session = if cut.contains(&room.sid) {
                let mut found = self.records(std::slice::from_ref(room)).await?;
                self.read.cut.append(&mut found.cut);
                self.folded([room], found).await?.remove(&room.sid)
            } else {
                sessions.remove(&room.sid)
            };
            session.iter().for_each(&mut *each);
            *last = Some(room);
        }
        Ok(())
    }

    async fn records(&mut self, rooms: &[Room]) -> Result<Found, ArchiveError> {
        let time = self.limits.time.saturating_sub(self.begun.elapsed());
        let mut found = self.archive.records(rooms, &Limits { time, ..self.limits.clone() }).await?;
        self.read.add(Read { unread: std::mem::take(&mut found.unread), ..Read::default() });
        Ok(found)
    }

    /// Folds on a thread for blocking work: it may take a second.
    async fn folded(
        &self,
        rooms: impl IntoIterator<Item = &Room>,
        mut found: Found,
    ) -> Result<HashMap<String, Session>, ArchiveError> {
        let (sids, now): (Vec<String>, _) = (rooms.into_iter().map(|room| room.sid.clone()).collect(), self.now);
        let folding = tasks::run_blocking(move || {
            sids.into_iter().filter_map(|sid| found.take(&sid, now).map(|session| (sid, session))).collect()
        });
        folding.await.map_err(|panic| ArchiveError::Unavailable {
            address: self.archive.address(),
            reason: format!("a session cannot be made: {panic}"),
        })
    }
}

/// The limit of the whole request, not what was left of it.
fn of_request(error: ArchiveError, limits: &Limits) -> ArchiveError {
    match error {
        ArchiveError::Slow { address, .. } => ArchiveError::Slow { address, limit: limits.time },
        error => error,
    }
}

/// A room whose node died has no end: it was there in the range if it has records of it.
fn was_there(session: &Session, from: Time) -> bool {
    session.state != State::Lost || session.last_at >= from
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::record::Stream;

    /// What happened, in its order.
    type Log = Mutex<Vec<String>>;

    /// Has one event of each room. All rooms but the last two do not fit beside others.
    struct Large<'a> {
        log: &'a Log,
        /// How long the records of a room take.
        takes: Duration,
    }

    #[async_trait]
    impl Archive for Large<'_> {
        fn address(&self) -> String {
            "large".to_owned()
        }

        async fn list(&self, _: &Query, _: &Limits) -> Result<Listing, ArchiveError> {
            Ok(Listing { rooms: rooms(), complete_from: None, unread: Vec::new() })
        }

        async fn records(&self, rooms: &[Room], limits: &Limits) -> Result<Found, ArchiveError> {
            let sids: Vec<String> = rooms.iter().map(|room| room.sid.clone()).collect();
            self.log.lock().push(format!("read {}", sids.join(" ")));
            if self.takes * u32::try_from(rooms.len()).unwrap() > limits.time {
                tokio::time::sleep(limits.time).await;
                return Err(ArchiveError::Slow { address: self.address(), limit: limits.time });
            }
            tokio::time::sleep(self.takes * u32::try_from(rooms.len()).unwrap()).await;
            let mut found = Found::default();
            for room in rooms {
                let event = json!({
                    "id": room.sid, "type": "ROOM_CREATED", "room_id": room.sid, "timestamp": { "seconds": 1 }
                });
                found.add(&room.sid, Stream::Events, &event);
            }
            if rooms.len() > 1 {
                found.cut = sids[..sids.len() - 2].to_vec();
            }
            found.unread = vec![format!("of {}", rooms.len())];
            Ok(found)
        }

        async fn room(&self, sid: &str, _: &Limits) -> Result<Option<Room>, ArchiveError> {
            Ok(rooms().into_iter().find(|room| room.sid == sid))
        }
    }

    /// The newest first.
    fn rooms() -> Vec<Room> {
        let room = |n: i64| Room {
            sid: format!("RM_{n}"),
            name: String::new(),
            started_at: Time(n * 1_000_000_000),
            ended_at: None,
        };
        (0..4).rev().map(room).collect()
    }

    async fn read(takes: Duration, time: Duration) -> (Vec<String>, Result<Read, ArchiveError>) {
        let log = Log::default();
        let archive = Large { log: &log, takes };
        let limits = Limits { time, bytes: 1, rooms: 9 };
        let query = Query { from: Time(0), to: Time(i64::MAX), room_name: None, room_prefix: None };
        let mut each = |session: &Session| log.lock().push(session.room_sid.clone());
        let read = each_session(&archive, &query, &limits, Time(1), &|_, _| (), &mut each).await;
        (log.into_inner(), read)
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_fit_is_read_alone_one_after_the_other_and_in_its_place() {
        let (log, read) = read(Duration::ZERO, Duration::from_secs(1)).await;
        let read = read.unwrap();
        let expected = ["read RM_3 RM_2 RM_1 RM_0", "read RM_3", "RM_3", "read RM_2", "RM_2", "RM_1", "RM_0"];
        assert_eq!(log, expected, "no two large ones are held");
        assert_eq!(
            (read.complete_from, read.cut, read.unread),
            (None, Vec::new(), vec!["of 4".to_owned(), "of 1".to_owned()])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_time_ends_it_is_said_from_when_on_all_sessions_are_there() {
        let second = Duration::from_secs(1);
        let (log, whole) = read(second, 5 * second).await;
        assert_eq!(log, ["read RM_3 RM_2 RM_1 RM_0", "read RM_3", "RM_3", "read RM_2"]);
        assert_eq!(whole.unwrap().complete_from, Some(rooms()[0].started_at));
        let (_, none) = read(second, 3 * second).await;
        let ArchiveError::Slow { limit, .. } = none.unwrap_err() else { panic!("not slow") };
        assert_eq!(limit, 3 * second, "of the request, not what was left of it");
    }
}
