//! Durable appends of real events, next to a plain file that gets the same compressed blocks with an fdatasync each.
//!
//! ```sh
//! cargo bench --bench spool              # criterion's figures, then the ratios
//! cargo bench --bench spool -- ratios    # the ratios only
//! ```
//!
//! The ratios come from short turns of file and spool one after another, so that a disk that changes its mind meets both.
//! What they are held against: 1,024 a call and one a call ≥ 0.95; 16 callers with 64 each ≥ 0.85 of the file's 1,024.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};
use livekit_spool::{
    demo::Playback,
    record::{RecordBatch, RecordBatchBuilder, Stream, now_millis},
    spool::{Spool, SpoolOptions},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use zstd::bulk::Compressor;

#[path = "common/cpu.rs"]
mod cpu;
#[path = "common/median.rs"]
mod median;

const DICTIONARY: &[u8] = include_bytes!("../src/spool/journal/dictionary-1.zstd");
const LEVEL: i32 = -1;
/// What the spool packs with its dictionary, and how; the file gets the same.
const SMALL_LEVEL: i32 = 3;
const DICTIONARY_MAX_BYTES: usize = 16 << 10;
const HEADER: [u8; 44] = [0x5A; 44];
const CALLERS: usize = 16;
const TURN: Duration = Duration::from_millis(500);
const TURNS: usize = 21;

/// Many batches of this many real events; none holds an event twice.
fn batches(records: usize) -> Vec<RecordBatch> {
    let mut events = Playback::new().filter(|(stream, _)| *stream == Stream::Events);
    let count = (24 << 10) / records;
    let batch = |_| {
        let mut batch = RecordBatchBuilder::new(Stream::Events);
        events.by_ref().take(records).for_each(|(_, record)| batch.push(&record));
        batch.build(now_millis())
    };
    (0..count.min(1024)).map(batch).collect()
}

/// A directory on the disk that is built on: the one for temporary files may be memory.
fn directory() -> TempDir {
    let parent = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(parent).expect("a directory")
}

/// The limit: compress, write, `fdatasync`.
struct PlainFile {
    file: File,
    plain: Compressor<'static>,
    small: Compressor<'static>,
    block: Vec<u8>,
}

impl PlainFile {
    fn new(directory: &Path) -> Self {
        Self {
            file: File::create(directory.join("plain")).expect("a file"),
            plain: Compressor::new(LEVEL).expect("a compressor"),
            small: Compressor::with_dictionary(SMALL_LEVEL, DICTIONARY).expect("a compressor"),
            block: Vec::new(),
        }
    }

    fn append(&mut self, batch: &RecordBatch) {
        let raw = batch.bytes();
        let compressor = if raw.len() <= DICTIONARY_MAX_BYTES { &mut self.small } else { &mut self.plain };
        let packed = compressor.compress(raw).expect("compressible");
        self.block.clear();
        self.block.extend_from_slice(&HEADER);
        self.block.extend_from_slice(&packed);
        self.file.write_all(&self.block).expect("written");
        self.file.sync_data().expect("synced");
    }
}

fn open(directory: &Path) -> Arc<Spool> {
    let options = SpoolOptions { name: "bench".into(), min_free_bytes: 0, max_bytes: 64 << 30, ..Default::default() };
    Arc::new(Spool::open(directory, options).expect("the spool opens"))
}

/// `rounds` appends one after another.
async fn append(spool: &Spool, batches: &[RecordBatch], rounds: u64) {
    for batch in batches.iter().cycle().take(rounds as usize) {
        spool.append_in_place(batch.clone()).await.expect("accepted");
    }
}

/// `rounds` appends by each of the callers, all at once; how long each took.
async fn append_together(spool: &Arc<Spool>, batches: &Arc<Vec<RecordBatch>>, rounds: u64) -> Vec<Duration> {
    let callers = (0..CALLERS).map(|caller| {
        let (spool, batches) = (Arc::clone(spool), Arc::clone(batches));
        tokio::spawn(async move {
            let mut took = Vec::with_capacity(rounds as usize);
            for batch in batches.iter().cycle().skip(caller * 7).take(rounds as usize) {
                let begun = Instant::now();
                spool.append_in_place(batch.clone()).await.expect("accepted");
                took.push(begun.elapsed());
            }
            took
        })
    });
    let mut took = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        took.extend(caller.await.expect("no panic"));
    }
    took
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn appends(criterion: &mut Criterion, runtime: &Runtime) {
    for records in [1, 64, 1024] {
        let batches = batches(records);
        let mut group = criterion.benchmark_group(format!("append {records} at a time"));
        group.throughput(Throughput::Elements(records as u64)).sample_size(20);
        let place = directory();
        let mut file = PlainFile::new(place.path());
        group.bench_function("plain file", |bencher| {
            bencher.iter_custom(|rounds| {
                timed(|| batches.iter().cycle().take(rounds as usize).for_each(|batch| file.append(batch)))
            });
        });
        let place = directory();
        let spool = open(place.path());
        group.bench_function("spool", |bencher| {
            bencher.iter_custom(|rounds| timed(|| runtime.block_on(append(&spool, &batches, rounds))));
        });
        runtime.block_on(spool.close());
        group.finish();
    }
    let batches = Arc::new(batches(64));
    let mut group = criterion.benchmark_group("append 64 at a time from 16 callers");
    group.throughput(Throughput::Elements(64 * CALLERS as u64)).sample_size(20);
    let place = directory();
    let spool = open(place.path());
    group.bench_function("spool", |bencher| {
        bencher.iter_custom(|rounds| timed(|| drop(runtime.block_on(append_together(&spool, &batches, rounds)))));
    });
    runtime.block_on(spool.close());
    group.finish();
}

/// What came of the turns of one of the two.
#[derive(Default)]
struct Side {
    /// Rounds a second, of each turn.
    rates: Vec<f64>,
    /// Processor time of all threads, in seconds, and the rounds it was for.
    cpu: f64,
    rounds: f64,
}

impl Side {
    fn turn(&mut self, mut work: impl FnMut()) {
        let (start, before, mut rounds) = (Instant::now(), cpu::seconds(), 0.0);
        while start.elapsed() < TURN {
            work();
            rounds += 1.0;
        }
        self.rates.push(rounds / start.elapsed().as_secs_f64());
        self.cpu += cpu::seconds() - before;
        self.rounds += rounds;
    }
}

/// Turns of both, by turns.
fn turns(mut file: impl FnMut(), mut spool: impl FnMut()) -> (Side, Side) {
    let (mut a, mut b) = (Side::default(), Side::default());
    for _ in 0..TURNS {
        a.turn(&mut file);
        b.turn(&mut spool);
    }
    (a, b)
}

fn ratios(runtime: &Runtime) {
    println!("durable events: a second, and processor time each; medians of {TURNS} turns");
    println!("{:<22} {:>11} {:>11} {:>6} {:>7} {:>9} {:>9}", "", "file", "spool", "ratio", "target", "file", "spool");
    let line = |name: &str, records: f64, (file, spool): (Side, Side), target: f64| {
        let ratios = file.rates.iter().zip(&spool.rates).map(|(file, spool)| spool / file);
        let ratio = median::of(ratios).expect("some turns");
        let rate = |side: &Side| median::of(side.rates.iter().copied()).expect("some turns") * records;
        let cpu = |side: &Side| side.cpu / side.rounds / records * 1e6;
        println!(
            "{name:<22} {:>9.0}/s {:>9.0}/s {ratio:>6.2} {target:>7.2} {:>6.2} µs {:>6.2} µs",
            rate(&file),
            rate(&spool),
            cpu(&file),
            cpu(&spool)
        );
    };
    for (records, target) in [(1, 0.95), (64, 0.0), (1024, 0.95)] {
        let batches = batches(records);
        let place = directory();
        let mut file = PlainFile::new(place.path());
        let spool = open(place.path());
        let (mut a, mut b) = (batches.iter().cycle(), batches.iter().cycle());
        let measured = turns(
            || a.next().into_iter().for_each(|batch| file.append(batch)),
            || {
                let append = spool.append_in_place(b.next().expect("endless").clone());
                runtime.block_on(append).expect("accepted");
            },
        );
        line(&format!("{records} a call"), records as f64, measured, target);
        runtime.block_on(spool.close());
    }
    let (whole, parts) = (batches(64 * CALLERS), Arc::new(batches(64)));
    let place = directory();
    let mut file = PlainFile::new(place.path());
    let spool = open(place.path());
    let mut a = whole.iter().cycle();
    const EACH: u64 = 50;
    let mut took = Vec::new();
    let measured = turns(
        || (0..EACH).for_each(|_| a.next().into_iter().for_each(|batch| file.append(batch))),
        || took.extend(runtime.block_on(append_together(&spool, &parts, EACH))),
    );
    line("64 a call, 16 callers", (64 * CALLERS) as f64 * EACH as f64, measured, 0.85);
    took.sort_unstable();
    let part = |part: f64| took[(took.len() as f64 * part) as usize];
    println!(
        "a call of these: median {:.1?}, 99 % within {:.1?}, 99.9 % within {:.1?}",
        part(0.5),
        part(0.99),
        part(0.999)
    );
    runtime.block_on(spool.close());
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    if !std::env::args().any(|argument| argument == "ratios") {
        let mut criterion = Criterion::default().configure_from_args();
        appends(&mut criterion, &runtime);
        criterion.final_summary();
    }
    ratios(&runtime);
}
