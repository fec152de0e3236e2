//! Reads sessions for the port: bounded, a few at once, with the answers of the last seconds.
//!
//! Of many sessions a batch is read and folded at a time, and what the answer shows of it is kept: the memory does not grow with
//! the answer's range.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::recent::Recent;
use crate::{
    admin::problem::Problem,
    app::NoSuchSink,
    archive::{self, Archive, ArchiveError, Limits, Listing, OpenError, Query, Read, Room},
    config::SinkConfig,
    record::now_millis,
    session::{Session, Time},
    tasks,
};

/// How long one answer may read.
const TIME: Duration = Duration::from_secs(20);
/// Most rooms of a listing. Their names and times take some 200 bytes each.
const ROOMS: usize = 20_000;
/// The same for the usage of a range.
const LONG_TIME: Duration = Duration::from_secs(120);
/// Most bytes that are read for the sessions that are folded together, as they are stored: read, they take some times as much.
const BATCH_BYTES: u64 = 32 << 20;
/// Most bytes that are read for one session.
const SESSION_BYTES: u64 = 48 << 20;
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(5);
/// How many listings and sessions are kept.
const LISTINGS: usize = 16;
const SESSIONS: usize = 4;
/// Reads at once: each holds a batch or a session, and keeps the archive busy.
const READS: usize = 2;
/// How long one more read waits for its slot.
const SLOT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where archives come from.
pub(super) trait Archives: Send + Sync {
    /// The archive of the sink of this name, or of the first sink that has one; with the sink's name.
    fn open(&self, sink: Option<&str>) -> Result<(String, Arc<dyn Archive>), Problem>;

    /// The sinks that have one.
    fn names(&self) -> Vec<String>;
}

/// The archives of the configured sinks. One is opened at the first request, and again if its sink's options change.
pub(super) struct Configured<C> {
    sinks: C,
    open: Mutex<Vec<(SinkConfig, Arc<dyn Archive>)>>,
}

impl<C: Fn() -> Vec<SinkConfig>> Configured<C> {
    pub(super) const fn new(sinks: C) -> Self {
        Self { sinks, open: Mutex::new(Vec::new()) }
    }

    fn of(&self, sinks: &[SinkConfig], sink: &SinkConfig) -> Result<Arc<dyn Archive>, OpenError> {
        let mut open = self.open.lock();
        open.retain(|(used, _)| sinks.contains(used));
        if let Some((_, archive)) = open.iter().find(|(used, _)| used == sink) {
            return Ok(Arc::clone(archive));
        }
        let archive = archive::open(sink)?;
        open.push((sink.clone(), Arc::clone(&archive)));
        Ok(archive)
    }
}

impl<C: Fn() -> Vec<SinkConfig> + Send + Sync> Archives for Configured<C> {
    fn open(&self, sink: Option<&str>) -> Result<(String, Arc<dyn Archive>), Problem> {
        let sinks = (self.sinks)();
        let wanted = sinks.iter().filter(|config| sink.is_none_or(|name| config.name.as_str() == name));
        let mut why = None;
        for config in wanted {
            match self.of(&sinks, config) {
                Ok(archive) => return Ok((config.name.to_string(), archive)),
                Err(OpenError::NotReadable { .. }) if sink.is_none() => {}
                Err(error) => why = Some(error.into()),
            }
        }
        Err(why.unwrap_or_else(|| match sink {
            Some(name) => NoSuchSink { name: name.to_owned(), names: self.names() }.into(),
            None => OpenError::None.into(),
        }))
    }

    fn names(&self) -> Vec<String> {
        let sinks = (self.sinks)();
        let readable = sinks.iter().filter(|sink| self.of(&sinks, sink).is_ok());
        readable.map(|sink| sink.name.to_string()).collect()
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        Self::new(StatusCode::NOT_FOUND, error.to_string())
    }
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        let status = match error {
            ArchiveError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ArchiveError::Slow { .. } => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, error.to_string())
    }
}

/// A session as it was read.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) session: Session,
    /// What it lacks.
    pub(super) read: Read,
}

type RoomsKey = (String, Time, Time, Option<String>, Option<String>);

/// Reads sessions.
pub(super) struct Reader {
    archives: Box<dyn Archives>,
    slots: Semaphore,
    listings: Recent<RoomsKey, Arc<Listing>>,
    sessions: Recent<(String, String), Option<Arc<Shown>>>,
}

impl Reader {
    pub(super) fn new(archives: impl Archives + 'static) -> Self {
        Self {
            archives: Box::new(archives),
            slots: Semaphore::new(READS),
            listings: Recent::new(LISTINGS, KEPT),
            sessions: Recent::new(SESSIONS, KEPT),
        }
    }

    /// The archive of a sink, or the first one, to read from.
    pub(super) fn open(&self, sink: Option<&str>) -> Result<Source<'_>, Problem> {
        let (sink, archive) = self.archives.open(sink)?;
        Ok(Source { reader: self, sink, archive })
    }

    /// The sinks that have an archive.
    pub(super) fn sinks(&self) -> Vec<String> {
        self.archives.names()
    }

    async fn slot(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match tokio::time::timeout(SLOT_TIMEOUT, self.slots.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests read sessions at the moment: try again shortly",
            )),
        }
    }
}

/// One archive.
pub(super) struct Source<'a> {
    reader: &'a Reader,
    pub(super) sink: String,
    archive: Arc<dyn Archive>,
}

impl Source<'_> {
    /// What it reads, for people.
    pub(super) fn address(&self) -> String {
        self.archive.address()
    }

    /// The rooms of a range, the newest first.
    pub(super) async fn rooms(&self, query: &Query) -> Result<Arc<Listing>, Problem> {
        let key = (self.sink.clone(), query.from, query.to, query.room_name.clone(), query.room_prefix.clone());
        let listing = self.reader.listings.get(key, async {
            let _slot = self.reader.slot().await?;
            let limits = Limits { time: TIME, bytes: u64::MAX, rooms: ROOMS };
            Ok::<_, Problem>(Arc::new(self.archive.list(query, &limits).await?))
        });
        listing.await
    }

    /// What `make` makes of the sessions of these rooms, in their order. Rooms without records are left out, and lost ones
    /// without records since `from`: they had ended before.
    pub(super) async fn sessions<T: Send>(
        &self,
        rooms: &[Room],
        from: Time,
        make: fn(&Session) -> T,
    ) -> Result<(Vec<T>, Read), Problem> {
        let mut made = Vec::new();
        if rooms.is_empty() {
            return Ok((made, Read::default()));
        }
        let _slot = self.reader.slot().await?;
        let limits = Limits { time: TIME, bytes: BATCH_BYTES, rooms: rooms.len() };
        let mut each = |session: &Session| made.push(make(session));
        let read = archive::each_of(&*self.archive, rooms, from, &limits, now(), &|_, _| (), &mut each).await?;
        Ok((made, read))
    }

    /// Calls `each` with every session of a range.
    pub(super) async fn each(&self, query: &Query, each: &mut (dyn FnMut(&Session) + Send)) -> Result<Read, Problem> {
        let _slot = self.reader.slot().await?;
        let limits = Limits { time: LONG_TIME, bytes: BATCH_BYTES, rooms: ROOMS };
        Ok(archive::each_session(&*self.archive, query, &limits, now(), &|_, _| (), each).await?)
    }

    /// The session of one room; none if there is no record of it.
    pub(super) async fn session(&self, room_sid: &str) -> Result<Option<Arc<Shown>>, Problem> {
        let key = (self.sink.clone(), room_sid.to_owned());
        let session = self.reader.sessions.get(key, async {
            let _slot = self.reader.slot().await?;
            let limits = Limits { time: TIME, bytes: SESSION_BYTES, rooms: 1 };
            let Some(room) = self.archive.room(room_sid, &limits).await? else { return Ok(None) };
            let mut found = self.archive.records(std::slice::from_ref(&room), &limits).await?;
            let folding = tasks::run_blocking(move || {
                let session = found.take(&room.sid, now())?;
                Some(Arc::new(Shown { session, read: found.into() }))
            });
            let read = folding.await;
            read.map_err(|panic| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()))
        });
        session.await
    }
}

/// A list that a limit left incomplete, for an API that cannot say so.
pub(super) fn too_many(ask_for: &str) -> Problem {
    let message = format!("there are more sessions in this range than can be looked at: ask for {ask_for}");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, message)
}

fn now() -> Time {
    Time(now_millis().saturating_mul(1_000_000))
}
