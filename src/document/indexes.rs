//! The indexes of each MongoDB collection: those of OpenVidu's fork for `events` and `stats`, ours for
//! `node_rooms`, and one of ours for `events`, by which sessions are found.

use crate::record::Stream;

/// An ascending index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    /// The paths of its fields in the document, in their order.
    pub fields: &'static [&'static str],
    /// `Some` makes it a TTL index with this `expireAfterSeconds`.
    pub expire_after_seconds: Option<i32>,
}

impl Index {
    const fn on(fields: &'static [&'static str]) -> Self {
        Self { fields, expire_after_seconds: None }
    }

    /// The name that MongoDB gives the index by default: `room.sid_1`, `type_1_timestamp.seconds_1`.
    #[must_use]
    pub fn name(&self) -> String {
        self.fields.iter().map(|field| format!("{field}_1")).collect::<Vec<_>>().join("_")
    }
}

/// A document is removed once its own `openvidu_expire_at` has passed; documents without it are kept.
const EXPIRY: Index = Index { fields: &["openvidu_expire_at"], expire_after_seconds: Some(0) };

const EVENTS: [Index; 6] = [
    Index::on(&["type"]),
    Index::on(&["room.sid"]),
    Index::on(&["participant.sid"]),
    Index::on(&["timestamp.seconds"]),
    // Sessions are found by their creation, which is one in a hundred events.
    Index::on(&["type", "timestamp.seconds"]),
    EXPIRY,
];

const STATS: [Index; 7] = [
    Index::on(&["room_id"]),
    Index::on(&["participant_id"]),
    Index::on(&["track_id"]),
    Index::on(&["kind"]),
    Index::on(&["time_stamp.seconds"]),
    Index::on(&["score"]),
    EXPIRY,
];

const NODE_ROOMS: [Index; 3] = [Index::on(&["node_id"]), Index::on(&["timestamp.seconds"]), EXPIRY];

/// The indexes that the collection of a stream should have, besides `_id`.
#[must_use]
pub const fn indexes(stream: Stream) -> &'static [Index] {
    match stream {
        Stream::Events => &EVENTS,
        Stream::Stats => &STATS,
        Stream::NodeRooms => &NODE_ROOMS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::schema;

    #[test]
    fn every_index_is_on_a_field_that_records_have() {
        for stream in Stream::ALL {
            let fields = indexes(stream).iter().filter(|index| **index != EXPIRY).flat_map(|index| index.fields);
            for path in fields {
                let mut message = Some(schema::record(stream));
                for name in path.split('.') {
                    let field = message.take().and_then(|message| message.get_field_by_name(name));
                    let field = field.unwrap_or_else(|| panic!("{stream} has no field {path}"));
                    message = field.kind().as_message().cloned();
                }
            }
        }
    }
}
