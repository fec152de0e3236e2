//! Rooms, from the events that create and end them. Pure.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;

use super::{LOOK_AHEAD, LOOK_BACK, Listing, Query, Room};
use crate::{
    record::Stream,
    session::{EVENT_ROOM_PATHS, Time, cut},
};

/// The events that a room is found by: its creation, its end, and the joins, which are there where these are missing.
pub(super) const MARKS: [&str; 3] = ["ROOM_CREATED", "ROOM_ENDED", "PARTICIPANT_JOINED"];

/// Events that may name their room only in a message of their own: `webhook.room_id`.
pub(super) const OTHERS: [&str; 18] = [
    "WEBHOOK",
    "API_CALL",
    "REPORT",
    "EGRESS_STARTED",
    "EGRESS_UPDATED",
    "EGRESS_ENDED",
    "INGRESS_CREATED",
    "INGRESS_STARTED",
    "INGRESS_UPDATED",
    "INGRESS_ENDED",
    "INGRESS_DELETED",
    "SIP_PARTICIPANT_CREATED",
    "SIP_CALL_INCOMING",
    "SIP_CALL_STARTED",
    "SIP_CALL_UPDATE",
    "SIP_CALL_ENDED",
    "SIP_TRANSFER_REQUESTED",
    "SIP_TRANSFER_COMPLETE",
];

/// How long before its creation and after its end other events may be about a room: the SIP call or the ingress it was made
/// for, its webhooks, the end of its egress.
const AROUND: Duration = Duration::from_secs(3600);
/// How long after its creation records are looked for, of a room without an end.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The time in which there may be records of some rooms.
pub(super) fn span_of(rooms: &[Room]) -> (Time, Time) {
    let end = |room: &Room| room.ended_at.unwrap_or(room.started_at.after(LONGEST)).after(AROUND);
    let first = rooms.iter().map(|room| room.started_at.before(AROUND)).min().unwrap_or(Time(0));
    (first, rooms.iter().map(end).max().unwrap_or(first))
}

/// One of the searches that make a list, each from the newest event back.
pub(super) struct Search {
    /// The type of event.
    pub(super) kind: &'static str,
    pub(super) from: Time,
    pub(super) to: Time,
    /// No more events than this.
    pub(super) most: usize,
}

/// The searches for a list of so many rooms, in their order. What one of them did not reach, the next ones need not look for:
/// a room that ended before began before.
pub(super) fn searches(query: &Query, rooms: usize) -> [Search; 3] {
    let earliest = query.from.before(LOOK_BACK);
    let search = |kind, from, to, most| Search { kind, from, to, most };
    [
        search("ROOM_CREATED", earliest, query.to, rooms.saturating_add(1)),
        // Of the rooms that were there in the range, and of those before that are no longer.
        search("ROOM_ENDED", earliest, query.to.after(LOOK_AHEAD), usize::MAX),
        search("PARTICIPANT_JOINED", query.from, query.to, usize::MAX),
    ]
}

/// The SID of the room that a document is about.
pub(super) fn room_of(stream: Stream, document: &Value) -> Option<&str> {
    match stream {
        Stream::Stats => text(document, "room_id"),
        _ => EVENT_ROOM_PATHS.iter().find_map(|path| text(document, path)),
    }
}

fn at<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(document, |value, name| value.get(name))
}

fn text<'a>(document: &'a Value, path: &str) -> Option<&'a str> {
    at(document, path)?.as_str().filter(|text| !text.is_empty())
}

/// An integer, as a number or as digits; the fork's are doubles.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    }
}

/// `{seconds, nanos}`
fn time(value: &Value) -> Option<Time> {
    let part = |name| value.get(name).and_then(integer);
    let nanos = part("seconds")?.checked_mul(1_000_000_000)?;
    Some(Time(nanos.checked_add(part("nanos").unwrap_or(0))?))
}

/// The time of an event or a stat.
pub(super) fn time_of(document: &Value) -> Option<Time> {
    document.get("timestamp").or_else(|| document.get("time_stamp")).and_then(time)
}

/// What one of the [`MARKS`] says of its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    sid: String,
    name: String,
    /// The time of the event.
    at: Time,
    /// When the room was created: ROOM_CREATED itself has whole seconds, `room.creation_time_ms` is exact.
    created_at: Option<Time>,
    is_end: bool,
}

impl Mark {
    /// `None`: it is not one of them, or is about no room.
    pub(super) fn of(event: &Value) -> Option<Self> {
        let kind = text(event, "type")?;
        if !MARKS.contains(&kind) {
            return None;
        }
        let created = |path, unit: i64| {
            let count = at(event, path).and_then(integer).filter(|&count| count > 0)?;
            count.checked_mul(unit).map(Time)
        };
        Some(Self {
            sid: text(event, "room.sid").or_else(|| text(event, "room_id"))?.to_owned(),
            name: cut(text(event, "room.name").unwrap_or_default()).to_owned(),
            at: event.get("timestamp").and_then(time)?,
            created_at: created("room.creation_time_ms", 1_000_000)
                .or_else(|| created("room.creation_time", 1_000_000_000)),
            is_end: kind == "ROOM_ENDED",
        })
    }

    /// True if it is about the room with this SID.
    pub(super) fn is_of(&self, sid: &str) -> bool {
        self.sid == sid
    }

    /// When the event was.
    pub(super) const fn at(&self) -> Time {
        self.at
    }
}

/// Collects the rooms of a query.
pub(super) struct Rooms<'a> {
    query: &'a Query,
    rooms: HashMap<String, Room>,
}

impl<'a> Rooms<'a> {
    pub(super) fn new(query: &'a Query) -> Self {
        Self { query, rooms: HashMap::new() }
    }

    pub(super) fn add(&mut self, mark: Mark) {
        let started_at = mark.created_at.unwrap_or(mark.at);
        let ended_at = mark.is_end.then_some(mark.at);
        match self.rooms.get_mut(&mark.sid) {
            Some(room) => {
                room.started_at = started_at.min(room.started_at);
                room.ended_at = room.ended_at.max(ended_at);
                if room.name.is_empty() {
                    room.name = mark.name;
                }
            }
            None => {
                let room = Room { sid: mark.sid, name: mark.name, started_at, ended_at };
                self.rooms.insert(room.sid.clone(), room);
            }
        }
    }

    fn is_asked_for(&self, room: &Room) -> bool {
        // A room without an end may have been over long ago.
        let was_there = match room.ended_at {
            Some(ended_at) => ended_at >= self.query.from,
            None => room.started_at >= self.query.from.before(LOOK_BACK),
        };
        was_there && room.started_at < self.query.to && self.query.accepts(&room.name)
    }

    /// How many of those that are asked for began then or later.
    pub(super) fn began_since(&self, since: Time) -> usize {
        self.rooms.values().filter(|room| room.started_at >= since && self.is_asked_for(room)).count()
    }

    /// The newest `limit`, of those that began at `complete_from` or later if the search ended there.
    pub(super) fn into_listing(self, limit: usize, mut complete_from: Option<Time>) -> Listing {
        let mut rooms: Vec<Room> = self.rooms.values().filter(|room| self.is_asked_for(room)).cloned().collect();
        rooms.retain(|room| complete_from.is_none_or(|from| room.started_at >= from));
        rooms.sort_by(|a, b| b.started_at.cmp(&a.started_at).then_with(|| a.sid.cmp(&b.sid)));
        if rooms.len() > limit {
            rooms.truncate(limit);
            complete_from = rooms.last().map_or(Some(self.query.to), |room| Some(room.started_at));
        }
        Listing { rooms, complete_from, unread: Vec::new() }
    }
}
