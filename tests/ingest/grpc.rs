//! gRPC as LiveKit speaks it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use livekit_protocol::{AnalyticsEvent, AnalyticsEvents, AnalyticsNodeRooms, AnalyticsStat, AnalyticsStats};
use livekit_spool::{
    ingest::{
        AuthOptions, Authenticator, GrpcOptions, LivekitKeys, MemoryOptions, Refused, Secret,
        client::{BytesCodec, Client, Credentials, Target},
    },
    record::{RecordBatchBuilder, Stream},
    spool::{PeekFrom, Spool, SpoolOptions},
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, codec::CompressionEncoding, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::{
    Behaviour, bundled, eventually, open_authenticator, required, serve_both_into, serve_grpc, serve_grpc_with, within,
};

fn events(count: usize, error_bytes: usize) -> AnalyticsEvents {
    let event = |i| AnalyticsEvent { id: format!("AE_{i}"), error: "x".repeat(error_bytes), ..Default::default() };
    AnalyticsEvents { events: (0..count).map(event).collect() }
}

#[tokio::test]
async fn real_records_one_event_a_message_are_stored_in_order_and_answered_empty() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    let mut client = server.client().await;
    let records: Vec<AnalyticsEvent> =
        bundled("livekit-1.11/events.pb").iter().map(|record| AnalyticsEvent::decode(&record[..]).unwrap()).collect();
    let messages: Vec<_> = records.iter().map(|event| AnalyticsEvents { events: vec![event.clone()] }).collect();
    client.ingest_events(futures::stream::iter(messages)).await.unwrap();
    let expected: Vec<_> = records.iter().map(Message::encode_to_vec).collect();
    assert_eq!(server.spool.records(Stream::Events), expected);

    let stats: Vec<AnalyticsStat> =
        bundled("livekit-1.11/stats.pb").iter().map(|record| AnalyticsStat::decode(&record[..]).unwrap()).collect();
    let messages: Vec<_> = stats.chunks(7).map(|chunk| AnalyticsStats { stats: chunk.to_vec() }).collect();
    client.ingest_stats(futures::stream::iter(messages)).await.unwrap();
    assert_eq!(server.spool.records(Stream::Stats), stats.iter().map(Message::encode_to_vec).collect::<Vec<_>>());

    let state = AnalyticsNodeRooms { node_id: "ND_1".into(), sequence_number: 3, ..Default::default() };
    client.ingest_node_room_states(futures::stream::iter([state.clone(), state.clone()])).await.unwrap();
    assert_eq!(server.spool.records(Stream::NodeRooms), [state.encode_to_vec(), state.encode_to_vec()]);
}

#[tokio::test]
async fn the_answer_waits_until_all_of_the_stream_is_durable() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    server.spool.set(Behaviour::Hangs);
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.ingest_events(futures::stream::iter([events(3, 0)])).await });
    within(server.spool.was_offered_some()).await;
    assert!(!call.is_finished());
    server.spool.set(Behaviour::Accepts);
    within(call).await.unwrap().unwrap();
    assert_eq!(server.spool.records(Stream::Events).len(), 3);
}

#[tokio::test]
async fn messages_that_come_while_a_batch_is_written_share_the_next_one() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    server.spool.set(Behaviour::Hangs);
    let mut client = server.client().await;
    let (sender, messages) = mpsc::channel(1000);
    let call = tokio::spawn(async move { client.ingest_events(ReceiverStream::new(messages)).await });
    sender.send(events(1, 0)).await.unwrap();
    within(server.spool.was_offered_some()).await;
    for _ in 0..100 {
        sender.send(events(1, 100)).await.unwrap();
    }
    eventually("the second batch is gathered", || async { server.ingester.snapshot().waiting_bytes > 100 * 100 }).await;
    server.spool.set(Behaviour::Accepts);
    drop(sender);
    within(call).await.unwrap().unwrap();
    assert_eq!(server.spool.records(Stream::Events).len(), 101);
    assert!(server.spool.batches() < 10, "{} batches", server.spool.batches());
}

#[tokio::test]
async fn batches_wait_at_the_spool_while_an_earlier_one_is_written_and_one_refusal_answers_for_all() {
    let window = 64 * 1024;
    let server = serve_grpc(GrpcOptions { stream_window: window, ..Default::default() }, open_authenticator()).await;
    server.spool.set(Behaviour::Hangs);
    let mut client = server.client().await;
    let messages = futures::stream::iter(std::iter::repeat_n(events(1, 8 * 1024), 100));
    let call = tokio::spawn(async move { client.ingest_events(messages).await });
    server.spool.was_offered(window / 2).await;
    server.spool.set(Behaviour::Full);
    let status = within(call).await.unwrap().unwrap_err();
    assert_eq!((status.code(), server.refused(Refused::Full)), (Code::ResourceExhausted, 1));
    assert_eq!((server.spool.batches(), server.ingester.snapshot().waiting_bytes), (0, 0));
}

#[tokio::test]
async fn what_several_batches_of_a_stream_lose_is_reported_at_its_end() {
    let server = serve_grpc(GrpcOptions { stream_window: 16 * 1024, ..Default::default() }, open_authenticator()).await;
    server.spool.set(Behaviour::Drops);
    let mut client = server.client().await;
    let messages = futures::stream::iter(std::iter::repeat_n(events(2, 1024), 100));
    let answer = within(client.ingest_events(messages)).await.unwrap();
    assert_eq!(answer.metadata().get("livekit-spool-dropped").unwrap(), "memory=200");
    assert_eq!(answer.metadata().get_all("livekit-spool-dropped").iter().count(), 1);
}

#[tokio::test]
async fn messages_that_would_not_fit_together_are_not_put_together() {
    let window = 64 << 20;
    let server = serve_grpc(GrpcOptions { stream_window: window, ..Default::default() }, open_authenticator()).await;
    server.spool.set(Behaviour::Hangs);
    let mut client = server.client().await;
    let sizes = [[1_000_usize; 2000].as_slice(), &[3_000_000, 1_000, 3_000_000]].concat();
    let messages: Vec<_> = sizes.iter().map(|&bytes| events(1, bytes)).collect();
    let all: usize = messages.iter().map(Message::encoded_len).sum();
    let call = tokio::spawn(async move { client.ingest_events(futures::stream::iter(messages)).await });
    eventually("all is read from the network", || async { server.ingester.snapshot().waiting_bytes as usize >= all })
        .await;
    server.spool.set(Behaviour::Accepts);
    within(call).await.unwrap().unwrap();
    assert_eq!(server.spool.records(Stream::Events).len(), sizes.len());
    let together = server.spool.largest_of_several();
    assert!(together <= 256 * 1024, "a batch of several messages of {together} bytes in all");
}

#[tokio::test]
async fn a_streams_records_are_in_the_spool_in_the_order_they_came() {
    let directory = tempfile::tempdir().unwrap();
    let options = SpoolOptions { name: "own".into(), min_free_bytes: 0, ..Default::default() };
    let spool = Arc::new(Spool::open(directory.path(), options).unwrap());
    // small pieces, so that many batches are on their way at once
    let options = GrpcOptions { stream_window: 16 * 1024, ..Default::default() };
    let address = serve_both_into(options, vec![required("own", &spool)]).await.grpc;
    let mut batch = RecordBatchBuilder::new(Stream::Events);
    (0..5000).for_each(|i| batch.push(&AnalyticsEvent { id: format!("AE_{i}"), ..Default::default() }.encode_to_vec()));
    let batch = batch.build(0);
    let target = Target { url: format!("http://{address}"), ca: None, credentials: Credentials::None };
    within(Client::new(&target).unwrap().send(&batch, 20)).await.unwrap();
    let kept: Vec<_> =
        spool.peek(Stream::Events, PeekFrom::Oldest).unwrap().map(|record| record.unwrap().bytes).collect();
    assert!(kept.iter().map(AsRef::as_ref).eq(batch.iter()), "{} records in another order", kept.len());
    spool.close().await;
}

#[tokio::test]
async fn no_more_than_the_window_is_read_from_a_stream_before_it_is_durable() {
    let window = 64 * 1024;
    let server = serve_grpc(GrpcOptions { stream_window: window, ..Default::default() }, open_authenticator()).await;
    server.spool.set(Behaviour::Hangs);
    let mut client = server.client().await;
    let message = events(1, 8 * 1024);
    let messages = futures::stream::iter(std::iter::repeat_n(message.clone(), 200));
    let call = tokio::spawn(async move { client.ingest_events(messages).await });
    eventually("the window fills", || async { server.ingester.snapshot().waiting_bytes as usize >= window - 8 * 1024 })
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // what is in the frame buffer besides is one HTTP/2 frame's worth
    let waiting = server.ingester.snapshot().waiting_bytes as usize;
    assert!(waiting <= window + 2 * message.encoded_len() + 32 * 1024, "{waiting} bytes wait");
    server.spool.set(Behaviour::Accepts);
    within(call).await.unwrap().unwrap();
    assert_eq!(server.spool.records(Stream::Events).len(), 200);
    assert_eq!(server.ingester.snapshot().waiting_bytes, 0);
}

#[tokio::test]
async fn fields_this_schema_does_not_know_are_stored_as_they_came() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    let mut record = AnalyticsEvent { id: "AE_new".into(), ..Default::default() }.encode_to_vec();
    record.extend([0xA2, 0x7D, 0x03, b'n', b'e', b'w']); // field 2004
    let mut message = vec![0x0A, u8::try_from(record.len()).unwrap()];
    message.extend(&record);
    raw_call(server.address, "IngestEvents", &message).await.unwrap();
    assert_eq!(server.spool.records(Stream::Events), [record]);
}

#[tokio::test]
async fn gzip_and_zstd_messages_are_accepted() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = server.client().await.send_compressed(encoding);
        client.ingest_events(futures::stream::iter([events(100, 50)])).await.unwrap();
    }
    assert_eq!(server.spool.records(Stream::Events).len(), 200);
}

#[tokio::test]
async fn a_gzip_message_of_empty_blocks_is_refused() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    let header = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
    let bomb = [&header[..], &[0, 0, 0, 0xFF, 0xFF].repeat(800_000), &[1, 0, 0, 0xFF, 0xFF], &[0; 8]].concat();
    let framed = [&[1][..], &u32::try_from(bomb.len()).unwrap().to_be_bytes(), &bomb].concat();
    let connection = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(connection);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request =
        hyper::Request::post(format!("http://{}/livekit.AnalyticsRecorderService/IngestEvents", server.address))
            .header("content-type", "application/grpc")
            .header("grpc-encoding", "gzip")
            .body(http_body_util::Full::new(Bytes::from(framed)))
            .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], (Code::OutOfRange as i32).to_string(), "{:?}", response.headers());
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let options = GrpcOptions {
        max_message_bytes: 10_000,
        max_message_records: 50,
        stream_window: 1 << 20,
        ..Default::default()
    };
    let server = serve_grpc(options, open_authenticator()).await;
    let mut client = server.client().await;

    let too_large = client.ingest_events(futures::stream::iter([events(1, 20_000)])).await.unwrap_err();
    assert_eq!(too_large.code(), Code::OutOfRange, "{too_large}");
    let too_many = client.ingest_events(futures::stream::iter([events(51, 0)])).await.unwrap_err();
    assert_eq!(too_many.code(), Code::OutOfRange, "{too_many}");
    let mut zstd = client.clone().send_compressed(CompressionEncoding::Zstd);
    let bomb = zstd.ingest_events(futures::stream::iter([events(1, 5_000_000)])).await.unwrap_err();
    assert_eq!(bomb.code(), Code::OutOfRange, "{bomb}");
    let garbage = raw_call(server.address, "IngestEvents", b"\xFF\xFFgarbage").await.unwrap_err();
    assert_eq!(garbage.code(), Code::InvalidArgument, "{garbage}");
    let unknown = raw_call(server.address, "IngestDreams", b"").await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented, "{unknown}");
    server.spool.set(Behaviour::Full);
    let full = client.ingest_events(futures::stream::iter([events(1, 0)])).await.unwrap_err();
    assert_eq!((full.code(), full.message()), (Code::ResourceExhausted, "sink memory: the spool is full"));
    assert_eq!((server.refused(Refused::TooLarge), server.refused(Refused::Full)), (3, 1));
    assert_eq!(server.spool.records(Stream::Events).len(), 0);
}

#[tokio::test]
async fn whole_messages_before_a_bad_one_are_kept() {
    let server =
        serve_grpc(GrpcOptions { max_message_bytes: 10_000, ..Default::default() }, open_authenticator()).await;
    let mut client = server.client().await;
    let messages = [events(2, 0), events(3, 0), events(1, 20_000), events(4, 0)];
    client.ingest_events(futures::stream::iter(messages)).await.unwrap_err();
    assert_eq!(server.spool.records(Stream::Events).len(), 5);
}

#[tokio::test]
async fn what_was_read_from_a_stream_that_breaks_is_kept() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    server.spool.set(Behaviour::Hangs);
    let mut client = server.client().await;
    let messages = futures::stream::iter([events(1, 0), events(2, 0)]).chain(futures::stream::pending());
    let call = tokio::spawn(async move { client.ingest_events(messages).await });
    eventually("both messages are read", || async {
        server.ingester.snapshot().waiting_bytes as usize >= events(1, 0).encoded_len() + events(2, 0).encoded_len()
    })
    .await;
    call.abort();
    server.spool.set(Behaviour::Accepts);
    eventually("they are kept", || async { server.spool.records(Stream::Events).len() == 3 }).await;
    eventually("the stream is gone", || async { server.ingester.snapshot().streams == 0 }).await;
}

#[tokio::test]
async fn a_silent_stream_ends_with_deadline_exceeded() {
    let options = GrpcOptions { idle_stream_timeout: Duration::from_millis(50), ..Default::default() };
    let server = serve_grpc(options, open_authenticator()).await;
    let mut client = server.client().await;
    let messages = futures::stream::iter([events(1, 0)]).chain(futures::stream::pending());
    let status = within(client.ingest_events(messages)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(server.spool.records(Stream::Events).len(), 1);
}

#[tokio::test]
async fn a_stream_too_many_is_told_to_try_again() {
    let server = serve_grpc(GrpcOptions { max_streams: 2, ..Default::default() }, open_authenticator()).await;
    let client = server.client().await;
    let open: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.ingest_events(futures::stream::pending()).await })
        })
        .collect();
    eventually("two streams are open", || async { server.ingester.snapshot().streams == 2 }).await;
    let status = client.clone().ingest_events(futures::stream::iter([events(1, 0)])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    open.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("they are closed", || async { server.ingester.snapshot().streams == 0 }).await;
    client.clone().ingest_events(futures::stream::iter([events(1, 0)])).await.unwrap();
}

#[tokio::test]
async fn where_no_memory_is_left_senders_are_told_to_try_again() {
    let memory = MemoryOptions { max_bytes: 200_000, wait: Duration::from_millis(50) };
    let server = serve_grpc_with(GrpcOptions::default(), open_authenticator(), &memory).await;
    server.spool.set(Behaviour::Hangs);
    let client = server.client().await;
    let mut greedy = client.clone();
    let held = tokio::spawn(async move { greedy.ingest_events(futures::stream::iter([events(1, 130_000)])).await });
    within(server.spool.was_offered_some()).await;
    let status = client.clone().ingest_events(futures::stream::iter([events(1, 120_000)])).await.unwrap_err();
    assert_eq!((status.code(), server.refused(Refused::Memory)), (Code::Unavailable, 1));
    server.spool.set(Behaviour::Accepts);
    within(held).await.unwrap().unwrap();
    client.clone().ingest_events(futures::stream::iter([events(1, 120_000)])).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_keeps_what_was_received_and_tells_the_sender_to_connect_again() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    let mut client = server.client().await;
    let messages = futures::stream::iter([events(5, 0)]).chain(futures::stream::pending());
    let call = tokio::spawn(async move { client.ingest_events(messages).await });
    eventually("the message is accepted", || async { server.spool.records(Stream::Events).len() == 5 }).await;
    server.begin_stop();
    let status = within(call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    server.ended().await;
}

#[tokio::test]
async fn a_peer_that_never_ends_its_stream_cannot_hold_up_the_shutdown() {
    let options = GrpcOptions { drain_timeout: Duration::from_millis(100), ..GrpcOptions::default() };
    let server = serve_grpc(options, open_authenticator()).await;
    server.spool.set(Behaviour::Hangs);
    let mut client = server.client().await;
    let call = tokio::spawn(async move { client.ingest_events(futures::stream::iter([events(5, 0)])).await });
    within(server.spool.was_offered_some()).await;
    server.begin_stop();
    server.ended().await;
    within(call).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_client_that_watches_the_health_does_not_delay_the_shutdown() {
    let options = GrpcOptions { drain_timeout: Duration::from_secs(600), ..GrpcOptions::default() };
    let server = serve_grpc(options, open_authenticator()).await;
    let mut health = HealthClient::new(server.channel().await);
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.begin_stop();
    server.ended().await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
    for service in ["", "livekit.AnalyticsRecorderService"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let symbol = MessageRequest::FileContainingSymbol("livekit.AnalyticsRecorderService".into());
    for request in [MessageRequest::ListServices(String::new()), symbol] {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let answers = ServerReflectionClient::new(channel.clone())
            .server_reflection_info(futures::stream::iter([request]))
            .await
            .unwrap();
        match answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
                names.sort();
                let expected = ["grpc.health.v1.Health", "livekit.AnalyticsRecorderService"];
                assert_eq!(names, expected, "and no service that is not served");
            }
            MessageResponse::FileDescriptorResponse(files) => assert!(!files.file_descriptor_proto.is_empty()),
            other => panic!("{other:?}"),
        }
    }
}

/// The headers of an answer, and whether they are all of it.
async fn answered(address: std::net::SocketAddr, request: http::request::Builder) -> (http::response::Parts, bool) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (response, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let (head, body) = within(response).await.unwrap().into_parts();
    let is_end = body.is_end_stream();
    (head, is_end)
}

#[tokio::test]
async fn an_error_is_headers_alone_that_end_the_stream_whatever_is_called() {
    let token = "sixteen characters or more";
    let tokens = AuthOptions::Tokens(vec![Secret::new(token)]);
    let server = serve_grpc(GrpcOptions::default(), Authenticator::new(tokens, LivekitKeys::new(), None)).await;
    for (path, code) in [
        ("/nowhere.Service/Method", Code::Unimplemented),
        ("/nowhere", Code::Unimplemented),
        ("/", Code::Unimplemented),
        ("/livekit.AnalyticsRecorderService/Nothing", Code::Unimplemented),
        ("/livekit.AnalyticsRecorderService/", Code::Unimplemented),
        ("/grpc.health.v1.Health/Nothing", Code::Unimplemented),
        ("/grpc.reflection.v1.ServerReflection/Nothing", Code::Unimplemented),
        ("/livekit.AnalyticsRecorderService/IngestEvents", Code::Unauthenticated),
        ("/nowhere.Service/Method", Code::Unauthenticated),
        ("/livekit.AnalyticsRecorderService/IngestEvents", Code::Unimplemented),
    ] {
        let mut request = http::Request::post(format!("http://{}{path}", server.address));
        request = request.header("content-type", "application/grpc").header("te", "trailers");
        if code != Code::Unauthenticated {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if path.ends_with("IngestEvents") {
            request = request.header("grpc-encoding", "unknown");
        }
        let (head, is_end) = answered(server.address, request).await;
        let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(header("content-type").as_deref(), Some("application/grpc"), "{path}");
        assert_eq!(header("grpc-status"), Some((code as i32).to_string()), "{path}");
        assert!(is_end, "{path}: a frame comes after the headers");
    }
    let unknown = HealthCheckRequest { service: "nowhere".into() };
    let status = HealthClient::new(server.channel().await).check(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    for media in [None, Some("text/plain"), Some("application/json")] {
        let mut request = http::Request::post(format!("http://{}/grpc.health.v1.Health/Check", server.address));
        if let Some(media) = media {
            request = request.header("content-type", media);
        }
        assert_eq!(answered(server.address, request).await.0.status, 415, "{media:?}");
    }
}

/// Sends bytes as one message of a call, whatever they are.
async fn raw_call(address: std::net::SocketAddr, method: &str, message: &[u8]) -> Result<(), tonic::Status> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = format!("/livekit.AnalyticsRecorderService/{method}").parse().unwrap();
    let messages = futures::stream::iter([Bytes::copy_from_slice(message)]);
    grpc.client_streaming(tonic::Request::new(messages), path, BytesCodec).await.map(drop)
}
