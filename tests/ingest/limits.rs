//! What those run into who do not keep to the rules, and that the others do not notice.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use livekit_spool::{
    ingest::{GrpcOptions, HttpOptions, Refused},
    record::Stream,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::support::{Running, eventually, open_authenticator, serve_grpc, serve_http, within};

pub(crate) const SOON: Duration = Duration::from_millis(100);
pub(crate) const LATE: Duration = Duration::from_secs(600);

pub(crate) fn events(count: usize) -> AnalyticsEvents {
    AnalyticsEvents { events: vec![AnalyticsEvent { id: "AE_1".into(), ..Default::default() }; count] }
}

pub(crate) async fn post_one(server: &Running) -> u16 {
    let request = reqwest::Client::new().post(format!("http://{}/v1/events", server.address));
    let request = request.header("content-type", "application/json").body(r#"{"id": "AE_1"}"#);
    within(request.send()).await.unwrap().status().as_u16()
}

/// Reads until the other side closes; a reset is a way of closing.
pub(crate) async fn closed(mut stream: TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = within(stream.read_to_end(&mut read)).await;
    read
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_whispers_its_headers_is_closed() {
    let http = serve_http(
        HttpOptions { max_connections: 10, header_timeout: SOON, ..Default::default() },
        open_authenticator(),
    )
    .await;
    closed(TcpStream::connect(http.address).await.unwrap()).await;

    let (mut reader, mut writer) = TcpStream::connect(http.address).await.unwrap().into_split();
    let whisper = tokio::spawn(async move {
        for byte in b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = within(reader.read_to_end(&mut answer)).await;
    within(whisper).await.unwrap();

    let grpc = serve_grpc(
        GrpcOptions { max_connections: 10, header_timeout: SOON, ..Default::default() },
        open_authenticator(),
    )
    .await;
    closed(TcpStream::connect(grpc.address).await.unwrap()).await;
    let mut preface_only = TcpStream::connect(grpc.address).await.unwrap();
    preface_only.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let said = closed(preface_only).await;
    assert!(goes_away(&said), "HTTP/2 is told that the connection ends: {said:?}");
    assert!(grpc.refused(Refused::Timeout) >= 2);
}

/// Whether a GOAWAY is among these frames.
fn goes_away(mut frames: &[u8]) -> bool {
    const GOAWAY: u8 = 7;
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        if *kind == GOAWAY {
            return true;
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        frames = rest.get(length..).unwrap_or_default();
    }
    false
}

#[tokio::test]
async fn garbage_on_either_port_costs_the_connection_and_nothing_else() {
    let http = serve_http(HttpOptions::default(), open_authenticator()).await;
    let grpc = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    for garbage in [&[0_u8; 4096][..], b"\x16\x03\x01\x02\0\x01\0\x01\xFC", b"SSH-2.0-x\r\n\r\n", &[0xFF; 100_000]] {
        for address in [http.address, grpc.address] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(garbage).await;
            let _ = stream.shutdown().await;
            closed(stream).await;
        }
    }
    assert_eq!(post_one(&http).await, 200);
    grpc.client().await.ingest_events(futures::stream::iter([events(1)])).await.unwrap();
    eventually("all connections are gone", || async { http.ingester.snapshot().connections == 0 }).await;
}

#[tokio::test]
async fn half_a_message_ends_the_stream_and_gives_its_memory_back() {
    let options = GrpcOptions { message_timeout: SOON, ..Default::default() };
    let server = serve_grpc(options, open_authenticator()).await;
    let (mut connection, task) = http2(TcpStream::connect(server.address).await.unwrap()).await;
    let request = http::Request::post("http://x/livekit.AnalyticsRecorderService/IngestEvents");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let half = futures::stream::iter([Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::from_static(&[
        0, 0, 0, 1, 0, 9,
    ])))]);
    let body = http_body_util::StreamBody::new(half.chain(futures::stream::pending()));
    let response = within(connection.send_request(request.body(body).unwrap())).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string().as_str());
    eventually("the memory is released", || async { server.ingester.snapshot().waiting_bytes == 0 }).await;
    task.abort();
}

#[tokio::test]
async fn a_peer_that_does_not_answer_a_ping_is_disconnected_in_the_middle_of_its_stream() {
    // long enough for a busy machine to answer in
    let keepalive_timeout = Duration::from_secs(3);
    let options = GrpcOptions { keepalive_interval: SOON, keepalive_timeout, ..Default::default() };
    let server = serve_grpc(options, open_authenticator()).await;
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let mut wire = TcpStream::connect(server.address).await.unwrap();
    let (cut, was_cut) = tokio::sync::oneshot::channel::<()>();
    let carrier = tokio::spawn(async move {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut far, &mut wire) => {}
            _ = was_cut => {}
        }
        (far, wire)
    });
    let (mut connection, task) = http2(near).await;
    let request = http::Request::post("http://x/livekit.AnalyticsRecorderService/IngestEvents");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let silent = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, std::io::Error>>();
    let request = request.body(http_body_util::StreamBody::new(silent)).unwrap();
    let call = tokio::spawn(async move { connection.send_request(request).await });
    eventually("the stream is open", || async { server.ingester.snapshot().streams == 1 }).await;
    tokio::time::sleep(4 * SOON).await;
    assert_eq!(server.ingester.snapshot().streams, 1, "a peer that answers may be silent");

    cut.send(()).unwrap();
    let both_open = within(carrier).await.unwrap();
    eventually("the server lets go", || async { server.ingester.snapshot().connections == 0 }).await;
    eventually("the stream has ended", || async { server.ingester.snapshot().streams == 0 }).await;
    drop((both_open, call, task));
}

pub(crate) type Http2<B> = hyper::client::conn::http2::SendRequest<B>;

/// A bare HTTP/2 connection, for what no gRPC client would send.
pub(crate) async fn http2<B>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> (Http2<B>, tokio::task::JoinHandle<()>)
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = hyper_util::rt::TokioIo::new(io);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, task)
}

#[tokio::test]
async fn a_gigabyte_without_an_announced_length_is_refused_at_the_limit() {
    let server = serve_http(HttpOptions::default(), open_authenticator()).await;
    let chunk = Bytes::from(vec![b' '; 1 << 20]);
    let chunks = futures::stream::iter((0..1024).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let request = reqwest::Client::new().post(format!("http://{}/v1/events", server.address));
    let request = request.header("content-type", "application/json").body(reqwest::Body::wrap_stream(chunks));
    // the answer comes before the body has gone: some clients see it, others the closed connection
    if let Ok(response) = within(request.send()).await {
        assert_eq!(response.status().as_u16(), 413);
    }
    eventually("it is counted", || async { server.refused(Refused::TooLarge) == 1 }).await;
    assert_eq!((post_one(&server).await, server.ingester.snapshot().waiting_bytes), (200, 0));
}

#[tokio::test]
async fn a_stream_that_never_ends_is_read_as_it_comes_and_others_are_served_meanwhile() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    let mut endless = server.client().await;
    let flood = tokio::spawn(async move { endless.ingest_events(futures::stream::repeat(events(50))).await });
    eventually("records come and come", || async { server.spool.batches() > 20 }).await;
    for _ in 0..10 {
        let mut other = within(server.client()).await;
        within(other.ingest_stats(futures::stream::iter([livekit_protocol::AnalyticsStats {
            stats: vec![livekit_protocol::AnalyticsStat { id: "AS_1".into(), ..Default::default() }],
        }])))
        .await
        .unwrap();
    }
    assert_eq!(server.spool.records(Stream::Stats).len(), 10);
    assert!(server.ingester.snapshot().waiting_bytes < 4 << 20);
    flood.abort();
}

/// All that is served besides the recorder.
const SIDE: [&str; 4] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// A gRPC request that begins with these bytes and then says no more.
pub(crate) fn unfinished(
    method: &str,
    begin: &[u8],
) -> http::Request<impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + use<>> {
    let begin = Ok(hyper::body::Frame::data(Bytes::copy_from_slice(begin)));
    let body = http_body_util::StreamBody::new(futures::stream::iter([begin]).chain(futures::stream::pending()));
    let request = http::Request::post(format!("http://x/{method}"));
    request.header("content-type", "application/grpc").header("te", "trailers").body(body).unwrap()
}

/// The status of an answer, wherever it is.
pub(crate) async fn status_of(response: http::Response<hyper::body::Incoming>) -> i32 {
    let (head, body) = response.into_parts();
    let trailers = http_body_util::BodyExt::collect(body).await.unwrap().trailers().cloned();
    let status = head.headers.get("grpc-status").cloned();
    let status = status.or_else(|| trailers?.get("grpc-status").cloned()).expect("a status");
    status.to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_other_services_accept_small_messages_only_and_in_time() {
    let server = serve_grpc(GrpcOptions { message_timeout: SOON, ..Default::default() }, open_authenticator()).await;
    let large = [&[0, 0, 0x3B, 0x82, 0x60][..], &[1; 8192]].concat();
    for method in SIDE {
        for (begin, code) in [(&large[..], Code::OutOfRange), (&[0, 0, 0][..], Code::DeadlineExceeded)] {
            let (mut connection, task) = http2(TcpStream::connect(server.address).await.unwrap()).await;
            let response = within(connection.send_request(unfinished(method, begin))).await.unwrap();
            let status = within(status_of(response)).await;
            // Reflection ends its streams without a word.
            let expected = if method.starts_with("grpc.health") { code as i32 } else { 0 };
            assert_eq!(status, expected, "{method} after {} bytes", begin.len());
            task.abort();
        }
    }
}

#[tokio::test]
async fn requests_to_unknown_paths_are_counted_and_a_trailing_slash_is_ignored() {
    let server = serve_http(HttpOptions::default(), open_authenticator()).await;
    let client = reqwest::Client::new();
    for (method, path, media, status) in [
        ("POST", "/v1/events/", "application/json", 200),
        ("POST", "/webhook/", "application/webhook+json", 401),
        ("POST", "/webhooks", "application/webhook+json", 404),
        ("POST", "/", "application/webhook+json", 404),
        ("POST", "/v2/events", "application/json", 404),
        ("GET", "/webhook", "application/json", 405),
        ("PUT", "/v1/events", "application/json", 405),
    ] {
        let request = client.request(method.parse().unwrap(), format!("http://{}{path}", server.address));
        let request = request.header("content-type", media).body(r#"{"id": "AE_1"}"#);
        assert_eq!(within(request.send()).await.unwrap().status().as_u16(), status, "{method} {path}");
    }
    let counted = |protocol: &str, reason| {
        let snapshot = server.ingester.snapshot();
        let mut counts = snapshot.refused.iter();
        counts.find(|one| one.protocol.as_str() == protocol && one.reason.as_str() == reason).unwrap().count
    };
    assert_eq!([counted("webhook", "path"), counted("http", "path")], [2, 1]);
    assert_eq!([counted("webhook", "method"), counted("http", "method")], [1, 1]);
}
