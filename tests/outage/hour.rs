//! What an outage costs the real binary: attempts, processor time, memory, files and connections, part by part.
//!
//! Four sinks of one type at once, each before a server that is away in its own way: it refuses connections, swallows all
//! and never answers, hangs up on every insert, or says that it takes nothing now. Records keep coming.
//!
//! An hour's outage is its attempts: with the default pauses (15 s on average) and time limits, about 240 where the
//! server fails at once, 180 where the driver looks for it, 80 where it is waited for. [`Clock::Attempts`] makes as many with
//! pauses that are a thousandth; [`Clock::Real`] takes the defaults and the time.
#![allow(dead_code, reason = "the test takes the short hour, the bench either")]

use std::{
    fs,
    time::{Duration, Instant},
};

use livekit_protocol::AnalyticsEvents;

use crate::{
    servers::{Kind, Servers},
    support::{
        eventually,
        process::{Recorder, Setup, Spool},
        records,
    },
};

/// The outage is inspected this often; the first inspection comes when its first part is over.
const PARTS: u64 = 8;
/// What stays open of the driver at most: two batches under way, two connections that are being made, two monitors.
const CONNECTIONS: usize = 6;
/// What memory and files may do around a level.
const MEMORY_SLACK: f64 = 8.0;
const FILES_SLACK: usize = 8;

/// How the outage's time passes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    /// Until an hour's attempts are made, with short pauses.
    Attempts,
    /// So long, with the default pauses.
    Real(Duration),
}

impl Clock {
    const fn flush(self) -> &'static str {
        match self {
            // As short as a connection can be made in, by a debug build on a busy machine.
            Self::Attempts => "{ interval: 20ms, timeout: 250ms, backoff: { initial: 1ms, max: 10ms } }",
            Self::Real(_) => "{ interval: 1s }",
        }
    }

    /// Records sent before the outage, and again in its course: so many that what passes until the driver sees its server
    /// again is little beside them.
    const fn records(self) -> usize {
        match self {
            Self::Attempts => 12_800,
            Self::Real(_) => 32_000,
        }
    }

    /// What a MongoDB URI says besides: how long the driver looks for a server.
    const fn searching(self) -> &'static str {
        match self {
            Self::Attempts => "&serverSelectionTimeoutMS=5",
            Self::Real(_) => "",
        }
    }
}

/// The process at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Since the outage began.
    pub(crate) at: Duration,
    /// Batches that went out, by sink.
    pub(crate) attempts: Vec<u64>,
    /// Connections of the driver, by sink.
    pub(crate) connections: Vec<usize>,
    /// Processor time since the process began.
    pub(crate) processor: Duration,
    /// Resident memory, MB.
    pub(crate) memory: f64,
    /// Open files, sockets included.
    pub(crate) files: usize,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    kind: Kind,
    clock: Clock,
    /// One at the outage's begin, one at the end of each part.
    pub(crate) inspections: Vec<Look>,
    /// Processor time for a record of a backlog that is delivered before the outage.
    pub(crate) before: Duration,
    /// The same for the backlog that waited through it.
    pub(crate) after: Duration,
}

/// Runs an outage from its begin to the end of the drain after it.
pub(crate) async fn run(kind: Kind, clock: Clock) -> Report {
    let servers = Servers::start(kind).await;
    let mut setup = Setup::new();
    for (at, (sink, _)) in kind.sinks().into_iter().enumerate() {
        let destination = servers.destination(at, clock.searching());
        setup = setup.sink(&format!("name: {sink}, {destination}, flush: {}", clock.flush()));
    }
    let mut spool = setup.start().await;
    let mut sender = Sender { livekit: spool.recorder(), events: Box::new(records::numbered_events("outage")) };
    // The first records pay for what is made once: connections, buffers, threads.
    sender.send(clock.records()).await;
    drained(kind, &spool).await;

    tell(kind, &spool, "pause");
    sender.send(clock.records()).await;
    let idle = processor(spool.process().pid());
    tell(kind, &spool, "resume");
    drained(kind, &spool).await;
    let before = processor(spool.process().pid()) - idle;

    servers.set_away(true).await;
    let begun = Instant::now();
    let first = inspect(kind, &mut spool, &servers, begun).await;
    let mut inspections = vec![first];
    for part in 1..=PARTS {
        sender.send(clock.records() / PARTS as usize).await;
        match clock {
            Clock::Real(time) => tokio::time::sleep_until((begun + time * part as u32 / PARTS as u32).into()).await,
            Clock::Attempts => {
                let goals: Vec<u64> = kind
                    .sinks()
                    .iter()
                    .zip(&inspections[0].attempts)
                    .map(|((_, hour), had)| had + hour * part / PARTS)
                    .collect();
                eventually("an hour's attempts are made", || async {
                    let made = attempts(kind, &spool).await;
                    made.iter().zip(&goals).all(|(made, goal)| made >= goal)
                })
                .await;
            }
        }
        inspections.push(inspect(kind, &mut spool, &servers, begun).await);
    }
    let idle = processor(spool.process().pid());
    servers.set_away(false).await;
    tell(kind, &spool, "flush");
    drained(kind, &spool).await;
    let after = processor(spool.process().pid()) - idle;
    spool.terminate();
    let records = clock.records() as u32;
    Report { kind, clock, inspections, before: before / records, after: after / records }
}

/// Tells all sinks something.
fn tell(kind: Kind, spool: &Spool, what: &str) {
    for (sink, _) in kind.sinks() {
        let output = spool.command(&[what, sink]);
        assert!(output.status.success(), "{what} {sink}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

struct Sender {
    livekit: Recorder,
    events: Box<dyn Iterator<Item = livekit_protocol::AnalyticsEvent> + Send>,
}

impl Sender {
    async fn send(&mut self, count: usize) {
        let events: Vec<_> = self.events.by_ref().take(count).collect();
        let messages: Vec<_> = events.chunks(100).map(|events| AnalyticsEvents { events: events.to_vec() }).collect();
        self.livekit.ingest_events(tokio_stream::iter(messages)).await.expect("the spool takes them");
    }
}

async fn inspect(kind: Kind, spool: &mut Spool, servers: &Servers, begun: Instant) -> Look {
    let pid = spool.process().pid();
    Look {
        at: begun.elapsed(),
        attempts: attempts(kind, spool).await,
        connections: servers.proxies.iter().map(|proxy| connections(pid, &proxy.address())).collect(),
        processor: processor(pid),
        memory: memory(pid),
        files: files(pid),
    }
}

/// Batches that went out.
async fn attempts(kind: Kind, spool: &Spool) -> Vec<u64> {
    metric(kind, spool, |sink| format!("livekit_spool_batches_total{{sink=\"{sink}\"}} ")).await
}

async fn drained(kind: Kind, spool: &Spool) {
    eventually("all is delivered", || async {
        let left = |sink: &str| format!("livekit_spool_backlog_records{{sink=\"{sink}\",stream=\"events\"}} ");
        metric(kind, spool, left).await.iter().all(|&records| records == 0)
    })
    .await;
}

/// A figure of each sink, as `/metrics` says. Asking costs the process some work: not too often.
async fn metric(kind: Kind, spool: &Spool, name: impl Fn(&str) -> String) -> Vec<u64> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    let metrics =
        reqwest::get(format!("{}/metrics", spool.admin())).await.expect("metrics").text().await.expect("text");
    let of = |sink: &str| {
        let name = name(sink);
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("no {name}"));
        value.parse::<f64>().expect("a number") as u64
    };
    kind.sinks().iter().map(|(sink, _)| of(sink)).collect()
}

/// User and system time; the kernel counts in hundredths of a second.
fn processor(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("procfs");
    let (_, after_name) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

fn memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("resident memory");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).expect("a number") / 1000.0
}

fn files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("procfs").count()
}

/// The process's sockets towards an address, established or still being so.
fn connections(pid: u32, address: &str) -> usize {
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let remote = format!(":{port:04X}");
    let own: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("procfs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok())
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("procfs");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.get(2).is_some_and(|to| to.ends_with(&remote)))
        .filter(|columns| columns.get(9).is_some_and(|inode| own.contains(&format!("socket:[{inode}]"))))
        .count()
}

impl Report {
    /// A line a look, for people.
    pub(crate) fn print(&self) {
        println!(
            "{:>9} {:>11} {:>10} {:>6}  {}: attempts, connections by sink",
            "at",
            "processor",
            "memory",
            "files",
            self.kind.as_str()
        );
        for inspect in &self.inspections {
            let by_sink = self.kind.sinks().into_iter().zip(inspect.attempts.iter().zip(&inspect.connections));
            let by_sink: Vec<String> =
                by_sink.map(|((sink, _), (attempts, open))| format!("{sink} {attempts}, {open}")).collect();
            println!(
                "{:>7.1} s {:>9.2} s {:>7.1} MB {:>6}  {}",
                inspect.at.as_secs_f64(),
                inspect.processor.as_secs_f64(),
                inspect.memory,
                inspect.files,
                by_sink.join("; ")
            );
        }
        let (first, last) = self.ends();
        let share = (last.processor - first.processor).as_secs_f64() / (last.at - first.at).as_secs_f64();
        println!("processor in the outage: {:.3} % of a core, four sinks together", share * 100.0);
        println!("processor for a record, to four sinks: {:?} before, {:?} after", self.before, self.after);
    }

    /// What is not flat; nothing, if all is well.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let (_, last) = self.ends();
        // The first part holds what an outage costs once; the others are held against each other.
        let (early, late) = self.inspections[1..].split_at(PARTS as usize / 2);
        let cost = |inspections: &[Look]| {
            let (first, last) = (&inspections[0], &inspections[inspections.len() - 1]);
            let attempts = last.attempts.iter().sum::<u64>() - first.attempts.iter().sum::<u64>();
            (last.processor - first.processor) / attempts.max(1) as u32
        };
        let most = |inspections: &[Look], of: fn(&Look) -> f64| inspections.iter().map(of).fold(0.0, f64::max);
        // Ticks of 10 ms are coarse.
        if cost(late) > cost(early) * 2 + Duration::from_millis(1) {
            let (early, late) = (cost(early), cost(late));
            complaints.push(format!("processor time for an attempt grows: {early:?}, then {late:?}"));
        }
        let grown = most(late, |inspect| inspect.memory) - most(early, |inspect| inspect.memory);
        if grown > MEMORY_SLACK {
            complaints.push(format!("memory grows: by {grown:.1} MB"));
        }
        let grown = most(late, |inspect| inspect.files as f64) - most(early, |inspect| inspect.files as f64);
        if grown > FILES_SLACK as f64 {
            complaints.push(format!("open files grow: by {grown}"));
        }
        for inspect in &self.inspections {
            for ((sink, _), &open) in self.kind.sinks().into_iter().zip(&inspect.connections) {
                if open > CONNECTIONS {
                    complaints.push(format!("{sink}: {open} connections after {:?}", inspect.at));
                }
            }
        }
        if let Clock::Real(time) = self.clock {
            let made = last.attempts.iter().zip(&self.inspections[0].attempts).map(|(last, first)| last - first);
            for ((sink, hour), made) in self.kind.sinks().into_iter().zip(made) {
                let usual = hour as f64 * time.as_secs_f64() / 3600.0;
                // Pauses are random, and short at first.
                if made as f64 > usual * 1.5 + 20.0 {
                    complaints.push(format!("{sink}: {made} attempts, {usual:.0} are usual"));
                }
            }
        }
        // Until the last sink is back the process idles, and that counts.
        if self.after > self.before * 2 + Duration::from_micros(50) {
            complaints.push(format!("processor time for a record: {:?} before, {:?} after", self.before, self.after));
        }
        complaints
    }

    fn ends(&self) -> (&Look, &Look) {
        (&self.inspections[0], &self.inspections[self.inspections.len() - 1])
    }
}
