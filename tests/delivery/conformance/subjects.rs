//! The sinks under test, and a view of what they stored.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use bson::{Document, doc};
use futures::TryStreamExt;
use livekit_spool::{
    record::Stream,
    sink::{
        Sink,
        file::{FileOptions, FileSink},
        http::HttpOptions,
        mongodb::MongoOptions,
        postgresql::PostgresqlOptions,
        redis::RedisOptions,
    },
};
use tempfile::TempDir;

use crate::{
    pipeline::{TIMEOUT, encoder, http_sink_with, mongo_sink_with, postgresql_sink_with, redis_sink_with},
    support::{self, mongo::Mongo, postgres::Postgres, receiver::Keeper, redis::Redis},
};

/// Fields added to each document.
pub(crate) type Labels = BTreeMap<String, String>;

/// A document that was stored: its `_id`, and its label `site`.
pub(crate) type Stored = (String, Option<String>);

/// A place to deliver to, and a view of what it has.
pub(crate) trait Subject: Sized + Send + 'static {
    async fn start() -> Self;
    /// A sink of its own each time, as after a restart.
    fn sink_with(&self, labels: Labels) -> Arc<dyn Sink>;
    /// The sink cannot be reached until it is brought back.
    async fn take_away(&mut self);
    async fn bring_back(&mut self);
    /// A stream's documents, each as often as it is there, in the order of their `_id`s.
    async fn stored(&self, stream: Stream) -> Vec<Stored>;

    fn sink(&self) -> Arc<dyn Sink> {
        self.sink_with(Labels::new())
    }

    async fn ids(&self, stream: Stream) -> Vec<String> {
        self.stored(stream).await.into_iter().map(|(id, _)| id).collect()
    }
}

/// One that is reached over a network and asks who comes.
pub(crate) trait Server: Subject {
    /// The beginning of a request that writes.
    const WRITE: &'static [u8];
    /// `host:port`.
    fn address(&self) -> String;
    /// A sink that reaches it at another address, through a proxy.
    fn sink_at(&self, address: &str) -> Arc<dyn Sink>;
    /// A sink whose user is not known there.
    fn sink_of_a_stranger(&self) -> Arc<dyn Sink>;
}

pub(crate) struct MongoSubject {
    mongo: Mongo,
    database: String,
}

impl MongoSubject {
    fn sink_of(&self, uri: String, labels: Labels) -> Arc<dyn Sink> {
        let database = self.database.clone();
        mongo_sink_with(MongoOptions { uri, database, labels, timeout: TIMEOUT, ..MongoOptions::default() })
    }
}

impl Subject for MongoSubject {
    async fn start() -> Self {
        let mongo = Mongo::start().await;
        Self { database: mongo.database(), mongo }
    }

    fn sink_with(&self, labels: Labels) -> Arc<dyn Sink> {
        self.sink_of(self.mongo.uri().to_owned(), labels)
    }

    async fn take_away(&mut self) {
        self.mongo.kill();
    }

    async fn bring_back(&mut self) {
        self.mongo.restart().await;
    }

    async fn stored(&self, stream: Stream) -> Vec<Stored> {
        let collection = self.mongo.open(&self.database).await.collection::<Document>(stream.as_str());
        let documents: Vec<Document> = collection.find(doc! {}).await.expect("find").try_collect().await.expect("find");
        let stored = |document: &Document| {
            let site = document.get_document("labels").and_then(|labels| labels.get_str("site"));
            (document.get_str("_id").expect("_id").to_owned(), site.map(str::to_owned).ok())
        };
        sorted(documents.iter().map(stored))
    }
}

impl Server for MongoSubject {
    const WRITE: &'static [u8] = b"insert";

    fn address(&self) -> String {
        self.mongo.address()
    }

    fn sink_at(&self, address: &str) -> Arc<dyn Sink> {
        self.sink_of(format!("mongodb://{address}/?directConnection=true"), Labels::new())
    }

    fn sink_of_a_stranger(&self) -> Arc<dyn Sink> {
        let address = self.address();
        self.sink_of(format!("mongodb://stranger:hunter2@{address}/?directConnection=true"), Labels::new())
    }
}

pub(crate) struct RedisSubject(Redis);

impl RedisSubject {
    fn sink_of(&self, url: String, labels: Labels) -> Arc<dyn Sink> {
        redis_sink_with(RedisOptions { url, labels, timeout: TIMEOUT, ..RedisOptions::default() })
    }
}

impl Subject for RedisSubject {
    async fn start() -> Self {
        Self(Redis::start_with(false, &[]).await)
    }

    fn sink_with(&self, labels: Labels) -> Arc<dyn Sink> {
        self.sink_of(self.0.url(), labels)
    }

    async fn take_away(&mut self) {
        self.0.kill();
    }

    async fn bring_back(&mut self) {
        self.0.restart().await;
    }

    async fn stored(&self, stream: Stream) -> Vec<Stored> {
        let prefix = match stream {
            Stream::Events => "event",
            Stream::Stats => "stat",
            Stream::NodeRooms => "node_rooms",
        };
        let mut connection = self.0.connect().await;
        let keys = ::redis::cmd("KEYS").arg(format!("{prefix}:*")).query_async(&mut connection).await;
        let keys: Vec<String> = keys.expect("keys");
        let mut get = ::redis::pipe();
        for key in &keys {
            get.cmd("JSON.GET").arg(key);
        }
        let documents: Vec<String> = get.query_async(&mut connection).await.expect("documents");
        sorted(documents.iter().map(|document| of_json(document)))
    }
}

impl Server for RedisSubject {
    const WRITE: &'static [u8] = b"JSON.SET";

    fn address(&self) -> String {
        self.0.address()
    }

    fn sink_at(&self, address: &str) -> Arc<dyn Sink> {
        self.sink_of(format!("redis://{address}"), Labels::new())
    }

    fn sink_of_a_stranger(&self) -> Arc<dyn Sink> {
        self.sink_of(format!("redis://stranger:hunter2@{}", self.address()), Labels::new())
    }
}

pub(crate) struct PostgresqlSubject(Postgres);

impl PostgresqlSubject {
    fn sink_of(&self, url: String, labels: Labels) -> Arc<dyn Sink> {
        postgresql_sink_with(PostgresqlOptions { url, labels, timeout: TIMEOUT, ..PostgresqlOptions::default() })
    }
}

impl Subject for PostgresqlSubject {
    async fn start() -> Self {
        Self(Postgres::start().await)
    }

    fn sink_with(&self, labels: Labels) -> Arc<dyn Sink> {
        self.sink_of(self.0.url(), labels)
    }

    async fn take_away(&mut self) {
        self.0.kill();
    }

    async fn bring_back(&mut self) {
        self.0.restart().await;
    }

    async fn stored(&self, stream: Stream) -> Vec<Stored> {
        let rows = self.0.run(&format!("SELECT id, doc FROM livekit.{stream}")).await;
        let stored = |row: &Vec<String>| {
            let (id, site) = of_json(&row[1]);
            assert_eq!(id, row[0]);
            (id, site)
        };
        sorted(rows.iter().map(stored))
    }
}

impl Server for PostgresqlSubject {
    const WRITE: &'static [u8] = b"\"livekit\".\"events\" (\"id\", ";

    fn address(&self) -> String {
        self.0.address()
    }

    fn sink_at(&self, address: &str) -> Arc<dyn Sink> {
        self.sink_of(format!("postgresql://livekit:livekit@{address}/livekit"), Labels::new())
    }

    fn sink_of_a_stranger(&self) -> Arc<dyn Sink> {
        self.sink_of(format!("postgresql://stranger:hunter2@{}/livekit", self.address()), Labels::new())
    }
}

pub(crate) struct FileSubject(TempDir);

impl FileSubject {
    fn directory(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn aside(&self) -> PathBuf {
        self.0.path().join("aside")
    }
}

impl Subject for FileSubject {
    async fn start() -> Self {
        Self(support::directory("files"))
    }

    fn sink_with(&self, labels: Labels) -> Arc<dyn Sink> {
        let options = FileOptions { path: self.directory(), rotate_bytes: 64 << 10, labels, ..FileOptions::default() };
        Arc::new(FileSink::new(options, encoder()).expect("options"))
    }

    /// There is a file where its directory should be. What is open continues until it is full.
    async fn take_away(&mut self) {
        if self.directory().exists() {
            fs::rename(self.directory(), self.aside()).expect("moved");
        }
        fs::write(self.directory(), "in the way").expect("a file");
    }

    async fn bring_back(&mut self) {
        fs::remove_file(self.directory()).expect("removed");
        if self.aside().exists() {
            fs::rename(self.aside(), self.directory()).expect("moved");
        }
    }

    async fn stored(&self, stream: Stream) -> Vec<Stored> {
        let mut stored = Vec::new();
        for entry in fs::read_dir(self.directory()).expect("the directory") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{stream}-"))) {
                stored.extend(fs::read_to_string(path).expect("text").lines().map(of_json));
            }
        }
        sorted(stored.into_iter())
    }
}

pub(crate) struct HttpSubject(Keeper);

impl HttpSubject {
    fn sink_of(&self, url: String, labels: Labels) -> Arc<dyn Sink> {
        http_sink_with(HttpOptions { url, labels, timeout: TIMEOUT, ..HttpOptions::default() })
    }
}

impl Subject for HttpSubject {
    async fn start() -> Self {
        Self(Keeper::start().await)
    }

    fn sink_with(&self, labels: Labels) -> Arc<dyn Sink> {
        self.sink_of(self.0.receiver.url(), labels)
    }

    async fn take_away(&mut self) {
        self.0.receiver.take_away().await;
    }

    async fn bring_back(&mut self) {
        self.0.receiver.bring_back().await;
    }

    async fn stored(&self, stream: Stream) -> Vec<Stored> {
        sorted(self.0.kept(stream.as_str()).iter().map(|document| of_json(&document.to_string())))
    }
}

impl Server for HttpSubject {
    const WRITE: &'static [u8] = b"POST /in";

    fn address(&self) -> String {
        self.0.receiver.address()
    }

    fn sink_at(&self, address: &str) -> Arc<dyn Sink> {
        self.sink_of(format!("http://{address}/in"), Labels::new())
    }

    fn sink_of_a_stranger(&self) -> Arc<dyn Sink> {
        self.sink_of(format!("http://stranger:hunter2@{}/in", self.address()), Labels::new())
    }
}

fn of_json(document: &str) -> Stored {
    let document: serde_json::Value = serde_json::from_str(document).expect("a whole JSON document");
    let site = document["labels"]["site"].as_str().map(str::to_owned);
    (document["_id"].as_str().expect("_id").to_owned(), site)
}

fn sorted(stored: impl Iterator<Item = Stored>) -> Vec<Stored> {
    let mut stored: Vec<Stored> = stored.collect();
    stored.sort_unstable();
    stored
}
