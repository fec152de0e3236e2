//! What every sink promises, run over all of them: a new sink adds a [`Subject`] and a line to `suite!`, one with a
//! server behind it a [`Server`](subjects::Server) and a line to `suite!` in `network` too.

mod network;
mod subjects;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    flush::{FlushOptions, SinkState},
    record::{QueuedRecord, Stream},
    sink::{Batch, BatchOutcome, Outcome, Sink, SinkError},
};
use prost::Message;
use subjects::{FileSubject, HttpSubject, Labels, MongoSubject, PostgresqlSubject, RedisSubject, Subject};
use tokio::task::JoinHandle;

use crate::{
    pipeline::{Pipeline, options},
    support::{
        eventually,
        records::{event_ids, numbered_events, real_events, real_stats, stat_ids},
    },
};

fn some_events(prefix: &str, count: usize) -> Vec<AnalyticsEvent> {
    numbered_events(prefix).take(count).collect()
}

/// Sends events in parts of 50, with a pause after each, while everything else continues.
fn send_by_and_by(pipeline: &Arc<Pipeline>, events: &[AnalyticsEvent], pause: Duration) -> JoinHandle<()> {
    let (pipeline, events) = (Arc::clone(pipeline), events.to_vec());
    tokio::spawn(async move {
        for part in events.chunks(50) {
            pipeline.send_events(part).await;
            tokio::time::sleep(pause).await;
        }
    })
}

fn once(ids: &BTreeSet<String>) -> Vec<String> {
    ids.iter().cloned().collect()
}

fn batch(events: &[AnalyticsEvent]) -> Batch {
    let record = |(i, event): (usize, &AnalyticsEvent)| QueuedRecord {
        seq: i as u64,
        received_at: 0,
        bytes: Bytes::from(event.encode_to_vec()),
    };
    Batch { stream: Stream::Events, records: events.iter().enumerate().map(record).collect() }
}

async fn real_records_arrive_each_once<S: Subject>() {
    let subject = S::start().await;
    let pipeline = Pipeline::start(subject.sink(), options());
    let (events, stats) = (real_events(), real_stats());
    pipeline.send_events(&events).await;
    pipeline.send(Stream::Stats, &stats).await;
    pipeline.drained().await;
    assert_eq!(subject.ids(Stream::Events).await, once(&event_ids(&events)));
    assert_eq!(subject.ids(Stream::Stats).await, once(&stat_ids(&stats)));
    assert!(pipeline.dead_letters().is_empty());
    eventually("all are counted", || async { pipeline.status().figures.delivered_records == 763 + 482 }).await;
}

async fn labels_are_in_each_document_and_the_lag_is_reported<S: Subject>() {
    let subject = S::start().await;
    let labels: Labels = [("site".to_owned(), "berlin".to_owned())].into();
    let pipeline = Pipeline::start(subject.sink_with(labels), options());
    pipeline.send_events(&some_events("labelled", 20)).await;
    pipeline.drained().await;
    let stored = subject.stored(Stream::Events).await;
    assert_eq!(stored.len(), 20);
    assert!(stored.iter().all(|(_, site)| site.as_deref() == Some("berlin")), "{stored:?}");
    // The recorded events are old.
    eventually("a lag", || async { pipeline.status().figures.lag_millis.is_some_and(|lag| lag > 0) }).await;
}

async fn a_resend_makes_no_second_document<S: Subject>() {
    let subject = S::start().await;
    let mut pipeline = Pipeline::start(subject.sink(), options());
    let events = some_events("again", 300);
    for _ in 0..3 {
        pipeline.send_events(&events).await;
        pipeline.drained().await;
        pipeline = pipeline.restart(subject.sink(), options()).await;
    }
    assert_eq!(subject.ids(Stream::Events).await, once(&event_ids(&events)));
}

async fn a_batch_dropped_half_way_comes_again_and_makes_no_second_document<S: Subject>() {
    let subject = S::start().await;
    let sink = subject.sink();
    sink.initialize().await.expect("ready");
    let events = some_events("dropped", 200);
    for micros in (0..4000).step_by(200) {
        let timeout = Duration::from_micros(micros);
        let _ = tokio::time::timeout(timeout, sink.send_batch(batch(&events))).await;
    }
    until_delivered(&*sink, &events).await;
    assert_eq!(subject.ids(Stream::Events).await, once(&event_ids(&events)));
    sink.close().await;
}

async fn batches_at_once_may_hold_the_same_records<S: Subject>() {
    let subject = S::start().await;
    let sink = subject.sink();
    sink.initialize().await.expect("ready");
    let events = some_events("both", 300);
    tokio::join!(
        until_delivered(&*sink, &events[..200]),
        until_delivered(&*sink, &events[100..]),
        until_delivered(&*sink, &events),
    );
    assert_eq!(subject.ids(Stream::Events).await, once(&event_ids(&events)));
    sink.close().await;
}

/// Sends until each record is delivered; none may be rejected.
async fn until_delivered(sink: &dyn Sink, events: &[AnalyticsEvent]) {
    eventually("all are delivered", || async {
        let outcome = sink.send_batch(batch(events)).await;
        assert!(!outcome.records.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_))), "{outcome:?}");
        outcome.records.iter().all(|outcome| *outcome == Outcome::Delivered)
    })
    .await;
}

async fn a_record_that_makes_no_document_is_rejected_alone<S: Subject>() {
    let subject = S::start().await;
    let sink = subject.sink();
    sink.initialize().await.expect("ready");
    let mut records = batch(&some_events("mixed", 20)).records.to_vec();
    for record in records.iter_mut().skip(3).step_by(7) {
        record.bytes = Bytes::from_static(&[0xFF, 0xFF]);
    }
    let outcome = sink.send_batch(Batch { stream: Stream::Events, records: records.into() }).await;
    assert_eq!(outcome.records.len(), 20, "an outcome per record, in their order");
    for (i, outcome) in outcome.records.iter().enumerate() {
        match outcome {
            Outcome::Rejected(reason) => {
                assert!(i % 7 == 3 && reason.contains("cannot be a document"), "{i}: {reason}")
            }
            other => assert!(i % 7 != 3 && *other == Outcome::Delivered, "{i}: {other:?}"),
        }
    }
    assert_eq!(subject.ids(Stream::Events).await.len(), 17);
    sink.close().await;
}

async fn a_batch_before_the_sink_is_ready_is_retry<S: Subject>() {
    let mut subject = S::start().await;
    subject.take_away().await;
    let outcome = subject.sink().send_batch(batch(&some_events("early", 1))).await;
    assert_eq!(outcome.records, [Outcome::Retry]);
    assert!(outcome.error.is_some(), "and says why");
}

async fn a_sink_that_is_unavailable_at_start_is_waited_for<S: Subject>() {
    let mut subject = S::start().await;
    subject.take_away().await;
    let pipeline = Pipeline::start(subject.sink(), options());
    let events = some_events("away", 500);
    pipeline.send_events(&events).await;
    eventually("away", || async { pipeline.status().state == SinkState::Unavailable }).await;
    assert_eq!(pipeline.backlog(), 500);
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains(&pipeline.status().address)));
    subject.bring_back().await;
    pipeline.drained().await;
    assert_eq!(subject.ids(Stream::Events).await, once(&event_ids(&events)));
    assert!(!pipeline.status().state.is_failing());
}

async fn a_sink_that_becomes_unavailable_under_load_gets_each_record_once<S: Subject>() {
    let mut subject = S::start().await;
    let pipeline = Arc::new(Pipeline::start(subject.sink(), options()));
    let events = some_events("load", 4000);
    let sender = send_by_and_by(&pipeline, &events, Duration::from_millis(5));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..150))).await;
        subject.take_away().await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..150))).await;
        subject.bring_back().await;
    }
    sender.await.expect("all are in the spool");
    pipeline.drained().await;
    assert_eq!(subject.ids(Stream::Events).await, once(&event_ids(&events)));
    assert!(pipeline.dead_letters().is_empty());
}

async fn one_batch_in_flight_keeps_strict_order_through_an_outage<S: Subject>() {
    let mut subject = S::start().await;
    let sink = Arc::new(Watched { sink: subject.sink(), delivered: Mutex::default() });
    let strict = FlushOptions { max_in_flight: 1, max_rate: 2000, ..options() };
    let pipeline = Pipeline::start(Arc::clone(&sink) as _, strict);
    let events = some_events("order", 1500);
    pipeline.send_events(&events).await;
    eventually("some are delivered", || async { !sink.delivered().is_empty() }).await;
    subject.take_away().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    subject.bring_back().await;
    pipeline.drained().await;
    assert_eq!(sink.delivered(), (0..1500).collect::<Vec<u64>>());
    assert_eq!(subject.ids(Stream::Events).await, once(&event_ids(&events)));
}

/// Notes which records a sink takes.
struct Watched {
    sink: Arc<dyn Sink>,
    delivered: Mutex<Vec<u64>>,
}

impl Watched {
    fn delivered(&self) -> Vec<u64> {
        self.delivered.lock().expect("no panic under this lock").clone()
    }
}

#[async_trait]
impl Sink for Watched {
    fn kind(&self) -> &'static str {
        self.sink.kind()
    }

    fn address(&self) -> String {
        self.sink.address()
    }

    async fn initialize(&self) -> Result<Vec<String>, SinkError> {
        self.sink.initialize().await
    }

    async fn send_batch(&self, batch: Batch) -> BatchOutcome {
        let outcome = self.sink.send_batch(batch.clone()).await;
        let records = batch.records.iter().zip(&outcome.records);
        let delivered = records.filter(|(_, outcome)| **outcome == Outcome::Delivered).map(|(record, _)| record.seq);
        self.delivered.lock().expect("no panic under this lock").extend(delivered);
        outcome
    }

    fn recognizes(&self) -> Option<u64> {
        self.sink.recognizes()
    }

    async fn close(&self) {
        self.sink.close().await;
    }
}

async fn what_is_left_at_the_end_is_delivered_by_the_next_run<S: Subject>() {
    let subject = S::start().await;
    let slow = FlushOptions { max_rate: 200, shutdown_timeout: Duration::from_millis(50), ..options() };
    let pipeline = Pipeline::start(subject.sink(), slow);
    let events = some_events("left", 600);
    pipeline.send_events(&events).await;
    eventually("some are delivered", || async { pipeline.status().figures.delivered_records > 0 }).await;
    let pipeline = pipeline.restart(subject.sink(), options()).await;
    pipeline.drained().await;
    assert_eq!(subject.ids(Stream::Events).await, once(&event_ids(&events)));
}

macro_rules! suite {
    ($($name:ident: $subject:ty;)*) => {
        $(mod $name {
            use super::*;

            suite!(@tests $subject:
                real_records_arrive_each_once
                labels_are_in_each_document_and_the_lag_is_reported
                a_resend_makes_no_second_document
                a_batch_dropped_half_way_comes_again_and_makes_no_second_document
                batches_at_once_may_hold_the_same_records
                a_record_that_makes_no_document_is_rejected_alone
                a_batch_before_the_sink_is_ready_is_retry
                a_sink_that_is_unavailable_at_start_is_waited_for
                a_sink_that_becomes_unavailable_under_load_gets_each_record_once
                one_batch_in_flight_keeps_strict_order_through_an_outage
                what_is_left_at_the_end_is_delivered_by_the_next_run
            );
        })*
    };
    (@tests $subject:ty: $($test:ident)*) => {
        $(#[tokio::test]
        async fn $test() {
            super::$test::<$subject>().await;
        })*
    };
}

suite! {
    mongodb: MongoSubject;
    redis: RedisSubject;
    postgresql: PostgresqlSubject;
    file: FileSubject;
    http: HttpSubject;
}
