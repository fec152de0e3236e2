//! The work of encoding is linear in the record, whatever its shape: bytes that were read per byte of the record.
//!
//! Shapes are made of parts (nesting, order, splits, maps, lists, unknown fields, groups) in all combinations, and of
//! random messages; each is compared with real records.

use proptest::prelude::*;
use prost_reflect::{DynamicMessage, MessageDescriptor};

use super::{
    delimited, encoder_of, everything,
    model::{message, model, sorted},
    varint,
};
use crate::{
    document::{
        DocumentErrorReason, DocumentOptions, Encoder, MAX_DEPTH, Redact,
        encoding::{Encoding, WORK_PER_BYTE},
        writer::Writer,
    },
    record::{Stream, wire::delimited as records},
    testing::cases,
};

const EVENTS: &[u8] = include_bytes!("../../../tests/data/livekit-1.11/events.pb");
const STATS: &[u8] = include_bytes!("../../../tests/data/livekit-1.11/stats.pb");
/// How much more work than real records any record may take.
const MAX_RATIO: f64 = 3.0;

/// Bytes read per byte of the record.
fn work(encoder: &Encoder, stream: Stream, record: &[u8]) -> f64 {
    let writer = Writer::append_to(Vec::new(), 0);
    let mut encoding = Encoding::new(&encoder.schema, writer, &encoder.options, record);
    let encoded = encoding.record(encoder.schema.record(stream));
    if let Err(error) = encoded {
        let large =
            matches!(error.reason(), DocumentErrorReason::TooLarge { .. } | DocumentErrorReason::TooManyParts { .. });
        assert!(large, "{error}");
    }
    encoding.work as f64 / record.len().max(1) as f64
}

/// The same for all real records together.
fn real_work() -> f64 {
    let encoder = Encoder::new(DocumentOptions { redact: Redact::None, ..DocumentOptions::default() });
    let of =
        |stream, bytes| records(bytes).map(|record| work(&encoder, stream, record) * record.len() as f64).sum::<f64>();
    let bytes: usize = [EVENTS, STATS].into_iter().flat_map(records).map(<[u8]>::len).sum();
    (of(Stream::Events, EVENTS) + of(Stream::Stats, STATS)) / bytes as f64
}

/// A message around others, in several orders of its fields.
type Shape = (&'static str, fn(&[u8]) -> Vec<u8>);

/// Ways to nest a message in `types.Everything`.
const NESTED: [Shape; 9] = [
    ("plain", |inner| delimited(17, inner)),
    ("a value before and behind", |inner| [varint(2, 1), delimited(17, inner), varint(2, 2)].concat()),
    ("an empty piece behind", |inner| [delimited(17, inner), varint(2, 1), delimited(17, b"")].concat()),
    ("in two pieces", |inner| {
        [delimited(17, inner), varint(3, 1), delimited(17, &varint(2, 7)), varint(3, 2)].concat()
    }),
    ("in a list, interleaved", |inner| {
        [delimited(20, inner), varint(18, 1), delimited(20, b""), varint(18, 2)].concat()
    }),
    ("in a oneof, in pieces", |inner| [delimited(26, inner), delimited(26, &varint(2, 7))].concat()),
    ("in a oneof, after another member", |inner| [delimited(24, b"text"), delimited(26, inner)].concat()),
    ("in a map, twice in the entry", |inner| {
        delimited(29, &[varint(1, 7), delimited(2, inner), delimited(2, &varint(2, 7))].concat())
    }),
    ("in a map, the key twice", |inner| {
        let entry = |value: &[u8]| delimited(29, &[varint(1, 7), delimited(2, value)].concat());
        [entry(b""), varint(2, 1), entry(inner), varint(2, 2)].concat()
    }),
];

/// What may be at the bottom, repeated many times.
fn contents() -> Vec<(&'static str, Vec<u8>)> {
    let many = |field: &dyn Fn(u64) -> Vec<u8>| (0..500).flat_map(field).collect::<Vec<u8>>();
    vec![
        ("one value", varint(2, 1)),
        ("one value, again and again", many(&|n| varint(2, n))),
        ("texts", many(&|_| delimited(19, b"text"))),
        ("a long text", delimited(15, &[b'x'; 2000])),
        ("two lists, interleaved", many(&|n| [varint(18, n), delimited(19, b"")].concat())),
        (
            "two packed lists, interleaved",
            many(&|n| [delimited(18, &[1, 2, 3]), delimited(21, &[n as u8 & 1])].concat()),
        ),
        ("empty messages in a list", many(&|_| delimited(20, b""))),
        ("messages out of order in a list", many(&|n| delimited(20, &[varint(2, n), varint(2, 1)].concat()))),
        ("a message in pieces", many(&|n| delimited(17, &varint([2, 5, 7, 10][n as usize % 4], 1)))),
        ("members of a oneof by turns", many(&|_| [delimited(24, b"t"), delimited(26, &varint(2, 1))].concat())),
        ("a map", many(&|n| delimited(30, &[varint(1, n % 2), varint(2, n)].concat()))),
        (
            "a map of many keys",
            many(&|n| delimited(28, &[delimited(1, n.to_string().as_bytes()), delimited(2, b"v")].concat())),
        ),
        (
            "two maps, interleaved",
            many(&|n| {
                [delimited(28, &delimited(1, n.to_string().as_bytes())), delimited(32, &delimited(2, b"")[..0])]
                    .concat()
            }),
        ),
        (
            "entries with their value twice",
            many(&|n| delimited(30, &[varint(1, n % 2), varint(2, n), varint(2, 1)].concat())),
        ),
        ("unknown fields", many(&|n| [varint(200, n), delimited(201, b"unknown"), varint(2, 1)].concat())),
        ("groups", many(&|_| [0xFB, 0x3F, 0xFC, 0x3F].to_vec())),
        ("nested groups", [[0xFB, 0x3F].repeat(50), [0xFC, 0x3F].repeat(50)].concat().repeat(5)),
        ("a high number", many(&|n| delimited(536_870_911, &n.to_le_bytes()))),
    ]
}

#[test]
fn no_shape_takes_more_than_three_times_the_work_of_real_records() {
    let (encoder, real) = (encoder_of(everything()), real_work());
    let mut worst = (0.0, String::new());
    for (bottom, contents) in contents() {
        for (first, nest) in NESTED {
            for (second, other) in NESTED {
                // A shape by itself, and two alternating.
                for depth in [0, 1, 2, 3, 10, MAX_DEPTH / 2 - 1] {
                    let mut record = contents.clone();
                    (0..depth).for_each(|level| record = if level % 2 == 0 { nest(&record) } else { other(&record) });
                    // Detected at the very end only.
                    record = [varint(7, 1), record, varint(7, 2)].concat();
                    let ratio = work(&encoder, Stream::Stats, &record) / real;
                    if ratio > worst.0 {
                        worst = (ratio, format!("{bottom}; {first}; {second}; {depth} deep"));
                    }
                }
            }
        }
    }

    assert!(worst.0 <= MAX_RATIO, "{:.2} x real: {}", worst.0, worst.1);
}

#[test]
fn the_documents_of_these_shapes_are_those_of_the_model() {
    let descriptor = everything();
    let encoder = encoder_of(descriptor.clone());
    for (bottom, contents) in contents() {
        for (first, nest) in NESTED {
            for (second, other) in NESTED {
                let record = other(&nest(&other(&contents)));
                assert_is_the_models(&encoder, &descriptor, &record, &format!("{bottom}; {first}; {second}"));
            }
        }
    }
}

fn assert_is_the_models(encoder: &Encoder, descriptor: &MessageDescriptor, record: &[u8], what: &str) {
    let decoded = DynamicMessage::decode(descriptor.clone(), record).unwrap();
    let ours = super::document(encoder, record).unwrap();
    assert_eq!(sorted(&ours.into()), sorted(&model(&decoded).into()), "{what}");
}

/// In a record of a few bytes, one that is read a fourth time is a large part of all: so a few such bytes are allowed.
const FEW_BYTES: f64 = 32.0;

#[test]
fn random_messages_take_no_more_work_than_that() {
    let (encoder, real, descriptor) = (encoder_of(everything()), real_work(), everything());
    proptest!(cases(256), |(record in message(&descriptor, 0))| {
        let read = work(&encoder, Stream::Stats, &record) * record.len() as f64;
        let most = MAX_RATIO * real * record.len() as f64 + FEW_BYTES;
        prop_assert!(read <= most, "{} bytes read, {} at most: {:02x?}", read, most, record);
    });
}

/// The path that once took 2^depth: 43 s for 3.7 MB.
#[test]
fn a_livekit_record_out_of_order_at_each_level_takes_no_more_work_than_that() {
    // api_call.request.create_room_request.egress.room.file_outputs.s3, each level's last field repeated.
    let path = ["api_call", "request", "create_room_request", "egress", "room", "file_outputs", "s3"];
    let mut descriptor = crate::record::schema::record(Stream::Events);
    let mut numbers = Vec::new();
    for name in path {
        let field = descriptor.get_field_by_name(name).unwrap_or_else(|| panic!("{name} in {descriptor:?}"));
        numbers.push(field.number());
        descriptor = field.kind().as_message().unwrap().clone();
    }
    let region = delimited(descriptor.get_field_by_name("region").unwrap().number(), b"region");
    let mut record = region.repeat(3_700_000 / region.len());
    for &number in numbers.iter().rev() {
        record = [delimited(number, &record), delimited(number, b"")].concat();
    }
    let encoder = Encoder::new(DocumentOptions::default());
    let ratio = work(&encoder, Stream::Events, &record) / real_work();
    assert!(ratio <= MAX_RATIO, "{ratio} x real");
    let mut out = Vec::new();
    encoder.encode(Stream::Events, &record, &crate::document::DocumentContext::default(), &mut out).unwrap();
}

#[test]
fn a_record_that_takes_more_work_than_its_size_allows_is_an_error_that_says_so() {
    let encoder = encoder_of(everything());
    let record = delimited(17, &delimited(17, &varint(2, 1)));
    let mut encoding = Encoding::new(&encoder.schema, Writer::append_to(Vec::new(), 0), &encoder.options, &record);
    assert_eq!(encoding.max_work, WORK_PER_BYTE * record.len());
    encoding.max_work = 1;
    let error = encoding.record(encoder.schema.record(Stream::Stats)).unwrap_err();
    assert_eq!(*error.reason(), DocumentErrorReason::TooMuchWork);
    assert!(error.to_string().contains("more work"), "{error}");
}

#[test]
fn a_record_in_more_parts_than_its_memory_is_worth_is_an_error_that_says_so() {
    let encoder = encoder_of(everything());
    let piece = [delimited(17, &varint(2, 1)), varint(2, 1)].concat();
    let record = piece.repeat(crate::document::parts::MAX_PARTS + 1);
    let error = super::document(&encoder, &record).unwrap_err();
    assert!(matches!(error.reason(), DocumentErrorReason::TooManyParts { .. }), "{error}");
    let entries = (0..=crate::document::parts::MAX_PARTS as u64).map(|key| delimited(31, &varint(1, key)));
    let error = super::document(&encoder, &entries.flatten().collect::<Vec<_>>()).unwrap_err();
    assert!(matches!(error.reason(), DocumentErrorReason::TooManyParts { .. }), "{error}");
}
