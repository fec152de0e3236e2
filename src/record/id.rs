//! A record's id: what makes a resend harmless.
//!
//! - events, stats: LiveKit's own id (`AE_…`, `AS_…`: field 25 of `AnalyticsEvent`, field 14 of `AnalyticsStat`);
//! - node room states: `<node id>:<sequence number>:<seconds>.<nanos>`;
//! - anything that brings none of these: 128 bits of BLAKE3 over its bytes, as 32 hex digits.

use std::fmt;

use super::{Stream, read_varint};

/// The `_id` of a record's document: the same for the same record, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(String);

impl RecordId {
    /// The id of a record, from its protobuf bytes. Never fails: bytes that cannot be read are hashed.
    #[must_use]
    pub fn of(stream: Stream, record: &[u8]) -> Self {
        let own = match stream {
            Stream::Events => text_field(record, 25),
            Stream::Stats => text_field(record, 14),
            Stream::NodeRooms => node_rooms_id(record),
        };
        Self(own.unwrap_or_else(|| blake3::hash(record).to_hex()[..32].to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The last value of a string field at the top level, if it is there, UTF-8 and not empty.
fn text_field(record: &[u8], number: u32) -> Option<String> {
    let mut found = None;
    for field in (Fields { rest: record }) {
        if let (n, Value::Bytes(bytes)) = field?
            && n == number
        {
            found = Some(bytes);
        }
    }
    let text = std::str::from_utf8(found?).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn node_rooms_id(record: &[u8]) -> Option<String> {
    let (mut node, mut sequence, mut at) = (None, 0, (0, 0));
    for field in (Fields { rest: record }) {
        match field? {
            (1, Value::Bytes(bytes)) => node = Some(std::str::from_utf8(bytes).ok()?),
            (2, Value::Varint(value)) => sequence = value,
            (3, Value::Bytes(bytes)) => at = timestamp(bytes)?,
            _ => {}
        }
    }
    let node = node.filter(|node| !node.is_empty())?;
    Some(format!("{node}:{sequence}:{}.{:09}", at.0, at.1))
}

/// Seconds and nanos of a `google.protobuf.Timestamp`.
pub(super) fn timestamp(message: &[u8]) -> Option<(i64, i32)> {
    let mut at = (0, 0);
    for field in (Fields { rest: message }) {
        match field? {
            (1, Value::Varint(value)) => at.0 = value.cast_signed(),
            (2, Value::Varint(value)) => at.1 = (value as u32).cast_signed(),
            _ => {}
        }
    }
    Some(at)
}

pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of a message, one level deep; yields `None` once where the bytes cannot be read, then ends.
pub(super) struct Fields<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = read_field(&mut self.rest);
        if field.is_none() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn read_field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = read_varint(rest)?;
    let number = u32::try_from(key >> 3).ok()?;
    let mut take = |length: usize| {
        let (head, tail) = rest.split_at_checked(length)?;
        *rest = tail;
        Some(head)
    };
    let value = match key & 7 {
        0 => Value::Varint(read_varint(rest)?),
        1 => take(8).map(|_| Value::Fixed)?,
        5 => take(4).map(|_| Value::Fixed)?,
        2 => {
            let length = usize::try_from(read_varint(rest)?).ok()?;
            let (head, tail) = rest.split_at_checked(length)?;
            *rest = tail;
            Value::Bytes(head)
        }
        _ => return None,
    };
    Some((number, value))
}

#[cfg(test)]
mod tests {
    use livekit_protocol::{AnalyticsEvent, AnalyticsNodeRooms, AnalyticsStat};
    use prost::Message;

    use super::*;

    #[test]
    fn an_event_goes_by_livekits_own_id() {
        let event = AnalyticsEvent { id: "AE_abc".into(), room_id: "RM_x".into(), ..Default::default() };
        assert_eq!(RecordId::of(Stream::Events, &event.encode_to_vec()).as_str(), "AE_abc");
        let stat = AnalyticsStat { id: "AS_abc".into(), score: 4.5, ..Default::default() };
        assert_eq!(RecordId::of(Stream::Stats, &stat.encode_to_vec()).as_str(), "AS_abc");
    }

    #[test]
    fn a_record_without_an_id_goes_by_a_stable_hash_of_its_bytes() {
        let event = AnalyticsEvent { room_id: "RM_x".into(), ..Default::default() }.encode_to_vec();
        let id = RecordId::of(Stream::Events, &event);
        assert_eq!(id, RecordId::of(Stream::Events, &event));
        assert_eq!(id.as_str().len(), 32);
        assert_ne!(id, RecordId::of(Stream::Events, &event[1..]));
    }

    #[test]
    fn node_rooms_go_by_node_sequence_and_time() {
        let state = AnalyticsNodeRooms {
            node_id: "ND_1".into(),
            sequence_number: 7,
            timestamp: Some(pbjson_timestamp(12, 34)),
            ..Default::default()
        };
        assert_eq!(RecordId::of(Stream::NodeRooms, &state.encode_to_vec()).as_str(), "ND_1:7:12.000000034");
    }

    fn pbjson_timestamp(seconds: i64, nanos: i32) -> pbjson_types::Timestamp {
        pbjson_types::Timestamp { seconds, nanos }
    }
}
