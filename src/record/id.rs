//! A record's id, which makes a redelivery harmless.
//!
//! - events, stats: LiveKit's own id (`AE_…`, `AS_…`: field 25 of `AnalyticsEvent`, field 14 of `AnalyticsStat`);
//! - node room states: `<node id>:<sequence number>:<seconds>.<nanos>`;
//! - anything without these: 128 bits of BLAKE3 over its bytes, as 32 hex digits.

use std::fmt;

use super::{
    stream::Stream,
    wire::{self, Value},
};

/// The `_id` of a record's document: the same for the same record, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(String);

impl RecordId {
    /// The id of a record, from its protobuf bytes. Never fails: bytes that cannot be read are hashed.
    #[must_use]
    pub fn of(stream: Stream, record: &[u8]) -> Self {
        let own = match stream.id_field() {
            Some(field) => text_field(record, field),
            None => node_rooms_id(record),
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

impl Stream {
    /// The number of the string field with LiveKit's own id, if the stream's records have one.
    pub(crate) const fn id_field(self) -> Option<u32> {
        match self {
            Self::Events => Some(25),
            Self::Stats => Some(14),
            Self::NodeRooms => None,
        }
    }
}

/// The last value of a string field at the top level, if it exists, is UTF-8 and is not empty.
fn text_field(mut record: &[u8], number: u32) -> Option<String> {
    let mut found = None;
    while !record.is_empty() {
        if let (n, Value::Length(bytes)) = wire::field(&mut record).ok()?
            && n == number
        {
            found = Some(bytes);
        }
    }
    let text = std::str::from_utf8(found?).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn node_rooms_id(mut record: &[u8]) -> Option<String> {
    let (mut node, mut sequence, mut at) = (None, 0, (0, 0));
    while !record.is_empty() {
        match wire::field(&mut record).ok()? {
            (1, Value::Length(bytes)) => node = Some(std::str::from_utf8(bytes).ok()?),
            (2, Value::Varint(value)) => sequence = value,
            (3, Value::Length(bytes)) => at = timestamp(bytes)?,
            _ => {}
        }
    }
    let node = node.filter(|node| !node.is_empty())?;
    Some(format!("{node}:{sequence}:{}.{:09}", at.0, at.1))
}

/// Seconds and nanos of a `google.protobuf.Timestamp`.
pub(super) fn timestamp(mut message: &[u8]) -> Option<(i64, i32)> {
    let mut at = (0, 0);
    while !message.is_empty() {
        match wire::field(&mut message).ok()? {
            (1, Value::Varint(value)) => at.0 = value.cast_signed(),
            (2, Value::Varint(value)) => at.1 = (value as u32).cast_signed(),
            _ => {}
        }
    }
    Some(at)
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

    /// Proto3 no longer writes groups; a document is made of such a record, and its `_id` is this one.
    #[test]
    fn a_group_before_it_hides_no_id() {
        let event = AnalyticsEvent { id: "AE_abc".into(), ..Default::default() }.encode_to_vec();
        let behind_a_group = [&[0xBB, 0x06, 0x08, 0x01, 0xBC, 0x06][..], &event].concat();
        assert_eq!(RecordId::of(Stream::Events, &behind_a_group).as_str(), "AE_abc");
    }

    fn pbjson_timestamp(seconds: i64, nanos: i32) -> pbjson_types::Timestamp {
        pbjson_types::Timestamp { seconds, nanos }
    }
}
