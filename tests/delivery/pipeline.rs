//! A spool, a worker and a sink, as the application joins them.

use std::{path::Path, sync::Arc, time::Duration};

use livekit_protocol::AnalyticsEvent;
use livekit_spool::{
    document::{DocumentOptions, Encoder},
    flush::{BackoffOptions, FlushOptions, FlushStatus, Handle, Worker},
    record::{RecordBatch, RecordBatchBuilder, SinkName, Stream, now_millis},
    sink::{
        Sink,
        http::{HttpOptions, HttpSink},
        mongodb::{MongoOptions, MongoSink},
        postgresql::{PostgresqlOptions, PostgresqlSink},
        redis::{RedisOptions, RedisSink},
    },
    spool::{DeadFilter, DeadLetter, Spool, SpoolOptions},
};
use prost::Message;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::eventually;

/// How long a batch may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn encoder() -> Arc<Encoder> {
    Arc::new(Encoder::new(DocumentOptions::default()))
}

pub(crate) fn batch_of(stream: Stream, records: &[impl Message]) -> RecordBatch {
    let mut batch = RecordBatchBuilder::new(stream);
    for record in records {
        batch.push(&record.encode_to_vec());
    }
    batch.build(now_millis())
}

/// Quick to notice that a sink is back.
pub(crate) fn options() -> FlushOptions {
    FlushOptions {
        interval: Duration::from_millis(50),
        batch_records: 100,
        backoff: BackoffOptions { initial: Duration::from_millis(10), max: Duration::from_millis(200) },
        timeout: TIMEOUT,
        reject_after: Duration::from_millis(300),
        ..FlushOptions::default()
    }
}

pub(crate) fn mongo_sink(uri: &str, database: &str) -> Arc<dyn Sink> {
    mongo_sink_with(MongoOptions {
        uri: uri.to_owned(),
        database: database.to_owned(),
        timeout: TIMEOUT,
        ..MongoOptions::default()
    })
}

pub(crate) fn mongo_sink_with(options: MongoOptions) -> Arc<dyn Sink> {
    Arc::new(MongoSink::new(options, encoder()).expect("options that the sink takes"))
}

pub(crate) fn postgresql_sink(url: &str) -> Arc<dyn Sink> {
    postgresql_sink_with(PostgresqlOptions { url: url.to_owned(), timeout: TIMEOUT, ..PostgresqlOptions::default() })
}

pub(crate) fn postgresql_sink_with(options: PostgresqlOptions) -> Arc<dyn Sink> {
    Arc::new(PostgresqlSink::new(options, encoder()).expect("options that the sink takes"))
}

pub(crate) fn redis_sink(url: &str) -> Arc<dyn Sink> {
    redis_sink_with(RedisOptions { url: url.to_owned(), timeout: TIMEOUT, ..RedisOptions::default() })
}

pub(crate) fn redis_sink_with(options: RedisOptions) -> Arc<dyn Sink> {
    Arc::new(RedisSink::new(options, encoder()).expect("options that the sink takes"))
}

pub(crate) fn http_sink_with(options: HttpOptions) -> Arc<dyn Sink> {
    Arc::new(HttpSink::new(&options, encoder()).expect("options that the sink takes"))
}

pub(crate) struct Pipeline {
    pub(crate) spool: Arc<Spool>,
    handle: Handle,
    shutdown: CancellationToken,
    directory: TempDir,
}

impl Pipeline {
    pub(crate) fn start(sink: Arc<dyn Sink>, options: FlushOptions) -> Self {
        Self::start_in(crate::support::directory("delivery"), sink, options)
    }

    fn start_in(directory: TempDir, sink: Arc<dyn Sink>, options: FlushOptions) -> Self {
        let spool = Arc::new(open(directory.path()));
        let shutdown = CancellationToken::new();
        let name = SinkName::new("sink").expect("a name");
        let handle = Worker::spawn(&name, Arc::clone(&spool) as _, sink, options, shutdown.clone());
        Self { spool, handle, shutdown, directory }
    }

    pub(crate) async fn send(&self, stream: Stream, records: &[impl Message]) {
        self.spool.append(batch_of(stream, records)).await.expect("the spool takes it");
    }

    pub(crate) async fn send_events(&self, events: &[AnalyticsEvent]) {
        self.send(Stream::Events, events).await;
    }

    pub(crate) fn status(&self) -> FlushStatus {
        self.handle.status()
    }

    pub(crate) fn backlog(&self) -> u64 {
        self.spool.status().records()
    }

    pub(crate) async fn drained(&self) {
        eventually("the backlog is delivered", || async { self.backlog() == 0 }).await;
    }

    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        self.spool.dead_letters(&DeadFilter::default(), 0, 10_000).expect("dead letters")
    }

    /// Ends the worker and closes the spool; its directory stays.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.handle.stopped().await;
        self.spool.close().await;
        self.directory
    }

    /// As a new process would begin where this one stopped.
    pub(crate) async fn restart(self, sink: Arc<dyn Sink>, options: FlushOptions) -> Self {
        let directory = self.stop().await;
        Self::start_in(directory, sink, options)
    }
}

fn open(directory: &Path) -> Spool {
    Spool::open(directory, SpoolOptions { name: "sink".to_owned(), min_free_bytes: 0, ..SpoolOptions::default() })
        .expect("a spool")
}
