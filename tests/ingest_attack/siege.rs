//! Everything at once against default limits: memory stays bounded, and well-behaved senders are served.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use livekit_spool::{
    demo::{self, Playback, Progress},
    ingest::client::{Client, Credentials, Target},
    record::{RecordBatchBuilder, Stream},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    ALONE,
    memory::status_bytes,
    support::{
        self, TIMEOUT,
        process::{Setup, Spool},
    },
    wire::{RECORDER, address, call, http2},
};

const CONNECTIONS: usize = 10_000;
/// The promise; the debug build keeps it too.
const MAX_RSS: u64 = 300 * 1024 * 1024;
/// Between two attempts of one attacker.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the attackers continue at least once all of them are at it: until senders were served as they have to be.
const SIEGE: Duration = Duration::from_secs(10);
/// What the sender that was there before has to get through meanwhile, and how many new ones.
const RECORDS: u64 = 500;
const NEWCOMERS: usize = 5;

#[tokio::test]
async fn under_every_attack_at_once_memory_stays_below_300_mb_and_senders_are_served() {
    let _alone = ALONE.lock().await;
    allow_open_files(CONNECTIONS as u64 + 4000);
    // the usual soft limit: less than the connections that are accepted, if the binary did not raise it
    let mut spool =
        Setup::new().files("files").through(&["bash", "-c", "ulimit -Sn 1024; exec \"$0\" \"$@\""]).start().await;
    assert_open_files_were_raised(&mut spool);
    let (grpc, http, admin) = (address(&spool.grpc()), address(&spool.http()), address(&spool.admin()));

    // one sender that was there before, one that connects again each time
    let (steady, progress) = (client(grpc), Progress::default());
    demo::send(&steady, Playback::new().take(20), 0, &progress).await.expect("nobody disturbs yet");

    let over = Arc::new(AtomicBool::new(false));
    // a runtime of their own: they must not keep the senders of this test from running
    let siege = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    for (port, part) in [(grpc, 4), (http, 4), (admin, 2)] {
        siege.spawn(crowd(port, CONNECTIONS * part / 10, Arc::clone(&over)));
    }
    for _ in 0..200 {
        siege.spawn(slow_loris(http, Arc::clone(&over)));
        siege.spawn(half_open_stream(grpc, Arc::clone(&over)));
    }
    for bomb in [json_bomb(), gzip_bomb(), zstd_bomb(), webhook_garbage()] {
        for _ in 0..4 {
            siege.spawn(repeat(http, bomb.clone(), Arc::clone(&over)));
        }
    }
    for _ in 0..4 {
        siege.spawn(endless_stream(grpc, Arc::clone(&over)));
        siege.spawn(gigabyte(http, Arc::clone(&over)));
        siege.spawn(resets(grpc, Arc::clone(&over)));
    }
    for port in [grpc, http, admin] {
        siege.spawn(garbage(port, Arc::clone(&over)));
    }

    let sending = demo::send(&steady, Playback::new(), 200, &progress);
    let began = Instant::now();
    // how fast depends on the machine; that they are served at all does not
    let goes_on = |enough: bool| {
        assert!(began.elapsed() < TIMEOUT, "the steady sender got {} records through", progress.acknowledged());
        began.elapsed() < SIEGE || !enough || progress.acknowledged() < RECORDS
    };
    let newcomers = async {
        let mut served = 0;
        while goes_on(served >= NEWCOMERS) {
            let mut batch = RecordBatchBuilder::new(Stream::Stats);
            batch.push(format!("\x72\x08AS_{served:05}").as_bytes());
            let records = batch.build(0);
            let records = records.iter().map(|record| (Stream::Stats, record.to_vec())).collect::<Vec<_>>();
            let (newcomer, progress) = (client(grpc), Progress::default());
            let sent = demo::send(&newcomer, records.into_iter(), 0, &progress);
            tokio::time::timeout(Duration::from_secs(30), sent).await.expect("a newcomer is served").unwrap();
            served += 1;
        }
        served
    };
    let onlookers = async {
        let (mut seen, status) = (0, format!("{}/api/v1/status", spool.admin()));
        while goes_on(seen >= 1) {
            let answer = tokio::time::timeout(Duration::from_secs(30), reqwest::get(&status)).await;
            assert!(answer.expect("the status page answers").expect("an answer").status().is_success());
            seen += 1;
            tokio::time::sleep(PAUSE).await;
        }
        seen
    };
    let (served, seen) = tokio::select! {
        sent = sending => panic!("the steady sender was refused for good: {sent:?}"),
        ended = async { tokio::join!(newcomers, onlookers) } => ended,
    };
    over.store(true, Relaxed);
    let peak = status_bytes(spool.process().pid(), "VmHWM");
    println!("peak {} MB, steady sender {} records, {served} newcomers", peak >> 20, progress.acknowledged());
    assert!(served >= NEWCOMERS && seen >= 1, "{served} newcomers were served, the status seen {seen} times");
    assert!(peak < MAX_RSS, "the process took {} MB", peak >> 20);
    siege.shutdown_background();
    spool.terminate();
}

fn client(address: SocketAddr) -> Client {
    let target = Target { url: format!("http://{address}"), ca: None, credentials: Credentials::None };
    Client::new(&target).expect("a valid address")
}

pub(crate) fn allow_open_files(files: u64) {
    let limit = getrlimit(Resource::Nofile);
    assert!(limit.maximum.is_none_or(|maximum| maximum >= files), "this test needs `ulimit -Hn` of {files} or more");
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..limit }).expect("the soft limit may be raised");
}

/// Needs a hard limit above 1,024, which [`allow_open_files`] has made sure of.
fn assert_open_files_were_raised(spool: &mut Spool) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", spool.process().pid())).expect("the process runs");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let [soft, hard] = [0, 1].map(|i| line.split_whitespace().nth(i).expect("soft and hard limit"));
    assert_eq!(soft, hard, "the soft limit was 1024 before");
}

/// Connections that are opened and left alone; those that are closed are opened again.
async fn crowd(address: SocketAddr, size: usize, over: Arc<AtomicBool>) {
    let mut open = Vec::new();
    while !over.load(Relaxed) {
        match TcpStream::connect(address).await {
            Ok(stream) if open.len() < size => open.push(stream),
            Ok(stream) => {
                let oldest = open.len() / 2;
                open[oldest] = stream;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn slow_loris(address: SocketAddr, over: Arc<AtomicBool>) {
    while !over.load(Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        let head =
            b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
        for byte in head.iter().chain(&[b' '; 900]) {
            if over.load(Relaxed) || stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn repeat(address: SocketAddr, request: Bytes, over: Arc<AtomicBool>) {
    while !over.load(Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        if stream.write_all(&request).await.is_ok() {
            let mut answer = [0; 1024];
            let _ = stream.read(&mut answer).await;
        }
    }
}

fn request(headers: &str, body: &[u8]) -> Bytes {
    request_to("/v1/events", headers, body)
}

fn request_to(path: &str, headers: &str, body: &[u8]) -> Bytes {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat().into()
}

fn webhook_garbage() -> Bytes {
    request_to("/webhook", "Authorization: garbage.garbage.garbage\r\n", &[0xA5; 1 << 20])
}

fn json_bomb() -> Bytes {
    let codecs = r#"{"mime":"a"},"#.repeat(24_000);
    let room = format!(r#"{{"room": {{"enabledCodecs": [{codecs}{{}}]}}}},"#);
    let body = format!(r#"{{"events": [{}{{}}]}}"#, room.repeat(40));
    request("Content-Type: application/json\r\n", body.as_bytes())
}

fn gzip_bomb() -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..24 {
        encoder.write_all(&[0; 1 << 20]).expect("memory");
    }
    request("Content-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n", &encoder.finish().expect("memory"))
}

fn zstd_bomb() -> Bytes {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("memory");
    for _ in 0..1024 {
        encoder.write_all(&[0; 1 << 20]).expect("memory");
    }
    let bomb = encoder.finish().expect("memory");
    request("Content-Type: application/x-protobuf\r\nContent-Encoding: zstd\r\n", &bomb)
}

async fn gigabyte(address: SocketAddr, over: Arc<AtomicBool>) {
    let mebibyte = vec![b' '; 1 << 20];
    while !over.load(Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        for _ in 0..1024 {
            let sent = async {
                stream.write_all(b"100000\r\n").await?;
                stream.write_all(&mebibyte).await?;
                stream.write_all(b"\r\n").await
            };
            if over.load(Relaxed) || sent.await.is_err() {
                break;
            }
        }
    }
}

async fn garbage(address: SocketAddr, over: Arc<AtomicBool>) {
    while !over.load(Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        let _ = stream.write_all(&[0xA5; 65_536]).await;
    }
}

async fn open_stream(address: SocketAddr, pieces: impl futures::Stream<Item = Bytes> + Send + Sync + 'static) {
    let Some((mut sender, connection)) = http2(address).await else { return };
    tokio::select! {
        _ = connection => {}
        _ = sender.send_request(call(RECORDER, pieces)) => {}
    }
}

/// Streams that are given up as soon as they are open, as fast as they can be made.
async fn resets(address: SocketAddr, over: Arc<AtomicBool>) {
    while !over.load(Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let Some((mut sender, connection)) = http2(address).await else { continue };
        let flood = async {
            while !over.load(Relaxed) && sender.ready().await.is_ok() {
                let opened = sender.send_request(call(RECORDER, futures::stream::pending()));
                let _ = tokio::time::timeout(Duration::from_millis(1), opened).await;
            }
        };
        tokio::select! {
            _ = connection => {}
            () = flood => {}
        }
    }
}

/// Announces four megabytes, sends fifty thousand, and waits.
async fn half_open_stream(address: SocketAddr, over: Arc<AtomicBool>) {
    let mut piece = vec![0, 0, 0x3F, 0, 0];
    piece.resize(50_000, 7);
    let piece = Bytes::from(piece);
    while !over.load(Relaxed) {
        let half = futures::stream::iter([piece.clone()]).chain(futures::stream::pending());
        let _ = tokio::time::timeout(Duration::from_secs(5), open_stream(address, half)).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn endless_stream(address: SocketAddr, over: Arc<AtomicBool>) {
    let mut records = Vec::new();
    for _ in 0..20 {
        records.extend(b"\x0A\x32\xCA\x01\x2F"); // an event with an id of 47 letters

        records.extend([b'x'; 47]);
    }
    let length = u32::try_from(records.len()).expect("short").to_be_bytes();
    let message = Bytes::from([&[0], &length[..], &records].concat());
    while !over.load(Relaxed) {
        let ended = Arc::clone(&over);
        let messages = futures::stream::repeat(message.clone()).take_while(move |_| {
            let go_on = !ended.load(Relaxed);
            async move { go_on }
        });
        open_stream(address, Box::pin(messages)).await;
    }
}

#[tokio::test]
async fn ten_thousand_connections_one_after_another_leave_nothing_behind() {
    let _alone = ALONE.lock().await;
    let mut spool = Setup::new().files("files").start().await;
    let address = address(&spool.http());
    for _ in 0..100 {
        join_all((0..100).map(|_| TcpStream::connect(address))).await;
    }
    let pid = spool.process().pid();
    let fds = || fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count();
    support::eventually("the descriptors are closed", || async { fds() < 100 }).await;
    spool.terminate();
}
