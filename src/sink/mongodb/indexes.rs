//! The indexes that OpenVidu's dashboards rely on. One that cannot be made is a warning that says how to mend it:
//! records are worth more than indexes.

use bson::{Document, doc};
use mongodb::{Database, error::Error};

use super::fault::{Fault, kind_of};
use crate::{record::Stream, sink::SinkErrorKind};

/// Documents expire at the time this field holds.
const EXPIRE_AT: &str = "openvidu_expire_at";
/// Error codes for an index that is there with other options, or another one of that name.
const CONFLICTS: [i32; 2] = [85, 86];

/// The fields of a stream's collection that are indexed.
const fn fields(stream: Stream) -> &'static [&'static str] {
    match stream {
        Stream::Events => &["type", "room.sid", "participant.sid", "timestamp.seconds"],
        Stream::Stats => &["room_id", "participant_id", "track_id", "kind", "time_stamp.seconds", "score"],
        Stream::NodeRooms => &["node_id", "timestamp.seconds"],
    }
}

fn index(field: &str) -> Document {
    let mut index = doc! { "key": { field: 1 }, "name": format!("{field}_1") };
    if field == EXPIRE_AT {
        index.insert("expireAfterSeconds", 0);
    }
    index
}

/// Makes a collection's indexes; returns what went wrong with single ones.
///
/// # Errors
/// When the server is not to be had.
pub(super) async fn create(database: &Database, stream: Stream, expires: bool) -> Result<Vec<String>, Error> {
    let fields: Vec<&str> = fields(stream).iter().copied().chain(expires.then_some(EXPIRE_AT)).collect();
    let all = fields.iter().map(|field| index(field)).collect();
    match create_some(database, stream, all).await {
        Ok(()) => return Ok(Vec::new()),
        Err(error) if is_away(&error) => return Err(error),
        Err(_) => {}
    }
    // One of them is refused; which one shows when each is made alone.
    let mut warnings = Vec::new();
    for field in fields {
        match create_some(database, stream, vec![index(field)]).await {
            Ok(()) => {}
            Err(error) if is_away(&error) => return Err(error),
            Err(error) => warnings.push(warning(database.name(), stream, field, &error)),
        }
    }
    Ok(warnings)
}

async fn create_some(database: &Database, stream: Stream, indexes: Vec<Document>) -> Result<(), Error> {
    let command = doc! { "createIndexes": stream.as_str(), "indexes": indexes };
    database.run_command(command).await.map(drop)
}

/// Missing rights are no reason to wait here: a user that may only insert is a good one.
fn is_away(error: &Error) -> bool {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(answer) => {
            matches!(Fault::of_code(answer.code), Fault::Away(kind) if kind != SinkErrorKind::Unauthorized)
        }
        _ => kind_of(error) != SinkErrorKind::Unnamed,
    }
}

fn warning(database: &str, stream: Stream, field: &str, error: &Error) -> String {
    let (code, reason) = match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(answer) => (answer.code, answer.message.clone()),
        other => (0, other.to_string()),
    };
    let (place, name) = (format!("{database}.{stream}"), format!("{field}_1"));
    let what = if field == EXPIRE_AT { "TTL index" } else { "index" };
    let consequence = match (CONFLICTS.contains(&code), field == EXPIRE_AT) {
        (true, true) => format!(
            "documents expire as the present index says, or never; to mend it, run \
             db.{stream}.dropIndex(\"{name}\") (or drop the index named in the error), then restart livekit-spool"
        ),
        (true, false) => format!(
            "the present index stays; to mend it, run db.{stream}.dropIndex(\"{name}\") (or drop the index named in the \
             error), then restart livekit-spool"
        ),
        (false, true) => "documents will not expire by themselves on this server".to_owned(),
        (false, false) => "queries by this field will be slow".to_owned(),
    };
    format!("{what} {name} on {place} was not made: {consequence}. The server said: {reason} (code {code})")
}
