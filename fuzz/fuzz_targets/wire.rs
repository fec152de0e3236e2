//! The walker of wire bytes: what it accepts, prost accepts too, and reads the same records in it.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use livekit_spool::{
    ingest::wire,
    record::{RecordBatch, Stream},
};
use prost::Message;

const MAX_RECORDS: u32 = 100;

/// The messages around records.
#[derive(Message)]
struct Wrapper {
    #[prost(bytes = "vec", repeated, tag = "1")]
    records: Vec<Vec<u8>>,
}

fuzz_target!(|bytes: &[u8]| {
    for stream in Stream::ALL {
        let Ok(batch) = wire::message(stream, 0, Bytes::copy_from_slice(bytes), MAX_RECORDS) else { continue };
        let records: Vec<&[u8]> = batch.iter().collect();
        assert_eq!(records.len(), batch.count() as usize);
        assert!(batch.count() <= MAX_RECORDS);
        if stream == Stream::NodeRooms {
            assert_eq!(records, [bytes]);
        } else {
            assert_eq!(Wrapper::decode(bytes).expect("prost accepts it too").records, records);
        }
        for record in records {
            let _ = wire::event_type(record);
            // As a message without fields: all of a record's are unknown then, and have to be whole.
            <()>::decode(record).expect("whole fields");
        }
        // What is framed once stays as it is.
        let again = RecordBatch::from_wrapper(stream, 0, batch.bytes().clone()).expect("framed");
        assert_eq!(again, batch);
        if stream != Stream::NodeRooms {
            let message = wire::message(stream, 0, batch.bytes().clone(), MAX_RECORDS).expect("framed");
            assert_eq!(message, batch);
        }
    }
});
