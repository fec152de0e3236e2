//! kill -9 at each system call by which a short workload changes the data directory: a start, appends over several segments, to a
//! sink that delivers and to one that is away, segments that go, a stop. After each the next start has to find everything: ten
//! records come in, maintenance continues for a while, the sink that was unavailable comes back. Each record that was answered OK arrives,
//! once; one whose call was not answered arrives once or not at all; nothing is counted as dropped.
//!
//! It stands for one case that cost a whole backlog: a kill at the `fallocate` of a new segment, before its first write, made the
//! next start believe that the segments before it hold nothing. They were deleted one a second, with the sink away.

mod points;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    net::TcpStream,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use points::Point;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use rustix::process::Signal;

use crate::{
    lines, records,
    support::{
        self, TIMEOUT,
        process::{QUICK, Recorder, Setup, Spool},
    },
};

/// So many runs at once: they wait more than they work.
const AT_ONCE: usize = 6;
/// So many requests of so many events are more than a segment.
const CALLS: usize = 20;
const EVENTS_A_CALL: usize = 50;
/// Maintenance runs about once a second: by then, it has deleted what it wrongly holds for done.
const MAINTENANCE: Duration = Duration::from_millis(2_500);

const SINKS: [&str; 2] = ["here", "away"];

/// How many points are tried: `LIVEKIT_SPOOL_FAULTS=100000` takes all there are.
fn wanted() -> usize {
    std::env::var("LIVEKIT_SPOOL_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_system_call_loses_nothing_that_was_answered_ok() {
    let begun = Instant::now();
    let all = points_of_a_whole_run().await;
    let kinds: BTreeSet<String> = all.iter().map(|point| point.call.clone()).collect();
    let count = all.len();
    let chosen = choose(all, wanted(), &mut StdRng::seed_from_u64(support::seed()));
    let tried = chosen.len();
    let killed: Vec<Option<Point>> = stream::iter(chosen).map(kill_at).buffer_unordered(AT_ONCE).collect().await;
    let killed: Vec<Point> = killed.into_iter().flatten().collect();
    let met: BTreeSet<String> = killed.iter().map(|point| point.call.clone()).collect();
    eprintln!(
        "{count} points, {tried} tried, {} of them met, in {:.0} s: {met:?}",
        killed.len(),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(met, kinds, "each kind of call is met at least once");
    assert!(killed.contains(&new_segment()), "and the one that cost a backlog: {killed:?}");
}

/// A segment's space is reserved before its first write: the file is there, and empty.
fn new_segment() -> Point {
    Point { call: "fallocate".to_owned(), path: "away/journal/000000000003.journal".into(), nth: 1 }
}

/// Of each kind of call one, then another one of each, until there are enough.
fn choose(all: Vec<Point>, count: usize, random: &mut StdRng) -> Vec<Point> {
    let mut kinds: BTreeMap<String, VecDeque<Point>> = BTreeMap::new();
    let mut all: Vec<Point> = all.into_iter().filter(|point| *point != new_segment()).collect();
    all.shuffle(random);
    for point in [new_segment()].into_iter().chain(all) {
        kinds.entry(point.call.clone()).or_default().push_back(point);
    }
    for points in kinds.values_mut() {
        // The first call on a file is met for sure.
        if let Some(sure) = points.iter().position(|point| point.nth == 1) {
            points.swap(0, sure);
        }
    }
    let mut chosen = Vec::new();
    while chosen.len() < count && kinds.values().any(|points| !points.is_empty()) {
        chosen.extend(kinds.values_mut().filter_map(VecDeque::pop_front));
    }
    chosen.truncate(count.max(kinds.len()));
    chosen
}

fn prepare() -> Spool {
    let sink = |name| format!("name: {name}, type: file, path: {name}-out, flush: {QUICK}");
    let [here, away] = SINKS.map(sink);
    let setup = Setup::new().sink(&here).sink(&away);
    let spool = setup.section("spool: { segment_bytes: 256KiB, compression: { codec: none } }").prepare();
    // A file where its directory should be keeps the sink away.
    fs::write(out(&spool, "away"), "").unwrap();
    spool
}

fn out(spool: &Spool, sink: &str) -> PathBuf {
    spool.directory().join(format!("{sink}-out"))
}

async fn points_of_a_whole_run() -> Vec<Point> {
    let directory = support::directory("trace");
    let trace = directory.path().join("trace");
    let mut spool = prepare();
    run_through(&mut spool, &points::tracing(&trace));
    let was_killed = Workload::default().run(&mut spool).await;
    assert!(!was_killed, "a run that is traced is not killed");
    let points = points::read(&fs::read_to_string(&trace).unwrap(), &spool.data());
    assert!(points.contains(&new_segment()), "the workload begins new segments: {points:?}");
    points
}

fn run_through(spool: &mut Spool, words: &[String]) {
    spool.set_wrapper(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Kills a run there, and fails unless the next one loses nothing; answers the point where the run came to it.
async fn kill_at(point: Point) -> Option<Point> {
    let directory = support::directory("trace");
    let mut spool = prepare();
    let words = point.killing(&spool.data(), &directory.path().join("trace"));
    run_through(&mut spool, &words);
    let mut workload = Workload::default();
    let was_killed = workload.run(&mut spool).await;
    run_through(&mut spool, &[]);

    spool.start().await;
    let more = records::numbered_events("after").take(10).collect();
    assert!(workload.send(&mut spool.recorder(), more).await, "{point}: ten records more are accepted");
    tokio::time::sleep(MAINTENANCE).await;
    fs::remove_file(out(&spool, "away")).unwrap();
    let sent = workload.acknowledged.len();
    support::eventually(&format!("{point}: {sent} records that were answered OK arrive"), || async {
        SINKS.iter().all(|sink| {
            let arrived: BTreeSet<String> = lines(&out(&spool, sink)).into_iter().collect();
            workload.acknowledged.is_subset(&arrived)
        })
    })
    .await;
    spool.wait_until_drained().await;
    let backlog = spool.backlog();
    spool.terminate();
    for sink in SINKS {
        let dropped = &Spool::stream_of(&backlog, sink, "events")["dropped"];
        assert!(dropped.as_object().is_none_or(serde_json::Map::is_empty), "{point}: {sink} counts as lost {dropped}");
        workload.assert_each_once(&out(&spool, sink), &point);
    }
    was_killed.then_some(point)
}

/// What was sent.
#[derive(Default)]
struct Workload {
    acknowledged: BTreeSet<String>,
    /// Kept or not: the call that the kill cut short.
    unanswered: BTreeSet<String>,
}

impl Workload {
    /// Runs to the end, or until the process is gone; answers whether it was killed.
    async fn run(&mut self, spool: &mut Spool) -> bool {
        spool.launch();
        if self.work(spool).await {
            spool.process().signal(Signal::TERM);
        }
        let (status, said) = spool.wait_for_its_end();
        assert!(status.success() || status.signal() == Some(9), "it ended with {status}:\n{said}");
        !status.success()
    }

    /// False where the process is gone.
    async fn work(&mut self, spool: &mut Spool) -> bool {
        let address = spool.grpc().replace("http://", "");
        let mut events = records::numbered_events("kill");
        let mut recorder = spool.recorder();
        let journal = spool.data().join("here/journal");
        let [first, first_done] = ["journal", "done"].map(|state| journal.join(format!("000000000001.{state}")));
        if !until(spool, || TcpStream::connect(&address).is_ok()).await {
            return false;
        }
        // The first segment goes when all of it is delivered; what is left of it, when a newer one's front says so.
        for gone in [first, first_done] {
            for _ in 0..CALLS {
                if !self.send(&mut recorder, events.by_ref().take(EVENTS_A_CALL).collect()).await {
                    return false;
                }
            }
            if !until(spool, || !gone.exists()).await {
                return false;
            }
        }
        true
    }

    /// Sends a request; false where it was not answered OK.
    async fn send(&mut self, recorder: &mut Recorder, events: Vec<AnalyticsEvent>) -> bool {
        let ids = records::event_ids(&events);
        let answer = recorder.ingest_events(tokio_stream::iter([AnalyticsEvents { events }])).await;
        let noted = if answer.is_ok() { &mut self.acknowledged } else { &mut self.unanswered };
        noted.extend(ids);
        answer.is_ok()
    }

    fn assert_each_once(&self, out: &Path, point: &Point) {
        let arrived = lines(out);
        let ids: BTreeSet<String> = arrived.iter().cloned().collect();
        assert_eq!(ids.len(), arrived.len(), "{point}: {} holds a document twice", out.display());
        let missing: Vec<_> = self.acknowledged.difference(&ids).collect();
        assert!(missing.is_empty(), "{point}: {} lacks {missing:?}", out.display());
        let unknown: Vec<_> =
            ids.iter().filter(|id| !self.acknowledged.contains(*id) && !self.unanswered.contains(*id)).collect();
        assert!(unknown.is_empty(), "{point}: {} holds what nobody sent: {unknown:?}", out.display());
    }
}

/// Waits for something; false where the process ends before.
async fn until(spool: &mut Spool, done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    while !done() {
        if !spool.process().is_running() {
            return false;
        }
        assert!(Instant::now() < deadline, "the workload does not continue: {}", spool.said());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}
