//! What every sink promises, run over all of them: a new sink adds a [`Subject`] and a line to `suite!`.

use std::{collections::BTreeSet, fs, sync::Arc};

use bytes::Bytes;
use livekit_spool::{
    flush::FlushState,
    record::Stream,
    sink::{
        Batch, Outcome, Sink,
        file::{FileOptions, FileSink},
    },
    spool::QueuedRecord,
};
use prost::Message;
use tempfile::TempDir;

use crate::{
    pipeline::{Pipeline, encoder, mongo_sink, options, redis_sink},
    support::{
        self, eventually,
        mongo::{Mongo, ids},
        records::{event_ids, numbered_events, real_events, real_stats, stat_ids},
        redis::Redis,
    },
};

/// A server to deliver to, and a look at what it has.
trait Subject: Sized {
    async fn start() -> Self;
    /// A sink of its own each time, as after a restart.
    fn sink(&self) -> Arc<dyn Sink>;
    /// The sink cannot be reached from its start on.
    async fn take_away(&mut self);
    async fn bring_back(&mut self);
    /// The `_id`s of a stream's documents, each as often as it stands there.
    async fn stored(&self, stream: Stream) -> Vec<String>;
}

struct MongoSubject {
    mongo: Mongo,
    database: String,
}

impl Subject for MongoSubject {
    async fn start() -> Self {
        let mongo = Mongo::start().await;
        Self { database: mongo.database(), mongo }
    }

    fn sink(&self) -> Arc<dyn Sink> {
        mongo_sink(self.mongo.uri(), &self.database)
    }

    async fn take_away(&mut self) {
        self.mongo.kill();
    }

    async fn bring_back(&mut self) {
        self.mongo.restart().await;
    }

    async fn stored(&self, stream: Stream) -> Vec<String> {
        ids(&self.mongo.open(&self.database).await.collection(stream.as_str())).await
    }
}

struct RedisSubject(Redis);

impl Subject for RedisSubject {
    async fn start() -> Self {
        Self(Redis::start_with(false, &[]).await)
    }

    fn sink(&self) -> Arc<dyn Sink> {
        redis_sink(&self.0.url())
    }

    async fn take_away(&mut self) {
        self.0.kill();
    }

    async fn bring_back(&mut self) {
        self.0.restart().await;
    }

    async fn stored(&self, stream: Stream) -> Vec<String> {
        let prefix = match stream {
            Stream::Events => "event",
            Stream::Stats => "stat",
            Stream::NodeRooms => "node_rooms",
        };
        let mut connection = self.0.connect().await;
        let keys = ::redis::cmd("KEYS").arg(format!("{prefix}:*")).query_async(&mut connection).await;
        let keys: Vec<String> = keys.expect("keys");
        let mut ids: Vec<String> = keys.iter().map(|key| key.rsplit(':').next().expect("an id").to_owned()).collect();
        ids.sort_unstable();
        ids
    }
}

struct FileSubject(TempDir);

impl FileSubject {
    fn folder(&self) -> std::path::PathBuf {
        self.0.path().join("out")
    }
}

impl Subject for FileSubject {
    async fn start() -> Self {
        Self(support::folder("files"))
    }

    fn sink(&self) -> Arc<dyn Sink> {
        let options = FileOptions { path: self.folder(), rotate_bytes: 64 << 10, ..FileOptions::default() };
        Arc::new(FileSink::new(options, encoder()).expect("options"))
    }

    /// A file stands where its folder should be.
    async fn take_away(&mut self) {
        fs::write(self.folder(), "in the way").expect("a file");
    }

    async fn bring_back(&mut self) {
        fs::remove_file(self.folder()).expect("removed");
    }

    async fn stored(&self, stream: Stream) -> Vec<String> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(self.folder()).expect("the folder") {
            let path = entry.expect("an entry").path();
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{stream}-"))) {
                continue;
            }
            for line in fs::read_to_string(path).expect("text").lines() {
                let line: serde_json::Value = serde_json::from_str(line).expect("a whole line of JSON");
                ids.push(line["_id"].as_str().expect("_id").to_owned());
            }
        }
        ids.sort_unstable();
        ids
    }
}

fn once(ids: &BTreeSet<String>) -> Vec<String> {
    ids.iter().cloned().collect()
}

async fn real_records_arrive_each_once<S: Subject>() {
    let subject = S::start().await;
    let pipeline = Pipeline::start(subject.sink(), options());
    let (events, stats) = (real_events(), real_stats());
    pipeline.send_events(&events).await;
    pipeline.send(Stream::Stats, &stats).await;
    pipeline.drained().await;
    assert_eq!(subject.stored(Stream::Events).await, once(&event_ids(&events)));
    assert_eq!(subject.stored(Stream::Stats).await, once(&stat_ids(&stats)));
    assert!(pipeline.dead_letters().is_empty());
    eventually("all are counted", || async { pipeline.status().delivered_records == 763 + 482 }).await;
}

async fn a_resend_makes_no_second_document<S: Subject>() {
    let subject = S::start().await;
    let mut pipeline = Pipeline::start(subject.sink(), options());
    let events: Vec<_> = numbered_events("again").take(300).collect();
    for _ in 0..3 {
        pipeline.send_events(&events).await;
        pipeline.drained().await;
        pipeline = pipeline.restart(subject.sink(), options()).await;
    }
    assert_eq!(subject.stored(Stream::Events).await, once(&event_ids(&events)));
}

async fn a_record_that_makes_no_document_is_rejected_alone<S: Subject>() {
    let subject = S::start().await;
    let sink = subject.sink();
    sink.initialize().await.expect("ready");
    let events: Vec<_> = numbered_events("mixed").take(20).collect();
    let record = |(i, event): (usize, &livekit_protocol::AnalyticsEvent)| {
        let bytes = if i % 7 == 3 { vec![0xFF, 0xFF] } else { event.encode_to_vec() };
        QueuedRecord { ordinal: i as u64, received_at: 0, bytes: Bytes::from(bytes) }
    };
    let records = events.iter().enumerate().map(record).collect();
    let outcome = sink.send_batch(Batch { stream: Stream::Events, records }).await;
    assert_eq!(outcome.records.len(), 20, "an outcome per record, in their order");
    for (i, outcome) in outcome.records.iter().enumerate() {
        match outcome {
            Outcome::Rejected(reason) => assert!(i % 7 == 3 && reason.contains("no document"), "{i}: {reason}"),
            other => assert!(i % 7 != 3 && *other == Outcome::Delivered, "{i}: {other:?}"),
        }
    }
    assert_eq!(subject.stored(Stream::Events).await.len(), 17);
    sink.close().await;
}

async fn a_sink_that_is_away_at_start_is_waited_for<S: Subject>() {
    let mut subject = S::start().await;
    subject.take_away().await;
    let pipeline = Pipeline::start(subject.sink(), options());
    let events: Vec<_> = numbered_events("away").take(500).collect();
    pipeline.send_events(&events).await;
    eventually("away", || async { pipeline.status().state == FlushState::Away }).await;
    assert_eq!(pipeline.backlog(), 500);
    assert!(pipeline.status().last_error.is_some_and(|error| error.contains(&pipeline.status().address)));
    subject.bring_back().await;
    pipeline.drained().await;
    assert_eq!(subject.stored(Stream::Events).await, once(&event_ids(&events)));
    assert!(!pipeline.status().state.is_trouble());
}

async fn what_is_left_at_the_end_is_delivered_by_the_next_run<S: Subject>() {
    let subject = S::start().await;
    let slow = livekit_spool::flush::FlushOptions {
        max_rate: 200,
        shutdown_timeout: std::time::Duration::from_millis(50),
        ..options()
    };
    let pipeline = Pipeline::start(subject.sink(), slow);
    let events: Vec<_> = numbered_events("left").take(600).collect();
    pipeline.send_events(&events).await;
    eventually("some are delivered", || async { pipeline.status().delivered_records > 0 }).await;
    let pipeline = pipeline.restart(subject.sink(), options()).await;
    pipeline.drained().await;
    assert_eq!(subject.stored(Stream::Events).await, once(&event_ids(&events)));
}

async fn a_batch_before_the_sink_is_ready_is_retry<S: Subject>() {
    let mut subject = S::start().await;
    subject.take_away().await;
    let event = real_events().remove(0).encode_to_vec();
    let record = QueuedRecord { ordinal: 0, received_at: 0, bytes: Bytes::from(event) };
    let batch = Batch { stream: Stream::Events, records: [record].into() };
    let outcome = subject.sink().send_batch(batch).await;
    assert_eq!(outcome.records, [Outcome::Retry]);
    assert!(outcome.error.is_some(), "and says why");
}

macro_rules! suite {
    ($($name:ident: $subject:ty;)*) => {
        $(mod $name {
            use super::*;

            suite!(@tests $subject:
                real_records_arrive_each_once
                a_resend_makes_no_second_document
                a_record_that_makes_no_document_is_rejected_alone
                a_sink_that_is_away_at_start_is_waited_for
                what_is_left_at_the_end_is_delivered_by_the_next_run
                a_batch_before_the_sink_is_ready_is_retry
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
    file: FileSubject;
}
