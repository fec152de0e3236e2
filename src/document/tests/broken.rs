//! Malformed records: whatever the bytes, the result is a document or an error, never a panic; and what prost can read
//! becomes a document.

use bson::RawDocument;
use livekit_protocol::{AnalyticsEvent, AnalyticsNodeRooms, AnalyticsStat};
use proptest::{prelude::*, sample::Index};
use prost::Message;
use prost_reflect::{Kind, MessageDescriptor};

use crate::{
    document::{
        DocumentContext, DocumentError, DocumentOptions, Encoder, JsonStyle, PiiKey, Redact, WireType, write_json,
    },
    record::{
        Stream, schema,
        wire::{self, delimited},
    },
    testing::cases,
};

const EVENTS: &[u8] = include_bytes!("../../../tests/data/livekit-1.11/events.pb");
const STATS: &[u8] = include_bytes!("../../../tests/data/livekit-1.11/stats.pb");
const FULL_EVENTS: &[u8] = include_bytes!("../../../tests/data/every-field/events.pb");

/// Tells whether prost reads a record correctly. It checks the wire type of every field except maps, for which it reads the
/// bytes after any tag as an entry. Such a record does not contain a map, so it makes no document.
fn is_readable(stream: Stream, record: &[u8]) -> bool {
    let prost = match stream {
        Stream::Events => AnalyticsEvent::decode(record).is_ok(),
        Stream::Stats => AnalyticsStat::decode(record).is_ok(),
        Stream::NodeRooms => AnalyticsNodeRooms::decode(record).is_ok(),
    };
    prost && maps_are_maps(&schema::record(stream), record).unwrap_or(true)
}

/// Whether all entries of maps are length-delimited, of a message that prost reads.
fn maps_are_maps(descriptor: &MessageDescriptor, mut message: &[u8]) -> Result<bool, DocumentError> {
    while !message.is_empty() {
        let tag = wire::tag(&mut message)?;
        let field = descriptor.get_field(tag >> 3);
        let delimited = WireType::from_tag(tag) == Some(WireType::Length);
        if field.as_ref().is_some_and(|field| field.is_map() && !delimited) {
            return Ok(false);
        }
        match field.map(|field| field.kind()) {
            Some(Kind::Message(inner)) if delimited => {
                if !maps_are_maps(&inner, wire::length_delimited(&mut message)?)? {
                    return Ok(false);
                }
            }
            _ => wire::skip(&mut message, tag)?,
        }
    }
    Ok(true)
}

/// The encoders that every record is tried on.
struct Encoders(Vec<Encoder>);

impl Encoders {
    fn new() -> Self {
        let options = |redact, pii_key| DocumentOptions { redact, pii_key, ..Default::default() };
        Self(vec![
            Encoder::new(options(Redact::None, None)),
            Encoder::new(options(Redact::Secrets, None)),
            Encoder::new(options(Redact::Pii, Some(PiiKey::from_secret("of these tests")))),
        ])
    }

    /// Panics if a document cannot be read back, or if a readable record makes none.
    fn try_all(&self, stream: Stream, record: &[u8]) {
        let readable = is_readable(stream, record);
        for encoder in &self.0 {
            let mut out = Vec::new();
            match encoder.encode(stream, record, &DocumentContext::default(), &mut out) {
                Ok(()) => {
                    bson::Document::try_from(RawDocument::from_bytes(&out).unwrap()).unwrap();
                    let mut json = Vec::new();
                    write_json(&out, JsonStyle::Relaxed, &mut json).unwrap();
                    serde_json::from_slice::<serde_json::Value>(&json).unwrap();
                }
                Err(error) => {
                    assert!(!readable, "prost reads what makes no document: {error}: {record:02x?}");
                    assert!(out.is_empty());
                }
            }
        }
    }
}

/// Mutations of a record's bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
    Splice(Index, Index, Index),
}

impl Damage {
    fn apply(&self, record: &mut Vec<u8>, other: &[u8]) {
        let n = record.len().max(1);
        let range = |a: &Index, b: &Index| {
            let (a, b) = (a.index(n), b.index(n));
            a.min(b)..a.max(b)
        };
        match self {
            _ if record.is_empty() => record.extend_from_slice(other),
            Self::Flip(at, bit) => record[at.index(n)] ^= 1 << (bit % 8),
            Self::Set(at, byte) => record[at.index(n)] = *byte,
            Self::Cut(at) => record.truncate(at.index(n)),
            Self::Remove(a, b) => _ = record.drain(range(a, b)),
            Self::Repeat(a, b) => {
                let again = record[range(a, b)].to_vec();
                record.extend(again);
            }
            Self::Insert(at, bytes) => _ = record.splice(at.index(n)..at.index(n), bytes.iter().copied()),
            Self::Splice(at, a, b) => {
                let (a, b) = (a.index(other.len().max(1)), b.index(other.len().max(1)));
                let piece = other[a.min(b)..a.max(b)].to_vec();
                record.splice(at.index(n)..at.index(n), piece);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), prop_oneof![Just(0), Just(0x7F), Just(0x80), Just(0xFF), any::<u8>()])
            .prop_map(|(at, b)| Damage::Set(at, b)),
        at().prop_map(Damage::Cut),
        (at(), at()).prop_map(|(a, b)| Damage::Remove(a, b)),
        (at(), at()).prop_map(|(a, b)| Damage::Repeat(a, b)),
        (at(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (at(), at(), at()).prop_map(|(at, a, b)| Damage::Splice(at, a, b)),
    ]
}

#[test]
fn damaged_real_records_make_a_document_or_an_error() {
    let encoders = Encoders::new();
    let sources: Vec<(Stream, Vec<&[u8]>)> = vec![
        (Stream::Events, delimited(EVENTS).collect()),
        (Stream::Events, delimited(FULL_EVENTS).collect()),
        (Stream::Stats, delimited(STATS).collect()),
        (Stream::NodeRooms, delimited(STATS).collect()),
    ];
    let strategy = (0..sources.len(), any::<Index>(), any::<Index>(), prop::collection::vec(damage(), 0..5));
    proptest!(cases(4096), |((source, record, other, damages) in strategy)| {
        let (stream, records) = &sources[source];
        let mut damaged = records[record.index(records.len())].to_vec();
        for damage in &damages {
            damage.apply(&mut damaged, records[other.index(records.len())]);
        }
        encoders.try_all(*stream, &damaged);
    });
}

#[test]
fn random_bytes_make_a_document_or_an_error() {
    let encoders = Encoders::new();
    proptest!(cases(4096), |(bytes in prop::collection::vec(any::<u8>(), 0..64))| {
        Stream::ALL.iter().for_each(|stream| encoders.try_all(*stream, &bytes));
    });
}

#[test]
fn every_prefix_of_a_record_makes_a_document_or_an_error() {
    let encoders = Encoders::new();
    for record in delimited(FULL_EVENTS).take(40) {
        (0..record.len()).for_each(|end| encoders.try_all(Stream::Events, &record[..end]));
    }
}

/// Hostile records, and those that once failed: they stay here.
#[test]
fn the_corpus_of_hostile_records_makes_documents_or_errors() {
    let encoders = Encoders::new();
    let length = |field: u32, length: u64| {
        let mut out = Vec::new();
        wire::write_tag(&mut out, field, WireType::Length);
        wire::write_varint(&mut out, length);
        out
    };
    let corpus: Vec<Vec<u8>> = vec![
        vec![],
        // Lengths far past the end, up to what does not fit an address.
        length(4, 1 << 20),
        length(4, u64::from(u32::MAX)),
        length(4, u64::MAX),
        length(4, 1 << 63),
        [length(4, 3), length(1, u64::MAX)].concat(),
        // A varint of ten bytes too large, one of eleven, one that never ends.
        vec![0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
        vec![0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        vec![0xFF; 1 << 16],
        vec![0x80; 1 << 16],
        // Tags: number 0, the highest number, one above it, every wire type of field 1.
        vec![0x00],
        vec![0xF8, 0xFF, 0xFF, 0xFF, 0x0F, 0x01],
        vec![0x80, 0x80, 0x80, 0x80, 0x10, 0x01],
        vec![0x0B],
        vec![0x0C],
        vec![0x0D],
        vec![0x0E],
        vec![0x0F],
        // Groups: nested, not closed, closed by another.
        [0xCB, 0x3E].repeat(1 << 16),
        [[0xCB, 0x3E].repeat(90), [0xCC, 0x3E].repeat(90)].concat(),
        vec![0xCB, 0x3E, 0xD4, 0x3E],
        // Messages of all fields with nothing in them, many times over.
        (1..64).flat_map(|field| length(field, 0)).collect::<Vec<_>>().repeat(500),
        // The same message in thousands of pieces.
        [length(4, 2), vec![0x08, 0x01]].concat().repeat(5000),
        // A map with 20,000 keys, each twice.
        (0..40_000_u32)
            .flat_map(|n| {
                let key = (n % 20_000).to_string();
                let entry = [length(1, key.len() as u64), key.into_bytes()].concat();
                let attributes = [length(15, entry.len() as u64), entry].concat();
                [length(6, attributes.len() as u64), attributes].concat()
            })
            .collect(),
    ];
    for record in &corpus {
        Stream::ALL.iter().for_each(|stream| encoders.try_all(*stream, record));
    }
}
