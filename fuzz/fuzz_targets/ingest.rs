//! Records over HTTP: the first byte chooses stream, type and encoding, the rest is the body. A body that is accepted is accepted again
//! with the same records, and records that came as JSON make documents.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use http::{
    Request,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use libfuzzer_sys::fuzz_target;
use livekit_spool::record::Stream;
use livekit_spool_fuzz::Port;

static PORT: LazyLock<Port> = LazyLock::new(|| Port::new(Default::default()));

const TYPES: [&str; 3] = ["application/json", "application/x-ndjson", "application/x-protobuf"];
const ENCODINGS: [&str; 3] = ["identity", "gzip", "zstd"];

fuzz_target!(|input: &[u8]| {
    let Some((&choice, body)) = input.split_first() else { return };
    let choice = usize::from(choice);
    let stream = Stream::ALL[choice % 3];
    let media = TYPES[choice / 3 % 3];
    let request = Request::post(format!("/v1/{stream}"))
        .header(CONTENT_TYPE, media)
        .header(CONTENT_ENCODING, ENCODINGS[choice / 9 % 3])
        .body(Bytes::copy_from_slice(body))
        .expect("a request");

    let (status, batch) = PORT.ask(request.clone());
    let (status_again, batch_again) = PORT.ask(request);
    assert_eq!(status, status_again);
    let [bytes, bytes_again] = [&batch, &batch_again].map(|batch| batch.as_ref().map(|batch| batch.bytes().clone()));
    assert_eq!(bytes, bytes_again);
    if let Some(batch) = batch
        && media != TYPES[2]
    {
        PORT.check_documents(&batch);
    }
});
