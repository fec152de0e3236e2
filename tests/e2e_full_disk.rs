//! A disk that is really full: new records are refused with the reason, delivery continues, and freed space lets the
//! process take again, all without a restart.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use support::{
    disk::SmallDisk,
    process::{Recorder, Setup, Spool},
    records,
    wire::{Reply, WireServer},
};

mod support;

const EVENTS: &str = "test.events";

/// A server that can be away.
async fn server() -> (WireServer, Arc<AtomicBool>) {
    let away = Arc::new(AtomicBool::new(true));
    let gone = away.clone();
    let server =
        WireServer::scripted(move |_| if gone.load(Ordering::SeqCst) { Reply::HangUp } else { Reply::Healthy });
    (server.await, away)
}

async fn send(livekit: &mut Recorder, events: Vec<AnalyticsEvent>) -> Result<(), tonic::Status> {
    livekit.ingest_events(tokio_stream::iter([AnalyticsEvents { events }])).await.map(|_| ())
}

/// Sends until the answer is that it is full; returns the ids that were answered OK.
async fn send_until_refused(
    livekit: &mut Recorder,
    events: &mut impl Iterator<Item = AnalyticsEvent>,
) -> (BTreeSet<String>, tonic::Status) {
    let mut accepted = BTreeSet::new();
    loop {
        let call: Vec<_> = events.by_ref().take(50).collect();
        let ids = records::event_ids(&call);
        match send(livekit, call).await {
            Ok(()) => accepted.extend(ids),
            Err(status) => return (accepted, status),
        }
        assert!(accepted.len() < 1_000_000, "it accepts records without end on a full disk");
    }
}

async fn arrive(server: &WireServer, ids: &BTreeSet<String>) {
    support::eventually("all that was answered OK has arrived", || async {
        let kept = server.kept(EVENTS);
        ids.iter().all(|id| kept.contains_key(id))
    })
    .await;
}

fn setup(server: &WireServer) -> Setup {
    Setup::new()
        .mongo("mongo", &server.uri(), "test")
        .section("spool: { min_free_bytes: 0, segment_bytes: 256KiB, max_bytes: 1GiB }")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_with_the_reason_drains_and_accepts_again_when_there_is_space() {
    let directory = support::directory("disk");
    let disk = SmallDisk::mount(&directory.path().join("disk"), 24).await;
    let (server, away) = server().await;
    let mut spool = setup(&server).on(&disk).start().await;
    let mut livekit = spool.recorder();
    let mut events = records::numbered_events("full");
    send(&mut livekit, events.by_ref().take(200).collect()).await.unwrap();

    disk.fill();
    let (accepted, refused) = send_until_refused(&mut livekit, &mut events).await;
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("mongo"), "the answer names the sink: {refused}");
    spool.process().assert_running();

    away.store(false, Ordering::SeqCst);
    arrive(&server, &accepted).await;
    spool.wait_until_drained().await;

    disk.free();
    support::eventually("it accepts records again", || {
        let (mut livekit, call) = (livekit.clone(), events.by_ref().take(10).collect::<Vec<_>>());
        let ids = records::event_ids(&call);
        let server = &server;
        async move {
            let accepted = send(&mut livekit, call).await.is_ok();
            if accepted {
                arrive(server, &ids).await;
            }
            accepted
        }
    })
    .await;
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_drains_what_is_there() {
    let directory = support::directory("disk");
    let disk = SmallDisk::mount(&directory.path().join("disk"), 24).await;
    let (server, away) = server().await;
    let mut spool: Spool = setup(&server).on(&disk).start().await;
    let events: Vec<_> = records::numbered_events("start").take(2_000).collect();
    for call in events.chunks(50) {
        send(&mut spool.recorder(), call.to_vec()).await.unwrap();
    }
    spool.kill();
    disk.fill();
    spool.launch();
    away.store(false, Ordering::SeqCst);
    arrive(&server, &records::event_ids(&events)).await;
    spool.process().assert_running();
    disk.free();
    support::eventually("it accepts records again", || async {
        send(&mut spool.recorder(), records::numbered_events("again").take(10).collect()).await.is_ok()
    })
    .await;
    spool.terminate();
}
