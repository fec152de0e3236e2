//! The Redis sink: a RedisJSON document per record, pipelined, every reply checked.
//!
//! ```text
//! JSON.SET event:{<room sid>}:<TYPE>:<id> $ <document>     EXPIRE <the key> <seconds>     … per record, then WAITAOF
//! ```
//!
//! - Delivered means: JSON.SET was answered with OK and EXPIRE with 1, and both are fsynced if the server has WAITAOF (7.2)
//!   and an append-only file. Otherwise Redis acknowledges from memory, and the sink warns at the start.
//! - A redelivered record sets the same key to the same document.
//! - The sink follows and remembers a cluster's redirections, to nodes that the server of the URL lists, see `nodes`; the
//!   braces keep a room's records on one node.

mod command;
mod definition;
mod fault;
mod indexes;
mod nodes;
mod options;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::Value;

pub use self::options::RedisOptions;
use self::{
    command::{Entry, entries, not_understood},
    fault::{Fault, kind_of},
    nodes::Nodes,
};
use super::{
    Batch, BatchOutcome, InvalidOption, Outcome, Sink, SinkError, SinkErrorKind, SinkOptions,
    encoding::{panicked, run_blocking},
    options::labels,
    url::without_secrets,
};
use crate::document::{Encoder, Labels};

/// How many redirections are followed before a record waits for the next attempt.
const REDIRECTIONS: usize = 4;
/// How long records wait for the search indexes.
const INDEXES_TIMEOUT: Duration = Duration::from_secs(2);

/// Delivers to Redis.
#[derive(Debug)]
pub struct RedisSink {
    options: RedisOptions,
    encoder: Arc<Encoder>,
    labels: Arc<Labels>,
    address: String,
    nodes: Nodes,
}

impl RedisSink {
    /// A sink that has not connected yet.
    ///
    /// # Errors
    /// When [`SinkOptions::check`] finds a problem.
    pub fn new(options: RedisOptions, encoder: Arc<Encoder>) -> Result<Self, InvalidOption> {
        let labels = Arc::new(labels(&options.labels)?);
        let nodes = Nodes::new(options.connection()?, options.timeout);
        Ok(Self { address: without_secrets(&options.url), options, encoder, labels, nodes })
    }

    fn error(&self, kind: SinkErrorKind, what: &str) -> SinkError {
        let remedy = match kind {
            SinkErrorKind::Unauthorized => "; check user and password in the url, and the user's ACL",
            SinkErrorKind::Full => "; raise maxmemory or free space on the server",
            SinkErrorKind::Unavailable
            | SinkErrorKind::Timeout
            | SinkErrorKind::Unsuitable
            | SinkErrorKind::Unnamed => "",
        };
        SinkError { kind, message: format!("{}: {what}{remedy}", self.address) }
    }

    /// Tells whether a redirection may be followed; the server is asked at most once per batch.
    async fn check_redirection(&self, node: &str, asked: &mut bool) -> Result<(), (SinkErrorKind, String)> {
        if !self.nodes.is_member(node) && !*asked {
            *asked = true;
            self.nodes.ask_members().await.map_err(|error| (kind_of(&error), error.to_string()))?;
        }
        if self.nodes.is_member(node) {
            return Ok(());
        }
        let text = format!(
            "the server says that {node:?} has these keys, but does not list it as a node (CLUSTER SHARDS): nothing is \
             sent there; let the user run `cluster|shards` and `cluster|slots`, or give the right server in the url"
        );
        Err((SinkErrorKind::Unavailable, text))
    }

    /// Sends some entries to one node; returns the result of each.
    async fn send_to(&self, node: &str, entries: &[&Entry]) -> Vec<EntryResult> {
        let failed = |error: &redis::RedisError| {
            let kind = kind_of(error);
            vec![EntryResult::Failed(kind, error.to_string()); entries.len()]
        };
        let mut connection = match self.nodes.take(node).await {
            Ok(connection) => connection,
            Err(error) => {
                self.nodes.forget(node);
                return failed(&error);
            }
        };
        let seconds = self.options.expiration.map(|expiration| expiration.as_secs().max(1));
        let replies = match command::send(&mut connection, entries, seconds, self.options.timeout).await {
            Ok(replies) => replies,
            Err(error) => {
                // The connection is not reused: its next answer is unknown.
                self.nodes.forget(node);
                return failed(&error);
            }
        };
        let per_entry = 1 + usize::from(seconds.is_some());
        let expected = per_entry * entries.len() + usize::from(connection.fsyncs());
        if replies.len() != expected {
            self.nodes.forget(node);
            let text = format!("{} replies to {expected} commands", replies.len());
            return vec![EntryResult::Failed(SinkErrorKind::Unavailable, text); entries.len()];
        }
        let mut results: Vec<EntryResult> =
            replies.chunks(per_entry).take(entries.len()).map(EntryResult::of).collect();
        if connection.fsyncs() {
            match command::fsynced(replies.last()) {
                Ok(()) => {}
                Err((kind, text)) => not_durable(&mut results, kind, &text),
            }
        }
        if command::are_in_order(&replies, seconds.is_some(), connection.fsyncs()) {
            self.nodes.release(node, connection);
        } else {
            // It is unknown which commands these replies belong to, and the next ones may belong to these commands.
            not_durable(&mut results, SinkErrorKind::Unnamed, "one reply has a type that its command does not give");
        }
        results
    }
}

/// The result of an entry.
#[derive(Debug, Clone)]
enum EntryResult {
    Delivered,
    /// Another node of the cluster has it.
    Moved {
        slot: u16,
        node: String,
    },
    Rejected(String),
    /// Refused, for a reason that may pass.
    Refused(String),
    Failed(SinkErrorKind, String),
}

impl EntryResult {
    /// From an entry's replies: to JSON.SET, and to EXPIRE if it was sent. Only OK and 1 are success.
    fn of(replies: &[Value]) -> Self {
        let mut replies = replies.iter();
        match replies.next() {
            Some(Value::Okay) => {}
            Some(other) => return Self::without_success("JSON.SET", other),
            None => return Self::Failed(SinkErrorKind::Unavailable, "JSON.SET was not answered".to_owned()),
        }
        match replies.next() {
            None | Some(Value::Int(1)) => Self::Delivered,
            // EXPIRE found no such key: it was evicted or deleted since JSON.SET.
            Some(Value::Int(0)) => {
                let text = "the key was removed before its EXPIRE: check whether the server evicts keys".to_owned();
                Self::Failed(SinkErrorKind::Full, text)
            }
            Some(other) => Self::without_success("EXPIRE", other),
        }
    }

    fn without_success(command: &str, reply: &Value) -> Self {
        let Value::ServerError(error) = reply else {
            return Self::Refused(not_understood(command, reply));
        };
        let text = error.details().map_or_else(|| error.code().to_owned(), |d| format!("{} {d}", error.code()));
        match Fault::of(error.code(), error.details().unwrap_or_default()) {
            Fault::Moved { slot, node } => Self::Moved { slot, node },
            Fault::Unavailable(kind) => Self::Failed(kind, text),
            Fault::Refused => Self::Rejected(text),
            Fault::Unknown => Self::Refused(text),
        }
    }
}

/// Revokes what was delivered.
fn not_durable(results: &mut [EntryResult], kind: SinkErrorKind, text: &str) {
    for result in results {
        if matches!(result, EntryResult::Delivered) {
            *result = EntryResult::Failed(kind, text.to_owned());
        }
    }
}

#[async_trait]
impl Sink for RedisSink {
    fn kind(&self) -> &'static str {
        RedisOptions::KIND
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    async fn initialize(&self) -> Result<Vec<String>, SinkError> {
        let failed = |error: redis::RedisError| self.error(kind_of(&error), &error.to_string());
        let mut connection = self.nodes.take(nodes::FIRST).await.map_err(failed)?;
        if !command::has_json(&mut connection).await.map_err(failed)? {
            let text = "the server has no RedisJSON: use Redis Stack, or Redis 8";
            return Err(self.error(SinkErrorKind::Unavailable, text));
        }
        let mut warnings: Vec<String> = connection.why_not_fsynced().map(str::to_owned).into_iter().collect();
        let made = indexes::create(&mut connection, &self.options.streams);
        // Records are more important than indexes: their own delivery shows whether the server is available.
        let problem = match tokio::time::timeout(INDEXES_TIMEOUT.min(self.options.timeout), made).await {
            Ok(Ok(more)) => {
                warnings.extend(more);
                self.nodes.release(nodes::FIRST, connection);
                return Ok(warnings);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the server does not answer FT.CREATE in time".to_owned(),
        };
        warnings.push(format!(
            "{}: not all search indexes were created, which is tried again within minutes: {problem}",
            self.address
        ));
        Ok(warnings)
    }

    async fn check_setup(&self) -> Result<Vec<String>, SinkError> {
        self.initialize().await
    }

    async fn send_batch(&self, batch: Batch) -> BatchOutcome {
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        let mut failures = Failures::default();
        let mut next = 0;
        while next < batch.records.len() && failures.unavailable.is_none() {
            let encoding = {
                let (batch, encoder, labels) = (batch.clone(), Arc::clone(&self.encoder), Arc::clone(&self.labels));
                run_blocking(move |cancelled| {
                    let entries = entries(&batch, &mut next, &encoder, &labels, &mut outcomes, cancelled);
                    (entries, next, outcomes)
                })
            };
            let entries;
            (entries, next, outcomes) = match encoding.await {
                Ok(encoded) => encoded,
                Err(panic) => return panicked(&batch, &self.address, &panic),
            };
            self.send_entries(&entries, &mut outcomes, &mut failures).await;
        }
        let Failures { unavailable, unnamed } = failures;
        let error = unavailable.or(unnamed);
        BatchOutcome { records: outcomes, error: error.map(|(kind, text)| self.error(kind, &text)) }
    }

    async fn close(&self) {
        self.nodes.close();
    }
}

/// Why some records are to be retried.
#[derive(Debug, Default)]
struct Failures {
    unavailable: Option<(SinkErrorKind, String)>,
    unnamed: Option<(SinkErrorKind, String)>,
}

impl RedisSink {
    /// Sends a part of a batch to the nodes of its keys.
    async fn send_entries(&self, entries: &[Entry], outcomes: &mut [Outcome], failures: &mut Failures) {
        let Failures { unavailable, unnamed } = failures;
        let mut asked = false;
        let mut todo: Vec<&Entry> = entries.iter().collect();
        for _ in 0..REDIRECTIONS {
            let mut by_node: HashMap<String, Vec<&Entry>> = HashMap::new();
            for entry in std::mem::take(&mut todo) {
                by_node.entry(self.nodes.node_of(entry.slot)).or_default().push(entry);
            }
            for (node, entries) in by_node {
                for (entry, result) in entries.iter().zip(self.send_to(&node, &entries).await) {
                    match result {
                        EntryResult::Delivered => outcomes[entry.record] = Outcome::Delivered,
                        EntryResult::Rejected(reason) => outcomes[entry.record] = Outcome::Rejected(reason),
                        EntryResult::Moved { slot, node } => match self.check_redirection(&node, &mut asked).await {
                            Ok(()) => {
                                self.nodes.learn(slot, node);
                                todo.push(entry);
                            }
                            Err(failure) => *unavailable = Some(failure),
                        },
                        EntryResult::Refused(text) => outcomes[entry.record] = Outcome::Failed(text),
                        EntryResult::Failed(SinkErrorKind::Unnamed, text) => {
                            *unnamed = Some((SinkErrorKind::Unnamed, text))
                        }
                        EntryResult::Failed(kind, text) => *unavailable = Some((kind, text)),
                    }
                }
            }
            if todo.is_empty() {
                break;
            }
        }
        if !todo.is_empty() {
            unavailable.get_or_insert((SinkErrorKind::Unavailable, "the cluster keeps moving these keys".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that a server can answer other than errors.
    fn replies() -> Vec<Value> {
        vec![
            Value::Okay,
            Value::Nil,
            Value::Int(0),
            Value::Int(1),
            Value::Int(2),
            Value::Int(-1),
            Value::SimpleString("QUEUED".to_owned()),
            Value::SimpleString(String::new()),
            Value::SimpleString("ok".to_owned()),
            Value::BulkString(b"OK".to_vec()),
            Value::BulkString(Vec::new()),
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Okay]),
            Value::Array(vec![Value::Int(1)]),
            Value::Set(vec![Value::Okay]),
            Value::Map(vec![(Value::Okay, Value::Okay)]),
            Value::Double(1.0),
            Value::Boolean(true),
            Value::Boolean(false),
        ]
    }

    #[test]
    fn only_ok_to_a_document_and_one_to_its_expiry_is_delivered() {
        for (i, set) in replies().into_iter().enumerate() {
            let result = EntryResult::of(std::slice::from_ref(&set));
            assert_eq!(matches!(result, EntryResult::Delivered), i == 0, "{set:?}: {result:?}");
            for expire in replies() {
                let both = [set.clone(), expire.clone()];
                let result = EntryResult::of(&both);
                assert_eq!(
                    matches!(result, EntryResult::Delivered),
                    i == 0 && expire == Value::Int(1),
                    "{both:?}: {result:?}"
                );
                assert!(
                    !matches!(result, EntryResult::Rejected(_) | EntryResult::Moved { .. }),
                    "{both:?}: {result:?}"
                );
            }
        }
        assert!(!matches!(EntryResult::of(&[]), EntryResult::Delivered));
    }
}
