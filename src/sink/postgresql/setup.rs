//! The setup: schema, tables, partitions, views; what is missing is made, as far as the user may. Records are more important
//! than all of it but the tables: what cannot be made is a warning, and rows go where there is a place.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use tokio::time::timeout;
use tokio_postgres::Error;

use super::{
    PostgresqlSink,
    columns::{create_table, indexes, quoted, table},
    inspect::{self, Found, Seen},
    partitions, views,
};
use crate::{
    record::{Stream, now_millis},
    sink::{SinkError, SinkErrorKind},
};

use super::session::Session;

/// The oldest server whose partitioned tables have keys, defaults and generated columns.
const OLDEST: u32 = 120_000;
/// Codes of what another livekit-spool made first: table, schema, and the index behind either.
const MADE_BY_OTHERS: [&str; 4] = ["42P07", "42P06", "23505", "42710"];

impl PostgresqlSink {
    /// Checks everything and makes what is missing; what is not needed for delivery gets no more than `limit`.
    pub(super) async fn set_up(&self, limit: Duration) -> Result<Vec<String>, SinkError> {
        let doubts = self.doubts();
        let late = |_| self.error(SinkErrorKind::Timeout, "no answer in time");
        let needed = timeout(self.options.timeout, self.needed()).await.map_err(late).and_then(|needed| needed);
        let (session, found, mut warnings) = needed.inspect_err(|_| self.doubt())?;
        match timeout(limit, self.wanted(&session, &found)).await {
            Ok(more) => {
                let failed = more.iter().any(|(_, is_failure)| *is_failure);
                warnings.extend(more.into_iter().map(|(text, _)| text));
                if failed {
                    self.doubt()
                } else {
                    self.believe(doubts)
                }
                if !session.client.is_closed() {
                    self.release(session);
                }
            }
            Err(_) => {
                self.doubt();
                warnings.push(format!(
                    "partitions and views of schema {} are not all there, which is tried again soon; records are delivered \
                     meanwhile: no answer in time",
                    self.options.schema
                ));
            }
        }
        Ok(warnings)
    }

    /// Makes the tables that are missing.
    pub(super) async fn make_tables(&self) -> Result<(), SinkError> {
        let late = |_| self.error(SinkErrorKind::Timeout, "no answer in time");
        let (session, ..) = timeout(self.options.timeout, self.needed()).await.map_err(late)??;
        self.release(session);
        self.missing.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What delivery needs: a server that can be trusted, and tables.
    async fn needed(&self) -> Result<(Session, Vec<(Stream, Found)>, Vec<String>), SinkError> {
        let session = self.take().await.map_err(|(kind, text)| self.error(kind, &text))?;
        let facts = session.facts.clone();
        if facts.version < OLDEST {
            let text = format!("PostgreSQL {}: livekit-spool needs 12 or later", facts.version / 10_000);
            return Err(self.error(SinkErrorKind::Unsuitable, &text));
        }
        let mut warnings = warnings_of(&facts);
        let failed = |error: Error| {
            let (kind, text) = session.failure(&error);
            self.error(kind, &text)
        };
        let mut found = Vec::new();
        for &stream in &self.options.streams {
            let schema = &self.options.schema;
            let mut seen = inspect::look(&session, schema, stream).await.map_err(failed)?;
            if seen == Seen::Absent {
                self.create(&session, stream).await?;
                seen = inspect::look(&session, schema, stream).await.map_err(failed)?;
            }
            match seen {
                Seen::Table(table) => {
                    if !table.unlogged.is_empty() {
                        let names: Vec<&str> = table.unlogged.iter().map(String::as_str).collect();
                        warnings.push(format!(
                            "{}: unlogged, so a crash of the server empties it: run ALTER TABLE … SET LOGGED",
                            names.join(", ")
                        ));
                    }
                    found.push((stream, table));
                }
                Seen::Unsuitable(text) => return Err(self.error(SinkErrorKind::Unsuitable, &text)),
                Seen::Absent => {
                    let text = format!("{} was dropped just after it was made", table(schema, stream.as_str()));
                    return Err(self.error(SinkErrorKind::Unavailable, &text));
                }
            }
        }
        let mut known = self.known.lock();
        for (stream, found) in &found {
            let before = known.entry(*stream).or_default();
            before.is_partitioned = found.is_partitioned;
            before.default = found.default.clone();
            before.columns = found.columns.clone();
            before.days = found.days.keys().copied().collect();
        }
        drop(known);
        Ok((session, found, warnings))
    }

    /// Makes a stream's table, in one transaction with the schema, the default partition and the indexes.
    async fn create(&self, session: &Session, stream: Stream) -> Result<(), SinkError> {
        let schema = &self.options.schema;
        let create_schema = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema));
        let seen = async {
            Ok::<_, Error>((inspect::has_schema(session, schema).await?, inspect::names(session, schema).await?))
        };
        let (exists, taken) = seen.await.map_err(|error| self.session_error(session, &error))?;
        let mut statements = vec![partitions::exclusively(schema)];
        if !exists {
            statements.push(format!("{create_schema};"));
        }
        statements.push(format!("{};", create_table(schema, stream)));
        statements.push(format!("{};", partitions::create_default(schema, stream, &taken)));
        for index in indexes(stream) {
            let table = table(schema, stream.as_str());
            let (method, columns) = index.definition.split_once(' ').unwrap_or_default();
            // An index of a table that was renamed keeps its name: then the server finds one.
            let name = if taken.contains(index.name) { String::new() } else { quoted(index.name) };
            statements.push(format!("CREATE INDEX {name} ON {table} USING {method} {columns};"));
        }
        match session.client.batch_execute(&statements.join(" ")).await {
            Ok(()) => {
                tracing::info!(address = self.address, %stream, "the table was created");
                Ok(())
            }
            Err(error) if error.code().is_some_and(|code| MADE_BY_OTHERS.contains(&code.code())) => Ok(()),
            Err(error) => {
                let (kind, text) = session.failure(&error);
                let what = format!("{} cannot be created: {text}", table(schema, stream.as_str()));
                if kind == SinkErrorKind::Unauthorized {
                    let user = self.target.user().unwrap_or("USER");
                    let remedy = format!(
                        "{what}; let an administrator run: {create_schema} AUTHORIZATION {}, or GRANT USAGE, CREATE ON SCHEMA \
                         {} TO {}",
                        quoted(user),
                        quoted(schema),
                        quoted(user)
                    );
                    return Err(self.error(kind, &remedy));
                }
                Err(self.error(kind, &what))
            }
        }
    }

    /// What delivery can do without: partitions, views, the removal of expired rows. Each warning with whether it is a
    /// failure that is tried again soon.
    async fn wanted(&self, session: &Session, found: &[(Stream, Found)]) -> Vec<(String, bool)> {
        let mut warnings = Vec::new();
        let today = partitions::day_of(now_millis());
        for (stream, table_found) in found {
            let name = table(&self.options.schema, stream.as_str());
            if !table_found.is_partitioned {
                let text = format!(
                    "{name} is not partitioned: expired rows are deleted one by one, which costs more than dropping a day"
                );
                warnings.push((text, false));
            } else {
                if let Err(text) = self.make_default(session, *stream, table_found).await {
                    warnings.push((text, true));
                }
                if let Err(text) = self.make_partitions(session, *stream, &partitions::ahead(today)).await {
                    warnings.push((text, true));
                }
            }
            if let Err(text) = self.expire(session, *stream, table_found, today).await {
                warnings.push((format!("{name}: expired rows are not removed yet: {text}"), true));
            }
        }
        warnings.extend(self.make_views(session).await.into_iter().map(|text| (text, false)));
        warnings
    }

    async fn make_default(&self, session: &Session, stream: Stream, found: &Found) -> Result<(), String> {
        if found.default.is_some() {
            return Ok(());
        }
        let schema = &self.options.schema;
        let made = async {
            let taken = inspect::names(session, schema).await?;
            let create = partitions::create_default(schema, stream, &taken);
            session.client.batch_execute(&format!("{} {create}", partitions::exclusively(schema))).await?;
            inspect::look(session, schema, stream).await
        };
        match made.await {
            Ok(seen) => {
                if let (Seen::Table(found), Some(known)) = (seen, self.known.lock().get_mut(&stream)) {
                    known.default = found.default;
                }
                Ok(())
            }
            Err(error) => Err(format!(
                "{} has no default partition, so rows of days without a partition wait: {}",
                table(schema, stream.as_str()),
                session.failure(&error).1
            )),
        }
    }

    /// Makes the partitions of these days that are missing.
    pub(super) async fn make_partitions(
        &self,
        session: &Session,
        stream: Stream,
        days: &BTreeSet<i64>,
    ) -> Result<(), String> {
        let (schema, mut failure) = (&self.options.schema, None);
        for day in self.missing(stream, days) {
            let known = self.known.lock().get(&stream).cloned().unwrap_or_default();
            let statement = partitions::create(schema, stream, day, known.default.as_deref(), &known.columns);
            let made = session.client.batch_execute(&statement).await;
            let failed = match made {
                Ok(()) => None,
                Err(error) => match error.code().map(|code| code.code()) {
                    // A wider partition of the user's has this day.
                    Some("42P17") => None,
                    // Another livekit-spool was faster.
                    Some("42P07") if self.is_partition(session, stream, day).await => None,
                    code => Some((code.unwrap_or_default().to_owned(), session.failure(&error).1)),
                },
            };
            let mut known = self.known.lock();
            let known = known.entry(stream).or_default();
            let Some((code, text)) = failed else {
                known.days.insert(day);
                continue;
            };
            known.pause();
            let hint = match code.as_str() {
                "42P07" => "; a table has its name: attach it as a partition, or rename it",
                "42501" => "; let the user own the table, and create in its schema",
                _ => "",
            };
            failure = Some(format!(
                "the partition {} was not made, so its rows go to {}: {text}{hint}",
                table(schema, &partitions::name(stream, day)),
                partitions::default_name(stream)
            ));
            break;
        }
        failure.map_or(Ok(()), Err)
    }

    async fn is_partition(&self, session: &Session, stream: Stream, day: i64) -> bool {
        let seen = inspect::look(session, &self.options.schema, stream).await;
        matches!(seen, Ok(Seen::Table(found)) if found.days.contains_key(&day))
    }

    /// The days of these that could have a partition and have none.
    pub(super) fn missing(&self, stream: Stream, days: &BTreeSet<i64>) -> Vec<i64> {
        let window = partitions::window(partitions::day_of(now_millis()), self.expiration_millis());
        self.known.lock().get(&stream).map(|known| known.missing(days, &window)).unwrap_or_default()
    }

    /// Drops the partitions, and deletes the rows, whose expiration has passed.
    async fn expire(&self, session: &Session, stream: Stream, found: &Found, today: i64) -> Result<(), String> {
        let Some(expiration) = self.expiration_millis() else { return Ok(()) };
        let schema = &self.options.schema;
        let text_of = |error: Error| session.failure(&error).1;
        let last = today - partitions::day_of(expiration) - 1;
        for (&day, partition) in found.days.range(..last) {
            let needed = inspect::rows(session, &partitions::is_needed(schema, partition, expiration)).await;
            if !needed.map_err(text_of)?.is_empty() {
                continue;
            }
            let drop = partitions::drop(schema, stream, partition, expiration);
            session.client.batch_execute(&drop).await.map_err(text_of)?;
            if let Some(known) = self.known.lock().get_mut(&stream) {
                known.days.remove(&day);
            }
            tracing::info!(address = self.address, partition, "an expired partition was dropped");
        }
        let rest = match found.is_partitioned {
            true => match &found.default {
                Some(default) => default.clone(),
                None => return Ok(()),
            },
            false => table(schema, stream.as_str()),
        };
        let statement = partitions::delete(&rest, expiration);
        loop {
            let deleted = session.client.execute_typed(&statement, &[]).await.map_err(text_of)?;
            if !partitions::may_have_left(deleted) {
                return Ok(());
            }
        }
    }

    /// Makes the views, and makes them again where they are of an older livekit-spool.
    async fn make_views(&self, session: &Session) -> Vec<String> {
        let mut warnings = Vec::new();
        // Another sink may have other streams in the same schema.
        let present = match inspect::present(session, &self.options.schema).await {
            Ok(present) => present,
            Err(error) => return vec![format!("the views were not checked: {}", session.failure(&error).1)],
        };
        for view in views::all(&self.options.schema, &present) {
            let comment = inspect::rows(session, &view.ask()).await;
            let is_current = match comment {
                Ok(rows) => match rows.first() {
                    None => false,
                    Some(row) if inspect::text(row, 0) == view.version() => true,
                    Some(row) if !view.is_ours(&inspect::text(row, 0)) => {
                        warnings.push(format!(
                            "{} exists and is not livekit-spool's: rename it to get the view of this name",
                            view.name()
                        ));
                        true
                    }
                    Some(_) => false,
                },
                Err(error) => {
                    warnings.push(format!("the view {} was not checked: {}", view.name(), session.failure(&error).1));
                    continue;
                }
            };
            if is_current {
                continue;
            }
            let statement = format!("{} {}", partitions::exclusively(&self.options.schema), view.create());
            if let Err(error) = session.client.batch_execute(&statement).await
                && error.code().is_none_or(|code| !MADE_BY_OTHERS.contains(&code.code()))
            {
                let (kind, text) = session.failure(&error);
                let hint = match kind {
                    SinkErrorKind::Unauthorized => "; let the user create in this schema, and own its tables",
                    _ => "",
                };
                warnings.push(format!("the view {} was not made, records are delivered: {text}{hint}", view.name()));
            }
        }
        warnings
    }
}

/// What a crash of the server would do.
fn warnings_of(facts: &super::session::Facts) -> Vec<String> {
    let mut warnings = Vec::new();
    if !facts.fsync {
        warnings.push(
            "fsync is off: PostgreSQL acknowledges records before they are on disk, and a crash of its machine can lose \
             them or the database; set `fsync = on`"
                .to_owned(),
        );
    }
    if !facts.full_page_writes {
        warnings.push(
            "full_page_writes is off: a crash of the server's machine can damage the database; set `full_page_writes = on` \
             unless its file system writes pages whole"
                .to_owned(),
        );
    }
    if facts.encoding != "UTF8" {
        warnings.push(format!(
            "the database's encoding is {}, not UTF8: records with characters that it lacks become dead letters; create a \
             database with ENCODING 'UTF8'",
            facts.encoding
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::{super::session::Facts, *};

    #[test]
    fn what_a_crash_would_lose_is_said() {
        let facts = Facts {
            version: 150_019,
            fsync: true,
            full_page_writes: true,
            encoding: "UTF8".to_owned(),
            ..Facts::default()
        };
        assert_eq!(warnings_of(&facts), Vec::<String>::new());
        let careless = Facts { fsync: false, full_page_writes: false, encoding: "LATIN1".to_owned(), ..facts };
        let warnings = warnings_of(&careless).join("\n");
        for text in ["fsync is off", "full_page_writes is off", "encoding is LATIN1"] {
            assert!(warnings.contains(text), "{warnings}");
        }
    }
}
