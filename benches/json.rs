//! Records in JSON → wire bytes, on one core: real events and stats, one a line and as an array.
//!
//! ```sh
//! cargo bench --bench json
//! ```
//!
//! Beside them, in the same run, what they are held against: the tokenizer alone, which only passes over the text; and
//! livekit-protocol's own messages, read by serde and encoded by prost.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use livekit_protocol::{AnalyticsEvent, AnalyticsStat};
use livekit_spool::record::{
    Stream,
    json::{records_from_json, records_from_ndjson},
    wire,
};
use prost::Message;
use serde::{Deserialize, Serialize, de::IgnoredAny};

const EVENTS: &[u8] = include_bytes!("../tests/data/livekit-1.11/events.pb");
const STATS: &[u8] = include_bytes!("../tests/data/livekit-1.11/stats.pb");

/// The records as JSON, one each.
fn texts<M: Message + Default + Serialize>(bytes: &[u8]) -> Vec<String> {
    let text = |record| serde_json::to_string(&M::decode(record).expect("test data")).expect("a message has JSON");
    wire::delimited(bytes).map(text).collect()
}

fn through_messages<'a, M: Message + Deserialize<'a>>(text: &'a str) -> Vec<u8> {
    serde_json::from_str::<M>(text).expect("the JSON of a message").encode_to_vec()
}

fn json(criterion: &mut Criterion) {
    for (stream, texts) in
        [(Stream::Events, texts::<AnalyticsEvent>(EVENTS)), (Stream::Stats, texts::<AnalyticsStat>(STATS))]
    {
        let (lines, array) = (texts.join("\n"), format!("[{}]", texts.join(",")));
        println!("{} {stream}: {} bytes of JSON each", texts.len(), lines.len() / texts.len());
        let mut group = criterion.benchmark_group(stream.as_str());
        group.throughput(Throughput::Elements(texts.len() as u64));
        group.bench_function("from NDJSON", |bencher| {
            bencher.iter(|| records_from_ndjson(stream, lines.as_bytes()).expect("records").len());
        });
        group.bench_function("from an array", |bencher| {
            bencher.iter(|| records_from_json(stream, array.as_bytes()).expect("records").len());
        });
        group.bench_function("tokenizer alone", |bencher| {
            bencher.iter(|| texts.iter().for_each(|text| assert!(serde_json::from_str::<IgnoredAny>(text).is_ok())));
        });
        group.bench_function("serde to messages, prost encode", |bencher| {
            bencher.iter(|| {
                texts
                    .iter()
                    .map(|text| match stream {
                        Stream::Events => through_messages::<AnalyticsEvent>(text).len(),
                        _ => through_messages::<AnalyticsStat>(text).len(),
                    })
                    .sum::<usize>()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, json);
criterion_main!(benches);
