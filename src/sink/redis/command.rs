//! A batch as Redis commands, and the meaning of their replies.

use std::time::Duration;

use bson::RawDocument;
use redis::{Pipeline, RedisResult, Value, aio::ConnectionLike};

use super::{
    fault::Fault,
    nodes::{Connection, slot_of},
};
use crate::{
    document::{DocumentContext, Encoder, JsonStyle, Labels, write_json},
    record::Stream,
    sink::{
        Batch, Outcome, SinkErrorKind,
        encoding::{Cancelled, PART_BYTES},
    },
};

/// An encoded record.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its index in the batch.
    pub(super) record: usize,
    pub(super) key: String,
    pub(super) slot: u16,
    json: Vec<u8>,
}

/// Encodes the next part of a batch, starting with record `next`. Records that cannot be documents are rejected in
/// `outcomes`.
pub(super) fn entries(
    batch: &Batch,
    next: &mut usize,
    encoder: &Encoder,
    labels: &Labels,
    outcomes: &mut [Outcome],
    cancelled: &Cancelled,
) -> Vec<Entry> {
    let context = DocumentContext { expire_at: None, labels };
    let mut document = Vec::new();
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(queued) = batch.records.get(*next).filter(|_| bytes < PART_BYTES && !cancelled.is_set()) {
        let record = *next;
        *next += 1;
        document.clear();
        let encoded = encoder.encode(batch.stream, &queued.bytes, &context, &mut document).map_err(|e| e.to_string());
        let entry = encoded.and_then(|()| {
            let key = key_of(batch.stream, RawDocument::from_bytes(&document).map_err(|e| e.to_string())?);
            let mut json = Vec::with_capacity(document.len() * 3 / 2);
            write_json(&document, JsonStyle::Plain, &mut json).map_err(|e| e.to_string())?;
            Ok(Entry { record, slot: slot_of(key.as_bytes()), key, json })
        });
        match entry {
            Ok(entry) => {
                bytes += entry.json.len();
                entries.push(entry);
            }
            Err(reason) => outcomes[record] = Outcome::Rejected(format!("it cannot be a document: {reason}")),
        }
    }
    entries
}

/// The key of a document; the braces put the records of a room or node into one slot.
fn key_of(stream: Stream, document: &RawDocument) -> String {
    let text = |key: &str| document.get_str(key).unwrap_or_default();
    let id = text("_id");
    match stream {
        Stream::Events => {
            let room = document.get_document("room").ok().and_then(|room| room.get_str("sid").ok());
            format!("event:{{{}}}:{}:{id}", room.unwrap_or_else(|| text("room_id")), text("type"))
        }
        Stream::Stats => format!("stat:{{{}}}:{}:{}:{id}", text("room_id"), text("participant_id"), text("track_id")),
        Stream::NodeRooms => format!("node_rooms:{{{}}}:{id}", text("node_id")),
    }
}

/// Sends entries in one pipeline, with WAITAOF at the end if it can be used. One reply per command.
pub(super) async fn send(
    connection: &mut Connection,
    entries: &[&Entry],
    expire_seconds: Option<u64>,
    timeout: Duration,
) -> RedisResult<Vec<Value>> {
    let mut pipeline = Pipeline::with_capacity(2 * entries.len() + 1);
    for entry in entries {
        pipeline.cmd("JSON.SET").arg(&entry.key).arg("$").arg(&entry.json);
        if let Some(seconds) = expire_seconds {
            pipeline.cmd("EXPIRE").arg(&entry.key).arg(seconds);
        }
    }
    if connection.fsyncs() {
        pipeline.cmd("WAITAOF").arg(1).arg(0).arg(timeout.as_millis() as u64 / 4 * 3);
    }
    let commands = pipeline.cmd_iter().count();
    connection.redis().req_packed_commands(&pipeline, 0, commands).await
}

/// The answer of WAITAOF: how many local and replica files contain everything written.
pub(super) fn fsynced(reply: Option<&Value>) -> Result<(), (SinkErrorKind, String)> {
    match reply {
        Some(Value::Array(files)) if matches!(files[..], [Value::Int(1..), Value::Int(0..)]) => Ok(()),
        Some(Value::ServerError(error)) => {
            let kind = match Fault::of(error.code(), error.details().unwrap_or_default()) {
                Fault::Unavailable(kind) => kind,
                Fault::Moved { .. } | Fault::Refused | Fault::Unknown => SinkErrorKind::Unavailable,
            };
            Err((kind, format!("WAITAOF: {} {}", error.code(), error.details().unwrap_or_default())))
        }
        _ => Err((SinkErrorKind::Timeout, "the append-only file was not synced in time".to_owned())),
    }
}

/// True if each reply has a type that its command can give, or is an error: then it surely belongs to that command.
pub(super) fn are_in_order(replies: &[Value], expires: bool, fsyncs: bool) -> bool {
    let (replies, fsync) = replies.split_at(replies.len() - usize::from(fsyncs && !replies.is_empty()));
    let is_error = |reply: &Value| matches!(reply, Value::ServerError(_));
    let of_entry = |replies: &[Value]| match replies {
        [set] => !expires && (*set == Value::Okay || is_error(set)),
        [set, expire] => {
            (*set == Value::Okay || is_error(set)) && (matches!(expire, Value::Int(_)) || is_error(expire))
        }
        _ => false,
    };
    replies.chunks(1 + usize::from(expires)).all(of_entry)
        && fsync.iter().all(|reply| matches!(reply, Value::Array(_)) || is_error(reply))
}

/// Describes a reply that is neither success nor an error.
pub(super) fn not_understood(command: &str, reply: &Value) -> String {
    /// Of a text that the server wrote.
    const SHOWN_CHARS: usize = 60;
    let shown = match reply {
        Value::Nil => "nil".to_owned(),
        Value::Okay => "OK".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::SimpleString(text) => format!("{:?}", text.chars().take(SHOWN_CHARS).collect::<String>()),
        Value::BulkString(bytes) => format!("a string of {} bytes", bytes.len()),
        Value::Array(items) => format!("a list of {}", items.len()),
        _ => "a value of another type".to_owned(),
    };
    format!("{command} was answered with {shown}, which is neither success nor an error: is this a Redis server?")
}

/// True if the server has RedisJSON.
pub(super) async fn has_json(connection: &mut Connection) -> RedisResult<bool> {
    let answer: RedisResult<Value> =
        redis::cmd("JSON.TYPE").arg("event:{}:probe").query_async(connection.redis()).await;
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().to_ascii_lowercase().contains("unknown command") => Ok(false),
        // Any other answer comes from the command itself: a redirection, or missing rights to read.
        Err(error) if error.code().is_some_and(|code| ["MOVED", "ASK", "NOPERM", "CLUSTERDOWN"].contains(&code)) => {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, doc};

    use super::*;

    fn key(stream: Stream, document: bson::Document) -> String {
        key_of(stream, &RawDocumentBuf::try_from(&document).expect("BSON"))
    }

    #[test]
    fn keys_are_those_of_the_fork_with_the_room_as_hash_tag() {
        let event = doc! { "_id": "AE_1", "type": "ROOM_CREATED", "room": { "sid": "RM_x" } };
        assert_eq!(key(Stream::Events, event), "event:{RM_x}:ROOM_CREATED:AE_1");
        let without_room = doc! { "_id": "AE_1", "type": "EGRESS_STARTED", "room_id": "RM_y" };
        assert_eq!(key(Stream::Events, without_room), "event:{RM_y}:EGRESS_STARTED:AE_1");
        let stat = doc! { "_id": "AS_1", "room_id": "RM_x", "participant_id": "PA_1", "track_id": "TR_1" };
        assert_eq!(key(Stream::Stats, stat), "stat:{RM_x}:PA_1:TR_1:AS_1");
        assert_eq!(
            key(Stream::NodeRooms, doc! { "_id": "ND_1:7:1.0", "node_id": "ND_1" }),
            "node_rooms:{ND_1}:ND_1:7:1.0"
        );
    }

    #[test]
    fn documents_much_larger_than_their_records_are_made_a_part_at_a_time() {
        let batch = crate::sink::encoding::small_records_of_large_documents(150);
        let encoder = Encoder::new(crate::document::DocumentOptions::default());
        let (labels, cancelled) = (Labels::none(), Cancelled::default());
        let mut outcomes = vec![Outcome::Retry; batch.records.len()];
        let (mut next, mut parts, mut records) = (0, 0, Vec::new());
        while next < batch.records.len() {
            let part = entries(&batch, &mut next, &encoder, &labels, &mut outcomes, &cancelled);
            let bytes: usize = part.iter().map(|entry| entry.json.len()).sum();
            assert!(bytes < PART_BYTES + PART_BYTES / 4, "{bytes} bytes at once");
            records.extend(part.iter().map(|entry| entry.record));
            parts += 1;
        }
        assert_eq!(records, (0..150).collect::<Vec<_>>());
        assert!(parts > 2, "{parts} parts");
    }

    #[test]
    fn a_reply_of_another_commands_type_is_out_of_order() {
        let (ok, one, files) = (Value::Okay, Value::Int(1), Value::Array(vec![Value::Int(1), Value::Int(0)]));
        let in_order = |replies: &[&Value], expires, fsyncs| {
            are_in_order(&replies.iter().map(|&reply| reply.clone()).collect::<Vec<_>>(), expires, fsyncs)
        };
        assert!(in_order(&[&ok, &one, &ok, &one, &files], true, true));
        assert!(in_order(&[&ok, &ok, &files], false, true) && in_order(&[&ok, &one], true, false));
        for wrong in [&[&ok, &ok, &one, &files][..], &[&ok, &one, &ok], &[&one, &ok, &files], &[&ok, &one, &one]] {
            assert!(!in_order(wrong, true, true), "{wrong:?}");
        }
        assert!(!in_order(&[&ok, &one], false, false) && !in_order(&[&ok, &ok], true, false));
    }

    #[test]
    fn only_a_synced_file_of_the_servers_own_counts() {
        assert!(fsynced(Some(&Value::Array(vec![Value::Int(1), Value::Int(0)]))).is_ok());
        assert!(fsynced(Some(&Value::Array(vec![Value::Int(0), Value::Int(2)]))).is_err());
        assert!(fsynced(None).is_err());
        let numbers = |first, second| Value::Array(vec![Value::Int(first), Value::Int(second)]);
        for reply in [
            Value::Okay,
            Value::Nil,
            Value::Int(1),
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Int(1), Value::Nil]),
            Value::Array(vec![Value::Int(1), Value::Int(0), Value::Int(0)]),
            Value::Array(vec![Value::SimpleString("1".to_owned()), Value::Int(0)]),
            Value::Array(vec![Value::Boolean(true), Value::Int(0)]),
            numbers(-1, 0),
            numbers(1, -1),
            numbers(0, 0),
        ] {
            assert!(fsynced(Some(&reply)).is_err(), "{reply:?}");
        }
    }
}
