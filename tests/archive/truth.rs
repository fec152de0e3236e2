//! The sessions of the real set, folded from its records; and the real set in a sink.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use livekit_spool::{
    archive::{self, Archive, Limits, Query, Room},
    config::{self, SinkConfig},
    document::{DocumentContext, DocumentOptions, Encoder, JsonStyle, write_json},
    record::{QueuedRecord, Stream, now_millis},
    session::{Documents, Session, Time, fold},
    sink::{Batch, Outcome, Sink},
};
use prost::Message;

use crate::support::records::{real_events, real_stats};

/// The time of asking: long after the real set.
pub(crate) const NOW: Time = Time(1_800_000_000_000_000_000);

/// No test reaches these.
pub(crate) const LIMITS: Limits = Limits { time: Duration::from_secs(60), bytes: 1 << 30, rooms: 1000 };

/// All of the real set.
pub(crate) fn ever() -> Query {
    Query { from: Time(0), to: NOW, room_name: None, room_prefix: None }
}

pub(crate) fn encoder() -> Arc<Encoder> {
    Arc::new(Encoder::new(DocumentOptions::default()))
}

fn batches() -> [(Stream, Vec<Vec<u8>>); 2] {
    [
        (Stream::Events, real_events().iter().map(Message::encode_to_vec).collect()),
        (Stream::Stats, real_stats().iter().map(Message::encode_to_vec).collect()),
    ]
}

/// The sessions of the real set, by the SIDs of their rooms.
pub(crate) fn truth() -> BTreeMap<String, Session> {
    let encoder = encoder();
    let mut documents = Documents::default();
    for (stream, records) in batches() {
        for record in records {
            let (mut bson, mut json) = (Vec::new(), Vec::new());
            encoder.encode(stream, &record, &DocumentContext::default(), &mut bson).expect("a document");
            write_json(&bson, JsonStyle::Relaxed, &mut json).expect("JSON");
            let document = serde_json::from_slice(&json).expect("JSON");
            match stream {
                Stream::Events => documents.events.push(document),
                _ => documents.stats.push(document),
            }
        }
    }
    let sids: BTreeSet<String> = real_events().into_iter().filter_map(|event| Some(event.room?.sid)).collect();
    let sessions = sids.iter().filter_map(|sid| Some((sid.clone(), fold(sid, &documents, NOW)?)));
    let sessions: BTreeMap<String, Session> = sessions.collect();
    assert_eq!(sessions.len(), 7);
    sessions
}

/// What a list should say of the sessions, the newest first.
pub(crate) fn rooms_of(sessions: &BTreeMap<String, Session>) -> Vec<Room> {
    let room = |session: &Session| Room {
        sid: session.room_sid.clone(),
        name: session.room_name.clone(),
        started_at: session.started_at,
        ended_at: session.ended_at,
    };
    let mut rooms: Vec<Room> = sessions.values().map(room).collect();
    rooms.sort_by(|a, b| b.started_at.cmp(&a.started_at).then_with(|| a.sid.cmp(&b.sid)));
    rooms
}

/// A sink of the configuration, by its keys as YAML in braces.
pub(crate) fn sink(keys: &str) -> SinkConfig {
    let text = format!("sinks:\n  - {{ name: sessions, {keys} }}\n");
    let config = config::parse(Some(("config.yaml", &text)), &|_| None).unwrap_or_else(|error| panic!("{error}"));
    config.sinks.into_iter().next().expect("a sink")
}

/// Delivers the real set in batches of so many records, through the sink itself.
pub(crate) async fn deliver(sink: &SinkConfig, size: usize) {
    let sink = sink.target.build(&encoder()).expect("options");
    sink.initialize().await.expect("ready");
    for (stream, records) in batches() {
        for records in records.chunks(size) {
            deliver_batch(&*sink, stream, records).await;
        }
    }
    sink.close().await;
}

pub(crate) async fn deliver_batch(sink: &dyn Sink, stream: Stream, records: &[Vec<u8>]) {
    let record = |(i, record): (usize, &Vec<u8>)| QueuedRecord {
        seq: i as u64,
        received_at: now_millis(),
        bytes: Bytes::from(record.clone()),
    };
    let batch = Batch { stream, records: records.iter().enumerate().map(record).collect() };
    let outcome = sink.send_batch(batch).await;
    assert!(outcome.records.iter().all(|outcome| *outcome == Outcome::Delivered), "{:?}", outcome.error);
}

pub(crate) fn open(sink: &SinkConfig) -> Arc<dyn Archive> {
    archive::open(sink).unwrap_or_else(|error| panic!("{error}"))
}

/// The sessions of some rooms, as JSON for a message that can be read.
pub(crate) async fn sessions(archive: &dyn Archive, rooms: &[Room]) -> BTreeMap<String, serde_json::Value> {
    let mut found = archive.records(rooms, &LIMITS).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((found.cut.len(), found.unread.len()), (0, 0), "{:?}", found.unread);
    rooms.iter().filter_map(|room| Some((room.sid.clone(), as_json(&found.take(&room.sid, NOW)?)))).collect()
}

pub(crate) fn as_json(session: &Session) -> serde_json::Value {
    serde_json::to_value(session).expect("JSON")
}
