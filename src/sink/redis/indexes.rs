//! The search indexes of OpenVidu's fork. A server without RediSearch keeps the documents without them.

use redis::{RedisResult, Value};

use super::{RedisOptions, command::not_understood, nodes::Connection};
use crate::{
    record::Stream,
    sink::{IndexState, IndexStatus, SinkOptions},
};

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
fn index_names(stream: Stream) -> Vec<String> {
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

/// The indexes of the streams, compared with what the server lists.
pub(super) async fn compare(options: &RedisOptions) -> Result<Vec<IndexStatus>, String> {
    let address = options.address();
    let failed = |error: redis::RedisError| format!("{address}: {error}");
    let client = redis::Client::open(options.url.as_str()).map_err(|_| "the url cannot be used".to_owned())?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    let present: Vec<String> = match redis::cmd("FT._LIST").query_async(&mut connection).await {
        Ok(present) => present,
        Err(error) if error.to_string().to_ascii_lowercase().contains("unknown command") => {
            return Err(format!("{address} has no RediSearch, and so no indexes"));
        }
        Err(error) => return Err(failed(error)),
    };
    let indexes = options.streams.iter().flat_map(|&stream| {
        let present = &present;
        index_names(stream).into_iter().map(move |index| {
            let state = if present.contains(&index) { IndexState::Ok } else { IndexState::Missing };
            IndexStatus { collection: stream.to_string(), index, state, detail: None }
        })
    });
    Ok(indexes.collect())
}
