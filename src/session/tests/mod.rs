//! The fold over what real LiveKit servers sent, and over documents made by hand.

mod golden;
mod made;
mod mutations;
mod observations;
mod properties;
mod real;
mod recordings;
mod traps;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Documents, Session, Time, fold, record::Records};
use crate::{
    document::{DocumentContext, DocumentOptions, Encoder, JsonStyle, write_json},
    record::{Stream, wire::delimited},
};

const EVENTS: &[u8] = include_bytes!("../../../tests/data/livekit-1.11/events.pb");
const STATS: &[u8] = include_bytes!("../../../tests/data/livekit-1.11/stats.pb");
/// Long after every record: all is settled.
const LATE: Time = Time(1_900_000_000_000_000_000);

/// The documents that this program makes of records.
fn documents(events: &[u8], stats: &[u8], options: DocumentOptions, style: JsonStyle) -> Documents {
    let encoder = Encoder::new(options);
    let json = |stream, records| {
        let records = delimited(records);
        records.map(|record| document(&encoder, stream, record, style)).collect::<Vec<Value>>()
    };
    Documents { events: json(Stream::Events, events), stats: json(Stream::Stats, stats) }
}

fn document(encoder: &Encoder, stream: Stream, record: &[u8], style: JsonStyle) -> Value {
    let (mut bson, mut json) = (Vec::new(), Vec::new());
    encoder.encode(stream, record, &DocumentContext::default(), &mut bson).unwrap();
    write_json(&bson, style, &mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// The documents of livekit-1.11.
fn real() -> Documents {
    documents(EVENTS, STATS, DocumentOptions::default(), JsonStyle::Relaxed)
}

/// The documents that OpenVidu's fork makes of it.
fn forks() -> Documents {
    let read = |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Documents {
        events: read(include_str!("../../../tests/data/livekit-1.11/events.extjson")),
        stats: read(include_str!("../../../tests/data/livekit-1.11/stats.extjson")),
    }
}

/// The session of each room that documents are about.
fn sessions(documents: &Documents) -> BTreeMap<String, Session> {
    let rooms = Records::rooms(documents);
    rooms.into_iter().map(|room| (room.to_owned(), fold(room, documents, LATE).unwrap())).collect()
}

fn json(session: &Session) -> Value {
    serde_json::to_value(session).unwrap()
}
