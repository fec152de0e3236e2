//! Where sessions are read from: what a sink has stored.
//!
//! Uses `session`.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;

use crate::session::{Documents, Session, Time, fold};

/// What a sink has stored, for reading only.
#[async_trait]
pub trait Archive: Send + Sync {
    /// What it reads, for people: without secrets.
    fn address(&self) -> String;

    /// The rooms with events in a time range, the newest first.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer within the limits.
    async fn list(&self, query: &Query, limits: &Limits) -> Result<Listing, ArchiveError>;

    /// The documents of some rooms.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer within the limits.
    async fn records(&self, rooms: &[Room], limits: &Limits) -> Result<Found, ArchiveError>;
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
    /// Of names that begin so only.
    pub room_prefix: Option<String>,
}

/// How much a request may read.
#[derive(Debug, Clone)]
pub struct Limits {
    pub time: Duration,
    /// Of documents, as they are stored.
    pub bytes: u64,
    pub rooms: usize,
}

#[derive(Debug, Clone)]
pub struct Listing {
    pub rooms: Vec<Room>,
    /// Set where a limit ended the search: the rooms are those that began at this time or later.
    pub complete_from: Option<Time>,
}

/// A room as the list finds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Room {
    pub sid: String,
    pub name: String,
    pub started_at: Time,
    /// `None`: no end was found.
    pub ended_at: Option<Time>,
}

/// The documents of the rooms that were asked for.
#[derive(Debug, Default)]
pub struct Found {
    documents: HashMap<String, Documents>,
    /// Rooms of which a limit left documents out.
    pub cut: Vec<String>,
}

impl Found {
    /// The session of a room.
    pub fn take(&mut self, room_sid: &str, now: Time) -> Option<Session> {
        fold(room_sid, &self.documents.remove(room_sid)?, now)
    }
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{address}: {reason}")]
    Unavailable { address: String, reason: String },
    #[error("{address}: not answered within {limit:?}")]
    Slow { address: String, limit: Duration },
}
