//! What the PostgreSQL sink has stored: a few SELECTs in a transaction that can only read.
//!
//! Every statement names a range of `time`, so that only the partitions of these days are read. A list uses the index of the
//! events that create and end rooms; the records of rooms that of `room_sid` and `room_id`, where webhooks, egress and calls
//! are too. Each request has a connection of its own, at most [`CONNECTIONS`] at the same time.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};
use tokio_postgres::{Row, types::Type};

use super::{
    Archive, ArchiveError, Found, Limits, Listing, Query, Room,
    rooms::{MARKS, Mark, Rooms, Search, room_of, searches, span_of},
};
use crate::{
    record::Stream,
    session::Time,
    sink::{
        SinkErrorKind, SinkOptions,
        postgresql::{Parameter, PostgresqlOptions, Reader},
    },
};

/// Requests of this archive at the same time; others wait.
const CONNECTIONS: usize = 4;
/// Rooms in one statement: a limit ends the request between two.
const ROOMS: usize = 32;

/// Reads from PostgreSQL.
pub(super) struct PostgresqlArchive {
    options: PostgresqlOptions,
    connections: Semaphore,
}

/// What an error means, and its text.
type Failure = (SinkErrorKind, String);

impl PostgresqlArchive {
    pub(super) fn new(options: PostgresqlOptions) -> Self {
        Self { options, connections: Semaphore::new(CONNECTIONS) }
    }

    /// Ends a request at its time limit, and says why it failed.
    async fn within<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, ArchiveError> {
        let slow = || ArchiveError::Slow { address: self.address(), limit };
        let request = async {
            // Never closed.
            let _one_of_few = self.connections.acquire().await;
            request.await
        };
        let begun = Instant::now();
        match timeout(limit, request).await {
            Err(_) => Err(slow()),
            // A connection has the same limit: it may say first that there is no answer.
            Ok(Err((kind, _))) if kind == SinkErrorKind::Timeout || begun.elapsed() >= limit => Err(slow()),
            Ok(Err((kind, mut reason))) => {
                if kind == SinkErrorKind::Unauthorized {
                    let schema = &self.options.schema;
                    reason.push_str("; check user and password in the url, and its right to read in schema ");
                    reason.push_str(schema);
                }
                Err(ArchiveError::Unavailable { address: self.address(), reason })
            }
            Ok(Ok(read)) => Ok(read),
        }
    }
}

#[async_trait]
impl Archive for PostgresqlArchive {
    fn address(&self) -> String {
        self.options.address()
    }

    async fn list(&self, query: &Query, limits: &Limits) -> Result<Listing, ArchiveError> {
        let request = async {
            let reader = Reader::open(&self.options, limits.time).await?;
            list(&reader, query, limits).await
        };
        self.within(limits.time, request).await
    }

    async fn records(&self, rooms: &[Room], limits: &Limits) -> Result<Found, ArchiveError> {
        if rooms.is_empty() {
            return Ok(Found::default());
        }
        let request = async {
            let reader = Reader::open(&self.options, limits.time).await?;
            records(&reader, rooms, limits).await
        };
        self.within(limits.time, request).await
    }

    async fn room(&self, sid: &str, limits: &Limits) -> Result<Option<Room>, ArchiveError> {
        let request = async {
            let reader = Reader::open(&self.options, limits.time).await?;
            let query = Query::any_time();
            let mut rooms = Rooms::new(&query);
            let statement =
                format!("SELECT {MARK} FROM {} WHERE {IS_MARK} AND room_sid = $1", reader.table(Stream::Events));
            let mut each = |row: &Row| {
                mark(row).into_iter().for_each(|mark| rooms.add(mark));
                true
            };
            reader.each_row(&statement, &[(&sid, Type::TEXT)], &mut each).await?;
            Ok(rooms.into_listing(1, None).rooms.pop())
        };
        self.within(limits.time, request).await
    }
}

/// The parts of the document that a [`Mark`] is made of, as a document.
const MARK: &str = "pg_catalog.jsonb_build_object('type', type, 'timestamp', doc -> 'timestamp', 'room_id', doc -> 'room_id', \
                    'room', pg_catalog.jsonb_build_object('sid', room_sid, 'name', room_name, \
                    'creation_time', doc #> '{room,creation_time}', 'creation_time_ms', doc #> '{room,creation_time_ms}'))::text";

/// As the index has it.
const IS_MARK: &str = "type IN ('ROOM_CREATED', 'ROOM_ENDED', 'PARTICIPANT_JOINED')";

/// The document of a row's first column.
fn document(row: &Row) -> Option<(Value, u64)> {
    let text: &str = row.try_get(0).ok()?;
    Some((serde_json::from_str(text).ok()?, text.len() as u64))
}

fn mark(row: &Row) -> Option<Mark> {
    Mark::of(&document(row)?.0)
}

/// A time as `to_timestamp` takes it, seconds since 1970; from the year 1 to 9999.
fn seconds(at: Time) -> f64 {
    let micros = at.0.div_euclid(1000).clamp(-62_135_596_800_000_000, 253_402_300_799_000_000);
    // A double holds each microsecond of these centuries.
    micros as f64 / 1e6
}

/// The condition on `time`: from `$1` to `$2`, known to the planner, which leaves out all other partitions.
const IN_RANGE: &str = "\"time\" >= pg_catalog.to_timestamp($1) AND \"time\" <= pg_catalog.to_timestamp($2)";

async fn list(reader: &Reader, query: &Query, limits: &Limits) -> Result<Listing, Failure> {
    let mut rooms = Rooms::new(query);
    let (mut complete_from, mut left) = (None, limits.bytes);
    let name = query.room_name.as_deref();
    let prefix = query.room_prefix.as_deref().filter(|prefix| !prefix.is_empty());
    let pattern = prefix.map(|prefix| format!("{}%", escaped(prefix)));
    for Search { kind, mut from, to, most } in searches(query, limits.rooms) {
        from = complete_from.map_or(from, |complete_from: Time| from.max(complete_from));
        let statement = format!(
            "SELECT {MARK} FROM {} WHERE {IS_MARK} AND type = '{kind}' AND {IN_RANGE} AND ($3 IS NULL OR room_name = $3) AND \
             ($4 IS NULL OR room_name LIKE $4) ORDER BY \"time\" DESC LIMIT $5",
            reader.table(Stream::Events),
        );
        let (first, last) = (seconds(from), seconds(to));
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let (mut count, mut oldest, mut is_whole) = (0, to.min(query.to), true);
        let mut each = |row: &Row| {
            // Also one of another writer, that is about no room.
            count += 1;
            let Some((document, bytes)) = document(row) else { return true };
            let Some(bytes_left) = left.checked_sub(bytes) else {
                is_whole = false;
                return false;
            };
            left = bytes_left;
            if let Some(mark) = Mark::of(&document) {
                oldest = oldest.min(mark.at());
                rooms.add(mark);
            }
            true
        };
        let parameters: [Parameter<'_>; 5] = [
            (&first, Type::FLOAT8),
            (&last, Type::FLOAT8),
            (&name, Type::TEXT),
            (&pattern, Type::TEXT),
            (&limit, Type::INT8),
        ];
        reader.each_row(&statement, &parameters, &mut each).await?;
        if !is_whole {
            // Without their ends, what was read of the creations is of no use.
            let complete_from = if kind == MARKS[0] { query.to } else { oldest };
            return Ok(rooms.into_listing(limits.rooms, Some(complete_from)));
        }
        if count >= most {
            complete_from = Some(oldest);
        }
    }
    Ok(rooms.into_listing(limits.rooms, complete_from))
}

/// A text for LIKE that means itself.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

async fn records(reader: &Reader, rooms: &[Room], limits: &Limits) -> Result<Found, Failure> {
    let (mut found, mut left) = (Found::default(), limits.bytes);
    for (i, group) in rooms.chunks(ROOMS).enumerate() {
        let sids: Vec<&str> = group.iter().map(|room| room.sid.as_str()).collect();
        let (first, last) = span_of(group);
        let (first, last) = (seconds(first), seconds(last));
        for (stream, column) in [(Stream::Events, "room_sid"), (Stream::Stats, "room_id")] {
            let statement =
                format!("SELECT doc::text FROM {} WHERE {IN_RANGE} AND {column} = ANY($3)", reader.table(stream));
            let mut is_whole = true;
            let mut each = |row: &Row| {
                let Some((document, bytes)) = document(row) else { return true };
                let Some(bytes_left) = left.checked_sub(bytes) else {
                    is_whole = false;
                    return false;
                };
                left = bytes_left;
                let room = room_of(stream, &document);
                if let Some(sid) = room.and_then(|room| sids.iter().find(|sid| **sid == room)) {
                    found.add(sid, stream, &document);
                }
                true
            };
            let parameters: [Parameter<'_>; 3] =
                [(&first, Type::FLOAT8), (&last, Type::FLOAT8), (&sids, Type::TEXT_ARRAY)];
            reader.each_row(&statement, &parameters, &mut each).await?;
            if !is_whole {
                found.cut = rooms[i * ROOMS..].iter().map(|room| room.sid.clone()).collect();
                return Ok(found);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_calendar_are_cut_and_a_prefix_means_itself() {
        assert_eq!(seconds(Time(1_795_301_026_746_123_999)), 1_795_301_026.746_123);
        assert!(seconds(Time(i64::MAX)) > seconds(Time(0)) && seconds(Time(i64::MIN)) < 0.0);
        assert_eq!(escaped(r"a_%\b"), r"a\_\%\\b");
    }
}
