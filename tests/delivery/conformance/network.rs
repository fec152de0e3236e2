//! What a sink with a server behind it promises besides: the network breaks, the server falls over, the password is
//! wrong.

use std::{sync::Arc, time::Duration};

use livekit_spool::{
    flush::{FlushOptions, SinkState},
    record::Stream,
};

use super::{
    once, send_by_and_by, some_events,
    subjects::{HttpSubject, MongoSubject, PostgresqlSubject, RedisSubject, Server},
};
use crate::{
    pipeline::{Pipeline, options},
    support::{
        eventually,
        proxy::{Cut, Mode, Proxy},
        records::event_ids,
    },
};

async fn a_network_that_cuts_at_every_place_loses_and_doubles_nothing<S: Server>() {
    let server = S::start().await;
    let proxy = Proxy::start(&server.address()).await;
    let pipeline = Pipeline::start(server.sink_at(&proxy.address()), options());
    let events = some_events("cut", 2000);
    for (i, part) in events.chunks(100).enumerate() {
        let cut = match i % 4 {
            0 => Cut::BeforeRequest,
            1 => Cut::AfterRequest,
            2 => Cut::InReply(1 + i),
            _ => Cut::InReply(20 + i),
        };
        let made = proxy.cuts_made();
        proxy.cut_next(S::WRITE, cut);
        pipeline.send_events(part).await;
        eventually("it is cut", || async { proxy.cuts_made() > made }).await;
    }
    pipeline.drained().await;
    assert_eq!(server.ids(Stream::Events).await, once(&event_ids(&events)));
    assert!(pipeline.dead_letters().is_empty());
}

async fn a_server_that_accepts_and_never_answers_is_given_up_and_tried_again<S: Server>() {
    let server = S::start().await;
    let proxy = Proxy::start(&server.address()).await;
    let flush = FlushOptions { timeout: Duration::from_millis(500), ..options() };
    let pipeline = Pipeline::start(server.sink_at(&proxy.address()), flush);
    let events = some_events("silent", 600);
    pipeline.send_events(&events[..300]).await;
    pipeline.drained().await;
    proxy.set(Mode::Blackhole).await;
    pipeline.send_events(&events[300..]).await;
    eventually("it timed out", || async { pipeline.status().figures.retried_records.contains_key("timeout") }).await;
    assert_eq!(pipeline.backlog(), 300);
    proxy.set(Mode::Pass).await;
    pipeline.drained().await;
    assert_eq!(server.ids(Stream::Events).await, once(&event_ids(&events)));
}

async fn a_server_killed_20_times_under_load_ends_with_each_record_once<S: Server>() {
    let mut server = S::start().await;
    let pipeline = Arc::new(Pipeline::start(server.sink(), options()));
    let events = some_events("killed", 20_000);
    let sender = send_by_and_by(&pipeline, &events, Duration::from_millis(20));
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        server.take_away().await;
        server.bring_back().await;
    }
    sender.await.expect("all are in the spool");
    pipeline.drained().await;
    assert_eq!(server.ids(Stream::Events).await, once(&event_ids(&events)));
}

async fn a_wrong_password_is_reported_and_loses_nothing<S: Server>() {
    let server = S::start().await;
    let pipeline = Pipeline::start(server.sink_of_a_stranger(), options());
    let events = some_events("stranger", 50);
    pipeline.send_events(&events).await;
    eventually("unauthorized", || async { pipeline.status().state == SinkState::Unauthorized }).await;
    let status = pipeline.status();
    assert!(status.last_error.as_ref().is_some_and(|error| error.contains("check user")), "{status:?}");
    assert!(!format!("{status:?}").contains("hunter2"), "{status:?}");
    assert_eq!(pipeline.backlog(), 50);
    let pipeline = pipeline.restart(server.sink(), options()).await;
    pipeline.drained().await;
    assert_eq!(server.ids(Stream::Events).await, once(&event_ids(&events)));
    assert!(pipeline.dead_letters().is_empty());
}

macro_rules! suite {
    ($($name:ident: $server:ty;)*) => {
        $(mod $name {
            use super::*;

            suite!(@tests $server:
                a_network_that_cuts_at_every_place_loses_and_doubles_nothing
                a_server_that_accepts_and_never_answers_is_given_up_and_tried_again
                a_server_killed_20_times_under_load_ends_with_each_record_once
                a_wrong_password_is_reported_and_loses_nothing
            );
        })*
    };
    (@tests $server:ty: $($test:ident)*) => {
        $(#[tokio::test]
        async fn $test() {
            super::$test::<$server>().await;
        })*
    };
}

suite! {
    mongodb: MongoSubject;
    redis: RedisSubject;
    http: HttpSubject;
    postgresql: PostgresqlSubject;
}
