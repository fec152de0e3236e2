//! The records of one room: read, each once, in the order of their times.
//!
//! A record is the same as another one if it has the same id. LiveKit's own id is in both our documents and the fork's, whose
//! `_id` differs. Events that were made of webhooks have ids of their own; they are left out where LiveKit sent the event too.

use std::collections::HashMap;

use livekit_protocol::{AnalyticsEventType, StreamType};
use serde_json::Value;

use super::{
    documents::Documents,
    field::{Fields, canonical, nanoseconds},
    model::Time,
};

/// Webhooks have whole seconds, and are sent some time after the event.
const MAX_TWIN_NANOS: u64 = 2_000_000_000;

/// Where an event names its room. ROOM_CREATED has no `room_id`; webhooks, API calls, ingresses and others have the room only in
/// what they report.
pub const EVENT_ROOM_PATHS: [&str; 8] = [
    "room_id",
    "room.sid",
    "webhook.room_id",
    "api_call.room_id",
    "egress.room_id",
    "ingress.state.room_id",
    "sip_call.room_id",
    "report.Message.FeatureUsage.room_id",
];

/// An event of the room.
pub(super) struct Event<'a> {
    pub(super) document: &'a Value,
    pub(super) at: Time,
    /// The name of its AnalyticsEventType.
    pub(super) kind: String,
    /// The SID of the participant's connection; empty if it is about none.
    pub(super) connection: &'a str,
    pub(super) track: &'a str,
}

impl<'a> Event<'a> {
    /// False if its time has whole seconds only: it was made of a webhook.
    pub(super) fn is_exact(&self) -> bool {
        self.at.0 % 1_000_000_000 != 0
    }

    /// The participant itself; `None` in events that have only its SID, or SID and identity.
    pub(super) fn participant(&self) -> Option<&'a Value> {
        let is_whole = matches!(
            self.kind.as_str(),
            "PARTICIPANT_JOINED"
                | "PARTICIPANT_ACTIVE"
                | "PARTICIPANT_RESUMED"
                | "RECONNECTED"
                | "PARTICIPANT_LEFT"
                | "PARTICIPANT_CONNECTION_ABORTED"
        );
        Some(self.document.field("participant")).filter(|participant| is_whole && participant.is_object())
    }
}

/// A stat of the room: one track in one direction for some time.
pub(super) struct Stat<'a> {
    pub(super) document: &'a Value,
    pub(super) at: Time,
    pub(super) connection: &'a str,
    pub(super) track: &'a str,
    pub(super) is_downstream: bool,
}

/// What is stored of a room.
pub(super) struct Records<'a> {
    pub(super) events: Vec<Event<'a>>,
    pub(super) stats: Vec<Stat<'a>>,
}

impl<'a> Records<'a> {
    /// Every room that documents are about.
    #[cfg(test)]
    pub(super) fn rooms(documents: &Documents) -> std::collections::BTreeSet<&str> {
        let of_stats = documents.stats.iter().map(|document| document.text("room_id"));
        documents.events.iter().map(room_of_event).chain(of_stats).filter(|room| !room.is_empty()).collect()
    }

    /// The times of the first and the last record; `None`: there is none.
    pub(super) fn span(&self) -> Option<(Time, Time)> {
        Some((self.times().min()?, self.times().max()?))
    }

    /// The times of all records.
    pub(super) fn times(&self) -> impl Iterator<Item = Time> {
        self.events.iter().map(|event| event.at).chain(self.stats.iter().map(|stat| stat.at))
    }

    pub(super) fn of(room_sid: &str, documents: &'a Documents) -> Self {
        let is_of_room = |room: &str| room == room_sid && !room.is_empty();
        let events = distinct(&documents.events, |document| is_of_room(room_of_event(document)));
        let mut events: Vec<Event<'a>> = events.into_iter().filter_map(event).collect();
        remove_twins(&mut events);
        events.sort_by(|a, b| {
            let key = |event: &Event<'a>| (event.connection, event.track, event.document.text("id"));
            let by_time = a.at.cmp(&b.at).then_with(|| a.kind.cmp(&b.kind)).then_with(|| key(a).cmp(&key(b)));
            by_time.then_with(|| canonical(a.document).cmp(&canonical(b.document)))
        });
        let stats = distinct(&documents.stats, |document| is_of_room(document.text("room_id")));
        let mut stats: Vec<Stat<'a>> = stats.into_iter().filter_map(stat).collect();
        stats.sort_by(|a, b| {
            let times = (a.at, a.connection, a.track).cmp(&(b.at, b.connection, b.track));
            times.then_with(|| canonical(a.document).cmp(&canonical(b.document)))
        });
        Self { events, stats }
    }
}

/// Each record once. Of two with the same id, one is taken whatever their order.
fn distinct(documents: &[Value], is_wanted: impl Fn(&Value) -> bool) -> Vec<&Value> {
    let mut by_id: HashMap<String, &Value> = HashMap::new();
    for document in documents.iter().filter(|document| is_wanted(document)) {
        let own = [document.text("id"), document.text("_id")].into_iter().find(|id| !id.is_empty());
        let id = own.map_or_else(|| canonical(document), str::to_owned);
        let kept = by_id.entry(id).or_insert(document);
        if *kept != document && canonical(document) < canonical(kept) {
            *kept = document;
        }
    }
    by_id.into_values().collect()
}

/// The room that an event is about.
fn room_of_event(document: &Value) -> &str {
    let at = |path: &&str| path.split('.').fold(document, |part, key| part.field(key)).as_str();
    EVENT_ROOM_PATHS.iter().filter_map(at).find(|room| !room.is_empty()).unwrap_or_default()
}

fn event(document: &Value) -> Option<Event<'_>> {
    if document.field("type").is_null() {
        return None;
    }
    let kind = document.word("type", |n| AnalyticsEventType::try_from(n).ok().map(|kind| kind.as_str_name()));
    let sent_at = document.time("timestamp").or_else(|| document.time("time"))?;
    // LiveKit gives it whole seconds.
    let at = if kind == "ROOM_CREATED" { created_at(document).unwrap_or(sent_at) } else { sent_at };
    let sid = |key: &str, part: &str| {
        let reports = [document.field("webhook"), document.field("api_call")];
        let places = [document.text(key), document.field(part).text("sid"), reports[0].text(key), reports[1].text(key)];
        places.into_iter().find(|sid| !sid.is_empty()).unwrap_or_default()
    };
    let (connection, track) = (sid("participant_id", "participant"), sid("track_id", "track"));
    Some(Event { document, at, kind, connection, track })
}

/// When the room of an event was created, exact to the millisecond.
pub(super) fn created_at(event: &Value) -> Option<Time> {
    milliseconds(event.field("room").count("creation_time_ms"))
}

/// A time in milliseconds since 1970; `None` if zero.
pub(super) fn milliseconds(millis: u64) -> Option<Time> {
    let millis = i128::from(millis);
    nanoseconds(millis / 1000, millis % 1000 * 1_000_000)
}

/// Leaves out events that were made of webhooks, where LiveKit sent the event itself.
fn remove_twins(events: &mut Vec<Event<'_>>) {
    let key = |event: &Event<'_>| {
        let job = ["egress_id", "ingress_id"].map(|key| event.document.text(key).to_owned());
        (event.kind.clone(), event.connection.to_owned(), event.track.to_owned(), job)
    };
    let is_of_webhook = |event: &Event<'_>| event.document.text("id").starts_with("EV_");
    let mut sent: HashMap<_, Vec<Time>> = HashMap::new();
    if !events.iter().any(is_of_webhook) {
        return;
    }
    for event in events.iter().filter(|event| !is_of_webhook(event)) {
        sent.entry(key(event)).or_default().push(event.at);
    }
    events.retain(|event| {
        let is_near = |at: &Time| at.0.abs_diff(event.at.0) <= MAX_TWIN_NANOS;
        !(is_of_webhook(event) && sent.get(&key(event)).is_some_and(|times| times.iter().any(is_near)))
    });
}

fn stat(document: &Value) -> Option<Stat<'_>> {
    let at = document.time("time_stamp").or_else(|| document.time("time"))?;
    let kind = document.word("kind", |n| StreamType::try_from(n).ok().map(|kind| kind.as_str_name()));
    Some(Stat {
        document,
        at,
        connection: document.text("participant_id"),
        track: document.text("track_id"),
        is_downstream: kind == "DOWNSTREAM",
    })
}
