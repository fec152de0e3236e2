//! The limits of connections and streams: who loses one, and that the others do not notice.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use livekit_spool::{
    ingest::{AuthOptions, Authenticator, GrpcOptions, HttpOptions, LivekitKeys, Refused, Secret},
    record::Stream,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tonic::Code;

use crate::{
    limits::{LATE, SOON, closed, events, http2, post_one, status_of, unfinished},
    recorder_client::analytics_recorder_service_client::AnalyticsRecorderServiceClient,
    support::{Running, eventually, open_authenticator, serve_grpc, serve_http, within},
};

#[tokio::test]
async fn idle_connections_keep_nobody_out_and_busy_ones_stay() {
    let options = GrpcOptions { max_connections: 4, header_timeout: LATE, ..Default::default() };
    let server = serve_grpc(options, open_authenticator()).await;
    let (sender, messages) = tokio::sync::mpsc::channel(10);
    let mut busy = server.client().await;
    let long =
        tokio::spawn(async move { busy.ingest_events(tokio_stream::wrappers::ReceiverStream::new(messages)).await });
    sender.send(events(1)).await.unwrap();
    eventually("the long stream is open", || async { server.spool.records(Stream::Events).len() == 1 }).await;

    let mut idle = Vec::new();
    for i in 0..40 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
        if i % 10 == 9 {
            let mut newcomer = within(server.client()).await;
            within(newcomer.ingest_events(futures::stream::iter([events(1)]))).await.unwrap();
        }
    }
    assert!(server.ingester.snapshot().connections <= 5);
    sender.send(events(1)).await.unwrap();
    drop(sender);
    within(long).await.unwrap().unwrap();
    assert_eq!(server.spool.records(Stream::Events).len(), 6);
}

#[tokio::test]
async fn where_all_connections_are_busy_one_more_is_refused_until_one_ends() {
    let options = GrpcOptions { max_connections: 1, header_timeout: LATE, ..Default::default() };
    let server = serve_grpc(options, open_authenticator()).await;
    let mut busy = server.client().await;
    let long = tokio::spawn(async move { busy.ingest_events(futures::stream::pending()).await });
    eventually("the stream is open", || async { server.ingester.snapshot().streams == 1 }).await;
    closed(TcpStream::connect(server.address).await.unwrap()).await;
    assert_eq!(server.refused(Refused::Connections), 1);
    long.abort();
    eventually("the connection is gone", || async { server.ingester.snapshot().connections == 0 }).await;
    server.client().await.ingest_events(futures::stream::iter([events(1)])).await.unwrap();
}

#[tokio::test]
async fn one_stream_more_than_a_connection_may_have_waits_for_another_to_end() {
    let server =
        serve_grpc(GrpcOptions { max_streams_per_connection: 1, ..Default::default() }, open_authenticator()).await;
    let client = server.client().await;
    let (sender, messages) = tokio::sync::mpsc::channel(1);
    let mut first = client.clone();
    let first =
        tokio::spawn(async move { first.ingest_events(tokio_stream::wrappers::ReceiverStream::new(messages)).await });
    sender.send(events(1)).await.unwrap();
    eventually("the first stream is open", || async { server.spool.records(Stream::Events).len() == 1 }).await;
    let mut second = client.clone();
    let second = tokio::spawn(async move { second.ingest_events(futures::stream::iter([events(2)])).await });
    tokio::time::sleep(SOON).await;
    assert_eq!((server.ingester.snapshot().streams_total, second.is_finished()), (1, false));
    drop(sender);
    within(first).await.unwrap().unwrap();
    within(second).await.unwrap().unwrap();
    assert_eq!(server.spool.records(Stream::Events).len(), 3);
}

#[tokio::test]
async fn requests_without_credentials_that_never_end_lock_nobody_out_who_has_them() {
    const TOKEN: &str = "a token of twenty-five...";
    let authenticator = || Authenticator::new(AuthOptions::Tokens(vec![Secret::new(TOKEN)]), LivekitKeys::new(), None);
    for method in ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"] {
        let options = GrpcOptions { max_connections: 4, header_timeout: LATE, ..Default::default() };
        let server = serve_grpc(options, authenticator()).await;
        let mut crowd = Vec::new();
        for _ in 0..8 {
            let (mut connection, task) = http2(TcpStream::connect(server.address).await.unwrap()).await;
            crowd.push((tokio::spawn(connection.send_request(unfinished(method, &[0, 0, 0]))), task));
        }
        let channel = within(server.channel()).await;
        let mut client = AnalyticsRecorderServiceClient::with_interceptor(channel, |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
            Ok(request)
        });
        let long = tokio::spawn(async move { client.ingest_events(futures::stream::pending()).await });
        eventually("the sender is let in", || async { server.ingester.snapshot().streams == 1 }).await;
        for _ in 0..8 {
            let (mut connection, task) = http2(TcpStream::connect(server.address).await.unwrap()).await;
            crowd.push((tokio::spawn(connection.send_request(unfinished(method, &[0, 0, 0]))), task));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!long.is_finished() && server.ingester.snapshot().streams == 1, "and stays");
        assert!(server.ingester.snapshot().connections <= 5);
        long.abort();
        crowd.iter().for_each(|(call, task)| {
            call.abort();
            task.abort();
        });
    }
}

/// A connection of another peer than the test's other ones.
async fn from_elsewhere(server: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    within(socket.connect(server.address)).await.unwrap()
}

#[tokio::test]
async fn a_peer_that_holds_all_connections_or_all_streams_loses_one_to_another_peer() {
    let recorder = "livekit.AnalyticsRecorderService/IngestEvents";
    let few_connections = GrpcOptions { max_connections: 4, header_timeout: LATE, ..Default::default() };
    let few_streams = GrpcOptions { max_streams: 4, ..Default::default() };
    for options in [few_connections, few_streams] {
        let server = serve_grpc(options, open_authenticator()).await;
        let mut crowd = Vec::new();
        for _ in 0..4 {
            let (mut connection, task) = http2(from_elsewhere(&server).await).await;
            crowd.push((tokio::spawn(connection.send_request(unfinished(recorder, &[]))), task));
        }
        eventually("all of them are open", || async { server.ingester.snapshot().streams == 4 }).await;
        let mut client = within(server.client()).await;
        within(client.ingest_events(futures::stream::iter([events(1)]))).await.unwrap();
        assert_eq!(server.spool.records(Stream::Events).len(), 1);
        eventually("one of them goes", || async { crowd.iter().any(|(call, _)| call.is_finished()) }).await;
        let (gone, stay): (Vec<_>, Vec<_>) = crowd.into_iter().partition(|(call, _)| call.is_finished());
        assert_eq!(stay.len(), 3);
        for (call, _) in gone {
            let answer = call.await.unwrap().expect("it is answered, not cut");
            assert_eq!(status_of(answer).await, Code::Unavailable as i32);
        }
        stay.iter().for_each(|(call, task)| {
            call.abort();
            task.abort();
        });
    }
}

#[tokio::test]
async fn connections_that_ask_for_nothing_useful_again_and_again_keep_nobody_out() {
    let options = HttpOptions { max_connections: 4, header_timeout: LATE, ..Default::default() };
    let server = serve_http(options, open_authenticator()).await;
    let address = server.address;
    let ask_again_and_again = move || async move {
        loop {
            let Ok(mut connection) = TcpStream::connect(address).await else { continue };
            while connection.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_ok()
                && connection.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let crowd: Vec<_> = (0..4).map(|_| tokio::spawn(ask_again_and_again())).collect();
    eventually("all places are taken", || async { server.ingester.snapshot().connections == 4 }).await;
    tokio::time::sleep(2 * SOON).await;
    for _ in 0..3 {
        assert_eq!(post_one(&server).await, 200);
    }
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn watchers_of_the_health_that_give_their_answers_no_window_are_few_too() {
    let server = serve_grpc(GrpcOptions { header_timeout: LATE, ..Default::default() }, open_authenticator()).await;
    let mut crowd = Vec::new();
    // 400 calls, for which there are 256 places.
    for _ in 0..4 {
        let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.initial_stream_window_size(0).handshake(io).await.unwrap();
        let task = tokio::spawn(connection);
        let watch = || {
            let call = http::Request::post("http://x/grpc.health.v1.Health/Watch");
            let call = call.header("content-type", "application/grpc").header("te", "trailers");
            call.body(Full::new(Bytes::from_static(&[0; 5]))).unwrap()
        };
        let calls: Vec<_> = (0..100).map(|_| tokio::spawn(sender.send_request(watch()))).collect();
        crowd.push((sender, task, calls));
    }
    eventually("a connection is closed", || async { crowd.iter().any(|(_, task, _)| task.is_finished()) }).await;
}

/// A request whose body lacks its last byte.
const ALMOST: &[u8] = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"id\": \"AE_1\"";

#[tokio::test]
async fn a_request_under_way_is_answered_although_its_connection_is_needed_and_says_that_it_closes() {
    let options = HttpOptions { max_connections: 2, header_timeout: LATE, ..Default::default() };
    let server = serve_http(options, open_authenticator()).await;
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let mut connection = from_elsewhere(&server).await;
        connection.write_all(ALMOST).await.unwrap();
        crowd.push(connection);
    }
    tokio::time::sleep(2 * SOON).await;
    assert_eq!(post_one(&server).await, 200);
    let mut closing = 0;
    for mut connection in crowd {
        connection.write_all(b"}").await.unwrap();
        let mut answer = vec![0; 4096];
        let read = within(connection.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        closing += usize::from(answer.contains("connection: close"));
    }
    assert_eq!(closing, 1, "the one whose place was needed");
}

#[tokio::test]
async fn connections_that_are_being_closed_are_few_and_go_for_good() {
    let options = GrpcOptions { max_connections: 8, header_timeout: LATE, ..Default::default() };
    let server = serve_grpc(options, open_authenticator()).await;
    let mut crowd = Vec::new();
    for _ in 0..40 {
        let (mut connection, task) = http2(from_elsewhere(&server).await).await;
        let call = unfinished("grpc.health.v1.Health/Check", &[0, 0, 0]);
        crowd.push((tokio::spawn(connection.send_request(call)), task));
        assert!(server.ingester.snapshot().connections <= 8 + 2 * 2 + 1);
    }
    eventually("those that were closed are gone", || async { server.ingester.snapshot().connections <= 8 }).await;
    crowd.iter().for_each(|(call, task)| {
        call.abort();
        task.abort();
    });
}
