//! What one attack alone may take of the process's memory, and that the others are served meanwhile.

use std::{
    fs,
    io::Write,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use livekit_protocol::{
    AnalyticsEvent, AnalyticsEvents, EgressInfo, ImageOutput, RoomCompositeEgressRequest, egress_info,
};
use prost::Message;
use reqwest::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    ALONE,
    support::{
        self,
        process::{Setup, Spool},
        wire::{Reply, WireServer, WriteError},
    },
    wire::{RECORDER, address, call, http2},
};

const MIB: u64 = 1024 * 1024;
/// How long anybody else may wait for an answer meanwhile, on a machine under test.
const ANSWER: Duration = Duration::from_secs(5);
/// A sink that nobody answers at.
const NOWHERE: &str = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200&directConnection=true";

/// A figure of `/proc/PID/status`, in bytes.
pub(crate) fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a figure");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// The memory of a process from now on.
struct Watched {
    pid: u32,
    before: u64,
}

impl Watched {
    fn from_now_on(spool: &mut Spool) -> Self {
        let pid = spool.process().pid();
        // "5" resets the peak, see proc(5)
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak of one's own child may be reset");
        Self { pid, before: status_bytes(pid, "VmRSS") }
    }

    fn assert_took_at_most(&self, limit: u64, what: &str) {
        let peak = status_bytes(self.pid, "VmHWM");
        let took = peak.saturating_sub(self.before);
        println!("{what}: {} MiB next to {} MiB before, of {} MiB", took / MIB, self.before / MIB, limit / MIB);
        assert!(took < limit, "{what} took {} MiB", took / MIB);
    }
}

/// Asks for the metrics and sends a record, again and again; how long the slowest answers took.
async fn slowest_answers(spool: &Spool, until: impl Future) -> [Duration; 2] {
    let client = Client::new();
    let mut slowest = [Duration::ZERO; 2];
    tokio::pin!(until);
    loop {
        let metrics = client.get(format!("{}/metrics", spool.admin()));
        let record = client.post(format!("{}/v1/events", spool.http())).header("content-type", "application/json");
        for (slowest, request) in slowest.iter_mut().zip([metrics, record.body(r#"{"id": "AE_meanwhile"}"#)]) {
            let began = Instant::now();
            let answer = tokio::time::timeout(support::TIMEOUT, request.send()).await.expect("an answer at all");
            assert!(answer.expect("an answer").status().is_success());
            *slowest = (*slowest).max(began.elapsed());
        }
        tokio::select! {
            _ = until.as_mut() => return slowest,
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_lack_their_last_byte_use_little_memory_on_every_service() {
    let _alone = ALONE.lock().await;
    let mut spool = Setup::new().files("files").start().await;
    let grpc = address(&spool.grpc());
    for method in [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "no.such.Service/Method",
        RECORDER,
    ] {
        let memory = Watched::from_now_on(&mut spool);
        let mut crowd = Vec::new();
        for _ in 0..4 {
            let (mut sender, connection) = http2(grpc).await.expect("a connection");
            crowd.push(tokio::spawn(async move {
                let calls = join_all((0..30).map(|_| {
                    let announced = Bytes::from_static(&[0, 0, 0x3D, 0x09, 0x00]);
                    let piece = Bytes::from_static(&[7; 65_536]);
                    let pieces = std::iter::once(announced).chain(std::iter::repeat_n(piece, 61));
                    sender.send_request(call(method, futures::stream::iter(pieces).chain(futures::stream::pending())))
                }));
                tokio::select! {
                    _ = connection => {}
                    _ = calls => {}
                }
            }));
        }
        let slowest = slowest_answers(&spool, tokio::time::sleep(Duration::from_secs(2))).await;
        crowd.iter().for_each(tokio::task::JoinHandle::abort);
        assert!(slowest.iter().all(|took| *took < ANSWER), "{method}: {slowest:?}");
        memory.assert_took_at_most(100 * MIB, method);
    }
    spool.terminate();
}

/// Of this number of parts: their document is some hundred times as long as the record, which compresses to almost nothing.
fn event(id: &str, parts: usize) -> AnalyticsEvent {
    let outputs = vec![ImageOutput::default(); parts];
    let request = RoomCompositeEgressRequest { image_outputs: outputs, ..Default::default() };
    let request = egress_info::Request::RoomComposite(request);
    let egress = EgressInfo { request: Some(request), ..Default::default() };
    AnalyticsEvent { id: id.to_owned(), egress: Some(egress), ..Default::default() }
}

/// A document of about fifteen megabytes: the largest there are.
const LARGEST: usize = 150_000;

/// Sends events, compressed; how many bytes went over the wire.
async fn send(spool: &Spool, events: Vec<AnalyticsEvent>) -> usize {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&AnalyticsEvents { events }.encode_to_vec()).expect("memory");
    let body = encoder.finish().expect("memory");
    let bytes = body.len();
    let request = Client::new().post(format!("{}/v1/events", spool.http())).body(body);
    let request = request.header("content-type", "application/x-protobuf").header("content-encoding", "gzip");
    let response = request.send().await.expect("an answer");
    assert!(response.status().is_success(), "{}", response.text().await.unwrap_or_default());
    bytes
}

/// Asks the admin port for something and reads nothing yet.
async fn ask(spool: &Spool, path: &str) -> TcpStream {
    let address = address(&spool.admin());
    let mut reader = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET /api/v1/sinks/{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    reader.write_all(request.as_bytes()).await.expect("a request");
    reader
}

#[tokio::test(flavor = "multi_thread")]
async fn read_requests_whose_readers_leave_use_little_memory_and_delay_nobody() {
    let _alone = ALONE.lock().await;
    let mut spool = Setup::new().mongo("mongo", NOWHERE, "openvidu").start().await;
    for part in 0..20 {
        send(&spool, (0..1000).map(|i| event(&format!("AE_{part}_{i}"), 1)).collect()).await;
    }
    let memory = Watched::from_now_on(&mut spool);
    let crowd = async {
        for _ in 0..450 {
            drop(ask(&spool, "mongo/peek?where=type=nosuch").await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let slowest = slowest_answers(&spool, crowd).await;
    println!("slowest answers: {slowest:?}");
    assert!(slowest.iter().all(|took| *took < ANSWER), "{slowest:?}");
    memory.assert_took_at_most(100 * MIB, "450 looks whose readers left");
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn read_requests_for_the_largest_documents_hold_a_few_of_them_at_a_time() {
    let _alone = ALONE.lock().await;
    let server = WireServer::scripted(|command| match command.name.as_str() {
        "insert" => Reply::WriteErrors((0..command.documents.len()).map(|i| WriteError::new(i, 121, "odd")).collect()),
        _ => Reply::Healthy,
    })
    .await;
    let mut spool =
        Setup::new().mongo("mongo", NOWHERE, "openvidu").mongo("refusing", &server.uri(), "openvidu").start().await;
    const RECORDS: usize = 8;
    for i in 0..RECORDS {
        send(&spool, vec![event(&format!("AE_{i}"), LARGEST)]).await;
    }
    support::eventually("all are dead letters", || async {
        Spool::sink_of(&spool.backlog(), "refusing")["dead_letters"] == RECORDS
    })
    .await;
    // What making the dead letters took is no part of what looking at them takes.
    spool.terminate();
    spool.start().await;
    for path in ["mongo/peek?n=20", "mongo/records", "mongo/peek?n=500&where=type=nosuch", "refusing/dead?n=1000"] {
        let memory = Watched::from_now_on(&mut spool);
        let mut readers = Vec::new();
        for _ in 0..8 {
            readers.push(ask(&spool, path).await);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let read = join_all(readers.into_iter().map(|mut reader| async move {
            let (mut read, mut piece) = (0, vec![0; 64 * 1024]);
            while let Ok(more @ 1..) = reader.read(&mut piece).await {
                read += more;
            }
            read
        }));
        let read = tokio::time::timeout(support::TIMEOUT, read).await.expect("answers end");
        println!("{path}: {read:?} bytes were read");
        memory.assert_took_at_most(120 * MIB, path);
    }
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_bytes_on_the_wire_that_become_the_largest_documents_are_held_a_few_at_a_time() {
    let _alone = ALONE.lock().await;
    let mut spool = Setup::new().files("files").start().await;
    let memory = Watched::from_now_on(&mut spool);
    let mut wire = 0;
    for part in 0..4 {
        wire += send(&spool, (0..8).map(|i| event(&format!("AE_{part}_{i}"), LARGEST)).collect()).await;
    }
    spool.wait_until_drained().await;
    memory.assert_took_at_most(200 * MIB, &format!("{} KiB on the wire to the file sink", wire / 1024));
    spool.terminate();
}
