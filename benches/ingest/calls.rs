//! Calls that are acknowledged before the next one is sent: of one event, over HTTP and gRPC, from one connection and from
//! 16; and of 500 events, over HTTP from one connection, in each of its formats.
//!
//! ```sh
//! cargo bench --bench ingest -- calls
//! cargo bench --bench ingest -- calls NDJSON    # of these names only
//! ```
//!
//! The limit is a plain file that gets the same events, with an `fdatasync` a call. File and calls alternate, and the client
//! shares the machine's cores with the server. It is one thread for all connections, writes HTTP/1 and HTTP/2 by hand, sends
//! a request with one system call, and checks each answer; its processor time is in the table, because it is part of what a
//! call takes.

use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use livekit_spool::{
    demo::Playback,
    ingest::{
        Append, AuthOptions, Authenticator, Filter, GrpcOptions, HttpOptions, Ingester, Listener, LivekitKeys,
        MemoryOptions, Target, grpc, http,
    },
    record::{RecordBatchBuilder, SinkName, Stream, now_millis},
    spool::{Spool, SpoolOptions, SpoolStatus},
};
use prost::Message;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

#[path = "../common/cpu.rs"]
mod cpu;
#[path = "../common/median.rs"]
mod median;

const EVENTS: usize = 763;
const CONNECTIONS: usize = 16;
const TURN: Duration = Duration::from_millis(500);
const TURNS: usize = 9;
const IN_BULK: usize = 500;
const TARGETS: &str = "targets: single events, one connection ≥ 0.50 of the file, 16 connections ≥ 20,000/s; JSON in bulk \
                       ≥ 200,000/s and ≤ 5 µs, of short events ≥ 0.6 of the protobuf";

/// How a call is made.
#[derive(Clone, Copy)]
enum Call {
    Protobuf,
    /// An array.
    Json,
    NdJson,
    /// A stream per event, as LiveKit's integration does.
    Grpc,
}

/// A connection that makes one call at a time.
enum Connection {
    Http { stream: TcpStream, answer: Vec<u8> },
    Grpc(Http2),
}

/// The server's ports.
pub(crate) struct Ports {
    http: SocketAddr,
    pub(crate) grpc: SocketAddr,
}

/// Measures and prints all whose name has one of `wanted` in it, or all if none is. With `briefly`, one short turn each: for
/// tests.
pub(crate) fn run(briefly: bool, wanted: &[String]) {
    let (turn, turns) = if briefly { (Duration::from_millis(20), 1) } else { (TURN, TURNS) };
    let (directory, spool) = spool();
    let runtime = Runtime::new().expect("a runtime");
    let ports = runtime.block_on(serve(Arc::clone(&spool) as _));
    let mut file = File::create(directory.path().join("plain")).expect("a file");
    let this_thread = Path::new("/proc/thread-self/schedstat");
    println!("events a second, medians of {turns} turns; processor time an event; {TARGETS}");
    println!(
        "{:<38} {:>10} {:>10} {:>6} {:>7} {:>10} {:>10}",
        "", "file", "calls", "ratio", "a sync", "server CPU", "client CPU"
    );
    let (real, short) = (events(EVENTS).collect(), short_events());
    for (name, call, events, per_call, connections) in [
        ("HTTP, protobuf", Call::Protobuf, &real, 1, &[1, CONNECTIONS][..]),
        ("HTTP, JSON", Call::Json, &real, 1, &[1, CONNECTIONS]),
        ("gRPC", Call::Grpc, &real, 1, &[1, CONNECTIONS]),
        ("HTTP, 500 protobuf", Call::Protobuf, &real, IN_BULK, &[1]),
        ("HTTP, 500 JSON", Call::Json, &real, IN_BULK, &[1]),
        ("HTTP, 500 NDJSON", Call::NdJson, &real, IN_BULK, &[1]),
        ("HTTP, 500 short protobuf", Call::Protobuf, &short, IN_BULK, &[1]),
        ("HTTP, 500 short NDJSON", Call::NdJson, &short, IN_BULK, &[1]),
    ] {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| name.contains(wanted)) {
            continue;
        }
        let messages = messages(events, per_call);
        let requests: Arc<[Bytes]> = messages.iter().map(|message| request(call, message)).collect();
        for &connections in connections {
            let mut client = Client::new(&ports, call, connections);
            client.make_calls(&requests, turn / 5);
            let (mut files, mut calls, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            let (mut server_cpu, mut client_cpu, mut made) = (0.0, 0.0, 0.0);
            let before = spool.status();
            for _ in 0..turns {
                let of_file = write_and_sync(&mut file, &messages, turn) * per_call as f64;
                let (all, own) = (cpu::seconds(), cpu::seconds_of(this_thread));
                let (count, took) = client.make_calls(&requests, turn);
                let (all, own) = (cpu::seconds() - all, cpu::seconds_of(this_thread) - own);
                let count = count * per_call;
                let rate = count as f64 / took.as_secs_f64();
                files.push(of_file);
                calls.push(rate);
                ratios.push(rate / of_file);
                server_cpu += all - own;
                client_cpu += own;
                made += count as f64;
            }
            let after = spool.status();
            assert_eq!(appended(&after) - appended(&before), made as u64, "what was answered is what was appended");
            let syncs = after.sync_records.count - before.sync_records.count;
            let [files, calls, ratios] = [files, calls, ratios].map(|turns| median::of(turns).expect("some turns"));
            println!(
                "{:<38} {:>8.0}/s {:>8.0}/s {:>6.2} {:>7.1} {:>7.2} µs {:>7.2} µs",
                format!("{name}, {connections} conn."),
                files,
                calls,
                ratios,
                made / syncs as f64,
                server_cpu / made * 1e6,
                client_cpu / made * 1e6,
            );
        }
    }
    runtime.block_on(spool.close());
}

fn appended(status: &SpoolStatus) -> u64 {
    status.streams.values().map(|stream| stream.next).sum()
}

/// A spool on the disk that is built on (the directory for temporary files may be memory), and its directory.
pub(crate) fn spool() -> (TempDir, Arc<Spool>) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let options = SpoolOptions { name: "bench".into(), min_free_bytes: 0, max_bytes: 64 << 30, ..Default::default() };
    let spool = Spool::open(&directory.path().join("spool"), options).expect("the spool opens");
    (directory, Arc::new(spool))
}

/// Both servers over one spool.
pub(crate) async fn serve(spool: Arc<dyn Append>) -> Ports {
    let name = SinkName::new("bench").expect("a name");
    let sink = Target { name, required: true, filter: Filter::default(), spool, missed: 0 };
    let ingester = Arc::new(Ingester::new(vec![sink], &MemoryOptions::default()));
    let authenticator = Arc::new(Authenticator::new(AuthOptions::None, LivekitKeys::new(), None));
    let listener = || Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let (for_http, for_grpc) = (listener(), listener());
    let address = |listener: &Listener| listener.tcp_address().expect("TCP");
    let ports = Ports { http: address(&for_http), grpc: address(&for_grpc) };
    let never = std::future::pending;
    tokio::spawn(http::serve(
        for_http,
        Arc::clone(&ingester),
        Arc::clone(&authenticator),
        HttpOptions::default(),
        never(),
    ));
    tokio::spawn(grpc::serve(for_grpc, ingester, authenticator, GrpcOptions::default(), never()));
    ports
}

/// Real events.
pub(crate) fn events(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let events = Playback::new().filter(|(stream, _)| *stream == Stream::Events);
    events.take(count).map(|(_, record)| record)
}

/// The same with their ids and times only.
fn short_events() -> Vec<Vec<u8>> {
    let short = |record: Vec<u8>| {
        let event = AnalyticsEvent::decode(&record[..]).expect("an event");
        let AnalyticsEvent { id, r#type, timestamp, room_id, participant_id, .. } = event;
        AnalyticsEvent { id, r#type, timestamp, room_id, participant_id, ..Default::default() }.encode_to_vec()
    };
    events(EVENTS).map(short).collect()
}

/// `AnalyticsEvents` messages with so many events each.
fn messages(events: &[Vec<u8>], per_message: usize) -> Vec<Bytes> {
    let mut events = events.iter().cycle();
    let mut message = || {
        let mut message = RecordBatchBuilder::new(Stream::Events);
        events.by_ref().take(per_message).for_each(|event| message.push(event));
        message.build(now_millis()).bytes().clone()
    };
    (0..EVENTS.div_ceil(per_message).max(8)).map(|_| message()).collect()
}

/// What is sent for a message: a whole HTTP request, or a gRPC message with its frame.
fn request(call: Call, message: &Bytes) -> Bytes {
    let (media, body) = match call {
        Call::Protobuf => ("application/x-protobuf", message.clone()),
        Call::Json => {
            let events = AnalyticsEvents::decode(&message[..]).expect("events");
            ("application/json", serde_json::to_vec(&events.events).expect("JSON").into())
        }
        Call::NdJson => {
            let events = AnalyticsEvents::decode(&message[..]).expect("events").events;
            let lines: Vec<_> = events.iter().map(|event| serde_json::to_string(event).expect("JSON")).collect();
            ("application/x-ndjson", lines.join("\n").into())
        }
        Call::Grpc => {
            let length = (message.len() as u32).to_be_bytes();
            return [&[0], &length[..], message].concat().into();
        }
    };
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat().into()
}

/// The connections, and the thread's runtime that they are served by.
struct Client {
    runtime: Runtime,
    connections: Vec<Connection>,
    /// The request that is next.
    next: usize,
}

impl Client {
    fn new(ports: &Ports, call: Call, connections: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connect = async || {
            let address = if matches!(call, Call::Grpc) { ports.grpc } else { ports.http };
            let stream = TcpStream::connect(address).await.expect("it listens");
            stream.set_nodelay(true).expect("an option");
            match call {
                Call::Protobuf | Call::Json | Call::NdJson => Connection::Http { stream, answer: vec![0; 4096] },
                Call::Grpc => Connection::Grpc(Http2::begin(stream).await),
            }
        };
        let connected = runtime.block_on(async {
            let mut all = Vec::new();
            for _ in 0..connections {
                all.push(connect().await);
            }
            all
        });
        Self { runtime, connections: connected, next: 0 }
    }

    /// Calls on all connections for this long; returns how many calls, and how long they took.
    fn make_calls(&mut self, requests: &[Bytes], turn: Duration) -> (usize, Duration) {
        let begun = Instant::now();
        let (next, connections) = (std::cell::Cell::new(self.next), &mut self.connections);
        let (next, first) = (&next, self.next);
        let callers = connections.iter_mut().map(|connection| async move {
            while begun.elapsed() < turn {
                let number = next.replace(next.get() + 1);
                connection.call(&requests[number % requests.len()]).await;
            }
        });
        self.runtime.block_on(futures::future::join_all(callers));
        self.next = next.get();
        (self.next - first, begun.elapsed())
    }
}

impl Connection {
    /// One call, to its answer.
    async fn call(&mut self, request: &Bytes) {
        match self {
            Self::Http { stream, answer } => call_http(stream, answer, request).await,
            Self::Grpc(connection) => connection.call(request).await,
        }
    }
}

async fn call_http(stream: &mut TcpStream, answer: &mut [u8], request: &[u8]) {
    stream.write_all(request).await.expect("sent");
    let mut length = 0;
    // The answer ends with its only brace.
    while !answer[..length].ends_with(b"}") {
        let read = stream.read(&mut answer[length..]).await.expect("received");
        assert!(read > 0, "the server closed the connection");
        length += read;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// Flags: an answer to settings or a ping; the last frame of a stream; the last frame of its headers.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEADER: usize = 9;

/// An HTTP/2 connection, with one stream after another.
struct Http2 {
    stream: TcpStream,
    /// The header block of each request.
    headers: Vec<u8>,
    out: Vec<u8>,
    received: Vec<u8>,
    next_id: u32,
}

impl Http2 {
    async fn begin(mut stream: TcpStream) -> Self {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        write_frame(&mut out, SETTINGS, 0, 0, &[]);
        // For the answers of hundreds of millions of calls.
        write_frame(&mut out, WINDOW_UPDATE, 0, 0, &0x7FFF_0000_u32.to_be_bytes());
        stream.write_all(&out).await.expect("sent");
        // POST and http are in HPACK's static table, as are the names :authority, :path and content-type; no value is
        // indexed.
        let mut headers = vec![0x83, 0x86];
        for (name, value) in [
            (&[0x01][..], "localhost"),
            (&[0x04], "/livekit.AnalyticsRecorderService/IngestEvents"),
            (&[0x0F, 0x10], "application/grpc"),
            (b"\x00\x02te", "trailers"),
        ] {
            headers.extend_from_slice(name);
            headers.push(value.len() as u8);
            headers.extend_from_slice(value.as_bytes());
        }
        Self { stream, headers, out, received: Vec::with_capacity(4096), next_id: 1 }
    }

    async fn call(&mut self, message: &[u8]) {
        let id = self.next_id;
        self.next_id += 2;
        self.out.clear();
        write_frame(&mut self.out, HEADERS, END_HEADERS, id, &self.headers);
        write_frame(&mut self.out, DATA, 0, id, message);
        // As gRPC's clients do it: the end is a frame of its own.
        write_frame(&mut self.out, DATA, END_STREAM, id, &[]);
        self.stream.write_all(&self.out).await.expect("sent");
        let mut has_message = false;
        loop {
            let (kind, flags, of, payload) = self.frame().await;
            match kind {
                DATA if of == id => has_message |= !payload.is_empty(),
                // An error has no message before its status.
                HEADERS if of == id && flags & END_STREAM != 0 => break assert!(has_message, "the call failed"),
                SETTINGS | PING if flags & ACK == 0 => {
                    let answer = if kind == PING { payload } else { Vec::new() };
                    self.out.clear();
                    write_frame(&mut self.out, kind, ACK, 0, &answer);
                    self.stream.write_all(&self.out).await.expect("sent");
                }
                HEADERS | SETTINGS | PING | WINDOW_UPDATE => {}
                _ => panic!("a frame of type {kind} for stream {of}"),
            }
        }
    }

    /// The next frame: its type, flags, stream and payload.
    async fn frame(&mut self) -> (u8, u8, u32, Vec<u8>) {
        loop {
            if let Some(&[a, b, c, kind, flags, ref id @ ..]) = self.received.first_chunk::<FRAME_HEADER>() {
                let (id, end) = (u32::from_be_bytes(*id), FRAME_HEADER + u32::from_be_bytes([0, a, b, c]) as usize);
                if self.received.len() >= end {
                    let payload = self.received[FRAME_HEADER..end].to_vec();
                    self.received.drain(..end);
                    return (kind, flags, id, payload);
                }
            }
            let read = self.stream.read_buf(&mut self.received).await.expect("received");
            assert!(read > 0, "the server closed the connection");
        }
    }
}

fn write_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Messages written and synced a second.
fn write_and_sync(file: &mut File, messages: &[Bytes], turn: Duration) -> f64 {
    let (begun, mut count) = (Instant::now(), 0.0);
    for message in messages.iter().cycle() {
        if begun.elapsed() >= turn {
            break;
        }
        file.write_all(message).expect("written");
        file.sync_data().expect("synced");
        count += 1.0;
    }
    count / begun.elapsed().as_secs_f64()
}
