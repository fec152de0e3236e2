//! The MongoDB sink against a real server that goes away; what all sinks do then is in `conformance`.

use std::time::Duration;

use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    flush::{FlushOptions, SinkState},
    record::Stream,
};

use crate::{
    pipeline::{Pipeline, mongo_sink, options},
    support::{
        eventually,
        mongo::{Mongo, assert_exactly_once},
        records::{event_ids, numbered_events, real_events, real_stats, stat_ids},
    },
};

fn some_events(prefix: &str, count: usize) -> Vec<AnalyticsEvent> {
    numbered_events(prefix).take(count).collect()
}

#[tokio::test]
async fn a_server_that_is_unavailable_at_start_is_no_error() {
    let mut mongo = Mongo::start().await;
    let database = mongo.database();
    mongo.stop();
    let pipeline = Pipeline::start(mongo_sink(mongo.uri(), &database), options());
    let (events, stats) = (real_events(), real_stats());
    pipeline.send_events(&events).await;
    pipeline.send(Stream::Stats, &stats).await;
    eventually("away", || async { pipeline.status().state == SinkState::Unavailable }).await;
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
        [
            "_id_",
            "openvidu_expire_at_1",
            "participant.sid_1",
            "room.sid_1",
            "timestamp.seconds_1",
            "type_1",
            "type_1_timestamp.seconds_1"
        ]
    );
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
