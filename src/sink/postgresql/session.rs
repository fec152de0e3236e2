//! A connection to a server that accepts writes: found among the hosts, set up for delivery, and closed when dropped.
//!
//! A statement of a batch that nobody waits for any more does not outlive it for long: dropping a session closes its socket,
//! the server looks for the client every few seconds (`client_connection_check_interval`), and ends the statement by itself
//! after the batch's timeout. What it may still commit is whole, and the record's key makes the resend harmless.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::seq::SliceRandom;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error, NoTls, SimpleQueryMessage, Socket, Statement,
    config::{SslMode, SslNegotiation},
    error::DbError,
    tls::MakeTlsConnect,
};

use super::{
    describe::{Failure, describe, describe_server, without},
    fault::Fault,
    limited::{Limit, Plain},
    target::{Attributes, Host, Target, Tls},
    tls,
};
use crate::{record::Stream, sink::SinkErrorKind, tasks};

/// What the server says of itself and of this connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// As in `server_version_num`: 150019.
    pub(super) version: u32,
    /// False: a crash of its machine may lose what it acknowledged.
    pub(super) fsync: bool,
    /// False: a crash of its machine may leave pages that are half written.
    pub(super) full_page_writes: bool,
    /// The server would acknowledge a commit before it is on disk, where nobody sets `synchronous_commit`. A pooler may take a
    /// statement to a connection where this one's settings were not made, so each transaction sets it for itself.
    pub(super) is_asynchronous: bool,
    pub(super) encoding: String,
    pub(super) is_standby: bool,
    pub(super) is_read_only: bool,
}

/// A connection; closed when dropped, whatever is under way on it.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) facts: Facts,
    /// The statements that were prepared on this connection.
    prepared: Mutex<HashMap<Stream, Statement>>,
    /// What no message repeats.
    password: Option<String>,
    /// What the server said when it closed the connection.
    last_words: Arc<Mutex<Option<DbError>>>,
    task: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Connects to the first host that accepts writes. `most`: bytes that the server may send between two requests.
    pub(super) async fn open(target: &Target, timeout: Duration, most: usize) -> Result<Self, Failure> {
        let mut hosts: Vec<&Host> = target.hosts.iter().collect();
        if target.shuffled {
            hosts.shuffle(&mut rand::rng());
        }
        // The batch's own timeout would say less of what failed.
        let own = timeout / 10 * 9 / u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let limit = target.connect_timeout.map_or(own, |limit| limit.min(timeout));
        let mut failures: Vec<(&Host, Failure)> = Vec::new();
        for host in &hosts {
            let opened = tokio::time::timeout(limit, Self::open_at(target, host, limit, timeout, most)).await;
            let failure = match opened {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(failure)) => failure,
                Err(_) => (SinkErrorKind::Unavailable, "cannot be reached: no answer in time".to_owned()),
            };
            failures.push((host, failure));
        }
        Err(joined(failures))
    }

    async fn open_at(
        target: &Target,
        host: &Host,
        limit: Duration,
        timeout: Duration,
        most: usize,
    ) -> Result<Self, Failure> {
        let plain = || Self::start_plain(target, host, limit, most);
        let protected = |connector| async move {
            Self::start(&target.config(host, SslMode::Require, limit), Limit { connector, most }).await
        };
        let mut session = match target.tls {
            _ if host.is_socket() => plain().await,
            Tls::Disable => plain().await,
            Tls::Allow => match plain().await {
                Err(error) if error.code().is_some_and(|code| code.code().starts_with("28")) => {
                    protected(connector(target).await?).await
                }
                started => started,
            },
            Tls::Prefer => match protected(connector(target).await?).await {
                // As libpq: where TLS fails, or is refused, or the server has none, without it.
                Err(error) if is_tls(&error) || error.code().is_some_and(|code| code.code() == "28000") => {
                    plain().await
                }
                started => started,
            },
            Tls::Require | Tls::VerifyCa | Tls::VerifyFull => protected(connector(target).await?).await,
        }
        .map_err(|error| {
            let (kind, text) = describe(&error, target.user());
            (kind, without(text, target.password().as_deref()))
        })?;
        session.password = target.password();
        let greeted = session.greet(timeout).await;
        session.facts = greeted.map_err(|error| session.failure(&error))?;
        let unsuitable = match target.attributes {
            Attributes::ReadWrite if session.facts.is_standby => Some("is a standby, which accepts no writes"),
            Attributes::ReadWrite if session.facts.is_read_only => Some("is read-only (default_transaction_read_only)"),
            Attributes::Primary if session.facts.is_standby => Some("is a standby"),
            _ => None,
        };
        match unsuitable {
            Some(what) => Err((SinkErrorKind::Unavailable, what.to_owned())),
            None => Ok(session),
        }
    }

    async fn start_plain(target: &Target, host: &Host, limit: Duration, most: usize) -> Result<Self, Error> {
        if host.is_socket() {
            return Self::start(&target.config(host, SslMode::Disable, limit), NoTls).await;
        }
        // The driver's words for: begin at once, with the stream that the connector makes.
        let mut config = target.config(host, SslMode::Require, limit);
        config.ssl_negotiation(SslNegotiation::Direct);
        Self::start(&config, Limit { connector: Plain, most }).await
    }

    async fn start<C>(config: &Config, connector: C) -> Result<Self, Error>
    where
        C: MakeTlsConnect<Socket>,
        C::Stream: Send + 'static,
    {
        let last_words = Arc::new(Mutex::new(None));
        let (client, connection) = config.connect(connector).await?;
        let task = tasks::spawn(drive(connection, Arc::clone(&last_words)));
        let (facts, prepared) = (Facts::default(), Mutex::default());
        Ok(Self { client, facts, prepared, password: None, last_words, task })
    }

    /// Sets the connection up, and asks what durability depends on.
    async fn greet(&self, timeout: Duration) -> Result<Facts, Error> {
        let millis = timeout.as_millis();
        // One request. What a server before 14, or a relative of PostgreSQL, does not know is left as it is.
        let greeting = format!(
            "SELECT pg_catalog.set_config(s.name, v.value, false) FROM pg_catalog.pg_settings s, (VALUES \
             ('statement_timeout', '{millis}'), ('lock_timeout', '{millis}'), ('TimeZone', 'UTC'), \
             ('DateStyle', 'ISO'), ('client_min_messages', 'error'), \
             ('default_transaction_isolation', 'read committed')) AS v (name, value) WHERE s.name = v.name; \
             SELECT {}, pg_catalog.pg_is_in_recovery()::text, (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = \
             'synchronous_commit'); \
             SELECT pg_catalog.set_config(name, 'on', false) FROM pg_catalog.pg_settings WHERE name = 'synchronous_commit' \
             AND setting = 'off'",
            ["server_version_num", "fsync", "full_page_writes", "server_encoding", "transaction_read_only"]
                .map(|name| format!("pg_catalog.current_setting('{name}', true) AS {name}"))
                .join(", ")
        );
        let answer = self.client.simple_query(&greeting).await?;
        let row = answer.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.len() > 1 => Some(row),
            _ => None,
        });
        // Not known before PostgreSQL 14, and refused on systems that cannot do it.
        let check = "SELECT pg_catalog.set_config(name, '2000', false) FROM pg_catalog.pg_settings \
                     WHERE name = 'client_connection_check_interval'";
        match self.client.simple_query(check).await {
            Err(error) if error.as_db_error().is_none() => return Err(error),
            _ => {}
        }
        let text = |i: usize| row.as_ref().and_then(|row| row.get(i)).unwrap_or_default().to_owned();
        Ok(Facts {
            version: text(0).parse().unwrap_or_default(),
            fsync: text(1) != "off",
            full_page_writes: text(2) != "off",
            encoding: text(3),
            is_read_only: text(4) == "on",
            is_standby: matches!(text(5).as_str(), "true" | "t"),
            is_asynchronous: text(6) == "off",
        })
    }

    /// The statement that copies rows of a stream, prepared on this connection.
    pub(super) async fn prepared(&self, stream: Stream, text: &str) -> Result<Statement, Error> {
        let known = self.prepared.lock().get(&stream).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(text).await?;
        self.prepared.lock().insert(stream, statement.clone());
        Ok(statement)
    }

    /// What failed; with the server's reason where it closed the connection.
    pub(super) fn failure(&self, error: &Error) -> Failure {
        let (kind, text) = match (error.as_db_error(), &*self.last_words.lock()) {
            (None, Some(words)) => describe_server(words, None),
            _ => describe(error, None),
        };
        (kind, without(text, self.password.as_deref()))
    }

    /// True if it can be used after this error.
    pub(super) fn survives(&self, error: &Error) -> bool {
        !self.client.is_closed() && error.code().is_some_and(|code| !Fault::ends_connection(code.code()))
    }
}

/// Runs the connection; the server's notices are not shown.
async fn drive<S, T>(mut connection: Connection<S, T>, last_words: Arc<Mutex<Option<DbError>>>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
{
    loop {
        match std::future::poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(_) | AsyncMessage::Notification(_))) => {}
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                *last_words.lock() = error.as_db_error().cloned();
                return;
            }
            None => return,
        }
    }
}

async fn connector(target: &Target) -> Result<tokio_postgres_rustls::MakeRustlsConnect, Failure> {
    let target = target.clone();
    let made = tasks::run_blocking(move || tls::connector(&target)).await;
    let made = made.unwrap_or_else(|panic| Err(format!("TLS: {panic}")));
    made.map_err(|text| (SinkErrorKind::Unavailable, text))
}

fn is_tls(error: &Error) -> bool {
    error.to_string().contains("TLS")
}

/// One failure of several hosts: the one that someone has to fix, if there is such a one.
fn joined(failures: Vec<(&Host, Failure)>) -> Failure {
    let kind = failures.iter().map(|(_, (kind, _))| *kind).find(|kind| *kind != SinkErrorKind::Unavailable);
    let text = match &failures[..] {
        [(_, (_, text))] => text.clone(),
        _ => {
            let each = failures.iter().map(|(host, (_, text))| format!("{}:{} ({text})", host.name, host.port));
            format!("no host accepts writes: {}", each.collect::<Vec<_>>().join(", "))
        }
    };
    (kind.unwrap_or(SinkErrorKind::Unavailable), text)
}
