//! Archives in memory.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::super::reader::Archives;
use crate::{
    admin::problem::Problem,
    archive::{Archive, ArchiveError, Found, Limits, Listing, Query, Room},
    record::Stream,
    session::{Documents, Time},
};

const EVENTS: &str = include_str!("../../../../tests/data/livekit-1.11/events.extjson");
const STATS: &str = include_str!("../../../../tests/data/livekit-1.11/stats.extjson");

/// The sinks of a configuration.
pub(super) struct Sinks(Vec<(&'static str, Arc<Memory>)>);

impl Sinks {
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) fn one(name: &'static str, memory: impl Into<Arc<Memory>>) -> Self {
        Self::none().and(name, memory)
    }

    pub(super) fn and(mut self, name: &'static str, memory: impl Into<Arc<Memory>>) -> Self {
        self.0.push((name, memory.into()));
        self
    }
}

impl Archives for Sinks {
    fn open(&self, sink: Option<&str>) -> Result<(String, Arc<dyn Archive>), Problem> {
        let found = self.0.iter().find(|(name, _)| sink.is_none_or(|sink| sink == *name));
        let (name, memory) = found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no sink can be read"))?;
        Ok(((*name).to_owned(), Arc::clone(memory) as Arc<dyn Archive>))
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// Documents by room.
pub(super) struct Memory {
    rooms: Vec<Room>,
    documents: HashMap<String, Documents>,
    /// Requests so far.
    pub(super) requests: AtomicUsize,
    /// How many requests may still be answered.
    pub(super) answers: Semaphore,
    pub(super) is_unavailable: bool,
    /// The records of one room alone take too long.
    pub(super) is_slow_alone: bool,
    /// Rooms of which the answer lacks documents.
    pub(super) cut: Vec<String>,
    /// What it says it could not read.
    pub(super) unread: Vec<String>,
    pub(super) complete_from: Option<Time>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            rooms: Vec::new(),
            documents: HashMap::new(),
            requests: AtomicUsize::new(0),
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
            is_unavailable: false,
            is_slow_alone: false,
            cut: Vec::new(),
            unread: Vec::new(),
            complete_from: None,
        }
    }
}

fn add(found: &mut Found, sid: &str, documents: &Documents) {
    let events = documents.events.iter().map(|event| (Stream::Events, event));
    let stats = documents.stats.iter().map(|stat| (Stream::Stats, stat));
    events.chain(stats).for_each(|(stream, document)| found.add(sid, stream, document));
}

fn text<'a>(document: &'a Value, path: &str) -> Option<&'a str> {
    path.split('.').try_fold(document, |value, name| value.get(name))?.as_str()
}

impl Memory {
    /// The real records, as OpenVidu's fork stores them: seven rooms of 21 November 2026.
    pub(super) fn real() -> Self {
        let mut memory = Self::default();
        for event in EVENTS.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            let room = ["room.sid", "room_id", "webhook.room_id"].iter().find_map(|path| text(&event, path));
            let room = room.unwrap().to_owned();
            memory.documents.entry(room).or_default().events.push(event);
        }
        for stat in STATS.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            let room = text(&stat, "room_id").unwrap().to_owned();
            memory.documents.entry(room).or_default().stats.push(stat);
        }
        memory.list_rooms();
        memory
    }

    /// These documents, each of the room that it names in `room_id`.
    pub(super) fn of(events: Vec<Value>, stats: Vec<Value>) -> Self {
        let mut memory = Self::default();
        for event in events {
            let room = text(&event, "room_id").unwrap().to_owned();
            memory.documents.entry(room).or_default().events.push(event);
        }
        for stat in stats {
            let room = text(&stat, "room_id").unwrap().to_owned();
            memory.documents.entry(room).or_default().stats.push(stat);
        }
        memory.list_rooms();
        memory
    }

    /// Documents that may not say which room they are about.
    pub(super) fn of_room(sid: &str, events: Vec<Value>, stats: Vec<Value>) -> Self {
        let room = Room { sid: sid.to_owned(), name: String::new(), started_at: Time(1), ended_at: None };
        let documents = HashMap::from([(sid.to_owned(), Documents { events, stats })]);
        Self { rooms: vec![room], documents, ..Self::default() }
    }

    /// The documents of a room.
    pub(super) fn documents(&self, sid: &str) -> &Documents {
        &self.documents[sid]
    }

    /// The real records of one room, without its end.
    pub(super) fn without_end() -> Self {
        let mut memory = Self::real();
        let sid = memory.rooms[0].sid.clone();
        memory.documents.retain(|room, _| *room == sid);
        memory.documents.get_mut(&sid).unwrap().events.retain(|event| event["type"] != "ROOM_ENDED");
        memory.list_rooms();
        memory
    }

    fn list_rooms(&mut self) {
        let far = Time(i64::MAX);
        let mut found = Found::default();
        for (sid, documents) in &self.documents {
            add(&mut found, sid, documents);
        }
        self.rooms = self
            .documents
            .keys()
            .map(|sid| {
                let session = found.take(sid, far).expect("a session");
                let (sid, name) = (session.room_sid, session.room_name);
                Room { sid, name, started_at: session.started_at, ended_at: session.ended_at }
            })
            .collect();
        self.rooms.sort_by(|a, b| b.started_at.cmp(&a.started_at).then_with(|| a.sid.cmp(&b.sid)));
    }

    /// The SIDs, the newest room first.
    pub(super) fn sids(&self) -> Vec<String> {
        self.rooms.iter().map(|room| room.sid.clone()).collect()
    }

    async fn answer(&self) -> Result<(), ArchiveError> {
        self.requests.fetch_add(1, Relaxed);
        self.answers.acquire().await.expect("open").forget();
        match self.is_unavailable {
            true => Err(ArchiveError::Unavailable { address: self.address(), reason: "away".to_owned() }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Archive for Memory {
    fn address(&self) -> String {
        "memory".to_owned()
    }

    async fn list(&self, query: &Query, limits: &Limits) -> Result<Listing, ArchiveError> {
        self.answer().await?;
        let is_asked_for = |room: &&Room| {
            room.started_at < query.to
                && room.ended_at.is_none_or(|end| end >= query.from)
                && query.room_name.as_ref().is_none_or(|name| room.name == *name)
                && query.room_prefix.as_ref().is_none_or(|prefix| room.name.starts_with(prefix))
        };
        let rooms = self.rooms.iter().filter(is_asked_for).take(limits.rooms).cloned().collect();
        Ok(Listing { rooms, complete_from: self.complete_from, unread: self.unread.clone() })
    }

    async fn records(&self, rooms: &[Room], limits: &Limits) -> Result<Found, ArchiveError> {
        self.answer().await?;
        if self.is_slow_alone && rooms.len() == 1 {
            return Err(ArchiveError::Slow { address: self.address(), limit: limits.time });
        }
        let mut found = Found::default();
        found.cut.clone_from(&self.cut);
        found.unread.clone_from(&self.unread);
        for room in rooms {
            if let Some(documents) = self.documents.get(&room.sid) {
                add(&mut found, &room.sid, documents);
            }
        }
        Ok(found)
    }

    async fn room(&self, sid: &str, _: &Limits) -> Result<Option<Room>, ArchiveError> {
        self.answer().await?;
        Ok(self.rooms.iter().find(|room| room.sid == sid).cloned())
    }
}
