//! What a backlog costs: memory, disk, time to start, time to drain. Each phase runs in a process of its own, whose peak
//! memory is the kernel's figure (`VmHWM`).
//!
//! ```sh
//! cargo bench --bench footprint                                # a small backlog
//! cargo bench --bench footprint -- --backlog-mb 2000           # the published figures
//! cargo bench --bench footprint -- --trickle-seconds 600       # 20 events/s in real time, instead of as fast as it goes
//! ```
//!
//! The backlog is measured on disk. Held against: memory ≤ 150 MB, and ≤ 32 MB more than at a twentieth of the backlog;
//! ≤ 100 B on disk an event under load, ≤ 220 B one a call; start ≤ 0.5 s clean, ≤ 1 s after kill -9, not slower with the
//! bigger backlog; drained as fast per record, within 10 %; ≤ 32 MB left within a minute.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use livekit_spool::{
    demo::Playback,
    record::{RecordBatch, RecordBatchBuilder, Stream, now_millis},
    spool::{Contents, LeaseLimit, PeekFrom, Queue, Spool, SpoolOptions},
};
use serde_json::{Value, json};

const DEFAULT_BACKLOG_MB: u64 = 200;
/// The small backlog that the big one is compared with.
const SHARE: u64 = 20;
const BATCH_RECORDS: usize = 1024;
const BATCHES: usize = 24;
const TRICKLE_EVENTS: u64 = 12_000;
const TRICKLE_RATE: u64 = 20;

fn options() -> SpoolOptions {
    SpoolOptions { name: "bench".into(), min_free_bytes: 0, max_bytes: 64 << 30, ..Default::default() }
}

fn batches(count: usize, records: usize) -> Vec<RecordBatch> {
    let mut events = Playback::new().filter(|(stream, _)| *stream == Stream::Events);
    (0..count)
        .map(|_| {
            let mut batch = RecordBatchBuilder::new(Stream::Events);
            events.by_ref().take(records).for_each(|(_, record)| batch.push(&record));
            batch.build(now_millis())
        })
        .collect()
}

/// A figure of this process from /proc/self/status, in MB.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).expect("a number") / 1000.0
}

/// The same records, received now.
fn now(batch: &RecordBatch) -> RecordBatch {
    let mut batch = batch.clone();
    batch.received_at = now_millis();
    batch
}

fn open(directory: &Path) -> Spool {
    Spool::open(directory, options()).expect("the spool opens")
}

/// Appends until the backlog has this size; then tells so and, if asked to, continues until it is killed.
async fn fill(directory: &Path, bytes: u64, for_ever: bool) -> Value {
    let batches = batches(BATCHES, BATCH_RECORDS);
    let spool = open(directory);
    let (start, mut records) = (Instant::now(), 0);
    for (n, batch) in batches.iter().cycle().enumerate() {
        spool.append(now(batch)).await.expect("accepted");
        records += u64::from(batch.count());
        if n % 64 == 0 && spool.status().disk_bytes >= bytes {
            if for_ever {
                let mut out = std::io::stdout();
                writeln!(out, "{{}}").and_then(|()| out.flush()).expect("the parent listens");
                continue_until_killed(&spool, &batches).await;
            }
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    spool.close().await;
    json!({"records": records, "seconds": seconds, "peak_mb": memory("VmHWM")})
}

async fn continue_until_killed(spool: &Spool, batches: &[RecordBatch]) {
    for batch in batches.iter().cycle() {
        spool.append(now(batch)).await.expect("accepted");
    }
}

/// One record a call.
async fn trickle(directory: &Path, seconds: u64) -> Value {
    let batches = batches(3000, 1);
    let spool = open(directory);
    let events = if seconds > 0 { seconds * TRICKLE_RATE } else { TRICKLE_EVENTS };
    let mut pace = tokio::time::interval(Duration::from_millis(1000 / TRICKLE_RATE));
    for batch in batches.iter().cycle().take(events as usize) {
        if seconds > 0 {
            pace.tick().await;
        }
        spool.append(now(batch)).await.expect("accepted");
    }
    let stream = spool.status().streams[&Stream::Events].clone();
    spool.close().await;
    let disk = Contents::of_stopped(directory, options()).expect("readable").status().disk;
    json!({"records": events, "blocks_bytes": stream.bytes, "journal": disk.journal, "queue": disk.queue})
}

/// Looks at the stopped spool as `backlog` and `peek` do.
fn inspect(directory: &Path) -> Value {
    let start = Instant::now();
    let spool = Contents::of_stopped(directory, options()).expect("readable");
    let status = spool.status();
    let seconds = start.elapsed().as_secs_f64();
    for from in [PeekFrom::Oldest, PeekFrom::Newest] {
        let peek = spool.peek(Stream::Events, from).expect("a reader");
        assert_eq!(peek.take(1000).filter(Result::is_ok).count(), 1000);
    }
    json!({"records": status.records(), "seconds": seconds, "peek_seconds": start.elapsed().as_secs_f64() - seconds,
        "disk_bytes": status.disk_bytes, "peak_mb": memory("VmHWM")})
}

/// From nothing to the first record accepted.
async fn start(directory: &Path) -> Value {
    let batch = batches(1, 1).remove(0);
    let start = Instant::now();
    let spool = open(directory);
    let opened = start.elapsed().as_secs_f64();
    spool.append(batch).await.expect("accepted");
    let seconds = start.elapsed().as_secs_f64();
    spool.close().await;
    json!({"open_seconds": opened, "seconds": seconds, "peak_mb": memory("VmHWM")})
}

/// Takes everything out, a thousand records a batch, two in flight, and waits for the disk space to be freed.
async fn drain(directory: &Path, most: u64) -> Value {
    let spool = open(directory);
    let (start, mut records) = (Instant::now(), 0_u64);
    let limit = LeaseLimit { records: 1000, bytes: 4 << 20 };
    let mut before = None;
    while let Some(lease) = spool.lease(Stream::Events, limit).expect("readable") {
        records += lease.records.len() as u64;
        let range = lease.records[0].seq..lease.records[lease.records.len() - 1].seq + 1;
        if let Some(range) = before.replace(range) {
            spool.acknowledge(Stream::Events, &[range]).expect("noted");
        }
        if records >= most {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    spool.acknowledge(Stream::Events, &before.into_iter().collect::<Vec<_>>()).expect("noted");
    let drained = Instant::now();
    let mut left = spool.status().disk_bytes;
    while most == u64::MAX && left > 32 << 20 && drained.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        left = spool.status().disk_bytes;
    }
    let back = drained.elapsed().as_secs_f64();
    if most == u64::MAX {
        tokio::time::sleep(Duration::from_secs(12)).await;
    }
    let at_rest = spool.status().disk_bytes;
    spool.close().await;
    json!({"records": records, "seconds": seconds, "left_bytes": left, "left_after_seconds": back,
        "at_rest_bytes": at_rest, "peak_mb": memory("VmHWM")})
}

/// Spools side by side, each with a small backlog: what one more costs.
async fn several(directory: &Path, spools: u64) -> Value {
    let batches = batches(BATCHES, BATCH_RECORDS);
    let spools: Vec<Spool> = (0..spools).map(|n| open(&directory.join(n.to_string()))).collect();
    for batch in batches.iter().cycle().take(400) {
        for spool in &spools {
            spool.append(batch.clone()).await.expect("accepted");
        }
    }
    let limit = LeaseLimit { records: 1000, bytes: 4 << 20 };
    for spool in &spools {
        while let Some(lease) = spool.lease(Stream::Events, limit).expect("readable") {
            let range = lease.records[0].seq..lease.records[lease.records.len() - 1].seq + 1;
            spool.acknowledge(Stream::Events, &[range]).expect("noted");
        }
    }
    for spool in spools {
        spool.close().await;
    }
    json!({"peak_mb": memory("VmHWM")})
}

fn child(phase: &str, directory: &Path, number: u64) -> Value {
    let output = command(phase, directory, number).output().expect("the phase runs");
    assert!(output.status.success(), "{phase}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("its figures")
}

fn command(phase: &str, directory: &Path, number: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("--phase").arg(phase).arg(directory).arg(number.to_string());
    command
}

/// Fills a spool and kills it -9 in the midst of writing.
fn fill_and_kill(directory: &Path, bytes: u64) {
    let mut child = command("fill-for-ever", directory, bytes).stdout(Stdio::piped()).spawn().expect("the phase runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its word");
    std::thread::sleep(Duration::from_secs(1));
    child.kill().expect("killed");
    child.wait().expect("ended");
}

fn run_phase(arguments: &[String]) -> Value {
    let (phase, directory) = (arguments[0].as_str(), PathBuf::from(&arguments[1]));
    let number: u64 = arguments[2].parse().expect("a number");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        match phase {
            "fill" => fill(&directory, number, false).await,
            "fill-for-ever" => fill(&directory, number, true).await,
            "trickle" => trickle(&directory, number).await,
            "inspect" => inspect(&directory),
            "start" => start(&directory).await,
            "drain" => drain(&directory, number).await,
            "several" => several(&directory, number).await,
            other => panic!("no phase {other}"),
        }
    })
}

fn number(value: &Value, field: &str) -> f64 {
    value[field].as_f64().unwrap_or_else(|| panic!("{field} in {value}"))
}

/// The phases over one backlog.
fn backlog(mb: u64) {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let directory = place.path();
    println!("backlog of {mb} MB on disk");
    let filled = child("fill", directory, mb * 1_000_000);
    let records = number(&filled, "records");
    println!(
        "  written   {records:.0} events in {:.1} s, peak {:.0} MB",
        number(&filled, "seconds"),
        number(&filled, "peak_mb")
    );
    let seen = child("inspect", directory, 0);
    let per_event = number(&seen, "disk_bytes") / records;
    println!("  disk      {per_event:.1} B an event");
    println!(
        "  inspected in {:.3} s (1,000 oldest and 1,000 newest: {:.3} s more), peak {:.0} MB",
        number(&seen, "seconds"),
        number(&seen, "peek_seconds"),
        number(&seen, "peak_mb")
    );
    let started = child("start", directory, 0);
    println!(
        "  started   in {:.3} s, first record accepted after {:.3} s",
        number(&started, "open_seconds"),
        number(&started, "seconds")
    );
    fill_and_kill(directory, 0);
    let started = child("start", directory, 0);
    println!(
        "  after kill -9: in {:.3} s, first record accepted after {:.3} s",
        number(&started, "open_seconds"),
        number(&started, "seconds")
    );
    let drained = child("drain", directory, u64::MAX);
    println!(
        "  drained   {:.0} events/s, peak {:.0} MB; {:.1} MB left after {:.1} s, {:.2} MB at rest",
        number(&drained, "records") / number(&drained, "seconds"),
        number(&drained, "peak_mb"),
        number(&drained, "left_bytes") / 1e6,
        number(&drained, "left_after_seconds"),
        number(&drained, "at_rest_bytes") / 1e6
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| &arguments[at + 1..]);
    if let Some(phase) = after("--phase") {
        println!("{}", run_phase(phase));
        return;
    }
    let value = |name: &str, default| after(name).map_or(default, |rest| rest[0].parse().expect("a number"));
    let mb = value("--backlog-mb", DEFAULT_BACKLOG_MB);
    backlog(mb / SHARE);
    backlog(mb);
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let one = number(&child("several", &place.path().join("one"), 1), "peak_mb");
    let four = number(&child("several", &place.path().join("four"), 4), "peak_mb");
    println!("each further spool: {:.1} MB (one {one:.0} MB, four {four:.0} MB)", (four - one) / 3.0);
    let trickled = child("trickle", &place.path().join("trickle"), value("--trickle-seconds", 0));
    let records = number(&trickled, "records");
    println!(
        "one a call: {:.1} B an event in blocks, {:.1} B with the whole journal and queue ({records:.0} events)",
        number(&trickled, "blocks_bytes") / records,
        (number(&trickled, "journal") + number(&trickled, "queue")) / records
    );
}
