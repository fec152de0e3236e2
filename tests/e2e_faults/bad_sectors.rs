//! Reads that fail, at a start, whatever it has to read again, and while it delivers. What is in a bad sector is lost, counted and
//! named; all else arrives, the other sinks and the ingest ports notice nothing, and the process stays up. A segment of which nothing can be
//! read waits until it can: it is not known to be damaged.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use livekit_protocol::{AnalyticsEvent, Room};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    lines, records, send,
    support::{
        self,
        process::{QUICK, Setup, Spool},
        wire::{Reply, WireServer, WriteError},
    },
};

const SECTOR: u64 = 4096;
const WHOLE: Range<u64> = 0..1 << 40;
/// Several segments.
const EVENTS: usize = 500;
const EVENT_BYTES: usize = 2_000;

/// Which bytes of which files cannot be read.
struct BadSectors {
    directory: TempDir,
}

impl BadSectors {
    fn new() -> Self {
        let directory = support::directory("sectors");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e_faults/bad_sectors.c");
        let library = directory.path().join("bad_sectors.so");
        let compiler = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(source).output();
        let compiler = compiler.expect("a C compiler (cc), which the build needs too");
        assert!(compiler.status.success(), "{}", String::from_utf8_lossy(&compiler.stderr));
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// From now on these cannot be read, and all else can.
    fn set(&self, bad: &[(PathBuf, Range<u64>)]) {
        let lines = bad.iter().map(|(path, bytes)| format!("{} {} {}\n", bytes.start, bytes.end, path.display()));
        fs::write(self.path("new"), lines.collect::<String>()).unwrap();
        fs::rename(self.path("new"), self.path("list")).unwrap();
    }

    /// How many reads failed.
    fn met(&self) -> u64 {
        fs::metadata(self.path("list.met")).map_or(0, |met| met.len())
    }
}

/// A spool of a sink `healthy` that delivers, and of a sink `damaged` that is away and has a backlog of several segments.
struct Backlog {
    sectors: BadSectors,
    spool: Spool,
    sent: BTreeSet<String>,
}

impl Backlog {
    async fn new() -> Self {
        let sectors = BadSectors::new();
        let sink = |name| format!("name: {name}, type: file, path: {name}-out, flush: {QUICK}");
        let setup = Setup::new().sink(&sink("healthy")).sink(&sink("damaged"));
        let mut spool = setup
            .section("spool: { segment_bytes: 256KiB, compression: { codec: none } }")
            .env("LD_PRELOAD", sectors.path("bad_sectors.so").to_str().unwrap())
            .env("BAD_SECTORS", sectors.path("list").to_str().unwrap())
            .prepare();
        fs::write(spool.directory().join("damaged-out"), "").unwrap();
        spool.start().await;
        let room = Some(Room { name: "x".repeat(EVENT_BYTES), ..Default::default() });
        let events = records::numbered_events("sector").map(|event| AnalyticsEvent { room: room.clone(), ..event });
        let sent = send(&spool, &events.take(EVENTS).collect::<Vec<_>>()).await;
        Self { sectors, spool, sent }
    }

    fn out(&self, sink: &str) -> PathBuf {
        self.spool.directory().join(format!("{sink}-out"))
    }

    fn end_outage(&self) {
        fs::remove_file(self.out("damaged")).unwrap();
    }

    fn segments(&self) -> Vec<PathBuf> {
        let journal = self.spool.data().join("damaged/journal");
        let mut segments: Vec<PathBuf> = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path()).collect();
        segments.sort();
        assert!(segments.len() > 2, "{segments:?}");
        segments
    }

    /// Sectors of the first, of a middle and of the newest segment: one holds a front, and one what a start after a kill reads.
    fn some_sectors(&self) -> Vec<(PathBuf, Range<u64>)> {
        let segments = self.segments();
        let newest = segments.len() - 1;
        let at = |segment: usize, sector: u64| (segments[segment].clone(), sector * SECTOR..(sector + 1) * SECTOR);
        vec![at(0, 0), at(1, 7), at(newest, 2)]
    }

    /// From now on these bytes cannot be read, and the queue is away.
    fn meet_stopped(&mut self, bad: &[(PathBuf, Range<u64>)]) {
        self.spool.kill();
        fs::remove_dir_all(self.spool.data().join("damaged/queue")).unwrap();
        self.sectors.set(bad);
    }

    /// A command fails and names the file.
    #[track_caller]
    fn assert_names(&self, bad: &Path, words: &[&str]) -> Output {
        let output = self.spool.command(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
        assert!(said.contains(bad.to_str().unwrap()) && said.contains("cannot be read"), "{words:?}: {said}");
        output
    }

    /// What cannot be read is reported by the commands that show, take and deliver what waits.
    #[track_caller]
    fn assert_told(&self, bad: &Path, readable: &BTreeSet<String>) {
        let sink = Spool::sink_of(&self.spool.backlog(), "damaged").clone();
        assert_eq!((&sink["unread_segments"], &sink["state"]), (&1.into(), &"spool-failed".into()), "{sink:#}");
        let shown = String::from_utf8_lossy(&self.spool.command(&["backlog"]).stdout).into_owned();
        assert!(shown.contains(&format!("{} cannot be read now", bad.display())), "{shown}");
        let healthy = Spool::sink_of(&self.spool.backlog(), "healthy").clone();
        assert_eq!((&healthy["unread_segments"], &healthy["unread_error"]), (&0.into(), &Value::Null), "{healthy:#}");

        let peeked = self.assert_names(bad, &["peek", "damaged", "-n", "1000000"]);
        assert_eq!(
            crate::ids_in(&peeked.stdout).into_iter().collect::<BTreeSet<_>>(),
            *readable,
            "peek shows the others"
        );
        self.assert_names(bad, &["export", "damaged", "--force", "-o", "export"]);
        let exported = crate::ids_in(&fs::read(self.spool.directory().join("export")).unwrap());
        assert_eq!(exported.into_iter().collect::<BTreeSet<_>>(), *readable, "the others are exported");
        // It may hold records between those that were exported: the next one does not continue behind them.
        assert!(!self.spool.directory().join("export.progress").exists());
    }

    /// From now on these bytes cannot be read.
    async fn meet(&mut self, when: When, bad: &[(PathBuf, Range<u64>)]) {
        match when {
            When::Delivering => {}
            When::AfterStop => self.spool.terminate(),
            When::AfterKill | When::WithoutQueue => self.spool.kill(),
        }
        if when == When::WithoutQueue {
            fs::remove_dir_all(self.spool.data().join("damaged/queue")).unwrap();
        }
        self.sectors.set(bad);
        if when != When::Delivering {
            self.spool.start().await;
        }
    }

    /// The ingest ports and the healthy sink continue.
    async fn assert_others_go_on(&mut self, prefix: &str) {
        let more = send(&self.spool, &records::numbered_events(prefix).take(20).collect::<Vec<_>>()).await;
        self.sent.extend(more);
        self.assert_arrives("healthy", &self.sent).await;
        self.spool.process().assert_running();
    }

    async fn assert_arrives(&self, sink: &str, ids: &BTreeSet<String>) {
        let out = self.out(sink);
        support::eventually(&format!("{} records arrive in {sink}", ids.len()), || async {
            ids.is_subset(&lines(&out).into_iter().collect())
        })
        .await;
    }

    /// All but `lost` arrive, once; those are counted, and their bytes are named.
    async fn assert_lost(mut self, lost: &BTreeSet<String>, when: &str) {
        let readable: BTreeSet<String> = self.sent.difference(lost).cloned().collect();
        self.assert_arrives("damaged", &readable).await;
        self.spool.wait_until_drained().await;
        self.spool.process().assert_running();
        let backlog = self.spool.backlog();
        for (sink, lost) in [("healthy", &BTreeSet::new()), ("damaged", lost)] {
            let arrived = lines(&self.out(sink));
            let ids: BTreeSet<String> = arrived.iter().cloned().collect();
            assert_eq!(ids.len(), arrived.len(), "{when}: {sink} has a document twice");
            let missing: BTreeSet<String> = self.sent.difference(&ids).cloned().collect();
            assert_eq!(missing, *lost, "{when}: {sink} lacks what was there, and nothing else");
            let dropped = &Spool::stream_of(&backlog, sink, "events")["dropped"];
            assert_eq!(dropped["damaged"].as_u64().unwrap_or(0), lost.len() as u64, "{when}: {sink}: {dropped}");
        }
        let report = fs::read_to_string(self.spool.data().join("damaged/quarantine/report.ndjson")).unwrap_or_default();
        let reports: Vec<Value> = report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lost.is_empty() || !reports.is_empty(), "{when}: what was lost is named");
        self.spool.terminate();
    }
}

/// The ids of the records whose blocks are in these bytes in part: a block is lost as a whole.
fn ids_in(bad: &[(PathBuf, Range<u64>)]) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for (path, bytes) in bad {
        let file = fs::read(path).unwrap();
        let mut starts: Vec<usize> =
            file.windows(4).enumerate().filter(|(_, w)| w == b"LKSB").map(|(at, _)| at).collect();
        starts.push(file.len());
        for block in starts.windows(2).map(|pair| pair[0]..pair[1]) {
            if (block.start as u64) < bytes.end && bytes.start < block.end as u64 {
                let text = String::from_utf8_lossy(&file[block]).into_owned();
                ids.extend(text.match_indices("AE_sector_").map(|(at, id)| text[at..at + id.len() + 6].to_owned()));
            }
        }
    }
    assert!(!ids.is_empty(), "no record is there: {bad:?}");
    ids
}

/// How the spool that is damaged meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Delivering,
    AfterStop,
    AfterKill,
    WithoutQueue,
}

const ALL: [When; 4] = [When::Delivering, When::AfterStop, When::AfterKill, When::WithoutQueue];

async fn with_bad_sectors(when: When) {
    let mut backlog = Backlog::new().await;
    let bad = backlog.some_sectors();
    let lost = ids_in(&bad);
    backlog.meet(when, &bad).await;
    backlog.assert_others_go_on("more").await;
    backlog.end_outage();
    backlog.assert_lost(&lost, &format!("{when:?}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_sector_costs_what_is_in_it_and_nothing_else() {
    futures::future::join_all(ALL.map(with_bad_sectors)).await;
}

async fn with_an_unreadable_segment(when: When) {
    let mut backlog = Backlog::new().await;
    let segments = backlog.segments();
    let (bad, others) = (&segments[1], [&segments[..1], &segments[2..]].concat());
    let readable = ids_in(&others.into_iter().map(|path| (path, WHOLE)).collect::<Vec<_>>());
    backlog.meet(when, &[(bad.clone(), WHOLE)]).await;
    backlog.end_outage();
    backlog.assert_others_go_on("more").await;
    backlog.assert_arrives("damaged", &readable).await;
    assert!(backlog.sectors.met() > 0, "nothing was read there");
    backlog.sectors.set(&[]);
    backlog.assert_lost(&BTreeSet::new(), &format!("{when:?}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_which_nothing_can_be_read_holds_up_no_other_and_is_delivered_when_it_can() {
    futures::future::join_all(ALL.map(with_an_unreadable_segment)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_spool_is_not_drained_while_a_segment_that_the_queue_does_not_know_cannot_be_read() {
    let mut backlog = Backlog::new().await;
    let bad = backlog.segments().pop().unwrap();
    let lost = ids_in(&[(bad.clone(), WHOLE)]);
    let readable: BTreeSet<String> = backlog.sent.difference(&lost).cloned().collect();
    backlog.meet_stopped(&[(bad.clone(), WHOLE)]);
    backlog.assert_told(&bad, &readable);
    backlog.end_outage();
    backlog.assert_names(&bad, &["drain", "damaged", "--timeout", "20s"]);
    assert_eq!(
        lines(&backlog.out("damaged")).into_iter().collect::<BTreeSet<_>>(),
        readable,
        "the others are delivered"
    );
    // With nothing else left it is reported as well.
    let output = backlog.assert_names(&bad, &["drain", "damaged", "--timeout", "1s", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["drained"], &told["left"]), (&false.into(), &0.into()), "{told:#}");
    backlog.assert_told(&bad, &BTreeSet::new());

    backlog.sectors.set(&[]);
    // An export that was interrupted before may have gone past records that nobody saw then.
    let unread = format!("{} cannot be read now", bad.display());
    let progress = json!({ "sink": "damaged", "raw": false, "bytes": 0, "records": 0, "next": {}, "unread": unread });
    fs::write(backlog.spool.directory().join("part.progress"), progress.to_string()).unwrap();
    backlog.assert_names(&bad, &["export", "damaged", "-o", "part"]);
    let whole = backlog.spool.command(&["export", "damaged", "--force", "-o", "part"]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let drained = backlog.spool.command(&["drain"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    let sink = Spool::sink_of(&backlog.spool.backlog(), "damaged").clone();
    assert_eq!((&sink["unread_segments"], &sink["unread_error"]), (&0.into(), &Value::Null), "{sink:#}");
    backlog.spool.start().await;
    backlog.assert_lost(&BTreeSet::new(), "stopped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_spool_is_not_drained_while_a_segment_that_the_queue_does_not_know_cannot_be_read() {
    let mut backlog = Backlog::new().await;
    let bad = backlog.segments().pop().unwrap();
    let lost = ids_in(&[(bad.clone(), WHOLE)]);
    backlog.meet_stopped(&[(bad.clone(), WHOLE)]);
    backlog.end_outage();
    backlog.spool.start().await;
    backlog.assert_others_go_on("more").await;
    let readable: BTreeSet<String> = backlog.sent.difference(&lost).cloned().collect();
    backlog.assert_arrives("damaged", &readable).await;
    backlog.assert_names(&bad, &["drain", "damaged", "--timeout", "1s"]);
    backlog.assert_names(&bad, &["drain", "--timeout", "1s"]);
    backlog.assert_told(&bad, &BTreeSet::new());
    let page = reqwest::get(format!("{}/metrics", backlog.spool.admin())).await.unwrap().text().await.unwrap();
    assert!(page.contains("livekit_spool_unread_segments{sink=\"damaged\"} 1"), "{page}");
    // It accepts records nevertheless.
    let readyz = reqwest::get(format!("{}/readyz", backlog.spool.admin())).await.unwrap();
    assert_eq!((readyz.status().as_u16(), backlog.spool.command(&["ready"]).status.code()), (200, Some(0)));

    backlog.sectors.set(&[]);
    let drained = backlog.spool.command(&["drain", "--timeout", "30s"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    backlog.assert_lost(&BTreeSet::new(), "running").await;
}

/// What a command says, and how it ends.
fn ended(spool: &Spool, words: &[&str]) -> (Option<i32>, String) {
    let output = spool.command(words);
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    (output.status.code(), said.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_cannot_be_read_are_reported_and_no_spool_with_unreadable_data_is_removed() {
    let server = WireServer::scripted(|command| match command.name.as_str() {
        "insert" => {
            let all = 0..command.documents.len();
            Reply::WriteErrors(all.map(|index| WriteError::new(index, 121, "no")).collect())
        }
        _ => Reply::Healthy,
    })
    .await;
    let sectors = BadSectors::new();
    let mut spool = Setup::new()
        .mongo("mongo", &server.uri(), "test")
        .sink("name: files, type: file, path: out")
        .env("LD_PRELOAD", sectors.path("bad_sectors.so").to_str().unwrap())
        .env("BAD_SECTORS", sectors.path("list").to_str().unwrap())
        .start()
        .await;
    send(&spool, &records::numbered_events("dead").take(20).collect::<Vec<_>>()).await;
    support::eventually("all are dead letters", || async { spool.dead_letters("mongo").len() == 20 }).await;
    spool.terminate();
    let dead = spool.data().join("mongo/dead");
    let segment = fs::read_dir(dead.join("journal")).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    fs::remove_dir_all(dead.join("queue")).unwrap();
    sectors.set(&[(segment.clone(), WHOLE)]);
    let named = format!("{} cannot be read now", segment.display());
    for is_live in [false, true] {
        if is_live {
            spool.start().await;
        }
        for words in
            [&["dead", "list", "mongo"][..], &["dead", "show", "mongo", "AE_x"], &["dead", "drop", "mongo", "--all"]]
        {
            let (code, said) = ended(&spool, words);
            assert!(code == Some(4) && said.contains(&named), "{words:?}, live {is_live}: {code:?} {said}");
        }
        let (code, said) = ended(&spool, &["backlog"]);
        assert!(code == Some(0) && said.contains(&named), "live {is_live}: {code:?} {said}");
        let (code, said) = ended(&spool, &["purge", "mongo", "--dead", "--yes"]);
        assert!(code == Some(1) && said.contains("it cannot be read now"), "live {is_live}: {code:?} {said}");
        // Of a sink that the configuration does not name the whole spool would go.
        let config = spool.directory().join("config.yaml");
        let text = fs::read_to_string(&config).unwrap();
        let renamed = text.replace("name: mongo", "name: other");
        assert_ne!(text, renamed);
        fs::write(&config, &renamed).unwrap();
        if is_live {
            assert_eq!(spool.command(&["reload"]).status.code(), Some(0));
        }
        let (code, said) = ended(&spool, &["purge", "mongo", "--yes"]);
        assert!(
            code == Some(1) && said.contains(&named) && said.contains("could not remove"),
            "{is_live}: {code:?} {said}"
        );
        assert!(segment.exists());
        fs::write(&config, text).unwrap();
        if is_live {
            assert_eq!(spool.command(&["reload"]).status.code(), Some(0));
        }
    }
    sectors.set(&[]);
    support::eventually("they can be read again", || async { ended(&spool, &["dead", "list", "mongo"]).0 == Some(0) })
        .await;
    assert_eq!(spool.dead_letters("mongo").len(), 20);
    assert_eq!(ended(&spool, &["dead", "drop", "mongo", "--all"]).0, Some(0));
}
