//! What the MongoDB sink has stored, or OpenVidu's fork: plain finds, on the sink's indexes.
//!
//! | find | index |
//! |---|---|
//! | creations, ends and joins of a time range, newest first | `type`, `timestamp.seconds` |
//! | the events of rooms | `room.sid` |
//! | webhooks, API calls, egress, ingress, SIP around their time | `type`, `timestamp.seconds` |
//! | the stats of rooms | `room_id` |
//!
//! Without the first index, as in a database of the fork, the server uses those of the single fields. The client is the
//! archive's own, with few connections, so that delivery never waits for one. Reads go where the URI's read preference says
//! (`route`), by cursors (`find`).

mod find;
mod route;

use std::time::Duration;

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use futures::future::join_all;
use mongodb::{Client, error::Error, options::ClientOptions};
use serde_json::Value;
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};

use self::{
    find::{Failure, Find, Read, Reading},
    route::{Route, Servers},
};
use super::{
    Archive, ArchiveError, Found, Limits, Listing, Query, Room,
    rooms::{MARKS, Mark, OTHERS, Rooms, Search, room_of, searches, span_of},
};
use crate::{
    record::Stream,
    session::{EVENT_ROOM_PATHS, Time},
    sink::{
        SinkErrorKind, SinkOptions,
        mongodb::{MongoOptions, described},
    },
};

/// Requests of this archive at the same time; others wait.
const CONNECTIONS: u32 = 4;
/// The most bytes of events that may turn out to be about other rooms, of one type.
const OF_OTHER_ROOMS: u64 = 1 << 20;
/// How long the driver looks for a server, unless the URI says otherwise.
const SERVER_SELECTION: Duration = Duration::from_secs(5);
/// Rooms in one find: a limit ends the request between two.
const ROOMS: usize = 32;
/// Reads from MongoDB.
pub(super) struct MongoArchive {
    options: MongoOptions,
    client: OnceCell<(Client, Servers)>,
}

impl MongoArchive {
    pub(super) fn new(options: MongoOptions) -> Self {
        Self { options, client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&(Client, Servers), Error> {
        self.client
            .get_or_try_init(|| async {
                let mut options = ClientOptions::parse(self.options.uri.as_str()).await?;
                options.app_name.get_or_insert_with(|| concat!(env!("CARGO_PKG_NAME"), "-sessions").to_owned());
                options.server_selection_timeout.get_or_insert(SERVER_SELECTION.min(self.options.timeout));
                options.connect_timeout.get_or_insert(self.options.timeout / 3);
                options.max_pool_size = Some(CONNECTIONS);
                options.min_pool_size = None;
                let is_direct = options.direct_connection == Some(true);
                let servers = Servers { are_many: options.hosts.len() > 1, is_direct };
                Ok((Client::with_options(options)?, servers))
            })
            .await
    }

    /// Begins a request.
    async fn begin(&self, limit: Duration) -> Result<Reading, Error> {
        let deadline = Instant::now() + limit;
        let (client, servers) = self.client().await?;
        let database = client.database(&self.options.database);
        let route = Route::choose(&database, *servers).await?;
        Ok(Reading { database, route, deadline })
    }

    /// Ends a request at its time limit, and says why it failed.
    async fn within<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, ArchiveError> {
        let slow = || ArchiveError::Slow { address: self.address(), limit };
        match timeout(limit, request).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(Failure::Driver(error))) => {
                let (kind, mut reason) = described(&error, &self.options);
                match kind {
                    SinkErrorKind::Timeout => return Err(slow()),
                    SinkErrorKind::Unauthorized => {
                        reason.push_str("; check user, password and authSource in the uri, and its right to read");
                    }
                    _ => {}
                }
                Err(ArchiveError::Unavailable { address: self.address(), reason })
            }
            Ok(Err(Failure::Answer(reason))) => {
                Err(ArchiveError::Unavailable { address: self.address(), reason: reason.to_owned() })
            }
            Ok(Err(Failure::Slow)) | Err(_) => Err(slow()),
        }
    }
}

#[async_trait]
impl Archive for MongoArchive {
    fn address(&self) -> String {
        self.options.address()
    }

    async fn list(&self, query: &Query, limits: &Limits) -> Result<Listing, ArchiveError> {
        self.within(limits.time, async { list(&self.begin(limits.time).await?, query, limits).await }).await
    }

    async fn records(&self, rooms: &[Room], limits: &Limits) -> Result<Found, ArchiveError> {
        if rooms.is_empty() {
            return Ok(Found::default());
        }
        self.within(limits.time, async { records(&self.begin(limits.time).await?, rooms, limits).await }).await
    }

    async fn room(&self, sid: &str, limits: &Limits) -> Result<Option<Room>, ArchiveError> {
        let query = Query::any_time();
        let mut rooms = Rooms::new(&query);
        let find = Find {
            filter: doc! { "room.sid": sid, "type": { "$in": MARKS.to_vec() } },
            projection: Some(marks_only()),
            ..Find::in_stream(Stream::Events)
        };
        let request = async {
            let reading = self.begin(limits.time).await?;
            reading
                .find(find, limits.bytes, |event, _| Mark::of(&event).into_iter().for_each(|mark| rooms.add(mark)))
                .await
        };
        self.within(limits.time, request).await?;
        Ok(rooms.into_listing(1, None).rooms.pop())
    }
}

/// The fields that a [`Mark`] is made of.
fn marks_only() -> Document {
    let fields =
        ["type", "timestamp", "room_id", "room.sid", "room.name", "room.creation_time", "room.creation_time_ms"];
    let mut projection = doc! { "_id": 0 };
    projection.extend(fields.map(|field| (field.to_owned(), Bson::Int32(1))));
    projection
}

async fn list(reading: &Reading, query: &Query, limits: &Limits) -> Result<Listing, Failure> {
    let mut rooms = Rooms::new(query);
    let (mut complete_from, mut left) = (None, limits.bytes);
    for Search { kind, mut from, to, most } in searches(query, limits.rooms) {
        from = complete_from.map_or(from, |complete_from: Time| from.max(complete_from));
        let mut filter = doc! { "type": kind, "timestamp.seconds": range(from, to) };
        if let Some(name) = &query.room_name {
            filter.insert("room.name", name);
        } else if let Some(prefix) = query.room_prefix.as_ref().filter(|prefix| !prefix.is_empty()) {
            filter.insert("room.name", doc! { "$gte": prefix, "$lt": format!("{prefix}\u{10FFFF}") });
        }
        let find = Find {
            filter,
            projection: Some(marks_only()),
            newest_first: true,
            limit: i64::try_from(most).ok(),
            ..Find::in_stream(Stream::Events)
        };
        let (mut count, mut oldest) = (0, to.min(query.to));
        let (mut second, mut is_sorted) = (i64::MAX, true);
        let read = reading
            .find(find, left, |event, _| {
                // Also one of another writer, that is about no room.
                count += 1;
                if let Some(mark) = Mark::of(&event) {
                    is_sorted &= mark.at().seconds() <= second;
                    second = mark.at().seconds();
                    oldest = oldest.min(mark.at());
                    rooms.add(mark);
                }
            })
            .await?;
        left = left.saturating_sub(read.bytes);
        if !read.is_whole || count >= most {
            if !is_sorted {
                // What is missing is not known.
                return Err(Failure::Answer("the server does not sort its answer by timestamp.seconds"));
            }
            // Without their ends, what was read of the creations is of no use.
            let is_useless = !read.is_whole && kind == MARKS[0];
            complete_from = Some(if is_useless { query.to } else { oldest });
        }
    }
    Ok(rooms.into_listing(limits.rooms, complete_from))
}

async fn records(reading: &Reading, rooms: &[Room], limits: &Limits) -> Result<Found, Failure> {
    let (mut found, mut left) = (Found::default(), limits.bytes);
    for (i, group) in rooms.chunks(ROOMS).enumerate() {
        let sids: Vec<&str> = group.iter().map(|room| room.sid.as_str()).collect();
        let one_of = || doc! { "$in": sids.clone() };
        let mut is_whole = true;
        for (stream, filter) in
            [(Stream::Events, doc! { "room.sid": one_of() }), (Stream::Stats, doc! { "room_id": one_of() })]
        {
            let find = Find { filter, ..Find::in_stream(stream) };
            let read = reading.find(find, left, |document, _| keep(&mut found, &sids, stream, &document)).await?;
            left = left.saturating_sub(read.bytes);
            is_whole &= read.is_whole;
        }
        let span = span_of(group);
        let others = OTHERS.map(|kind| others(reading, kind, span, &sids, left));
        for of_type in join_all(others).await {
            let (documents, read) = of_type?;
            is_whole &= read.is_whole && read.bytes <= left;
            left = left.saturating_sub(read.bytes);
            documents.iter().for_each(|document| keep(&mut found, &sids, Stream::Events, document));
        }
        if !is_whole {
            found.cut = rooms[i * ROOMS..].iter().map(|room| room.sid.clone()).collect();
            break;
        }
    }
    Ok(found)
}

/// Adds a document to those of its room.
fn keep(found: &mut Found, sids: &[&str], stream: Stream, document: &Value) {
    let room = room_of(stream, document);
    let Some(sid) = room.and_then(|room| sids.iter().find(|sid| **sid == room)) else { return };
    found.add(sid, stream, document);
}

/// The events of one type that name one of these rooms in a message of their own, from around the rooms' time.
///
/// Type and time alone are found by the index on any server; some look through everything if there is another condition. So all
/// of that time are read, and if there are many, only those of the rooms.
async fn others(
    reading: &Reading,
    kind: &str,
    (first, last): (Time, Time),
    sids: &[&str],
    limit: u64,
) -> Result<(Vec<Value>, Read), Failure> {
    let mut filter = doc! { "type": kind, "timestamp.seconds": range(first, last) };
    let (mut documents, mut bytes) = (Vec::new(), 0);
    let find = Find { filter: filter.clone(), ..Find::in_stream(Stream::Events) };
    let keep_some = |document: Value, size| {
        if room_of(Stream::Events, &document).is_some_and(|room| sids.contains(&room)) {
            bytes += size;
            documents.push(document);
        }
    };
    if reading.find(find, OF_OTHER_ROOMS.min(limit), keep_some).await?.is_whole {
        return Ok((documents, Read { bytes, is_whole: true }));
    }
    let of_rooms = |path: &&str| doc! { *path: { "$in": sids.to_vec() } };
    filter.insert("$or", EVENT_ROOM_PATHS.iter().map(of_rooms).collect::<Vec<Document>>());
    documents.clear();
    let find = Find { filter, ..Find::in_stream(Stream::Events) };
    let read = reading.find(find, limit, |document, _| documents.push(document)).await?;
    Ok((documents, read))
}

/// Whole seconds: events of one more second than asked for.
fn range(from: Time, to: Time) -> Document {
    doc! { "$gte": from.seconds(), "$lte": to.seconds() }
}
