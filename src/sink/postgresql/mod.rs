//! The PostgreSQL sink: a row per record in a table per stream, each with columns for what is asked for and the whole document.
//!
//! ```text
//! COPY livekit.events (id, time, …, doc) FROM STDIN (FORMAT binary)                                  where all rows are new
//! INSERT INTO livekit.events (id, time, …, doc) SELECT * FROM unnest($1, $2, …) ON CONFLICT (id, time) DO NOTHING    else
//! ```
//!
//! - One statement a part of a batch, in a transaction of its own: it stores all of its rows or none. `way` says which one.
//!   INSERT is sent unnamed, in one request; COPY is prepared once a connection. Where something in between does not take
//!   COPY, or loses what was prepared, INSERT is enough.
//! - Delivered means committed with `synchronous_commit`, which the session turns on where it is off. The sink warns where
//!   `fsync` or `full_page_writes` is off.
//! - A redelivered record has the same key: its row is there already.
//! - Where the server refuses values, the worker bisects the batch; a record that is refused alone, for good, is rejected.
//! - Tables, partitions and views are made by the setup, in parallel to deliveries (see `setup`, `partitions`, `views`).

mod columns;
mod definition;
mod describe;
mod evidence;
mod fault;
mod fields;
mod indexes;
mod inspect;
mod known;
mod limited;
mod options;
mod partitions;
mod reader;
mod rows;
mod session;
mod setup;
mod target;
mod tls;
mod url;
mod views;
mod way;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::SinkExt;
use parking_lot::Mutex;
use tokio_postgres::{
    Error, Row,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

pub use self::options::PostgresqlOptions;
pub(crate) use self::reader::{Parameter, Reader};
use self::{
    columns::{KEY, columns},
    describe::Failure,
    evidence::Evidence,
    fault::Fault,
    known::Known,
    rows::{Rows, next_rows},
    session::Session,
    target::Target,
    way::Way,
};
use super::{
    Batch, BatchOutcome, InvalidOption, Outcome, Sink, SinkError, SinkErrorKind, SinkOptions,
    encoding::{panicked, run_blocking},
    options::labels,
};
use crate::{
    document::{Encoder, Labels},
    record::Stream,
};

/// Why a record is not delivered that the server neither stored nor refused.
const SKIPPED: &str =
    "the server stored no row for it and reported no error: a trigger or a rule of the table skips it";
/// How long records wait for partitions and views.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Delivers to PostgreSQL.
#[derive(Debug)]
pub struct PostgresqlSink {
    options: PostgresqlOptions,
    encoder: Arc<Encoder>,
    labels: Arc<Labels>,
    address: String,
    target: Target,
    idle: Mutex<Vec<Session>>,
    way: Way,
    /// The tables that the last setup found.
    known: Mutex<HashMap<Stream, Known>>,
    /// A table was missing: it is made before the next batch, since nobody checks the setup while nothing is delivered.
    missing: AtomicBool,
    evidence: Evidence,
    /// How often something suggested that what was set up may be missing, and how often that was so at the last setup.
    doubted: AtomicU64,
    believed: AtomicU64,
}

impl PostgresqlSink {
    /// A sink that has not connected yet.
    ///
    /// # Errors
    /// When [`SinkOptions::check`](super::SinkOptions::check) finds a problem.
    pub fn new(options: PostgresqlOptions, encoder: Arc<Encoder>) -> Result<Self, InvalidOption> {
        let (labels, target) = (Arc::new(labels(&options.labels)?), options.target()?);
        Ok(Self {
            address: options.shown_address(),
            options,
            encoder,
            labels,
            target,
            idle: Mutex::default(),
            way: Way::default(),
            known: Mutex::default(),
            missing: AtomicBool::new(false),
            evidence: Evidence::default(),
            doubted: AtomicU64::new(0),
            believed: AtomicU64::new(0),
        })
    }

    fn error(&self, kind: SinkErrorKind, what: &str) -> SinkError {
        let remedy = match kind {
            SinkErrorKind::Unauthorized => {
                format!(
                    "; check user and password in the url, pg_hba.conf, and the user's rights in schema {}",
                    self.options.schema
                )
            }
            SinkErrorKind::Full => "; free space on the server".to_owned(),
            SinkErrorKind::Unavailable if what.contains("(code 3D000)") => {
                format!("; create the database {}", self.target.database().unwrap_or("of the url"))
            }
            SinkErrorKind::Unavailable
            | SinkErrorKind::Timeout
            | SinkErrorKind::Unsuitable
            | SinkErrorKind::Unnamed => String::new(),
        };
        SinkError { kind, message: format!("{}: {what}{remedy}", self.address) }
    }

    fn session_error(&self, session: &Session, error: &Error) -> SinkError {
        let (kind, text) = session.failure(error);
        self.error(kind, &text)
    }

    fn expiration_millis(&self) -> Option<i64> {
        self.options.expiration.map(|expiration| i64::try_from(expiration.as_millis()).unwrap_or(i64::MAX))
    }

    /// What was set up may be missing.
    fn doubt(&self) {
        self.doubted.fetch_add(1, Ordering::Relaxed);
    }

    fn doubts(&self) -> u64 {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Everything was there, when there were so many doubts.
    fn believe(&self, doubts: u64) {
        self.believed.store(doubts, Ordering::Relaxed);
    }

    /// A connection: an idle one, or a new one.
    async fn take(&self) -> Result<Session, Failure> {
        loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(session) if session.client.is_closed() => {}
                Some(session) => return Ok(session),
                None => return Session::open(&self.target, self.options.timeout, limited::SMALL).await,
            }
        }
    }

    fn release(&self, session: Session) {
        self.idle.lock().push(session);
    }

    /// After a failure: the other connections are likely dead too, or to a server that became a standby.
    fn forget(&self) {
        self.idle.lock().clear();
    }

    /// Stores rows; `Ok` means that all are durable but those at the positions that it returns, which the server skipped.
    async fn store(&self, stream: Stream, rows: &Rows) -> Result<Vec<usize>, (Fault, Failure)> {
        let unavailable = |failure: Failure| (Fault::Unavailable(failure.0), failure);
        let taken = || async {
            self.take().await.map_err(|failure| {
                self.doubt();
                unavailable(failure)
            })
        };
        let mut session = taken().await?;
        if !self.missing(stream, &rows.days).is_empty()
            && let Err(text) = self.make_partitions(&session, stream, &rows.days).await
        {
            self.doubt();
            tracing::debug!(address = self.address, text, "no partition");
        }
        let mut attempt = self.way.begin();
        let stored = loop {
            if !attempt.by_copy() {
                break self.insert(&session, stream, rows).await;
            }
            match self.copy(&session, stream, rows).await {
                Ok(new) => break Ok(new),
                Err(error) => match error.code().map(|code| code.code()) {
                    // INSERT says which rows it is about, or takes them.
                    Some(code) if takes_insert(&error) => {
                        attempt.copy_failed(way::refuses_copy(code));
                        session = taken().await?;
                    }
                    _ => break Err(error),
                },
            }
        };
        let all = rows.records.len() as u64;
        let stored = match stored {
            // Those that are not new were there before, or the server skipped them.
            Ok(new) if new < all => self.absent(&session, stream, rows).await.map(|absent| (new, absent)),
            stored => stored.map(|new| (new, Vec::new())),
        };
        match stored {
            Ok((new, absent)) => {
                attempt.stored(new == all);
                self.release(session);
                Ok(absent)
            }
            Err(error) => {
                let failure = session.failure(&error);
                let fault = fault_of(&error).unwrap_or(Fault::Unavailable(failure.0));
                if !matches!(fault, Fault::Refused | Fault::Objected | Fault::Duplicate) {
                    self.doubt();
                }
                if fault == Fault::Missing {
                    self.missing.store(true, Ordering::Relaxed);
                }
                match session.survives(&error) {
                    true if attempt.by_copy() => {}
                    true => self.release(session),
                    false => self.forget(),
                }
                Err((fault, failure))
            }
        }
    }

    /// Stores rows of which some may be there already; returns how many were not.
    async fn insert(&self, session: &Session, stream: Stream, rows: &Rows) -> Result<u64, Error> {
        let arrays = rows.to_arrays(stream);
        let arrays: Vec<Array<'_>> = arrays.iter().map(|array| Array(array)).collect();
        let statement = columns::insert(&self.options.schema, stream, session.facts.is_asynchronous);
        session.client.execute_typed(&statement, &parameters(stream, &arrays)).await
    }

    /// The positions of rows that are not there, after a statement that stored fewer than it was given: a trigger, say, that
    /// returns NULL skips a row in silence.
    async fn absent(&self, session: &Session, stream: Stream, rows: &Rows) -> Result<Vec<usize>, Error> {
        let arrays = rows.to_arrays(stream);
        let keys: Vec<Array<'_>> = arrays.iter().take(KEY.len()).map(|array| Array(array)).collect();
        let statement = columns::absent(&self.options.schema, stream);
        let found = session.client.query_typed(&statement, &parameters(stream, &keys)).await?;
        let position = |row: &Row| Ok(usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default().saturating_sub(1));
        found.iter().map(position).collect()
    }

    /// Stores rows of which none may be there already; returns how many it stored. After an error the connection is of no more
    /// use: the server answers a COPY that it refuses at once twice, and the driver takes the second answer for that of the
    /// next request.
    ///
    /// In a transaction that is ended by a request of its own: the driver takes the server's word for the end of a COPY, which
    /// comes before the commit, and the commit may still fail.
    async fn copy(&self, session: &Session, stream: Stream, rows: &Rows) -> Result<u64, Error> {
        let statement = session.prepared(stream, &columns::copy(&self.options.schema, stream)).await?;
        let begin = if session.facts.is_asynchronous { "BEGIN; SET LOCAL synchronous_commit = on" } else { "BEGIN" };
        // Sent one after the other, without waiting in between.
        let begun = (session.client.batch_execute(begin), session.client.copy_in::<_, Bytes>(&statement));
        let ((), sink) = futures::future::try_join(begun.0, begun.1).await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(rows.to_copy()).await?;
        // Sent together: after a COPY that failed, COMMIT rolls back.
        let (copied, ()) = futures::future::try_join(sink.finish(), session.client.batch_execute("COMMIT")).await?;
        Ok(copied)
    }
}

/// Arrays as the parameters of a statement over the stream's first columns.
fn parameters<'a>(stream: Stream, arrays: &'a [Array<'_>]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    let columns = arrays.iter().zip(columns(stream));
    columns.map(|(array, column)| (array as &(dyn ToSql + Sync), column.kind.array())).collect()
}

/// What an answer of the server means; none: there was no answer.
fn fault_of(error: &Error) -> Option<Fault> {
    error.as_db_error().map(|answer| Fault::of(answer.code().code(), answer.constraint().is_some()))
}

/// True if INSERT may do what COPY could not.
fn takes_insert(error: &Error) -> bool {
    let is_refused = error.code().is_some_and(|code| way::refuses_copy(code.code()));
    is_refused || !matches!(fault_of(error), None | Some(Fault::Unavailable(_) | Fault::Missing))
}

/// An array that is encoded already.
#[derive(Debug)]
struct Array<'a>(&'a [u8]);

impl ToSql for Array<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[async_trait]
impl Sink for PostgresqlSink {
    fn kind(&self) -> &'static str {
        PostgresqlOptions::KIND
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
        self.doubts() != self.believed.load(Ordering::Relaxed)
    }

    async fn send_batch(&self, batch: Batch) -> BatchOutcome {
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        if self.missing.load(Ordering::Relaxed)
            && let Err(error) = self.make_tables().await
        {
            return BatchOutcome { records: outcomes, error: Some(error) };
        }
        let (mut unavailable, mut unnamed) = (None, None);
        let mut next = 0;
        while next < batch.records.len() && unavailable.is_none() {
            let encoding = {
                let (batch, encoder, labels) = (batch.clone(), Arc::clone(&self.encoder), Arc::clone(&self.labels));
                run_blocking(move |cancelled| {
                    let rows = next_rows(&batch, &mut next, &encoder, &labels, &mut outcomes, cancelled);
                    (rows, next, outcomes)
                })
            };
            let rows;
            (rows, next, outcomes) = match encoding.await {
                Ok(encoded) => encoded,
                Err(panic) => return panicked(&batch, &self.address, &panic),
            };
            if rows.is_empty() {
                continue;
            }
            match self.store(batch.stream, &rows).await {
                Ok(absent) => {
                    for &record in &rows.records {
                        outcomes[record] = Outcome::Delivered;
                    }
                    for record in absent.iter().filter_map(|&position| rows.records.get(position)) {
                        outcomes[*record] = Outcome::Failed(SKIPPED.to_owned());
                    }
                    if absent.len() < rows.records.len() {
                        self.evidence.stored(batch.stream);
                    }
                }
                Err((fault, (kind, text))) => {
                    let is_at_fault = fault == Fault::Refused && self.evidence.refused(batch.stream);
                    match (fault, &rows.records[..]) {
                        (Fault::Refused, &[alone]) if is_at_fault => outcomes[alone] = Outcome::Rejected(text),
                        (Fault::Refused | Fault::Objected | Fault::Duplicate, &[alone]) => {
                            outcomes[alone] = Outcome::Failed(text);
                        }
                        _ if kind == SinkErrorKind::Unnamed => unnamed = Some((kind, text)),
                        _ => unavailable = Some((kind, text)),
                    }
                }
            }
        }
        let error = unavailable.or(unnamed);
        BatchOutcome { records: outcomes, error: error.map(|(kind, text)| self.error(kind, &text)) }
    }

    async fn close(&self) {
        self.forget();
    }
}
