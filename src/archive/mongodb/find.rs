//! A find, to its end: a cursor is continued on the server that has it, in the session that opened it (MongoDB refuses another
//! one), and is closed where nobody waits for its documents any more.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::{
    ClientSession, Database,
    error::{Error, ErrorKind},
};
use serde_json::Value;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use super::route::Route;
use crate::{archive::json, record::Stream, tasks};

/// Documents in an answer; the server also ends one at 16 MiB.
const BATCH: i32 = 1000;
/// How long the close of a cursor may take that nobody waits for.
const CLOSING: Duration = Duration::from_secs(5);

/// Why a request ended.
pub(super) enum Failure {
    Driver(Error),
    /// The server answered what it should not.
    Answer(&'static str),
    Slow,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Driver(error)
    }
}

/// A find.
pub(super) struct Find {
    pub(super) stream: Stream,
    pub(super) filter: Document,
    pub(super) projection: Option<Document>,
    pub(super) newest_first: bool,
    pub(super) limit: Option<i64>,
}

impl Find {
    pub(super) fn in_stream(stream: Stream) -> Self {
        Self { stream, filter: Document::new(), projection: None, newest_first: false, limit: None }
    }
}

/// What a find read.
pub(super) struct Read {
    pub(super) bytes: u64,
    /// False: more than the limit was there.
    pub(super) is_whole: bool,
}

/// One request.
pub(super) struct Reading {
    pub(super) database: Database,
    pub(super) route: Route,
    pub(super) deadline: Instant,
}

impl Reading {
    /// Hands each document, with its size in bytes, to `each`, until more than `limit` bytes were read.
    pub(super) async fn find(&self, find: Find, limit: u64, mut each: impl FnMut(Value, u64)) -> Result<Read, Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // MongoDB takes no more than an int32 has.
        let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        if millis == 0 {
            return Err(Failure::Slow);
        }
        let collection = find.stream.as_str();
        let mut command = doc! { "find": collection, "filter": find.filter, "batchSize": BATCH, "maxTimeMS": millis };
        command.extend(find.projection.map(|projection| ("projection".to_owned(), projection.into())));
        command.extend(find.limit.map(|limit| ("limit".to_owned(), Bson::Int64(limit))));
        if find.newest_first {
            command.insert("sort", doc! { "timestamp.seconds": -1 });
        }
        command.extend(self.route.read_preference.clone().map(|mode| ("$readPreference".to_owned(), mode.into())));
        let mut cursor = Cursor { reading: self, session: Some(self.session().await?), collection, id: 0 };
        let mut answer = cursor.open(command).await?;
        let mut read = Read { bytes: 0, is_whole: true };
        loop {
            let mut answered = match answer.remove("cursor") {
                Some(Bson::Document(cursor)) => cursor,
                _ => return Err(Failure::Answer("the server's answer has no cursor")),
            };
            cursor.id = answered.get_i64("id").unwrap_or_default();
            let batch = match answered.remove("firstBatch").or_else(|| answered.remove("nextBatch")) {
                Some(Bson::Array(batch)) => batch,
                _ => return Err(Failure::Answer("the server's answer has no documents")),
            };
            for document in batch {
                let Bson::Document(document) = document else { continue };
                let (document, bytes) = json::of_document(document);
                if read.bytes + bytes > limit {
                    read.is_whole = false;
                    break;
                }
                read.bytes += bytes;
                each(document, bytes);
            }
            if cursor.id == 0 {
                return Ok(read);
            }
            if !read.is_whole {
                cursor.close().await;
                return Ok(read);
            }
            answer = cursor.more().await?;
        }
    }

    async fn session(&self) -> Result<ClientSession, Error> {
        self.database.client().start_session().causal_consistency(false).await
    }
}

/// A cursor on the server, of one find.
struct Cursor<'a> {
    reading: &'a Reading,
    /// The driver would take a session for each command, not always the same one. `None`: the server has none.
    session: Option<ClientSession>,
    collection: &'static str,
    /// 0: it is not open.
    id: i64,
}

impl Cursor<'_> {
    async fn open(&mut self, find: Document) -> Result<Document, Error> {
        match self.run(find.clone()).await {
            Err(error) if matches!(*error.kind, ErrorKind::SessionsNotSupported) => {
                self.session = None;
                self.run(find).await
            }
            answer => answer,
        }
    }

    async fn more(&mut self) -> Result<Document, Error> {
        let answer = self.run(doc! { "getMore": self.id, "collection": self.collection, "batchSize": BATCH }).await;
        if answer.is_err() {
            // It is gone, or the server is.
            self.id = 0;
        }
        answer
    }

    async fn close(&mut self) {
        // The server would close it by itself, after ten minutes.
        let Reading { database, route, .. } = self.reading;
        let _ = run(database, route, None, self.kill()).await;
        self.id = 0;
    }

    /// The driver sends it without a session only.
    fn kill(&self) -> Document {
        doc! { "killCursors": self.collection, "cursors": [self.id] }
    }

    async fn run(&mut self, command: Document) -> Result<Document, Error> {
        let Reading { database, route, .. } = self.reading;
        run(database, route, self.session.as_mut(), command).await
    }
}

impl Drop for Cursor<'_> {
    /// Closes it where nobody waits for the answer any more: a reader has left, or the time is over.
    fn drop(&mut self) {
        if self.id == 0 || Handle::try_current().is_err() {
            return;
        }
        let (database, route) = (self.reading.database.clone(), self.reading.route.clone());
        let kill = self.kill();
        tasks::spawn(async move { timeout(CLOSING, run(&database, &route, None, kill)).await });
    }
}

async fn run(
    database: &Database,
    route: &Route,
    session: Option<&mut ClientSession>,
    command: Document,
) -> Result<Document, Error> {
    // A command of our own: a cursor of the driver would be generic, and half of the driver compiled again for it.
    let mut command = database.run_command(command);
    if let Some(criteria) = &route.criteria {
        command = command.selection_criteria(criteria.clone());
    }
    match session {
        Some(session) => command.session(session).await,
        None => command.await,
    }
}
