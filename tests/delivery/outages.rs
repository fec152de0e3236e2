//! The MongoDB sink against a real server that goes away, and a network that breaks.

use std::{sync::Arc, time::Duration};

use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    flush::{FlushOptions, FlushState},
    record::Stream,
};

use crate::{
    pipeline::{Pipeline, mongo_sink, options},
    support::{
        eventually,
        mongo::{Mongo, assert_exactly_once},
        proxy::{Cut, Mode, Proxy},
        records::{event_ids, numbered_events, real_events, real_stats, stat_ids},
    },
};

fn some_events(prefix: &str, count: usize) -> Vec<AnalyticsEvent> {
    numbered_events(prefix).take(count).collect()
}

#[tokio::test]
async fn a_server_that_is_away_at_start_is_no_error() {
    let mut mongo = Mongo::start().await;
    let database = mongo.database();
    mongo.stop();
    let pipeline = Pipeline::start(mongo_sink(mongo.uri(), &database), options());
    let (events, stats) = (real_events(), real_stats());
    pipeline.send_events(&events).await;
    pipeline.send(Stream::Stats, &stats).await;
    eventually("away", || async { pipeline.status().state == FlushState::Away }).await;
    assert_eq!(pipeline.backlog(), 763 + 482);
    mongo.restart().await;
    pipeline.drained().await;
    let database = mongo.open(&database).await;
    assert_exactly_once(&database.collection("events"), &event_ids(&events)).await;
    assert_exactly_once(&database.collection("stats"), &stat_ids(&stats)).await;
    let mut names = database.collection::<bson::Document>("events").list_index_names().await.expect("indexes");
    names.sort();
    assert_eq!(
        names,
        ["_id_", "openvidu_expire_at_1", "participant.sid_1", "room.sid_1", "timestamp.seconds_1", "type_1"]
    );
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_given_up_and_tried_again() {
    let mongo = Mongo::shared().await;
    let proxy = Proxy::start(&address_of(mongo.uri())).await;
    let database = mongo.database();
    let flush = FlushOptions { timeout: Duration::from_millis(500), ..options() };
    let uri = format!("mongodb://{}/?directConnection=true", proxy.address());
    let pipeline = Pipeline::start(mongo_sink(&uri, &database), flush);
    let events = some_events("b", 600);
    pipeline.send_events(&events[..300]).await;
    pipeline.drained().await;
    proxy.set(Mode::Blackhole).await;
    pipeline.send_events(&events[300..]).await;
    eventually("it timed out", || async { pipeline.status().retried_records.contains_key("timeout") }).await;
    proxy.set(Mode::Pass).await;
    pipeline.drained().await;
    assert_exactly_once(&mongo.open(&database).await.collection("events"), &event_ids(&events)).await;
}

#[tokio::test]
async fn a_network_that_cuts_at_every_place_loses_and_doubles_nothing() {
    let mongo = Mongo::shared().await;
    let proxy = Proxy::start(&address_of(mongo.uri())).await;
    let database = mongo.database();
    let uri = format!("mongodb://{}/?directConnection=true", proxy.address());
    let pipeline = Pipeline::start(mongo_sink(&uri, &database), options());
    let events = some_events("c", 2000);
    for (i, part) in events.chunks(100).enumerate() {
        let cut = match i % 4 {
            0 => Cut::BeforeRequest,
            1 => Cut::AfterRequest,
            2 => Cut::InReply(1 + i),
            _ => Cut::InReply(20 + i),
        };
        proxy.cut_next(b"insert", cut);
        pipeline.send_events(part).await;
    }
    pipeline.drained().await;
    assert!(proxy.cuts_made() >= 10, "{} cuts", proxy.cuts_made());
    assert_exactly_once(&mongo.open(&database).await.collection("events"), &event_ids(&events)).await;
}

#[tokio::test]
async fn a_server_killed_20_times_under_load_ends_with_each_record_once() {
    let mut mongo = Mongo::start().await;
    let database = mongo.database();
    let pipeline = Arc::new(Pipeline::start(mongo_sink(mongo.uri(), &database), options()));
    let events = some_events("k", 20_000);
    let sender = {
        let (pipeline, events) = (Arc::clone(&pipeline), events.clone());
        tokio::spawn(async move {
            for part in events.chunks(50) {
                pipeline.send_events(part).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        mongo.kill();
        mongo.restart().await;
    }
    sender.await.expect("all are in the spool");
    pipeline.drained().await;
    assert_exactly_once(&mongo.open(&database).await.collection("events"), &event_ids(&events)).await;
}

#[tokio::test]
async fn a_restart_of_the_pipeline_goes_on_where_it_stopped() {
    let mongo = Mongo::shared().await;
    let database = mongo.database();
    let slow = FlushOptions { max_rate: 1000, shutdown_timeout: Duration::from_millis(100), ..options() };
    let mut pipeline = Pipeline::start(mongo_sink(mongo.uri(), &database), slow.clone());
    let events = some_events("r", 1500);
    for part in events.chunks(500) {
        pipeline.send_events(part).await;
        pipeline = pipeline.restart(mongo_sink(mongo.uri(), &database), slow.clone()).await;
    }
    pipeline.drained().await;
    assert_exactly_once(&mongo.open(&database).await.collection("events"), &event_ids(&events)).await;
}

fn address_of(uri: &str) -> String {
    uri.trim_start_matches("mongodb://").split('/').next().expect("an address").to_owned()
}
