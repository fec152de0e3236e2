//! Trains the zstd dictionary for small blocks on the LiveKit records in tests/data.
//!
//! ```sh
//! cargo bench --bench spool_dictionary              # trains on 60 %, shows what it does for the unseen 40 %
//! cargo bench --bench spool_dictionary -- --write   # trains on all and writes src/spool/journal/dictionary-1.zstd
//! ```
//!
//! A dictionary that spools were written with never changes: a better one gets a new file and a codec number of its own.

use std::{fs, path::Path};

use livekit_spool::record::{RecordBatchBuilder, Stream, wire};

/// Larger ones did not make unseen records smaller.
const DICTIONARY_BYTES: usize = 16 << 10;
const LEVEL: i32 = -1;

fn main() -> std::io::Result<()> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/livekit-1.11");
    let events = records(&fs::read(data.join("events.pb"))?);
    let stats = records(&fs::read(data.join("stats.pb"))?);
    if std::env::args().any(|argument| argument == "--write") {
        let all: Vec<&Vec<u8>> = events.iter().chain(&stats).collect();
        let dictionary = zstd::dict::from_samples(&all, DICTIONARY_BYTES)?;
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spool/journal/dictionary-1.zstd"), &dictionary)?;
        println!("written: {} bytes", dictionary.len());
        return Ok(());
    }
    let (seen, unseen) = (0..events.len()).partition::<Vec<_>, _>(|i| i % 5 < 3);
    let (seen_stats, unseen_stats) = (0..stats.len()).partition::<Vec<_>, _>(|i| i % 5 < 3);
    let training: Vec<&Vec<u8>> =
        seen.iter().map(|&i| &events[i]).chain(seen_stats.iter().map(|&i| &stats[i])).collect();
    for kib in [4, 8, 16, 32] {
        let dictionary = zstd::dict::from_samples(&training, kib << 10)?;
        let size = |records: &[Vec<u8>], which: &[usize], dictionary: &[u8]| -> std::io::Result<f64> {
            let mut compressor = zstd::bulk::Compressor::with_dictionary(LEVEL, dictionary)?;
            let mut total = 0;
            for &i in which {
                total += compressor.compress(&records[i])?.len();
            }
            Ok(total as f64 / which.len() as f64)
        };
        println!(
            "{kib:2} KiB: single unseen events {:.0} B (without: {:.0} B), stats {:.0} B (without: {:.0} B)",
            size(&events, &unseen, &dictionary)?,
            size(&events, &unseen, &[])?,
            size(&stats, &unseen_stats, &dictionary)?,
            size(&stats, &unseen_stats, &[])?,
        );
    }
    Ok(())
}

/// The records of a file, each framed as in a block.
fn records(file: &[u8]) -> Vec<Vec<u8>> {
    let framed = |record| {
        let mut batch = RecordBatchBuilder::new(Stream::Events);
        batch.push(record);
        batch.build(0).bytes().to_vec()
    };
    wire::delimited(file).map(framed).collect()
}
