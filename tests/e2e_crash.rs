//! Crashes at the worst moments: the process dies inside each named step, and the power goes at any time. What was
//! answered OK arrives.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, stream};
use livekit_protocol::AnalyticsEvents;
use livekit_spool::spool::failpoint;
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{
    load::{Load, LoadOptions, Sent},
    mongo::some,
    power::{
        Recording,
        trace::{self, Call},
    },
    process::{Setup, Spool},
    records,
    wire::{self, Command, Reply, WireServer, WriteError},
};

mod support;

const DATABASE: &str = "test";
const EVENTS: &str = "test.events";

/// Segments so small that a short test begins, seals and deletes many.
const SMALL_SEGMENTS: &str = "spool: { segment_bytes: 64KiB, compression: { codec: none } }";

fn load(seed: u64) -> LoadOptions {
    LoadOptions { prefix: "crash".into(), senders: 4, events_per_call: 20, pause: Duration::from_millis(2), seed }
}

/// Refuses every tenth document for good.
fn picky(command: &Command) -> Reply {
    if command.name != "insert" {
        return Reply::Healthy;
    }
    let refused = command.documents.iter().enumerate().filter(|(_, document)| is_refused(&wire::id_of(document)));
    Reply::WriteErrors(refused.map(|(index, _)| WriteError::new(index, 121, "Document failed validation")).collect())
}

fn is_refused(id: &str) -> bool {
    id.ends_with('7')
}

/// Fails unless each acknowledged record is in the server or, if it is one of those refused, in the dead letters.
fn assert_nothing_lost(sent: &Sent, server: &WireServer, spool: &Spool, when: &str) {
    let arrived: BTreeSet<String> = server.kept(EVENTS).into_keys().collect();
    let (refused, fine): (BTreeSet<String>, BTreeSet<String>) =
        sent.acknowledged.iter().cloned().partition(|id| is_refused(id));
    let missing: Vec<_> = fine.difference(&arrived).collect();
    assert!(
        missing.is_empty(),
        "{when}: {} of {} acknowledged never arrived: {}",
        missing.len(),
        fine.len(),
        some(&missing)
    );
    let dead = spool.dead_letters("mongo");
    let dead_ids: BTreeSet<String> = dead.iter().cloned().collect();
    assert_eq!(dead_ids.len(), dead.len(), "{when}: a dead letter is there twice");
    let missing: Vec<_> = refused.difference(&dead_ids).collect();
    assert!(missing.is_empty(), "{when}: neither delivered nor dead letters: {}", some(&missing));
    assert!(arrived.union(&dead_ids).all(|id| sent.all.contains(id)), "{when}: something arrived that nobody sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_inside_any_named_step_loses_nothing_that_was_answered_ok() {
    let seed = support::seed();
    // Segments of dead letters are deleted when letters go: see the next test.
    let steps = failpoint::NAMES.into_iter().filter(|step| *step != "dead_delete");
    stream::iter(steps.map(|step| crash_inside(step, seed))).buffer_unordered(3).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_dead_letters_go_neither_brings_them_back_nor_loses_others() {
    let server = WireServer::scripted(picky).await;
    let mut spool = Setup::new().mongo("mongo", &server.uri(), DATABASE).start().await;
    let send = async |spool: &Spool, prefix: &str| {
        let events = records::numbered_events(prefix).take(100).collect();
        spool.recorder().ingest_events(tokio_stream::iter([AnalyticsEvents { events }])).await.unwrap();
        spool.wait_until_drained().await;
    };
    send(&spool, "first").await;
    // A clean end has it noted that they left the queue.
    spool.terminate();
    spool.set_env("LIVEKIT_SPOOL_FAILPOINT", "dead_delete:abort");
    spool.start().await;
    assert_eq!(spool.dead_letters("mongo").len(), 10);
    let dropped = spool.command(&["dead", "drop", "mongo", "--all"]);
    assert!(!dropped.status.success(), "the process died, so nobody could answer");
    let (status, said) = spool.wait_for_its_end();
    assert!(status.code().is_none(), "it ended by itself ({status}):\n{said}");
    spool.unset_env("LIVEKIT_SPOOL_FAILPOINT");
    spool.start().await;
    assert!(spool.dead_letters("mongo").is_empty(), "they were gone, durably, before their file was deleted");
    send(&spool, "second").await;
    assert_eq!(spool.dead_letters("mongo").len(), 10);
    assert!(spool.dead_letters("mongo").iter().all(|id| id.contains("second")));
    spool.terminate();
}

async fn crash_inside(step: &'static str, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let server = WireServer::scripted(picky).await;
    let mut spool = Setup::new().mongo("mongo", &server.uri(), DATABASE).section(SMALL_SEGMENTS).prepare();
    let at_start = step.starts_with("replay");
    let armed = format!("{step}:abort:{}", if at_start { 1 } else { random.random_range(1..=3) });
    if !at_start {
        spool.set_env("LIVEKIT_SPOOL_FAILPOINT", &armed);
    }
    spool.launch();
    let load = Load::start(&spool.grpc(), &load(seed));
    if at_start {
        load.wait_for(500).await;
        spool.kill();
        spool.set_env("LIVEKIT_SPOOL_FAILPOINT", &armed);
        spool.launch();
    }
    support::eventually(&format!("the process reaches {armed}"), || {
        let running = spool.process().is_running();
        async move { !running }
    })
    .await;
    let (status, said) = spool.wait_for_its_end();
    assert!(status.code().is_none(), "{armed}: it ended by itself ({status}):\n{said}");
    spool.unset_env("LIVEKIT_SPOOL_FAILPOINT");
    spool.start().await;
    load.wait_for(load.acknowledged() + 100).await;
    let sent = load.stop().await;
    spool.wait_until_drained().await;
    assert_nothing_lost(&sent, &server, &spool, &armed);
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_power_cut_leaves_on_disk_what_was_answered_before_it_arrives_or_is_dead_lettered() {
    let images = std::env::var("SPOOL_TEST_IMAGES").map_or(30, |n| n.parse().expect("SPOOL_TEST_IMAGES is a number"));
    let seed = support::seed();
    let (recorded, recording, delivered) = record(seed).await;
    let root = recorded.spool.data();
    let (first, last) = recording.span();
    let (writes, syncs) = recording.figures();
    assert!(writes > 120 && syncs > 50, "only {writes} writes and {syncs} syncs were recorded");
    let image = |n: u64| {
        let (recorded, recording, delivered, root) = (&recorded, &recording, &delivered, &root);
        async move {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(n));
            let cut = random.random_range(first..=last);
            let server = WireServer::scripted(picky).await;
            let setup = Setup::new().mongo("mongo", &server.uri(), DATABASE).section(SMALL_SEGMENTS);
            let mut spool = setup.prepare();
            recording.image(root, cut, &mut random, &spool.data());
            spool.start().await;
            spool.wait_until_drained().await;
            let mut arrived: BTreeSet<String> = server.kept(EVENTS).into_keys().collect();
            arrived.extend(spool.dead_letters("mongo"));
            spool.terminate();
            let answered = recorded.sent.answers.iter().filter(|(at, _)| seconds(*at) < cut).flat_map(|(_, ids)| ids);
            let missing: Vec<_> = answered
                .filter(|id| !arrived.contains(*id) && delivered.get(*id).is_none_or(|at| *at >= cut))
                .collect();
            if !missing.is_empty() {
                let kept = support::keep(spool.directory());
                panic!(
                    "power cut {n} at {:.3} of {:.3} s: {} answered OK never arrived: {}; the directory: {}",
                    cut - first,
                    last - first,
                    missing.len(),
                    some(&missing),
                    kept.display()
                );
            }
        }
    };
    stream::iter((0..images).map(image)).buffer_unordered(3).collect::<Vec<()>>().await;
}

/// A run of the real binary whose system calls were recorded.
struct Recorded {
    spool: Spool,
    sent: Sent,
}

/// Records a load while the server is away, more of it while it drains, and the end.
async fn record(seed: u64) -> (Recorded, Recording, HashMap<String, f64>) {
    let away = Arc::new(Mutex::new(true));
    let delivered: Arc<Mutex<HashMap<String, f64>>> = Arc::default();
    let server = {
        let (away, delivered) = (away.clone(), delivered.clone());
        WireServer::scripted(move |command| {
            if *away.lock().unwrap() {
                return Reply::HangUp;
            }
            let now = seconds(SystemTime::now());
            let mut delivered = delivered.lock().unwrap();
            for id in command.documents.iter().map(|document| wire::id_of(document)).filter(|id| !is_refused(id)) {
                delivered.entry(id).or_insert(now);
            }
            picky(command)
        })
        .await
    };
    let traces = support::directory("trace");
    let prefix = traces.path().join("strace");
    let words = trace::strace(&prefix);
    let setup = Setup::new().mongo("mongo", &server.uri(), DATABASE).section(SMALL_SEGMENTS);
    let mut spool = setup.through(&words.iter().map(String::as_str).collect::<Vec<_>>()).start().await;
    let load = Load::start(&spool.grpc(), &load(seed));
    load.wait_for(1_500).await;
    *away.lock().unwrap() = false;
    load.wait_for(load.acknowledged() + 1_500).await;
    let sent = load.stop().await;
    spool.wait_until_drained().await;
    spool.terminate();
    let recording = Recording::of(&trace::read_when_complete(&prefix).await, &spool.data());
    let delivered = delivered.lock().unwrap().clone();
    (Recorded { spool, sent }, recording, delivered)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_to_the_journal_comes_between_its_last_sync_and_an_answer() {
    let nobody = format!("mongodb://127.0.0.1:{}/?directConnection=true", support::free_port());
    let traces = support::directory("trace");
    let prefix = traces.path().join("strace");
    let words = trace::strace(&prefix);
    let setup = Setup::new().mongo("mongo", &nobody, DATABASE).section(SMALL_SEGMENTS);
    let mut spool = setup.through(&words.iter().map(String::as_str).collect::<Vec<_>>()).start().await;
    let mut livekit = spool.recorder();
    let mut calls = Vec::new();
    let events: Vec<_> = records::numbered_events("trace").take(2_000).collect();
    for events in events.chunks(20) {
        let message = AnalyticsEvents { events: events.to_vec() };
        let asked = seconds(SystemTime::now());
        livekit.ingest_events(tokio_stream::iter([message])).await.unwrap();
        calls.push((asked, seconds(SystemTime::now())));
    }
    spool.terminate();

    let journal = spool.data().join("mongo/journal");
    let events = trace::read_when_complete(&prefix).await;
    let touching = |wanted: fn(&Call) -> Option<&std::path::PathBuf>| {
        let touching = events.iter().filter_map(move |event| Some((event, wanted(&event.call)?)));
        touching.filter(|(_, path)| path.starts_with(&journal)).collect::<Vec<_>>()
    };
    let writes = touching(|call| match call {
        Call::Write { path, .. } | Call::Length { path, .. } => Some(path),
        _ => None,
    });
    let syncs = touching(|call| match call {
        Call::Sync { path } => Some(path),
        _ => None,
    });
    let mut files = BTreeSet::new();
    for (asked, answered) in calls {
        let during = writes.iter().filter(|(write, _)| write.at >= asked && write.at <= answered);
        assert!(during.count() > 0, "an answer without a write to the journal");
        let (last, path) = writes.iter().rfind(|(write, _)| write.at <= answered).expect("a write before the answer");
        assert!(
            syncs.iter().any(|(sync, file)| file == path && sync.at >= last.end && sync.end <= answered),
            "no sync of {} between its last write and the answer",
            path.display()
        );
        files.insert((*path).clone());
    }
    assert!(files.len() > 2, "the journal never began a new segment: {files:?}");
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
