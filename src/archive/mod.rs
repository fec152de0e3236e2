//! Where sessions are read from: what a sink has stored. It never writes, and delivery knows nothing of it.
//!
//! - A room is found by the events that create and end it (`rooms`): those of the range, and of [`LOOK_BACK`] before it for
//!   rooms without an end. Its documents are then read by its SID; events of webhooks, API calls, egress, ingress and SIP name
//!   the room in a message of their own.
//! - MongoDB is read by plain finds on the sink's indexes, PostgreSQL by SELECTs that name a time range, files from the newest
//!   back. Each request has its own limits ([`Limits`]), and each archive its own few connections.
//! - An answer is whole, or says what it lacks: [`Listing::complete_from`], [`Found::cut`], and `unread`.
//!
//! Uses `config`, `record`, `session`, `sink`, `tasks`.

mod file;
mod json;
mod lines;
mod mongodb;
mod open;
mod postgresql;
mod rooms;
mod summaries;

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, from_slice};

pub use self::{
    open::{OpenError, open, open_first},
    summaries::{Read, each_of, each_session, summaries},
};
use crate::{
    record::Stream,
    session::{Documents, Session, Time, fold},
};

/// How long before a range the creation of a room is looked for, if its end is in the range or later, or was not found.
pub const LOOK_BACK: Duration = Duration::from_secs(24 * 3600);

/// How long after a range the end of a room is looked for.
const LOOK_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// What a sink has stored, for reading only.
#[async_trait]
pub trait Archive: Send + Sync {
    /// What it reads, for people: without secrets.
    fn address(&self) -> String;

    /// The rooms that were there in a time range, the newest first. A room whose end is not found may have been over before.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer within the limits.
    async fn list(&self, query: &Query, limits: &Limits) -> Result<Listing, ArchiveError>;

    /// The documents of some rooms.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer within the limits.
    async fn records(&self, rooms: &[Room], limits: &Limits) -> Result<Found, ArchiveError>;

    /// The room with this SID; `None`: there is no event about it.
    ///
    /// # Errors
    /// When it cannot be reached, does not answer within the limits, or has parts that cannot be read while the others do not
    /// know the room.
    async fn room(&self, sid: &str, limits: &Limits) -> Result<Option<Room>, ArchiveError>;
}

/// Which rooms are asked for.
#[derive(Debug, Clone)]
pub struct Query {
    /// Rooms that were there at some time from here …
    pub from: Time,
    /// … to here, exclusive.
    pub to: Time,
    /// Of this name only.
    pub room_name: Option<String>,
    /// Only of names with this prefix.
    pub room_prefix: Option<String>,
}

impl Query {
    fn any_time() -> Self {
        Self { from: Time(i64::MIN), to: Time(i64::MAX), room_name: None, room_prefix: None }
    }

    fn accepts(&self, name: &str) -> bool {
        self.room_name.as_deref().is_none_or(|wanted| name == wanted)
            && self.room_prefix.as_deref().is_none_or(|prefix| name.starts_with(prefix))
    }
}

/// How much a request may read.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A list of files ends there, and says that it is not whole; everything else that is not answered by then is an error.
    pub time: Duration,
    /// Of documents, as they are stored.
    pub bytes: u64,
    /// The most rooms in a listing.
    pub rooms: usize,
}

/// The rooms that were found.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The newest first.
    pub rooms: Vec<Room>,
    /// Set where a limit ended the search: the rooms are those that began at this time or later.
    pub complete_from: Option<Time>,
    /// What could not be read, and why: sessions may be missing. One line each.
    pub unread: Vec<String>,
}

/// A room as the list finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// `RM_…`
    pub sid: String,
    /// Its name, which other rooms may have had before.
    pub name: String,
    /// When it was created.
    pub started_at: Time,
    /// `None`: no end was found.
    pub ended_at: Option<Time>,
}

/// The documents of the rooms that were asked for.
#[derive(Debug, Default)]
pub struct Found {
    texts: HashMap<String, Texts>,
    /// Rooms of which a limit left documents out.
    pub cut: Vec<String>,
    /// What could not be read, and why: documents may be missing. One line each.
    pub unread: Vec<String>,
}

impl Found {
    /// The session of a room.
    pub fn take(&mut self, room_sid: &str, now: Time) -> Option<Session> {
        fold(room_sid, &self.texts.remove(room_sid)?.documents(), now)
    }

    /// Adds a document of a room.
    pub fn add(&mut self, room_sid: &str, stream: Stream, document: &Value) {
        let texts = self.texts.entry(room_sid.to_owned()).or_default();
        let text = if stream == Stream::Stats { &mut texts.stats } else { &mut texts.events };
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(&mut *text, document);
        text.push(b'\n');
    }
}

/// The documents of a room, a line of JSON each: as values they take ten times as much memory, and only one room's have to be
/// there at a time.
#[derive(Debug, Default)]
struct Texts {
    events: Vec<u8>,
    stats: Vec<u8>,
}

impl Texts {
    fn documents(&self) -> Documents {
        let values = |text: &[u8]| text.split(|&byte| byte == b'\n').filter_map(|line| from_slice(line).ok()).collect();
        Documents { events: values(&self.events), stats: values(&self.stats) }
    }
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be reached, or refuses to be read.
    #[error("{address}: {reason}")]
    Unavailable {
        /// Without secrets.
        address: String,
        /// What failed, in one line.
        reason: String,
    },
    /// The time limit ended it.
    #[error("{address}: no answer within {limit:?}: give a shorter time range, or a longer timeout")]
    Slow {
        /// Without secrets.
        address: String,
        /// The limit.
        limit: Duration,
    },
}

impl Time {
    /// So much earlier.
    const fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.as_nanos() as i64))
    }

    /// So much later.
    const fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_nanos() as i64))
    }

    const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }
}
