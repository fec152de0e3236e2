//! Decompression of what senders compressed: the first byte chooses the encoding and the limit, the rest is compressed. What
//! comes out is within the limit, the same under the least limit that it fits in, and refused under a lower one.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use livekit_spool::fuzzing::decompress;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, compressed)) = input.split_first() else { return };
    let encoding = ["gzip", "zstd"][usize::from(choice) % 2];
    let max = [0, 10, 1000, 1 << 20][usize::from(choice) / 2 % 4];
    let compressed = Bytes::copy_from_slice(compressed);
    let Some(Ok(plain)) = decompress(encoding, &compressed, max) else { return };
    assert!(plain.len() <= max, "{} bytes", plain.len());
    match decompress(encoding, &compressed, plain.len()).expect("known") {
        Ok(again) => assert_eq!(again, plain),
        // A lower limit allows fewer blocks.
        Err(refusal) => assert!(refusal.message.contains("blocks"), "{refusal}"),
    }
    if let Some(less) = plain.len().checked_sub(1) {
        assert!(decompress(encoding, &compressed, less).expect("known").is_err());
    }
});
