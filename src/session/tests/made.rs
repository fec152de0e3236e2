//! Documents made by hand, and the session that they make.

use serde_json::{Value, json};

use crate::session::{Documents, Observation, Session, Time, fold};

/// When the room of these documents was created, seconds since 1970.
pub(super) const START: u64 = 1_795_000_000;
pub(super) const ROOM: &str = "RM_1";

/// A time some seconds after the start.
pub(super) fn at(seconds: f64) -> Time {
    Time(i64::try_from(START).unwrap() * 1_000_000_000 + (seconds * 1e9) as i64)
}

pub(super) fn timestamp(seconds: f64) -> Value {
    let nanos = at(seconds).0;
    json!({ "seconds": nanos / 1_000_000_000, "nanos": nanos % 1_000_000_000 })
}

/// What happens in a room, step by step; each document gets an id of its own.
#[derive(Clone, Default)]
pub(super) struct Story {
    pub(super) documents: Documents,
}

impl Story {
    /// A room that was created.
    pub(super) fn new() -> Self {
        let mut story = Self::default();
        story.event("ROOM_CREATED", 0.0, json!({}));
        story
    }

    /// An event with these fields besides those that all have.
    pub(super) fn event(&mut self, kind: &str, seconds: f64, fields: Value) -> &mut Self {
        let mut event = json!({
            "id": format!("AE_{}", self.documents.events.len()),
            "type": kind,
            "timestamp": timestamp(seconds),
            "room_id": ROOM,
            "room": { "sid": ROOM, "name": "room", "creation_time_ms": START * 1000 + 250 },
        });
        add(&mut event, fields);
        self.documents.events.push(event);
        self
    }

    pub(super) fn stat(&mut self, seconds: f64, fields: Value) -> &mut Self {
        let mut stat = json!({
            "id": format!("AS_{}", self.documents.stats.len()),
            "time_stamp": timestamp(seconds),
            "room_id": ROOM,
            "room_name": "room",
        });
        add(&mut stat, fields);
        self.documents.stats.push(stat);
        self
    }

    /// Somebody (`PA_<identity>`) joins, and is active 50 ms later.
    pub(super) fn join(&mut self, identity: &str, seconds: f64) -> &mut Self {
        self.request(identity, seconds);
        let meta = json!({ "client_connect_time": 50, "connection_type": "udp" });
        self.about(identity, "PARTICIPANT_ACTIVE", seconds + 0.05, json!({ "client_meta": meta }))
    }

    /// Somebody joins, and is not active yet.
    pub(super) fn request(&mut self, identity: &str, seconds: f64) -> &mut Self {
        let joined_at_ms = at(seconds).0 / 1_000_000;
        let participant = json!({
            "sid": sid(identity), "identity": identity, "state": "JOINED", "joined_at_ms": joined_at_ms,
        });
        let client = json!({ "sdk": "JS", "version": "2.5.0", "address": "10.1.2.3" });
        let fields = json!({ "participant_id": sid(identity), "participant": participant, "client_info": client });
        self.event("PARTICIPANT_JOINED", seconds + 0.002, fields)
    }

    /// Something that happens to somebody.
    pub(super) fn about(&mut self, identity: &str, kind: &str, seconds: f64, fields: Value) -> &mut Self {
        let mut event =
            json!({ "participant_id": sid(identity), "participant": { "sid": sid(identity), "identity": identity } });
        add(&mut event, fields);
        self.event(kind, seconds, event)
    }

    /// `reason`: the number of the DisconnectReason; 1 is CLIENT_INITIATED.
    pub(super) fn leave(&mut self, identity: &str, seconds: f64, reason: u32) -> &mut Self {
        let participant = json!({ "sid": sid(identity), "identity": identity, "disconnect_reason": reason });
        self.about(identity, "PARTICIPANT_LEFT", seconds, json!({ "participant": participant }))
    }

    /// Somebody publishes a microphone.
    pub(super) fn publish(&mut self, identity: &str, track: &str, seconds: f64) -> &mut Self {
        let info = json!({ "sid": track, "source": "MICROPHONE", "mime_type": "audio/opus", "name": "mic" });
        let fields = json!({ "track_id": track, "track": info });
        self.about(identity, "TRACK_PUBLISH_REQUESTED", seconds, fields.clone());
        self.about(identity, "TRACK_PUBLISHED", seconds + 0.04, fields)
    }

    pub(super) fn subscribe(&mut self, identity: &str, track: &str, publisher: &str, seconds: f64) -> &mut Self {
        let only_sids = json!({ "track_id": track, "track": { "sid": track, "source": "UNKNOWN" } });
        self.about(identity, "TRACK_SUBSCRIBE_REQUESTED", seconds, only_sids);
        let info = json!({ "sid": track, "source": "MICROPHONE", "mime_type": "audio/opus" });
        let publisher = json!({ "sid": sid(publisher), "identity": publisher });
        let fields = json!({ "track_id": track, "track": info, "publisher": publisher });
        self.about(identity, "TRACK_SUBSCRIBED", seconds + 0.03, fields)
    }

    /// A stat of 30 s.
    pub(super) fn measure(&mut self, flow: (&str, &str, &str), from: f64, packets: u64, lost: u64) -> &mut Self {
        self.interval(flow, from, from + 30.0, json!({ "primary_packets": packets, "packets_lost": lost }))
    }

    /// `flow`: who, the track, and `UPSTREAM` or `DOWNSTREAM`.
    pub(super) fn interval(&mut self, flow: (&str, &str, &str), from: f64, to: f64, stream: Value) -> &mut Self {
        let (identity, track, kind) = flow;
        let mut stream = stream;
        add(&mut stream, json!({ "start_time": timestamp(from), "end_time": timestamp(to) }));
        if stream.get("primary_bytes").is_none() {
            let packets = stream["primary_packets"].as_u64().unwrap_or(0);
            add(&mut stream, json!({ "primary_bytes": packets * 100 }));
        }
        let fields = json!({
            "participant_id": sid(identity), "track_id": track, "kind": kind, "mime": "audio/opus", "score": 4.5,
            "min_score": 4.5, "streams": [stream],
        });
        self.stat(to + 1.0, fields)
    }

    pub(super) fn end(&mut self, seconds: f64) -> &mut Self {
        self.event("ROOM_ENDED", seconds, json!({}))
    }

    /// The session some seconds after the start.
    pub(super) fn session(&self, now: f64) -> Session {
        fold(ROOM, &self.documents, at(now)).unwrap()
    }

    /// The session long after the end.
    pub(super) fn settled(&self) -> Session {
        self.session(1e6)
    }

    /// The observations of one kind, long after the end.
    pub(super) fn observations(&self, kind: &str) -> Vec<Observation> {
        self.settled().observations.into_iter().filter(|seen| seen.kind == kind).collect()
    }

    /// The sentences of one kind, long after the end.
    pub(super) fn sentences(&self, kind: &str) -> Vec<String> {
        self.observations(kind).into_iter().map(|seen| seen.text).collect()
    }
}

pub(super) fn sid(identity: &str) -> String {
    format!("PA_{identity}")
}

/// Sets fields of a document.
pub(super) fn add(document: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else { panic!("not an object: {fields}") };
    document.as_object_mut().unwrap().extend(fields);
}
