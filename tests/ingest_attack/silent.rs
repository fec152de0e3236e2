//! Crowds that say nothing, or next to nothing, on each port: whoever has something to say gets in.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use livekit_spool::{
    ingest::{
        Secret,
        client::{Client, Credentials, Target},
    },
    record::{RecordBatchBuilder, Stream},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    ALONE,
    siege::allow_open_files,
    support::process::{Setup, Spool},
    wire::{Body, RECORDER, address, call, http2},
};

const TOKEN: &str = "a-token-of-a-well-behaved-sender";
const ADMIN_TOKEN: &str = "the-admin-token";
/// As many connections as one listener has places for.
const CONNECTIONS: usize = 512;
const STREAMS: usize = 2048;
/// On a machine under test.
const SECONDS: Duration = Duration::from_secs(10);

async fn start() -> Spool {
    allow_open_files(8_000);
    let auth = format!("mode: tokens, tokens: [{TOKEN}]");
    Setup::new().files("files").auth(&auth).admin_token(ADMIN_TOKEN).start().await
}

/// Each port is used once, by someone with credentials, on a new connection; how long the slowest took.
async fn use_all(spool: &Spool) -> Duration {
    let mut slowest = Duration::ZERO;
    let target = Target { url: spool.grpc(), ca: None, credentials: Credentials::Token(Secret::new(TOKEN)) };
    let mut batch = RecordBatchBuilder::new(Stream::Events);
    batch.push(b"\xCA\x01\x04AE_1");
    let batch = batch.build(0);
    let began = Instant::now();
    let client = Client::new(&target).expect("an address");
    tokio::time::timeout(SECONDS, client.send(&batch, 1))
        .await
        .expect("gRPC answers in time")
        .expect("records are accepted");
    slowest = slowest.max(began.elapsed());
    let client = reqwest::Client::new();
    let record = client.post(format!("{}/v1/events", spool.http())).bearer_auth(TOKEN).body(r#"{"id": "AE_2"}"#);
    let record = record.header("content-type", "application/json");
    for request in [record, client.get(format!("{}/api/v1/status", spool.admin())).bearer_auth(ADMIN_TOKEN)] {
        let began = Instant::now();
        let answer = tokio::time::timeout(SECONDS, request.send()).await.expect("an answer in time");
        assert!(answer.expect("an answer").status().is_success());
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

/// Connections that say this and no more.
async fn crowd(address: SocketAddr, say: &'static [u8]) -> Vec<TcpStream> {
    join_all((0..CONNECTIONS).map(|_| async move {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        // It may be closed already, to make room for the next one.
        let _ = stream.write_all(say).await;
        stream
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_or_three_bytes_keep_nobody_out_of_any_port() {
    let _alone = ALONE.lock().await;
    let mut spool = start().await;
    let ports = [address(&spool.grpc()), address(&spool.http()), address(&spool.admin())];
    for say in [
        &b""[..],
        b"PRI",
        b"GET",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        let crowds = join_all(ports.map(|port| crowd(port, say))).await;
        let slowest = use_all(&spool).await;
        println!("next to {CONNECTIONS} connections a port that say {:?}: {slowest:?}", say.escape_ascii().to_string());
        drop(crowds);
    }
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_at_once_than_a_port_has_places_are_all_answered() {
    let _alone = ALONE.lock().await;
    let mut spool = start().await;
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
    let ask = |_| client.get(format!("{}/api/v1/status", spool.admin())).bearer_auth(ADMIN_TOKEN).send();
    // Four times what the port has; each on a connection of its own.
    for answer in join_all((0..256).map(ask)).await {
        assert!(answer.expect("an answer").status().is_success());
    }
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_say_nothing_keep_nobody_out_with_or_without_credentials() {
    let _alone = ALONE.lock().await;
    let mut spool = start().await;
    let grpc = address(&spool.grpc());
    for (authorization, method) in [
        (format!("Bearer {TOKEN}"), RECORDER),
        ("Bearer somebody-made-this-up".to_owned(), RECORDER),
        (String::new(), "grpc.health.v1.Health/Watch"),
        (String::new(), "grpc.health.v1.Health/Check"),
        (format!("Bearer {TOKEN}"), "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    ] {
        let mut crowd = Vec::new();
        for _ in 0..STREAMS / 64 {
            let Some((mut sender, connection)) = http2(grpc).await else { continue };
            let silent = |begin: &'static [u8]| -> http::Request<Body> {
                let pieces = futures::stream::iter([Bytes::from_static(begin)]).chain(futures::stream::pending());
                let mut request = call(method, pieces);
                request.headers_mut().insert("authorization", authorization.parse().expect("a header"));
                request
            };
            let calls = join_all((0..64).map(|_| sender.send_request(silent(&[0, 0, 0]))).collect::<Vec<_>>());
            crowd.push(tokio::spawn(async move {
                tokio::select! {
                    _ = connection => {}
                    _ = calls => {}
                }
            }));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let slowest = use_all(&spool).await;
        println!("next to {STREAMS} silent calls of {method} with {:?}: {slowest:?}", &authorization);
        crowd.iter().for_each(tokio::task::JoinHandle::abort);
    }
    spool.terminate();
}
