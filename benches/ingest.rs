//! gRPC ingest of real events over loopback into a real spool: one event a message, as LiveKit sends them, and 500.
//!
//! ```sh
//! cargo bench --bench ingest              # criterion's figures, then the calls
//! cargo bench --bench ingest -- calls     # the calls only
//! ```
//!
//! Beside each, in the same run, its limits: the same stream into an ingester that keeps nothing (what gRPC itself costs, on
//! both ends), and the spool alone, given the same records in batches of half a stream window.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use criterion::{Criterion, Throughput, criterion_group};
use livekit_spool::{
    ingest::{
        Append, CannotAppend,
        client::{Client, Credentials, Target},
    },
    record::{RecordBatch, RecordBatchBuilder, Stream, now_millis},
    spool::Appended,
};
use tokio::runtime::Runtime;

#[path = "ingest/calls.rs"]
mod calls;

/// Events in one stream.
const EVENTS: usize = 20_000;
const CALLERS: usize = 4;

/// Takes everything at once and keeps nothing.
struct Nowhere;

#[async_trait]
impl Append for Nowhere {
    async fn append(&self, _: RecordBatch) -> Result<Appended, CannotAppend> {
        Ok(Appended::Kept)
    }
}

fn batch(count: usize) -> RecordBatch {
    let mut batch = RecordBatchBuilder::new(Stream::Events);
    calls::events(count).for_each(|event| batch.push(&event));
    batch.build(now_millis())
}

async fn client(spool: Arc<dyn Append>) -> Client {
    let url = format!("http://{}", calls::serve(spool).await.grpc);
    Client::new(&Target { url, ca: None, credentials: Credentials::None }).expect("an address")
}

fn ingest(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (_directory, spool) = calls::spool();
    let durable = runtime.block_on(client(Arc::clone(&spool) as _));
    let nowhere = runtime.block_on(client(Arc::new(Nowhere)));
    let stream = batch(EVENTS);

    let mut group = criterion.benchmark_group("grpc");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(10).measurement_time(Duration::from_secs(5));
    for per_message in [1, 500] {
        for (name, client) in [("into the spool", &durable), ("into nowhere", &nowhere)] {
            group.bench_function(format!("{per_message} a message, {name}"), |bencher| {
                bencher.to_async(&runtime).iter(|| async {
                    client.send(&stream, per_message).await.expect("accepted");
                });
            });
        }
    }
    group.throughput(Throughput::Elements((EVENTS * CALLERS) as u64));
    group.bench_function(format!("500 a message, {CALLERS} streams at once, into the spool"), |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let calls = (0..CALLERS).map(|_| durable.send(&stream, 500));
            futures::future::try_join_all(calls).await.expect("accepted");
        });
    });
    let (part, parts) = (batch(EVENTS / 10), 10);
    group.throughput(Throughput::Elements((EVENTS / 10 * parts) as u64));
    group.bench_function("the spool alone", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            for _ in 0..parts {
                spool.append_in_place(part.clone()).await.expect("accepted");
            }
        });
    });
    group.finish();
    runtime.block_on(spool.close());
}

criterion_group!(benches, ingest);

fn main() {
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    if !has("calls") {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
    // Only after `calls`: what is before it, or there without it, is criterion's.
    let after_calls = std::env::args().skip_while(|argument| argument != "calls").skip(1);
    let wanted: Vec<_> = after_calls.filter(|argument| !argument.starts_with('-')).collect();
    calls::run(has("--test"), &wanted);
}
