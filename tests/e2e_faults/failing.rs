//! Disks that fail under load (strace makes system calls fail): every record that was answered OK arrives, the process
//! continues, and accepts records again once the disk does, without a restart.

use std::{fs, path::Path, time::Duration};

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use prost::Message;
use tempfile::TempDir;
use tonic::Code;

use crate::{
    EVENTS, lines, records,
    support::{
        self,
        load::{Load, LoadOptions, Sent},
        process::{Setup, Spool},
        wire::{Reply, WireServer},
    },
};

fn load(seed: u64) -> LoadOptions {
    LoadOptions { prefix: "fail".into(), senders: 4, events_per_call: 20, pause: Duration::from_millis(2), seed }
}

/// Has some of a program's system calls fail, and notes them in a file.
pub(super) struct Failing {
    directory: TempDir,
    words: Vec<String>,
}

impl Failing {
    /// `calls` fail with `error` at `when`, as strace has it; with `file`, only those on it.
    pub(super) fn new(calls: &str, error: &str, when: &str, file: Option<&Path>) -> Self {
        let directory = support::directory("strace");
        let trace = directory.path().join("trace");
        let inject = format!("inject={calls}:error={error}:when={when}");
        // -D: strace is the child, so that killing what the test started kills the program.
        let mut words = vec!["strace", "-D", "-f", "-qq", "-o", trace.to_str().unwrap()];
        words.extend(file.into_iter().flat_map(|file| ["-P", file.to_str().unwrap()]));
        let which = format!("trace={calls}");
        words.extend(["-e", &which, "-e", &inject, "--"]);
        let words = words.into_iter().map(str::to_owned).collect();
        Self { directory, words }
    }

    pub(super) fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// How many calls failed so far.
    pub(super) fn count(&self) -> usize {
        let trace = fs::read_to_string(self.directory.path().join("trace")).unwrap_or_default();
        trace.matches("(INJECTED)").count()
    }
}

fn assert_arrived(sent: &Sent, server: &WireServer) {
    let kept = server.kept(EVENTS);
    let missing: Vec<_> = sent.acknowledged.iter().filter(|id| !kept.contains_key(*id)).collect();
    assert!(missing.is_empty(), "{} of {} never arrived: {missing:?}", missing.len(), sent.acknowledged.len());
    assert!(kept.keys().all(|id| sent.all.contains(id)), "something arrived that nobody sent");
}

async fn with_failing_calls(calls: &str, error: &str, when: &str) {
    let seed = support::seed();
    let server = WireServer::scripted(|_| Reply::Healthy).await;
    let setup = Setup::new()
        .mongo("mongo", &server.uri(), "test")
        .section("spool: { segment_bytes: 64KiB, compression: { codec: none } }");
    let failing = Failing::new(calls, error, when, None);
    let mut spool = setup.through(&failing.words()).start().await;
    let load = Load::start(&spool.grpc(), &load(seed));
    support::eventually("many calls fail, and it continues", || async {
        failing.count() >= 10 && load.acknowledged() >= 1_000
    })
    .await;
    load.wait_for(load.acknowledged() + 500).await;
    let sent = load.stop().await;
    spool.process().assert_running();
    spool.wait_until_drained().await;
    assert_arrived(&sent, &server);
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_that_fail_lose_nothing_that_was_answered_ok() {
    with_failing_calls("fdatasync", "EIO", "20+3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_of_directories_that_fail_lose_nothing_that_was_answered_ok() {
    // Behind those of the start: a spool does not open where they fail.
    with_failing_calls("fsync", "EIO", "16+2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_fail_lose_nothing_that_was_answered_ok() {
    with_failing_calls("pwrite64", "EIO", "30+5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_and_reservations_that_fail_lose_nothing_that_was_answered_ok() {
    with_failing_calls("pwrite64,ftruncate,fallocate", "EIO", "30+4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_without_space_for_a_while_are_refused_and_accepted_again_later() {
    with_failing_calls("pwrite64", "ENOSPC", "30..90").await;
}

/// Sends events by gRPC or HTTP; false where they are refused, for now.
async fn is_accepted(spool: &Spool, events: &[AnalyticsEvent], by_http: bool) -> bool {
    let message = AnalyticsEvents { events: events.to_vec() };
    if by_http {
        let request = reqwest::Client::new().post(format!("{}/v1/events", spool.http()));
        let request = request.header("content-type", "application/x-protobuf").body(message.encode_to_vec());
        let status = request.send().await.expect("an answer").status();
        assert!(status.is_success() || status == 503, "{status}");
        return status.is_success();
    }
    match spool.recorder().ingest_events(tokio_stream::iter([message])).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains("sink files") && status.message().contains("os error 5"), "{status}");
            false
        }
    }
}

/// Calls of the journal's first segment fail with EIO; each costs one request its OK, and nothing else.
async fn with_refused_requests(calls: &str) {
    let mut spool = Setup::new().files("files").prepare();
    let segment = spool.data().join("files/journal/000000000001.journal");
    let failing = Failing::new(calls, "EIO", "2..3", Some(&segment));
    spool.set_wrapper(&failing.words());
    spool.start().await;
    let events: Vec<_> = records::numbered_events("refused").take(200).collect();
    let mut refused = 0;
    for (n, request) in events.chunks(10).enumerate() {
        while !is_accepted(&spool, request, n % 2 == 0).await {
            refused += 1;
            // strace counts each thread's calls, and a caller that is alone appends on its own.
            assert!(refused < 100, "it does not accept records again");
        }
    }
    assert!(refused > 0 && refused == failing.count(), "{refused} refused, {} calls failed", failing.count());
    spool.wait_until_drained().await;
    spool.terminate();
    let mut arrived = lines(&spool.directory().join("out"));
    arrived.sort();
    assert_eq!(arrived, events.iter().map(|event| event.id.clone()).collect::<Vec<_>>(), "all, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_written_is_refused_and_accepted_when_it_is_sent_again() {
    with_refused_requests("pwrite64").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_synced_is_refused_and_accepted_when_it_is_sent_again() {
    with_refused_requests("fdatasync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_cannot_write_any_more_holds_up_nothing_and_loses_nothing() {
    let seed = support::seed();
    let server = WireServer::scripted(|_| Reply::Healthy).await;
    let mut spool = Setup::new().mongo("mongo", &server.uri(), "test").start().await;
    spool.terminate();
    // sled never gets over a failed write: what it is told after it, hangs.
    let queue = spool.data().join("mongo/queue/db");
    let failing = Failing::new("pwrite64,pwritev,pwritev2,write,ftruncate", "ENOSPC", "3+", Some(&queue));
    spool.set_wrapper(&failing.words());
    spool.start().await;
    let load = Load::start(&spool.grpc(), &load(seed));
    support::eventually("sled cannot write", || async { failing.count() > 0 }).await;
    load.wait_for(load.acknowledged() + 3_000).await;
    // More comes all the while: the queue is never seen empty.
    let acknowledged = load.acknowledged();
    support::eventually("what was acknowledged by then is delivered", || async {
        server.kept(EVENTS).len() as u64 >= acknowledged as u64
    })
    .await;
    let backlog = spool.backlog();
    let sink = support::process::Spool::sink_of(&backlog, "mongo");
    assert_eq!((&sink["queue_on_disk"], &sink["queue_failures"]), (&false.into(), &1.into()), "{sink:#}");
    assert!(String::from_utf8_lossy(&spool.command(&["backlog"]).stdout).contains("the queue is in memory"));
    // Killed with a queue that hangs, it starts again with all it had.
    spool.kill();
    spool.set_wrapper(&[]);
    spool.start().await;
    load.wait_for(load.acknowledged() + 100).await;
    let sent = load.stop().await;
    spool.wait_until_drained().await;
    assert_arrived(&sent, &server);
    spool.terminate();
}
