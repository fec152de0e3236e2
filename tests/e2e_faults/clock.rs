//! The wall clock jumps to 1970 and a year ahead, while the process runs and between runs (libfaketime; the monotonic
//! clock is left alone). Nothing is dropped, order and ages stay sane, and no document expires early.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bson::DateTime;

use crate::{
    EVENTS, records, send, server,
    support::{
        self,
        process::{QUICK, Setup, Spool},
        wire::{self, Reply, WireServer},
    },
};

const EXPIRATION_HOURS: u64 = 72;

fn libfaketime() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found =
        directories.map(|directory| directory.join("faketime/libfaketime.so.1")).find(|library| library.exists());
    found.expect("libfaketime is missing: `tests/servers` installs it (package libfaketime)")
}

/// Sets the clock of all processes that read this file.
fn set(file: &Path, offset: &str) {
    let fresh = file.with_extension("new");
    fs::write(&fresh, format!("{offset}\n")).unwrap();
    fs::rename(fresh, file).unwrap();
}

fn with_clock(setup: Setup, file: &Path) -> Setup {
    setup
        .env("LD_PRELOAD", libfaketime().to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
}

fn setup(server: &WireServer, file: &Path) -> Setup {
    let sink = format!(
        "name: mongo, type: mongodb, uri: \"{}\", database: test, expiration: {EXPIRATION_HOURS}h, \
         flush: {}",
        server.uri(),
        QUICK.replace("{ interval", "{ max_in_flight: 1, interval")
    );
    with_clock(Setup::new().sink(&sink).section("spool: { max_age: 6h }"), file)
}

/// Fails unless the backlog is whole and no older than the test.
fn assert_sane(spool: &Spool, records: u64, since: Instant, when: &str) {
    let backlog = spool.backlog();
    let events = Spool::stream_of(&backlog, "mongo", "events");
    assert_eq!(events["records"], records, "{when}: {events:#}");
    assert!(events["dropped"].as_object().is_none_or(serde_json::Map::is_empty), "{when}: {events:#}");
    let age = events["oldest_age_seconds"].as_f64().expect("an age");
    assert!(age >= 0.0 && age <= since.elapsed().as_secs_f64() + 61.0, "{when}: {age} s");
}

const JUMPS: [&str; 4] = ["-56y", "+0", "+1y", "+0"];

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_while_records_wait_drops_none_and_keeps_order_ages_and_expiry() {
    let order: Arc<Mutex<Vec<String>>> = Arc::default();
    let (away, seen) = (Arc::new(Mutex::new(true)), Arc::clone(&order));
    let gone = Arc::clone(&away);
    let server = WireServer::scripted(move |command| {
        if *gone.lock().unwrap() {
            return Reply::HangUp;
        }
        seen.lock().unwrap().extend(command.documents.iter().map(|document| wire::id_of(document)));
        Reply::Healthy
    })
    .await;
    let directory = support::directory("clock");
    let file = directory.path().join("time");
    set(&file, "+0");
    let begun = Instant::now();
    let real = millis_now();
    let mut spool = setup(&server, &file).start().await;
    let events: Vec<_> = records::numbered_events("clock").take(250).collect();
    let mut sent = 0;
    for jump in ["+0"].into_iter().chain(JUMPS) {
        set(&file, jump);
        send(&spool, &events[sent as usize..sent as usize + 50]).await;
        sent += 50;
        assert_sane(&spool, sent, begun, jump);
    }
    // And it is delivered while it is wrong.
    set(&file, "-56y");
    *away.lock().unwrap() = false;
    spool.wait_until_drained().await;
    let wanted: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    assert_eq!(*order.lock().unwrap(), wanted, "in order");
    assert_expiry(&server, &wanted, real);
    assert!(spool.said().contains("the wall clock jumped"), "{}", spool.said());
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_between_runs_drops_nothing() {
    let (server, away) = server().await;
    let directory = support::directory("clock");
    let file = directory.path().join("time");
    set(&file, "+0");
    let real = millis_now();
    let mut spool = setup(&server, &file).start().await;
    let events: Vec<_> = records::numbered_events("runs").take(250).collect();
    send(&spool, &events[..50]).await;
    for (n, jump) in (1..).zip(JUMPS) {
        // A clean end and a crash leave different traces.
        if n % 2 == 0 {
            spool.kill()
        } else {
            spool.terminate()
        }
        set(&file, jump);
        spool.start().await;
        send(&spool, &events[n * 50..(n + 1) * 50]).await;
        // The keeper, which drops what is too old, has looked around.
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        let backlog = spool.backlog();
        let waiting = Spool::stream_of(&backlog, "mongo", "events");
        assert_eq!(waiting["records"], (n as u64 + 1) * 50, "{jump}: {waiting:#}");
        assert!(waiting["oldest_age_seconds"].as_f64().unwrap() >= 0.0, "{jump}: {waiting:#}");
    }
    away.store(false, Ordering::SeqCst);
    spool.wait_until_drained().await;
    assert_expiry(&server, &events.iter().map(|event| event.id.clone()).collect::<Vec<_>>(), real);
    spool.terminate();
}

/// All are there, and none expires before its time is up by the server's (right) clock.
fn assert_expiry(server: &WireServer, ids: &[String], real: i64) {
    let kept = server.kept(EVENTS);
    assert!(ids.iter().all(|id| kept.contains_key(id)) && kept.len() == ids.len());
    let least = real + i64::try_from(EXPIRATION_HOURS).unwrap() * 3_600_000 - 120_000;
    for (id, document) in kept {
        let at = document.get_datetime("openvidu_expire_at").expect("a time to expire");
        assert!(at.timestamp_millis() >= least, "{id} expires at {at}, before {}", DateTime::from_millis(least));
    }
}

fn millis_now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
