//! How fast a backlog of real events drains over HTTP into a server that only acknowledges, next to two others in the same run:
//!
//! - a client that makes the same documents from records in memory, and posts them: the work that cannot be left out. The
//!   rest is the journal, the queue and the worker. Limit, checked at the end: at least 0.65 of it (0.81 was measured,
//!   on a machine with other work, when the limit was set);
//! - a client that posts ready-made bodies, which only copies bytes: what the connection could carry. It is shown for
//!   comparison.
//!
//! The three run in turn, so that whatever else the machine does hits all; medians are compared. All send bodies of
//! the same size, with as many in flight.

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

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures::{StreamExt, stream};
use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    document::{DocumentContext, DocumentOptions, Encoder, JsonStyle, write_json},
    flush::FlushOptions,
    record::Stream,
    sink::http::{HttpOptions, HttpSink},
};
use prost::Message;
use support::records::numbered_events;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Builder,
};

const RECORDS: usize = 200_000;
const LIMIT: f64 = 0.65;
const ROUNDS: usize = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(ROUNDS);
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // A runtime of its own for the server: neither side's tasks wait behind it.
    let servers = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let url = servers.block_on(acknowledging());
    let events: Vec<AnalyticsEvent> = numbered_events("bench").take(RECORDS).collect();
    let options = FlushOptions::default();
    let bodies = bodies(&events, options.batch_records);
    let records: Vec<Arc<[Vec<u8>]>> =
        events.chunks(options.batch_records).map(|part| part.iter().map(Message::encode_to_vec).collect()).collect();
    let [ready, maker, drain] = [(); 3].map(|()| RefCell::new(Vec::new()));
    let rate = |took: Duration| events.len() as f64 / took.as_secs_f64();
    let mut group = criterion.benchmark_group("http");
    group.throughput(Throughput::Elements(events.len() as u64)).sampling_mode(criterion::SamplingMode::Flat);
    group.bench_function(BenchmarkId::from_parameter("drain"), |bencher| {
        bencher.iter_custom(|rounds| {
            let mut sum = Duration::ZERO;
            for _ in 0..rounds {
                ready.borrow_mut().push(rate(runtime.block_on(post_ready(&url, &bodies, &options))));
                maker.borrow_mut().push(rate(runtime.block_on(make_and_post(&url, &records, &options))));
                let took = runtime.block_on(drain_backlog(&url, &events, &options));
                drain.borrow_mut().push(rate(took));
                sum += took;
            }
            sum
        });
    });
    group.finish();
    criterion.final_summary();
    let [Some(ready), Some(maker), Some(drain)] = [ready, maker, drain].map(|rates| median::of(rates.into_inner()))
    else {
        return;
    };
    println!("http: ready-made bodies {ready:.0}/s, made and posted {maker:.0}/s, drain {drain:.0}/s");
    let ratio = drain / maker;
    let verdict = if ratio >= LIMIT { "ok" } else { "TOO SLOW" };
    println!(
        "http: drain is {:.2} of ready-made, {ratio:.2} of made and posted (at least {LIMIT}): {verdict}",
        drain / ready
    );
    std::process::exit(i32::from(ratio < LIMIT));
}

/// A server that reads requests and answers 200; its URL.
async fn acknowledging() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(acknowledge(stream));
        }
    });
    format!("http://{address}/")
}

async fn acknowledge(stream: TcpStream) -> std::io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::with_capacity(1 << 20, from);
    let (mut line, mut skipped) = (String::new(), vec![0; 1 << 20]);
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if from.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line.trim_end().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        while length > 0 {
            let part = skipped.len().min(length);
            length -= from.read(&mut skipped[..part]).await?;
        }
        to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    }
}

/// Ready-made bodies, as the sink makes them.
fn bodies(events: &[AnalyticsEvent], records: usize) -> Vec<Bytes> {
    let encoder = Encoder::new(DocumentOptions::default());
    let encoded = |part: &[AnalyticsEvent]| part.iter().map(Message::encode_to_vec).collect::<Vec<_>>();
    events.chunks(records).map(|part| body_of(&encoder, encoded(part).iter().map(Vec::as_slice))).collect()
}

fn body_of<'a>(encoder: &Encoder, records: impl Iterator<Item = &'a [u8]>) -> Bytes {
    let (context, mut document, mut body) = (DocumentContext::default(), Vec::new(), Vec::new());
    for record in records {
        document.clear();
        encoder.encode(Stream::Events, record, &context, &mut document).expect("a document");
        write_json(&document, JsonStyle::Plain, &mut body).expect("JSON");
        body.push(b'\n');
    }
    Bytes::from(body)
}

async fn post_ready(url: &str, bodies: &[Bytes], options: &FlushOptions) -> Duration {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let begun = Instant::now();
    stream::iter(bodies)
        .for_each_concurrent(options.max_in_flight, |body| {
            let sent = client.post(url).body(body.clone()).send();
            async { assert!(sent.await.expect("an answer").status().is_success()) }
        })
        .await;
    begun.elapsed()
}

async fn make_and_post(url: &str, records: &[Arc<[Vec<u8>]>], options: &FlushOptions) -> Duration {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let begun = Instant::now();
    stream::iter(records)
        .for_each_concurrent(options.max_in_flight, |part| {
            let (client, encoder, part) = (&client, Arc::clone(&encoder), Arc::clone(part));
            async move {
                let body = tokio::task::spawn_blocking(move || body_of(&encoder, part.iter().map(Vec::as_slice)));
                let sent = client.post(url).body(body.await.expect("a body")).send();
                assert!(sent.await.expect("an answer").status().is_success());
            }
        })
        .await;
    begun.elapsed()
}

async fn drain_backlog(url: &str, events: &[AnalyticsEvent], options: &FlushOptions) -> Duration {
    let encoder = Arc::new(Encoder::new(DocumentOptions::default()));
    let sink = HttpOptions { url: url.to_owned(), ..HttpOptions::default() };
    backlog::drain(Arc::new(HttpSink::new(&sink, encoder).expect("options")), events, options).await
}
