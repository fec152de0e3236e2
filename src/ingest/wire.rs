//! Checks protobuf bytes as received, at the top level only, without building messages.
//!
//! Guaranteed afterwards: a batch is framed as [`RecordBatch`] says, and every record is a sequence of whole fields (tag,
//! and a value of the wire type's length). Not checked: nested messages, UTF-8, unknown fields. A record that a sink's
//! schema cannot read becomes a dead letter there, never an error here.

use bytes::Bytes;

use crate::record::{
    RECORD_TAG, RecordBatch, RecordBatchBuilder, Stream, UnixMillis,
    wire::{self, Value},
};

/// The maximum nesting of groups (a wire type that proto3 no longer writes). Protobuf's implementations, which count the
/// record and its wrapper too, accept every record that is accepted here.
const MAX_GROUP_DEPTH: usize = 32;
/// `type` of `livekit.AnalyticsEvent`.
const EVENT_TYPE_FIELD: u32 = 1;

/// Bytes that are not a valid message. A resend of the same bytes cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The wrapper has neither a record nor an unknown field where its next field should be.
    #[error("not a {message} message: no protobuf field begins at byte {at}")]
    Wrapper {
        /// The message that was expected.
        message: &'static str,
        /// Offset in the message.
        at: usize,
    },
    /// A record is not a sequence of whole protobuf fields.
    #[error("record {index} is not a {message}: no protobuf field begins at its byte {at}")]
    Record {
        /// Index in the message, from 0.
        index: u32,
        /// The record message that was expected.
        message: &'static str,
        /// Offset in the record.
        at: usize,
    },
    /// More records than a message may hold.
    #[error("more than {limit} records in one message: send them in several")]
    TooManyRecords {
        /// The limit.
        limit: u32,
    },
}

/// Reads one message: the wrapper of `stream`, or one record (node room states, which have no wrapper).
///
/// # Errors
/// When the bytes are not such a message, or hold more than `max_records`.
pub fn message(
    stream: Stream,
    received_at: UnixMillis,
    bytes: Bytes,
    max_records: u32,
) -> Result<RecordBatch, WireError> {
    match stream {
        Stream::Events | Stream::Stats => wrapper(stream, received_at, bytes, max_records),
        Stream::NodeRooms => record(stream, received_at, &bytes),
    }
}

/// One record alone, framed.
///
/// # Errors
/// When it is not a sequence of whole fields.
pub fn record(stream: Stream, received_at: UnixMillis, bytes: &[u8]) -> Result<RecordBatch, WireError> {
    check_record(stream, 0, bytes)?;
    let mut batch = RecordBatchBuilder::new(stream);
    batch.push(bytes);
    Ok(batch.build(received_at))
}

/// Records framed as field 1. The bytes are kept unless the wrapper holds unknown fields or unusual tags: then only the
/// records, unchanged, are framed again.
///
/// # Errors
/// When the bytes are not such a wrapper, or hold more than `max_records`.
pub fn wrapper(
    stream: Stream,
    received_at: UnixMillis,
    bytes: Bytes,
    max_records: u32,
) -> Result<RecordBatch, WireError> {
    let (mut count, mut plain) = (0_u32, true);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        plain &= rest[0] == RECORD_TAG;
        match take_field(&mut rest) {
            Some((1, Value::Length(record))) => {
                if count == max_records {
                    return Err(WireError::TooManyRecords { limit: max_records });
                }
                check_record(stream, count, record)?;
                count += 1;
            }
            // Field 1 of another wire type: these are not records.
            Some((1, _)) | None => return Err(WireError::Wrapper { message: wrapper_name(stream), at }),
            Some(_) => plain = false,
        }
    }
    if plain {
        let message = wrapper_name(stream);
        return RecordBatch::from_wrapper(stream, received_at, bytes)
            .map_err(|bad| WireError::Wrapper { message, at: bad.at });
    }
    let mut batch = RecordBatchBuilder::new(stream);
    let mut rest = &bytes[..];
    while let Some((number, value)) = take_field(&mut rest) {
        if let (1, Value::Length(record)) = (number, value) {
            batch.push(record);
        }
    }
    Ok(batch.build(received_at))
}

/// The type of an event, as its number: the last value of the field, 0 (`ROOM_CREATED`) if there is none.
#[must_use]
pub fn event_type(event: &[u8]) -> i32 {
    let mut rest = event;
    let mut found = 0;
    while let Some((number, value)) = take_field(&mut rest) {
        if let (EVENT_TYPE_FIELD, Value::Varint(value)) = (number, value) {
            found = (value as u32).cast_signed();
        }
    }
    found
}

const fn wrapper_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Events => "livekit.AnalyticsEvents",
        Stream::Stats => "livekit.AnalyticsStats",
        Stream::NodeRooms => "livekit.AnalyticsNodeRooms wrapper",
    }
}

fn check_record(stream: Stream, index: u32, record: &[u8]) -> Result<(), WireError> {
    let mut rest = record;
    while !rest.is_empty() {
        let at = record.len() - rest.len();
        take_field(&mut rest).ok_or(WireError::Record { index, message: stream.message_name(), at })?;
    }
    Ok(())
}

/// Removes one field from the front; `None` if there is no whole field.
fn take_field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    match wire::field(rest).ok()? {
        (_, Value::Group { levels }) if levels > MAX_GROUP_DEPTH => None,
        field => Some(field),
    }
}

#[cfg(test)]
mod tests {
    use livekit_protocol::{AnalyticsEvent, AnalyticsEvents, AnalyticsStat, AnalyticsStats};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::testing::cases;

    fn events(types: &[i32]) -> Vec<u8> {
        let events =
            types.iter().map(|&r#type| AnalyticsEvent { r#type, id: format!("AE_{type}"), ..Default::default() });
        AnalyticsEvents { events: events.collect() }.encode_to_vec()
    }

    #[test]
    fn a_wrapper_is_kept_byte_for_byte() {
        let bytes = events(&[0, 3, 41]);
        let batch = message(Stream::Events, 7, bytes.clone().into(), 3).unwrap();
        assert_eq!((batch.count(), batch.received_at), (3, 7));
        assert_eq!(batch.bytes(), &bytes);
        assert_eq!(batch.iter().map(event_type).collect::<Vec<_>>(), [0, 3, 41]);
    }

    #[test]
    fn unknown_fields_of_the_wrapper_are_left_out_and_the_records_stay_as_they_came() {
        let mut bytes = events(&[1]);
        bytes.extend([0x10, 0x05]); // field 2, varint
        bytes.extend([0x8A, 0x00, 0x00]); // field 1 with a tag in two bytes, an empty record
        bytes.extend([0x1B, 0x22, 0x01, 0xFF, 0x1C]); // field 3, a group around field 4
        let batch = message(Stream::Events, 0, bytes.into(), 10).unwrap();
        assert_eq!(batch.count(), 2);
        let mut expected = events(&[1]);
        expected.extend([0x0A, 0x00]);
        assert_eq!(batch.bytes(), &expected);
    }

    #[test]
    fn unknown_fields_of_a_record_survive() {
        let mut record = AnalyticsStat { id: "AS_1".into(), ..Default::default() }.encode_to_vec();
        record.extend([0xF8, 0xFF, 0xFF, 0xFF, 0x0F, 0x2A]); // field 536870911
        let mut bytes = vec![0x0A, u8::try_from(record.len()).unwrap()];
        bytes.extend(&record);
        let batch = message(Stream::Stats, 0, bytes.into(), 10).unwrap();
        assert_eq!(batch.iter().next().unwrap(), record);
    }

    #[test]
    fn a_node_room_state_is_one_record() {
        let batch = message(Stream::NodeRooms, 0, Bytes::from_static(&[0x0A, 0x01, b'n', 0x10, 0x02]), 1).unwrap();
        assert_eq!(batch.iter().collect::<Vec<_>>(), [&[0x0A, 0x01, b'n', 0x10, 0x02]]);
    }

    #[test]
    fn an_empty_message_holds_no_records() {
        assert!(message(Stream::Events, 0, Bytes::new(), 1).unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_record_and_the_byte() {
        let cut = &events(&[7])[..4];
        assert_eq!(
            message(Stream::Events, 0, Bytes::copy_from_slice(cut), 9),
            Err(WireError::Wrapper { message: "livekit.AnalyticsEvents", at: 0 })
        );
        let bad = Bytes::from_static(&[0x0A, 0x00, 0x0A, 0x03, 0x08, 0x01, 0x07]);
        assert_eq!(
            message(Stream::Events, 0, bad, 9).unwrap_err().to_string(),
            "record 1 is not a livekit.AnalyticsEvent: no protobuf field begins at its byte 2"
        );
    }

    #[test]
    fn more_records_than_allowed_are_refused() {
        let bytes = Bytes::from(events(&[0, 1]));
        assert_eq!(message(Stream::Events, 0, bytes, 1), Err(WireError::TooManyRecords { limit: 1 }));
    }

    #[test]
    fn a_field_number_of_zero_a_lonely_group_end_and_deep_groups_are_refused() {
        let nested = |levels: usize| [vec![0x0B; levels], vec![0x0C; levels]].concat();
        assert!(record(Stream::Events, 0, &nested(MAX_GROUP_DEPTH)).is_ok());
        assert!(record(Stream::Events, 0, &nested(MAX_GROUP_DEPTH + 1)).is_err());
        for bad in [&[0x02_u8, 0x00][..], &[0x0C], &[0x0B; 40], &[0x0B, 0x14]] {
            assert!(record(Stream::Events, 0, bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn what_prost_reads_is_accepted(ids in prop::collection::vec("[A-Za-z]{0,40}", 0..20), score in any::<f32>()) {
            let stats = ids.iter().map(|id| AnalyticsStat { id: id.clone(), score, ..Default::default() }).collect();
            let bytes = AnalyticsStats { stats }.encode_to_vec();
            let batch = message(Stream::Stats, 0, bytes.into(), 20).unwrap();
            prop_assert_eq!(batch.count() as usize, ids.len());
        }

        #[test]
        fn any_bytes_end_in_records_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for stream in Stream::ALL {
                if let Ok(batch) = message(stream, 0, bytes.clone().into(), 1000) {
                    prop_assert_eq!(batch.iter().count(), batch.count() as usize);
                    batch.iter().map(event_type).for_each(drop);
                }
            }
        }
    }
}
