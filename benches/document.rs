//! Record → BSON, on one core: this crate's encoder beside prost and serde, in the same run.
//!
//! The limits that the printed throughput is held against: real events at 1,000,000 a second or more, and at least three
//! times as many as prost's decoding followed by livekit-protocol's serde into raw BSON.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use livekit_protocol::{AnalyticsEvent, AnalyticsStat};
use livekit_spool::{
    document::{DocumentContext, DocumentOptions, Encoder, JsonStyle, Labels, Redact, write_json},
    record::{Stream, read_varint},
};
use prost::Message;
use serde::Serialize;

const EVENTS: &[u8] = include_bytes!("../tests/data/livekit-1.11/events.pb");
const STATS: &[u8] = include_bytes!("../tests/data/livekit-1.11/stats.pb");

fn records(bytes: &'static [u8]) -> Vec<&'static [u8]> {
    let mut rest = bytes;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = read_varint(&mut rest).and_then(|length| usize::try_from(length).ok()).expect("test data");
        let (record, tail) = rest.split_at(length);
        records.push(record);
        rest = tail;
    }
    records
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

criterion_group!(benches, documents);
criterion_main!(benches);
