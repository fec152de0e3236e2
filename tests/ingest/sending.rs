//! The sender of `send` and `run --demo`, against real ports.

use livekit_spool::{
    demo::{self, Playback, Progress},
    ingest::{
        GrpcOptions,
        client::{Client, Credentials, Target},
    },
    record::{RecordBatchBuilder, Stream},
};
use tonic::Code;

use crate::support::{Behaviour, Running, eventually, open_authenticator, serve_grpc, within};

fn client(server: &Running) -> Client {
    let target = Target { url: format!("http://{}", server.address), ca: None, credentials: Credentials::None };
    Client::new(&target).unwrap()
}

#[tokio::test]
async fn the_demo_plays_all_bundled_records_through_the_grpc_port() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    let (playback, progress) = (Playback::new(), Progress::default());
    let round = playback.round();
    demo::send(&client(&server), playback.take(round), 0, &progress).await.unwrap();
    assert_eq!(progress.acknowledged(), 1245);
    assert_eq!(server.spool.records(Stream::Events).len(), 763);
    assert_eq!(server.spool.records(Stream::Stats).len(), 482);
}

#[tokio::test]
async fn what_is_refused_for_the_moment_is_sent_again_until_it_is_accepted() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    server.spool.set(Behaviour::Full);
    let progress = Progress::default();
    let client = client(&server);
    let sending = demo::send(&client, Playback::new().take(10), 0, &progress);
    let relief = async {
        eventually("it was sent again", || async { progress.retries() >= 2 }).await;
        server.spool.set(Behaviour::Accepts);
    };
    let (sent, ()) = within(async { tokio::join!(sending, relief) }).await;
    sent.unwrap();
    assert_eq!(progress.acknowledged(), 10);
}

#[tokio::test]
async fn what_the_receiver_dropped_is_reported_and_not_sent_again() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    server.spool.set(Behaviour::Drops);
    let progress = Progress::default();
    demo::send(&client(&server), Playback::new().take(10), 0, &progress).await.unwrap();
    assert_eq!((progress.acknowledged(), progress.retries()), (10, 0));
    let dropped = progress.dropped();
    let all: Vec<_> = dropped.iter().map(|(sink, dropped)| (sink.as_str(), dropped.records)).collect();
    assert_eq!(all, [("memory", 10)]);
    assert!(dropped.to_string().contains("by sink memory: its spool is full"), "{dropped}");
}

#[tokio::test]
async fn what_is_refused_for_good_ends_the_sending() {
    let server = serve_grpc(GrpcOptions { max_message_bytes: 1000, ..Default::default() }, open_authenticator()).await;
    let records = [(Stream::Stats, vec![0xFF; 2000])];
    let status = within(demo::send(&client(&server), records.into_iter(), 0, &Progress::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test]
async fn the_demo_ends_when_told() {
    let server = serve_grpc(GrpcOptions::default(), open_authenticator()).await;
    let shutdown = eventually("records arrive", || async { server.spool.batches() > 2 });
    within(demo::run(&client(&server), 1000, || (), shutdown)).await.unwrap();
}

#[tokio::test]
async fn node_rooms_go_one_a_message_and_others_as_many_as_asked() {
    let server = serve_grpc(GrpcOptions { max_message_records: 3, ..Default::default() }, open_authenticator()).await;
    let client = client(&server);
    for stream in Stream::ALL {
        let mut batch = RecordBatchBuilder::new(stream);
        (0..10).for_each(|i| batch.push(&[0x10, i]));
        client.send(&batch.build(0), 3).await.unwrap();
        assert_eq!(server.spool.records(stream).len(), 10);
    }
}

#[test]
fn what_is_no_address_is_refused_with_what_is_allowed() {
    for url in ["", "127.0.0.1:7890", "ftp://x", "http://", "http://a b"] {
        let target = Target { url: url.into(), ca: None, credentials: Credentials::None };
        let error = Client::new(&target).unwrap_err().to_string();
        assert!(error.contains("use http://host:port"), "{error}");
    }
}
