//! gRPC ingest of real events over loopback into a real spool: one event a message, as LiveKit sends them, and 500.
//!
//! ```sh
//! cargo bench --bench ingest              # criterion's figures, then the calls
//! cargo bench --bench ingest -- calls     # the calls only
//! ```
//!
//! Beside each, in the same run, its limits: the same stream into an ingester that keeps nothing (what gRPC itself costs, on
//! both ends), and the spool alone, given the same records in batches of half a stream window.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use criterion::{Criterion, Throughput, criterion_group};
use livekit_spool::{
    demo::Playback,
    ingest::{
        Append, AuthOptions, Authenticator, CannotAppend, Filter, GrpcOptions, Ingester, Listener, LivekitKeys,
        MemoryOptions, Target as Sink,
        client::{Client, Credentials, Target},
        grpc,
    },
    record::{RecordBatch, RecordBatchBuilder, SinkName, Stream, now_millis},
    spool::{Appended, Spool, SpoolOptions},
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

fn batch(events: usize) -> RecordBatch {
    let mut batch = RecordBatchBuilder::new(Stream::Events);
    let playback = Playback::new().filter(|(stream, _)| *stream == Stream::Events);
    playback.take(events).for_each(|(_, record)| batch.push(&record));
    batch.build(now_millis())
}

/// A server over this spool; its address.
async fn serve(spool: Arc<dyn Append>) -> SocketAddr {
    let sink = Sink {
        name: SinkName::new("bench").expect("a name"),
        required: true,
        filter: Filter::default(),
        spool,
        missed: 0,
    };
    let ingester = Arc::new(Ingester::new(vec![sink], &MemoryOptions::default()));
    let authenticator = Arc::new(Authenticator::new(AuthOptions::None, LivekitKeys::new(), None));
    let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let address = listener.tcp_address().expect("TCP");
    tokio::spawn(grpc::serve(listener, ingester, authenticator, GrpcOptions::default(), std::future::pending()));
    address
}

fn client(address: SocketAddr) -> Client {
    let target = Target { url: format!("http://{address}"), ca: None, credentials: Credentials::None };
    Client::new(&target).expect("an address")
}

fn ingest(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    // on the disk that is built on: the directory for temporary files may be memory
    let directory = tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR"))).expect("a directory");
    let options = SpoolOptions { name: "bench".into(), min_free_bytes: 0, max_bytes: 64 << 30, ..Default::default() };
    let spool = Arc::new(Spool::open(directory.path(), options).expect("the spool opens"));
    let (durable, nowhere) = runtime
        .block_on(async { (client(serve(Arc::clone(&spool) as _).await), client(serve(Arc::new(Nowhere)).await)) });
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
    // one small call after another: what a sender waits for its acknowledgement
    let single = batch(1);
    group.throughput(Throughput::Elements(1));
    group.bench_function("one event, acknowledged before the next", |bencher| {
        bencher.to_async(&runtime).iter(|| async { durable.send(&single, 1).await.expect("accepted") });
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
    calls::run(has("--test"));
}
