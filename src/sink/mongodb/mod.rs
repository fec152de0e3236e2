//! The MongoDB sink: batch → one unordered `insert` of raw documents → an outcome per record.
//!
//! - Delivered means durable as the write concern requires: majority and journaled, unless the URI says otherwise. A
//!   write-concern error revokes it.
//! - A document whose `_id` exists was delivered before. One that clashes with another unique index was too, if a majority
//!   read finds its `_id`; else it is rejected.
//! - The driver is started at the first contact: an unavailable server or DNS at start is not an error.
//! - Delivery needs only the server and its limits; collections and indexes are checked in parallel (see `setup`).
//! - A stream's name has to be an ordinary collection: a view accepts nothing, and a time-series collection would store a
//!   redelivered record twice. This, and the indexes, are checked again later (see `identity`).

mod collections;
mod command;
mod definition;
mod describe;
mod fault;
mod identity;
mod index_status;
mod indexes;
mod objection;
mod options;
mod reply;
mod setup;

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bson::doc;
use mongodb::{
    Client, Database,
    error::Error,
    event::{EventHandler, sdam::SdamEvent},
    options::{Acknowledgment, ClientOptions, ConnectionString, ReadPreference, SelectionCriteria},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

pub use self::options::MongoOptions;
use self::{
    collections::unusual_collections,
    command::{Encoded, Insert, Limits, Recipe, next_insert},
    describe::{describe, shortened},
    fault::kind_of,
    identity::Identity,
};
use super::{
    Batch, BatchOutcome, InvalidOption, Outcome, Sink, SinkError, SinkErrorKind, SinkOptions,
    encoding::{panicked, run_blocking},
    options::labels,
    url::without_secrets,
};
use crate::{
    document::{Encoder, Labels},
    record::{RecordId, Stream},
};

/// How long the driver looks for a server unless the URI says otherwise: waiting is the worker's task, not the driver's.
const SERVER_SELECTION: Duration = Duration::from_secs(5);
/// How long records wait for the check of the collections, and as long again for the indexes.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the driver may take to tell the server that its sessions end: what it sends leaves at once, and the answer says
/// nothing.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

/// Delivers to MongoDB.
#[derive(Debug)]
pub struct MongoSink {
    options: MongoOptions,
    encoder: Arc<Encoder>,
    labels: Labels,
    address: String,
    /// The user, for messages.
    user: Option<String>,
    client: OnceCell<Client>,
    identity: Arc<Identity>,
    /// Set once the server was reached.
    ready: RwLock<Option<Arc<Ready>>>,
    /// Streams whose indexes were created.
    indexed: Mutex<HashSet<Stream>>,
    /// The unsuitable collections that the last successful check found.
    unsuitable: Mutex<Option<String>>,
}

/// What delivery needs to know about the server.
#[derive(Debug)]
struct Ready {
    database: Database,
    recipe: Recipe,
    limits: Limits,
}

impl MongoSink {
    /// A sink that has not connected yet.
    ///
    /// # Errors
    /// When [`MongoOptions::check`] finds a problem.
    pub fn new(options: MongoOptions, encoder: Arc<Encoder>) -> Result<Self, InvalidOption> {
        options.check()?;
        let labels = labels(&options.labels)?;
        let address = format!("{}/{}", server_of(&options.uri), options.database);
        let user = user_of(&options.uri);
        Ok(Self {
            options,
            encoder,
            labels,
            address,
            user,
            client: OnceCell::new(),
            identity: Arc::default(),
            ready: RwLock::default(),
            indexed: Mutex::default(),
            unsuitable: Mutex::default(),
        })
    }

    /// The driver, as delivery uses it; it connects at the first request.
    pub(crate) async fn client(&self) -> Result<&Client, Error> {
        self.client
            .get_or_try_init(|| async {
                let mut options = ClientOptions::parse(self.options.uri.as_str()).await?;
                let timeout = self.options.timeout;
                options.app_name.get_or_insert_with(|| env!("CARGO_PKG_NAME").to_owned());
                options.server_selection_timeout.get_or_insert(SERVER_SELECTION.min(timeout));
                options.connect_timeout.get_or_insert(timeout / 3);
                let concern = options.write_concern.get_or_insert_default();
                concern.w.get_or_insert(Acknowledgment::Majority);
                concern.journal.get_or_insert(true);
                concern.w_timeout.get_or_insert(timeout / 4 * 3);
                let identity = Arc::clone(&self.identity);
                options.sdam_event_handler =
                    Some(EventHandler::callback(move |event: SdamEvent| identity.observe(&event)));
                Client::with_options(options)
            })
            .await
    }

    fn error(&self, kind: SinkErrorKind, what: &str) -> SinkError {
        let remedy = match kind {
            SinkErrorKind::Unauthorized => {
                format!(
                    "; check user, password and authSource in the uri, and the role readWrite on {}",
                    self.options.database
                )
            }
            SinkErrorKind::Full => "; free space on the server".to_owned(),
            SinkErrorKind::Unavailable
            | SinkErrorKind::Timeout
            | SinkErrorKind::Unsuitable
            | SinkErrorKind::Unnamed => String::new(),
        };
        SinkError { kind, message: format!("{}: {what}{remedy}", self.address) }
    }

    /// What failed, in one line.
    pub(crate) fn driver_error(&self, error: &Error) -> SinkError {
        self.error(kind_of(error), &self.describe_error(error))
    }

    fn describe_error(&self, error: &Error) -> String {
        describe(error, &self.address, self.user.as_deref())
    }

    /// Sends one command and records outcomes; returns the error if some records are left.
    async fn insert(
        &self,
        ready: &Ready,
        batch: &Batch,
        insert: Insert,
        outcomes: &mut [Outcome],
    ) -> Option<SinkError> {
        let Insert { command, records } = insert;
        let answer = match ready.database.run_raw_command(command).await {
            Ok(answer) => answer,
            Err(error) => {
                self.identity.doubt();
                return Some(self.driver_error(&error));
            }
        };
        self.identity.says("answers", &answer);
        let mut answer = reply::read(&answer, records.len());
        if answer.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed(_))) {
            self.identity.doubt();
        }
        let mut error = answer.retry.map(|(kind, text)| self.error(kind, &shortened(&text)));
        if !answer.doubtful.is_empty()
            && let Err(failed) = settle_doubtful(ready, batch, &records, &mut answer.outcomes, answer.doubtful).await
        {
            error = Some(self.driver_error(&failed));
        }
        for (&record, outcome) in records.iter().zip(answer.outcomes) {
            outcomes[record] = outcome;
        }
        error
    }
}

#[async_trait]
impl Sink for MongoSink {
    fn kind(&self) -> &'static str {
        MongoOptions::KIND
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    async fn initialize(&self) -> Result<Vec<String>, SinkError> {
        self.set_up(FIRST_LOOK_TIMEOUT.min(self.options.timeout)).await
    }

    async fn check_setup(&self) -> Result<Vec<String>, SinkError> {
        self.set_up(self.options.timeout).await
    }

    fn doubts_setup(&self) -> bool {
        self.identity.is_doubted()
    }

    async fn send_batch(&self, batch: Batch) -> BatchOutcome {
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        let Some(ready) = self.ready.read().clone() else {
            let error = Some(self.error(SinkErrorKind::Unavailable, "not connected yet"));
            return BatchOutcome { records: outcomes, error };
        };
        let (mut error, mut encoded): (Option<SinkError>, _) = (None, Encoded::default());
        loop {
            let encoding = {
                let (batch, encoder, ready) = (batch.clone(), Arc::clone(&self.encoder), Arc::clone(&ready));
                run_blocking(move |cancelled| {
                    let (recipe, limits) = (&ready.recipe, &ready.limits);
                    let command = next_insert(&batch, &mut encoded, &encoder, recipe, limits, &mut outcomes, cancelled);
                    (command, encoded, outcomes)
                })
            };
            let command;
            (command, encoded, outcomes) = match encoding.await {
                Ok(encoded) => encoded,
                Err(panic) => return panicked(&batch, &self.address, &panic),
            };
            let Some(command) = command else { break };
            let Some(failure) = self.insert(&ready, &batch, command, &mut outcomes).await else { continue };
            let is_unavailable = failure.kind != SinkErrorKind::Unnamed;
            error = Some(failure);
            if is_unavailable {
                break;
            }
        }
        BatchOutcome { records: outcomes, error }
    }

    async fn close(&self) {
        if let Some(client) = self.client.get() {
            // Sessions of a server that does not answer end by themselves.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, client.clone().shutdown().immediate(true)).await;
        }
    }
}

/// Decides about documents that clash with a unique index other than that of `_id`.
async fn settle_doubtful(
    ready: &Ready,
    batch: &Batch,
    records: &[usize],
    outcomes: &mut [Outcome],
    doubtful: Vec<(usize, String)>,
) -> Result<(), Error> {
    let id = |index: usize| RecordId::of(batch.stream, &batch.records[records[index]].bytes).as_str().to_owned();
    let ids: Vec<String> = doubtful.iter().map(|(index, _)| id(*index)).collect();
    let find = doc! {
        "find": batch.stream.as_str(),
        "filter": { "_id": { "$in": &ids } },
        "projection": { "_id": 1 },
        "readConcern": { "level": "majority" },
        // More than can be found: the server knows that the first batch is the last one, and closes the cursor.
        "batchSize": i64::try_from(ids.len()).map_or(i64::MAX, |count| count.saturating_add(1)),
    };
    // A command of our own: a cursor of the driver would be generic, and half of the driver compiled again for it.
    let answer = ready
        .database
        .run_command(find)
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .await?;
    let cursor = answer.get_document("cursor").map_err(Error::custom)?;
    // What is not in the answer is rejected, so the answer has to be whole.
    if !matches!(cursor.get_i64("id"), Ok(0)) {
        return Err(Error::custom("the server divided its answer about documents that may exist already"));
    }
    let documents = cursor.get_array("firstBatch").map_err(Error::custom)?;
    let found: HashSet<&str> =
        documents.iter().filter_map(|document| document.as_document()?.get_str("_id").ok()).collect();
    for ((index, reason), id) in doubtful.into_iter().zip(ids) {
        outcomes[index] = if found.contains(id.as_str()) { Outcome::Delivered } else { Outcome::Rejected(reason) };
    }
    Ok(())
}

/// The user of a URI, for messages.
fn user_of(uri: &str) -> Option<String> {
    ConnectionString::parse(uri).ok()?.credential?.username
}

/// What an error means, and what failed in one line; for those who read what the sink has stored.
pub(crate) fn described(error: &Error, options: &MongoOptions) -> (SinkErrorKind, String) {
    (kind_of(error), describe(error, &options.uri, user_of(&options.uri).as_deref()))
}

/// Scheme and hosts of a URI.
fn server_of(uri: &str) -> String {
    let uri = without_secrets(uri);
    let (scheme, rest) = uri.split_once("://").unwrap_or(("mongodb", &uri));
    format!("{scheme}://{}", rest.split('/').next().unwrap_or_default())
}
