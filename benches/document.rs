//! Record → BSON, on one core: this crate's encoder next to prost and serde, in the same run.
//!
//! The limits that the printed throughput is held against: real events at 1,000,000 a second or more, and at least three
//! times as many as prost's decoding followed by livekit-protocol's serde into raw BSON.
//!
//! `shapes` are records as a hostile sender may make them: CPU per byte of record, and how many times that of real
//! records it is. The limit is three times.

use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use livekit_protocol::{AnalyticsEvent, AnalyticsStat};
use livekit_spool::{
    document::{DocumentContext, DocumentOptions, Encoder, JsonStyle, Labels, Redact, write_json},
    record::{Stream, wire},
};
use prost::Message;
use serde::Serialize;

const EVENTS: &[u8] = include_bytes!("../tests/data/livekit-1.11/events.pb");
const STATS: &[u8] = include_bytes!("../tests/data/livekit-1.11/stats.pb");

fn records(bytes: &'static [u8]) -> Vec<&'static [u8]> {
    wire::delimited(bytes).collect()
}

fn serde_bson<M: Message + Default + Serialize>(record: &[u8], out: &mut Vec<u8>) {
    let message = M::decode(record).expect("test data");
    let document = bson::serialize_to_raw_document_buf(&message).expect("test data");
    out.extend_from_slice(document.as_bytes());
}

fn documents(criterion: &mut Criterion) {
    let labels = Labels::none();
    let context = DocumentContext { expire_at: Some(1_798_000_000_000), labels: &labels };
    for (stream, bytes) in [(Stream::Events, EVENTS), (Stream::Stats, STATS)] {
        let records = records(bytes);
        let mut group = criterion.benchmark_group(stream.as_str());
        group.throughput(Throughput::Elements(records.len() as u64));

        for (name, redact) in [("encode", Redact::Secrets), ("encode, redact none", Redact::None)] {
            let encoder = Encoder::new(DocumentOptions { redact, ..DocumentOptions::default() });
            let mut out = Vec::new();
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    out.clear();
                    for record in &records {
                        encoder.encode(stream, record, &context, &mut out).expect("test data");
                    }
                    out.len()
                });
            });
        }
        group.bench_function("prost decode", |bencher| {
            bencher.iter(|| {
                for record in &records {
                    match stream {
                        Stream::Events => drop(AnalyticsEvent::decode(*record).expect("test data")),
                        _ => drop(AnalyticsStat::decode(*record).expect("test data")),
                    }
                }
            });
        });
        let mut out = Vec::new();
        group.bench_function("prost decode, serde to raw BSON", |bencher| {
            bencher.iter(|| {
                out.clear();
                for record in &records {
                    match stream {
                        Stream::Events => serde_bson::<AnalyticsEvent>(record, &mut out),
                        _ => serde_bson::<AnalyticsStat>(record, &mut out),
                    }
                }
                out.len()
            });
        });
        let encoder = Encoder::new(DocumentOptions::default());
        group.bench_function("encode, then Extended JSON", |bencher| {
            bencher.iter_batched_ref(
                || (Vec::new(), Vec::new()),
                |(document, json)| {
                    for record in &records {
                        document.clear();
                        encoder.encode(stream, record, &context, document).expect("test data");
                        write_json(document, JsonStyle::Relaxed, json).expect("a document of ours");
                    }
                    json.len()
                },
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

/// Nanoseconds per byte of record, the least of several runs.
fn cost(encoder: &Encoder, stream: Stream, records: &[&[u8]]) -> f64 {
    let bytes: usize = records.iter().map(|record| record.len()).sum();
    let rounds = (1 << 23) / bytes.max(1) + 1;
    let mut out = Vec::new();
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let begun = Instant::now();
        for _ in 0..rounds {
            for record in records {
                out.clear();
                // What makes too large a document has cost its work nevertheless.
                let _ = encoder.encode(stream, record, &DocumentContext::default(), &mut out);
            }
        }
        least = least.min(begun.elapsed().as_nanos() as f64 / (rounds * bytes) as f64);
    }
    least
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    wire::write_varint_field(&mut out, number, value);
    out
}

fn delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::write_length_delimited(&mut out, number, bytes);
    out
}

/// Events that take as much work for their bytes as their fields allow; each field by its number in the schema.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let many = |count: u64, field: &dyn Fn(u64) -> Vec<u8>| (0..count).flat_map(field).collect::<Vec<u8>>();
    let nested = |path: &[u32], inner: &[u8], again: bool| {
        path.iter().rev().fold(inner.to_vec(), |inner, &number| {
            let piece = delimited(number, &inner);
            if again { [piece, delimited(number, b"")].concat() } else { piece }
        })
    };
    // api_call.request.create_room_request.egress.room.file_outputs.s3
    let s3 = [34, 2, 1, 6, 1, 11, 3];
    let room = |inner: &[u8]| delimited(4, inner);
    let key = |n: u64| format!("{n:x}").into_bytes();
    let attribute = |n: u64| delimited(15, &[delimited(1, &key(n)), delimited(2, b"v")].concat());
    // Found to be out of order at its very end.
    let at_the_end = |record: Vec<u8>| [varint(22, 1), record, varint(22, 1)].concat();
    vec![
        (
            "s3, one value again and again, at each level a piece more",
            nested(&s3, &delimited(3, b"eu").repeat(50_000), true),
        ),
        ("s3, a long text, at each level a piece more", nested(&s3, &delimited(3, &[b'x'; 200_000]), true)),
        ("a room in pieces", room(&varint(5, 1)).repeat(50_000)),
        ("a room of one value again and again", room(&varint(5, 1).repeat(50_000))),
        ("codecs, empty", room(&delimited(7, b"").repeat(50_000))),
        ("codecs out of order", room(&delimited(7, &[delimited(1, b"a"), delimited(1, b"b")].concat()).repeat(50_000))),
        ("codecs, found out of order at the end", at_the_end(room(&delimited(7, &delimited(1, b"a")).repeat(50_000)))),
        ("codecs by turns with a value", room(&[delimited(7, b""), varint(5, 1)].concat().repeat(50_000))),
        ("attributes", delimited(6, &many(50_000, &attribute))),
        ("attributes, of few keys", delimited(6, &many(50_000, &|n| attribute(n % 8)))),
        ("attributes by turns with a value", delimited(6, &many(50_000, &|n| [attribute(n), varint(6, 1)].concat()))),
        ("attributes, found out of order at the end", at_the_end(delimited(6, &many(50_000, &attribute)))),
        ("kind details, packed", delimited(6, &delimited(18, &[1; 100_000]))),
        ("kind details, one by one", delimited(6, &varint(18, 1).repeat(50_000))),
        ("unknown fields", varint(200, 1).repeat(50_000)),
        ("groups", [0xC3, 0x3E, 0xC4, 0x3E].repeat(50_000)),
        ("a real event, in two halves", halves()),
    ]
}

/// The longest real event twice, which is merged throughout.
fn halves() -> Vec<u8> {
    let longest = records(EVENTS).into_iter().max_by_key(|event| event.len()).expect("test data");
    longest.repeat(2)
}

fn ratios(_: &mut Criterion) {
    let encoder = Encoder::new(DocumentOptions::default());
    let real = cost(&encoder, Stream::Events, &records(EVENTS)).max(cost(&encoder, Stream::Stats, &records(STATS)));
    println!("real records: {real:.2} ns a byte");
    let mut worst = (0.0, "");
    for (name, record) in shapes() {
        let cost = cost(&encoder, Stream::Events, &[&record[..]]);
        let ratio = cost / real;
        println!("{ratio:>5.2} x real ({cost:.2} ns a byte): {name}");
        if ratio > worst.0 {
            worst = (ratio, name);
        }
    }
    println!("worst: {:.2} x real: {}", worst.0, worst.1);
}

criterion_group!(benches, documents, ratios);
criterion_main!(benches);
