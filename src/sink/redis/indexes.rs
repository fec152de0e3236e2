//! The search indexes of OpenVidu's fork. A server without RediSearch keeps the documents without them.

use redis::{RedisResult, Value};

use super::{command::not_understood, nodes::Connection};
use crate::record::Stream;

/// Path in the document, alias, type.
type Index = (&'static str, &'static str, &'static [&'static str]);

const TEXT: &[&str] = &["TEXT"];
const NUMERIC: &[&str] = &["NUMERIC", "SORTABLE"];

const EVENTS: &[Index] = &[
    ("$.type", "eventType", TEXT),
    ("$.room.sid", "eventRoomSid", TEXT),
    ("$.participant.sid", "eventParticipantSid", TEXT),
    ("$.timestamp.seconds", "eventTimestamp", NUMERIC),
];

const STATS: &[Index] = &[
    ("$.room_id", "statRoomId", TEXT),
    ("$.participant_id", "statParticipantId", TEXT),
    ("$.track_id", "statTrackId", TEXT),
    ("$.kind", "statKind", TEXT),
    ("$.time_stamp.seconds", "statTimestamp", NUMERIC),
    ("$.score", "statScore", NUMERIC),
];

/// The names of a stream's search indexes.
#[must_use]
pub fn index_names(stream: Stream) -> Vec<String> {
    let indexes = match stream {
        Stream::Events => EVENTS,
        Stream::Stats => STATS,
        Stream::NodeRooms => &[],
    };
    indexes.iter().map(|(_, alias, _)| format!("idx:{alias}")).collect()
}

/// Creates the missing indexes; returns the failures of single ones.
pub(super) async fn create(connection: &mut Connection, streams: &[Stream]) -> RedisResult<Vec<String>> {
    let mut warnings = Vec::new();
    for &stream in streams {
        let (prefix, indexes) = match stream {
            Stream::Events => ("event:", EVENTS),
            Stream::Stats => ("stat:", STATS),
            Stream::NodeRooms => continue,
        };
        for &(path, alias, kind) in indexes {
            let name = format!("idx:{alias}");
            let mut command = redis::cmd("FT.CREATE");
            command.arg(&name).arg("ON").arg("JSON").arg("PREFIX").arg(1).arg(prefix);
            command.arg("SCHEMA").arg(path).arg("AS").arg(alias).arg(kind);
            let answer: RedisResult<Value> = command.query_async(connection.redis()).await;
            let error = match answer {
                Ok(Value::Okay) => continue,
                Ok(other) => {
                    warnings.push(format!("search index {name}: {}", not_understood("FT.CREATE", &other)));
                    continue;
                }
                Err(error) => error,
            };
            let text = error.to_string().to_ascii_lowercase();
            if text.contains("already exists") {
                continue;
            }
            if text.contains("unknown command") {
                warnings.push("the server has no RediSearch: documents are kept without search indexes".to_owned());
                return Ok(warnings);
            }
            if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
                return Err(error);
            }
            warnings.push(format!("search index {name} was not created, queries by {path} will not find it: {error}"));
        }
    }
    Ok(warnings)
}
