//! The journal's reader: the first byte chooses how, the rest is a segment. Where its lowest bit is set, checksums are made to
//! hold first, so that what is behind them is reached.
//!
//! No record comes from a block whose checksums do not hold, all of the segment is accounted for, and a stopped spool with it can
//! be looked at and verified.

#![no_main]

use std::{collections::HashSet, fs};

use libfuzzer_sys::fuzz_target;
use livekit_spool::{
    fuzzing::{Part, scan},
    record::Stream,
    spool::{Contents, DeadFilter, PeekFrom, SpoolOptions, verify},
};

const MAGIC: &[u8] = b"LKSB";
/// A block as docs/format.md has it: 40 bytes of header, their checksum, the payload, the checksum of all before it.
const CHECKED: usize = 40;
const CRC: usize = 4;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, segment)) = input.split_first() else { return };
    let mut segment = segment.to_vec();
    if choice & 1 == 1 {
        fix_checksums(&mut segment);
    }

    let mut records = HashSet::new();
    for is_last in [false, true] {
        let Some(scanned) = scan(&segment, is_last) else { continue };
        let mut at = 0;
        for part in scanned.parts {
            let bytes = match &part {
                Part::Block { bytes, .. } | Part::Damage(bytes) => bytes,
            };
            // Only a front, which is not told, may be between.
            assert!(at <= bytes.start && bytes.start < bytes.end && bytes.end <= segment.len() as u64);
            at = bytes.end;
            if let Part::Block { bytes, stream, records: of_block } = part {
                assert!(
                    holds(&segment[bytes.start as usize..bytes.end as usize]),
                    "a block that does not hold is found"
                );
                records.extend(of_block.into_iter().flatten().map(|record| (stream, record)));
            }
        }
        if let Some(torn) = scanned.torn {
            assert!(is_last && at <= torn.start && torn.end == segment.len() as u64);
        }
    }

    if choice & 2 == 2 {
        inspect(&segment, &records);
    }
});

/// Looks at a spool whose only segment this is.
fn inspect(segment: &[u8], records: &HashSet<(Stream, Vec<u8>)>) {
    let home = tempfile::tempdir().expect("a directory");
    let journal = home.path().join("journal");
    fs::create_dir(&journal).expect("a directory");
    fs::write(journal.join("000000000001.journal"), segment).expect("a file");
    let options = || SpoolOptions { name: "fuzz".to_owned(), ..SpoolOptions::default() };
    if let Ok(spool) = Contents::of_stopped(home.path(), options()) {
        let _ = spool.status();
        for stream in Stream::ALL {
            for from in [PeekFrom::Oldest, PeekFrom::Newest, PeekFrom::Seq(1)] {
                let Ok(peek) = spool.peek(stream, from) else { continue };
                for record in peek.take(1000).map_while(Result::ok) {
                    assert!(records.contains(&(stream, record.bytes.to_vec())), "a record of no whole block");
                }
            }
        }
        let _ = spool.each_dead_letter(&DeadFilter::default(), (0, 10), &|| false, &mut |_| true);
    }
    let _ = verify(home.path(), options());
}

fn places(segment: &[u8]) -> Vec<usize> {
    (0..segment.len()).filter(|&at| segment[at..].starts_with(MAGIC)).collect()
}

fn stored_len(block: &[u8]) -> usize {
    block[24..28].iter().rev().fold(0, |len, &byte| len << 8 | usize::from(byte))
}

fn holds(block: &[u8]) -> bool {
    let is_of = |crc: &[u8], bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes() == crc;
    let end = block.len() - CRC;
    block.len() == CHECKED + CRC + stored_len(block) + CRC
        && is_of(&block[CHECKED..CHECKED + CRC], &block[..CHECKED])
        && is_of(&block[end..], &block[..end])
}

fn fix_checksums(segment: &mut [u8]) {
    for at in places(segment) {
        let block = &mut segment[at..];
        if block.len() < CHECKED + CRC {
            continue;
        }
        let crc = crc32fast::hash(&block[..CHECKED]).to_le_bytes();
        block[CHECKED..CHECKED + CRC].copy_from_slice(&crc);
        let end = CHECKED + CRC + stored_len(block);
        if end + CRC <= block.len() {
            let crc = crc32fast::hash(&block[..end]).to_le_bytes();
            block[end..end + CRC].copy_from_slice(&crc);
        }
    }
}
