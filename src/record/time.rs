//! A record's own time: what end-to-end lag is measured from.

use super::{
    clock::UnixMillis,
    id::timestamp,
    stream::Stream,
    wire::{self, Value},
};

impl Stream {
    /// The number of the field that holds a record's own time.
    pub(crate) const fn time_field(self) -> u32 {
        match self {
            Self::Events => 2,
            Self::Stats | Self::NodeRooms => 3,
        }
    }
}

/// When the record was made, by its sender's clock; `None` if it has no time or cannot be read.
#[must_use]
pub fn time_of(stream: Stream, mut record: &[u8]) -> Option<UnixMillis> {
    while !record.is_empty() {
        if let (number, Value::Length(message)) = wire::field(&mut record).ok()?
            && number == stream.time_field()
        {
            let (seconds, nanos) = timestamp(message)?;
            return seconds.checked_mul(1000)?.checked_add(i64::from(nanos) / 1_000_000);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use livekit_protocol::{AnalyticsEvent, AnalyticsNodeRooms, AnalyticsStat};
    use prost::Message;

    use super::*;

    #[test]
    fn each_streams_own_time_is_found() {
        let at = Some(pbjson_types::Timestamp { seconds: 12, nanos: 345_678_901 });
        let event = AnalyticsEvent { timestamp: at, ..Default::default() }.encode_to_vec();
        assert_eq!(time_of(Stream::Events, &event), Some(12_345));
        let stat = AnalyticsStat { time_stamp: at, ..Default::default() }.encode_to_vec();
        assert_eq!(time_of(Stream::Stats, &stat), Some(12_345));
        let rooms = AnalyticsNodeRooms { timestamp: at, ..Default::default() }.encode_to_vec();
        assert_eq!(time_of(Stream::NodeRooms, &rooms), Some(12_345));
    }

    #[test]
    fn a_record_without_a_time_or_that_cannot_be_read_has_none() {
        let event = AnalyticsEvent { room_id: "RM_x".into(), ..Default::default() }.encode_to_vec();
        assert_eq!(time_of(Stream::Events, &event), None);
        assert_eq!(time_of(Stream::Events, &[0xFF; 4]), None);
    }
}
