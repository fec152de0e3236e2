//! How fast a backlog of real events drains, next to the bare driver sending ready-made documents in the same run.
//!
//! Limits, checked at the end: at least 0.65 of the bare driver into a server that only acknowledges (there all the work is
//! ours: reading the journal, making documents, keeping the queue), at least 0.95 into a real one.
//!
//! Each pair runs in turn, so that whatever else the machine does hits both; medians are compared. Both sides send
//! batches of the same size, with as many in flight.

#[path = "drain/backlog.rs"]
mod backlog;
#[path = "common/median.rs"]
mod median;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use bson::RawDocumentBuf;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures::{StreamExt, stream};
use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    document::{DocumentContext, DocumentOptions, Encoder},
    flush::FlushOptions,
    record::{Stream, now_millis},
    sink::{
        Sink,
        mongodb::{MongoOptions, MongoSink},
    },
};
use mongodb::{Client, Collection, options::ClientOptions};
use prost::Message;
use support::{mongo::Mongo, records::numbered_events, wire::WireServer};
use tokio::runtime::{Builder, Runtime};

/// Records in a drain into the server that only acknowledges, and into the real one: the test server syncs its disk for
/// every document.
const RECORDS: (usize, usize) = (200_000, 2_000);
const LIMITS: (f64, f64) = (0.65, 0.95);
const ROUNDS: usize = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(ROUNDS);
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // A runtime of its own for the server: neither side's tasks wait behind it.
    let servers = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");

    let acknowledging = servers.block_on(WireServer::acknowledging());
    let events: Vec<AnalyticsEvent> = numbered_events("bench").take(RECORDS.0).collect();
    let options = FlushOptions::default();
    let first = compare(&mut criterion, &runtime, "acknowledging server", &acknowledging.uri(), &events, &options);

    let real = servers.block_on(Mongo::start());
    let options = FlushOptions { batch_records: 100, ..options };
    let second = compare(&mut criterion, &runtime, "real server", real.uri(), &events[..RECORDS.1], &options);
    criterion.final_summary();

    let mut kept = true;
    for (name, measured, limit) in [("acknowledging server", first, LIMITS.0), ("real server", second, LIMITS.1)] {
        let Some((bare, drain)) = measured else { continue };
        let ratio = drain / bare;
        kept &= ratio >= limit;
        let verdict = if ratio >= limit { "ok" } else { "TOO SLOW" };
        println!("{name}: bare driver {bare:.0}/s, drain {drain:.0}/s, ratio {ratio:.2} (at least {limit}): {verdict}");
    }
    std::process::exit(i32::from(!kept));
}

/// Measures both sides in turn; medians of records a second: bare driver, drain. `None` where criterion's filter left it out.
fn compare(
    criterion: &mut Criterion,
    runtime: &Runtime,
    name: &str,
    uri: &str,
    events: &[AnalyticsEvent],
    options: &FlushOptions,
) -> Option<(f64, f64)> {
    let documents = documents(events);
    let (bare, drain) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let rate = |took: Duration| events.len() as f64 / took.as_secs_f64();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(events.len() as u64)).sampling_mode(criterion::SamplingMode::Flat);
    group.bench_function(BenchmarkId::from_parameter("drain"), |bencher| {
        bencher.iter_custom(|rounds| {
            let mut sum = Duration::ZERO;
            for _ in 0..rounds {
                // The bare driver runs right before each drain, and is what the drain is compared with.
                bare.borrow_mut().push(rate(runtime.block_on(bare_driver(uri, &documents, options))));
                let took = runtime.block_on(drain_backlog(uri, events, options));
                drain.borrow_mut().push(rate(took));
                sum += took;
            }
            sum
        });
    });
    group.finish();
    Some((median::of(bare.into_inner())?, median::of(drain.into_inner())?))
}

fn documents(events: &[AnalyticsEvent]) -> Vec<RawDocumentBuf> {
    let encoder = Encoder::new(DocumentOptions::default());
    let context = DocumentContext { expire_at: Some(now_millis() + 3_600_000), ..DocumentContext::default() };
    let document = |event: &AnalyticsEvent| {
        let mut out = Vec::new();
        encoder.encode(Stream::Events, &event.encode_to_vec(), &context, &mut out).expect("a document");
        RawDocumentBuf::from_bytes(out).expect("BSON")
    };
    events.iter().map(document).collect()
}

/// The driver's own insert_many, unordered, with the same write concern.
async fn bare_driver(uri: &str, documents: &[RawDocumentBuf], options: &FlushOptions) -> Duration {
    let mut client = ClientOptions::parse(uri).await.expect("a URI");
    client.write_concern = Some(mongodb::options::WriteConcern::majority());
    if let Some(concern) = &mut client.write_concern {
        concern.journal = Some(true);
    }
    let client = Client::with_options(client).expect("a client");
    let collection: Collection<RawDocumentBuf> = client.database("bare").collection("events");
    prepare(&client, "bare").await;
    let begun = Instant::now();
    stream::iter(documents.chunks(options.batch_records))
        .for_each_concurrent(options.max_in_flight, |batch| {
            let insert = collection.insert_many(batch).ordered(false);
            async { insert.await.map(drop).expect("inserted") }
        })
        .await;
    begun.elapsed()
}

/// The drain of a backlog into an empty database.
async fn drain_backlog(uri: &str, events: &[AnalyticsEvent], options: &FlushOptions) -> Duration {
    let sink = MongoOptions { uri: uri.to_owned(), database: "drain".to_owned(), ..MongoOptions::default() };
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let sink = Arc::new(MongoSink::new(sink, encoder).expect("options"));
    let client = Client::with_uri_str(uri).await.expect("a client");
    prepare(&client, "drain").await;
    sink.initialize().await.expect("ready");
    backlog::drain(sink, events, options).await
}

/// Both sides begin with an empty collection and the same indexes.
async fn prepare(client: &Client, database: &str) {
    let database = client.database(database);
    database.drop().await.expect("dropped");
    let indexes: Vec<bson::Document> = livekit_spool::document::indexes(Stream::Events)
        .iter()
        .map(|index| {
            let key: bson::Document = index.fields.iter().map(|field| ((*field).to_owned(), 1.into())).collect();
            let mut wanted = bson::doc! { "key": key, "name": index.name() };
            wanted.extend(index.expire_after_seconds.map(|seconds| ("expireAfterSeconds".to_owned(), seconds.into())));
            wanted
        })
        .collect();
    database.run_command(bson::doc! { "createIndexes": "events", "indexes": indexes }).await.expect("indexes");
}
