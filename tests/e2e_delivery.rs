//! From LiveKit's gRPC calls to documents in MongoDB and rows in PostgreSQL: the real binary, a real server, each record
//! exactly once, whoever is killed in between.

use std::{collections::BTreeSet, path::Path, time::Duration};

use bson::Document;
use livekit_protocol::{AnalyticsEvents, AnalyticsStats};
use mongodb::Collection;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::Signal;
use support::{
    child::Process,
    load::{Load, LoadOptions},
    mongo::{self, Mongo},
    postgres::Postgres,
    process::{QUICK, Setup, Spool},
    proxy::{Mode, Proxy},
    records,
    wire::WireServer,
};

mod support;

/// How often the binary is killed; `SPOOL_TEST_KILLS` asks for more.
fn kills() -> usize {
    std::env::var("SPOOL_TEST_KILLS").map_or(20, |kills| kills.parse().expect("SPOOL_TEST_KILLS is a number"))
}

fn load(seed: u64) -> LoadOptions {
    LoadOptions { prefix: "load".into(), senders: 4, events_per_call: 8, pause: Duration::from_millis(10), seed }
}

async fn events_of(mongo: &Mongo, database: &str) -> Collection<Document> {
    mongo.open(database).await.collection("events")
}

/// Kills the binary at random moments, the start-up's among them, and starts it again each time.
async fn kill_at_random_moments(spool: &mut Spool, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..kills() {
        if random.random() {
            spool.wait_until_it_accepts_records().await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        spool.process().assert_running();
        spool.kill();
        spool.launch();
    }
    spool.wait_until_it_accepts_records().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn livekits_real_records_sent_one_a_message_arrive_exactly_once() {
    let mongo = Mongo::shared().await;
    let database = mongo.database();
    let mut spool = Setup::new().mongo("mongo", mongo.uri(), &database).start().await;
    let (events, stats) = (records::real_events(), records::real_stats());
    let (event_ids, stat_ids) = (records::event_ids(&events), records::stat_ids(&stats));

    let mut livekit = spool.recorder();
    let one_a_message = events.into_iter().map(|event| AnalyticsEvents { events: vec![event] });
    livekit.ingest_events(tokio_stream::iter(one_a_message.collect::<Vec<_>>())).await.unwrap();
    let one_a_message = stats.into_iter().map(|stat| AnalyticsStats { stats: vec![stat] });
    livekit.ingest_stats(tokio_stream::iter(one_a_message.collect::<Vec<_>>())).await.unwrap();

    let database = mongo.open(&database).await;
    mongo::wait_for_count(&database.collection("events"), 763).await;
    mongo::wait_for_count(&database.collection("stats"), 482).await;
    mongo::assert_exactly_once(&database.collection("events"), &event_ids).await;
    mongo::assert_exactly_once(&database.collection("stats"), &stat_ids).await;
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_server_killed_mid_stream_and_restarted_on_its_data_misses_nothing() {
    let seed = support::seed();
    let mut mongo = Mongo::start().await;
    let database = mongo.database();
    let mut spool = Setup::new().mongo("mongo", mongo.uri(), &database).start().await;
    let load = Load::start(&spool.grpc(), &load(seed));
    load.wait_for(500).await;
    mongo.kill();
    load.wait_for(load.acknowledged() + 1_000).await;
    mongo.restart().await;
    load.wait_for(load.acknowledged() + 500).await;
    let sent = load.stop().await;
    assert_eq!(sent.all.len(), sent.acknowledged.len(), "calls failed because MongoDB was away");
    let events = events_of(&mongo, &database).await;
    mongo::wait_for_count(&events, sent.acknowledged.len() as u64).await;
    mongo::assert_exactly_once(&events, &sent.acknowledged).await;
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_ok_arrives_once_though_the_process_is_killed_at_random_moments() {
    let seed = support::seed();
    let mongo = Mongo::shared().await;
    let database = mongo.database();
    let mut spool = Setup::new().mongo("mongo", mongo.uri(), &database).start().await;
    let load = Load::start(&spool.grpc(), &load(seed));
    kill_at_random_moments(&mut spool, seed).await;
    arrives_in_full(mongo, &database, &mut spool, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_with_mongodb_unavailable_until_the_last_restart() {
    let seed = support::seed();
    let mut mongo = Mongo::start().await;
    let database = mongo.database();
    mongo.kill();
    let mut spool = Setup::new().mongo("mongo", mongo.uri(), &database).start().await;
    let load = Load::start(&spool.grpc(), &load(seed));
    kill_at_random_moments(&mut spool, seed).await;
    spool.kill();
    mongo.restart().await;
    spool.start().await;
    arrives_in_full(&mongo, &database, &mut spool, load).await;
}

/// COPY and INSERT both: after each failure the sink inserts, and copies again once its rows are new.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_ok_is_in_postgresql_once_though_both_are_killed_at_random_moments() {
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut postgres = Postgres::start().await;
    let sink = format!("name: postgresql, type: postgresql, url: \"{}\", flush: {QUICK}", postgres.url());
    let mut spool = Setup::new().sink(&sink).start().await;
    let load = Load::start(&spool.grpc(), &load(seed));
    for _ in 0..kills() {
        let victims = random.random_range(0..3);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        if victims != 0 {
            postgres.kill();
        }
        if victims != 1 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..50))).await;
            spool.process().assert_running();
            spool.kill();
            spool.launch();
        }
        if victims != 0 {
            postgres.restart().await;
        }
        if random.random() {
            spool.wait_until_it_accepts_records().await;
        }
    }
    spool.wait_until_it_accepts_records().await;
    load.wait_for(load.acknowledged() + 20).await;
    let sent = load.stop().await;
    assert!(sent.acknowledged.len() >= 300 && sent.all.len() > sent.acknowledged.len(), "no load to speak of");
    spool.wait_until_drained().await;
    let rows: Vec<String> =
        postgres.run("SELECT id FROM livekit.events ORDER BY id").await.into_iter().flatten().collect();
    let stored: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), stored.len(), "ids that are there more than once");
    let missing: Vec<_> = sent.acknowledged.difference(&stored).collect();
    assert!(missing.is_empty(), "of {} acknowledged are missing: {}", sent.acknowledged.len(), mongo::some(&missing));
    let unknown: Vec<_> = stored.difference(&sent.all).collect();
    assert!(unknown.is_empty(), "never sent: {}", mongo::some(&unknown));
    assert!(spool.dead_letters("postgresql").is_empty());
    spool.terminate();
}

/// Ends the load, waits until the spool is empty, and compares.
async fn arrives_in_full(mongo: &Mongo, database: &str, spool: &mut Spool, load: Load) {
    load.wait_for(load.acknowledged() + 20).await;
    let sent = load.stop().await;
    let (acknowledged, all) = (sent.acknowledged.len(), sent.all.len());
    eprintln!("{acknowledged} of {all} events were answered OK");
    assert!(acknowledged >= 300 && all > acknowledged, "no load to speak of, or nothing that failed");
    spool.wait_until_drained().await;
    mongo::assert_each_once(&events_of(mongo, database).await, &sent.acknowledged, &sent.all).await;
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sinks_one_dead_the_other_gets_all_and_the_dead_one_drains_when_it_is_back() {
    let seed = support::seed();
    let mongo = Mongo::shared().await;
    let (alive, dead) = (mongo.database(), mongo.database());
    let upstream = mongo.uri().trim_start_matches("mongodb://").split('/').next().unwrap().to_owned();
    let proxy = Proxy::start(&upstream).await;
    proxy.set(Mode::Refuse).await;
    let away = format!("mongodb://{}/?directConnection=true", proxy.address());
    let mut spool = Setup::new().mongo("alive", mongo.uri(), &alive).mongo("dead", &away, &dead).start().await;
    let load = Load::start(&spool.grpc(), &load(seed));
    load.wait_for(1_000).await;
    let sent = load.stop().await;
    let count = sent.acknowledged.len() as u64;
    mongo::wait_for_count(&events_of(mongo, &alive).await, count).await;
    mongo::assert_exactly_once(&events_of(mongo, &alive).await, &sent.acknowledged).await;
    support::eventually("the living sink's queue is empty", || async { spool.records("alive", "events") == 0 }).await;
    assert_eq!(spool.records("dead", "events"), count);

    proxy.set(Mode::Pass).await;
    mongo::wait_for_count(&events_of(mongo, &dead).await, count).await;
    mongo::assert_exactly_once(&events_of(mongo, &dead).await, &sent.acknowledged).await;
    spool.wait_until_drained().await;
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_shows_the_same_figures_live_and_stopped() {
    let nobody = format!("mongodb://127.0.0.1:{}/?directConnection=true", support::free_port());
    let mut spool = Setup::new().mongo("mongo", &nobody, "away").files("files").start().await;
    let mut livekit = spool.recorder();
    for events in records::real_events().chunks(100) {
        livekit.ingest_events(tokio_stream::iter([AnalyticsEvents { events: events.to_vec() }])).await.unwrap();
    }
    let stats = records::real_stats();
    livekit.ingest_stats(tokio_stream::iter([AnalyticsStats { stats }])).await.unwrap();
    support::eventually("the file sink has all", || async {
        spool.records("files", "events") + spool.records("files", "stats") == 0
    })
    .await;
    let figures = |spool: &Spool| {
        let backlog = spool.backlog();
        ["events", "stats", "node_rooms"].map(|stream| {
            let stream = Spool::stream_of(&backlog, "mongo", stream);
            ["records", "blocks", "bytes"].map(|figure| stream[figure].as_u64().expect(figure))
        })
    };
    let live = figures(&spool);
    assert_eq!((live[0][0], live[1][0], live[2][0]), (763, 482, 0));
    spool.kill();
    assert_eq!(figures(&spool), live, "after kill -9");
    spool.start().await;
    assert_eq!(figures(&spool), live, "after the restart");
    spool.terminate();
    assert_eq!(figures(&spool), live, "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_on_a_read_does_not_hold_up_the_end() {
    let server = WireServer::acknowledging().await;
    let proxy = Proxy::start(&server.address()).await;
    proxy.set(Mode::Refuse).await;
    let uri = format!("mongodb://{}/?directConnection=true", proxy.address());
    let setup = Setup::new().mongo("mongo", &uri, "test").section("shutdown_timeout: 2s");
    let mut spool = setup.start().await;
    let events = records::numbered_events("hang").take(200).collect();
    spool.recorder().ingest_events(tokio_stream::iter([AnalyticsEvents { events }])).await.unwrap();

    // From now on a read of the journal takes longer than this test waits.
    let journal = spool.data().join("mongo/journal/000000000001.journal");
    let traces = support::directory("trace");
    let mut strace = hang_reads(spool.process().pid(), &journal, &traces.path().join("log"));
    proxy.set(Mode::Pass).await;
    support::eventually("a read hangs", || async { strace.output().contains("pread64(") }).await;
    let pid = spool.process().pid();
    spool.process().signal(Signal::TERM);
    support::eventually("it has ended", || async { has_ended(pid) }).await;
    // Only now may the disk answer: strace has not let go of what is left of the process.
    strace.kill();
    let (status, said) = spool.wait_for_its_end();
    // The spool closes without the reader: what was on its way is delivered again.
    assert!(status.success() && said.contains("the backlog is on disk"), "{said}");
}

/// True for a process that is gone, or waits to be taken note of.
fn has_ended(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find(|line| line.starts_with("State:")).is_none_or(|state| state.contains('Z'))
}

/// Makes a process's reads of a file hang for ten minutes.
fn hang_reads(pid: u32, file: &Path, log: &Path) -> Process {
    let (pid, file) = (pid.to_string(), file.to_str().expect("a UTF-8 path"));
    let words = ["-f", "-p", &pid, "-P", file, "-e", "trace=pread64", "-e", "inject=pread64:delay_enter=600s"];
    Process::start("strace", Path::new("strace"), &words, &[], log)
}
