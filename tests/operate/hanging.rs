//! A disk that does not answer: status requests are answered nevertheless, and a stop is over in time.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{event, send, support};
use support::{
    child::Process,
    process::{Setup, Spool},
};

const SHUTDOWN: Duration = Duration::from_secs(4);

/// Makes a process's calls hang for ten minutes, with a file those on it.
pub(super) async fn hang(pid: u32, calls: &str, file: Option<&Path>, log: &Path) -> Process {
    let pid = pid.to_string();
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:delay_enter=600s"));
    let mut words = vec!["-f", "-p", &pid, "-e", &trace, "-e", &inject];
    words.extend(file.into_iter().flat_map(|file| ["-P", file.to_str().expect("a UTF-8 path")]));
    let strace = Process::start("strace", Path::new("strace"), &words, &[], log);
    support::eventually("strace is there", || async { strace.output().contains("attached") }).await;
    strace
}

/// Whether a process has ended; whoever traces it has the rest of it until the call is over.
pub(super) fn is_over(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find(|line| line.starts_with("State:")).is_none_or(|state| state.contains('Z'))
}

/// With the sink `slow`, and another one unless that is alone: a request for one sink is appended by the thread that serves it.
async fn started(alone: bool) -> Spool {
    let mut setup = Setup::new().files("slow").section(&format!("shutdown_timeout: {}s", SHUTDOWN.as_secs()));
    if !alone {
        setup = setup.sink("name: other, type: file, path: other, required: false");
    }
    let spool = setup.start().await;
    send(&spool, vec![event("AE_1", "room")]).await;
    spool.wait_until_drained().await;
    spool
}

/// Sends a record that may never be answered.
fn send_in_vain(spool: &Spool) -> tokio::task::JoinHandle<()> {
    let request = reqwest::Client::new().post(format!("{}/v1/events", spool.http()));
    let request = request.header("content-type", "application/json").body(r#"{"id": "AE_2"}"#);
    tokio::spawn(async { drop(request.send().await) })
}

async fn stops_in_time(alone: bool, calls: &str, file: Option<&str>) {
    let mut spool = started(alone).await;
    let (traces, pid) = (support::directory("trace"), spool.process().pid());
    let file = file.map(|file| spool.data().join(file));
    let mut strace = hang(pid, calls, file.as_deref(), &traces.path().join("log")).await;
    let sending = send_in_vain(&spool);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = Instant::now();
    spool.process().signal(Signal::TERM);
    while !is_over(pid) && begun.elapsed() < 4 * SHUTDOWN {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = begun.elapsed();
    strace.kill();
    let context = format!("{calls} on {file:?} (alone: {alone}): over after {after:?}");
    assert!(after < SHUTDOWN + Duration::from_secs(2), "{context}: {}", spool.said());
    let (status, said) = spool.wait_for_its_end();
    assert!(status.success(), "{context}: {status}: {said}");
    println!("{context}");
    sending.abort();
    spool.start().await;
    send(&spool, vec![event("AE_3", "room")]).await;
    spool.wait_until_drained().await;
    let written: String = fs::read_dir(spool.directory().join("out"))
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert!(written.contains("AE_1") && written.contains("AE_3"), "{context}: {written}");
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_over_in_time_where_a_request_waits_for_the_disk() {
    for alone in [true, false] {
        stops_in_time(alone, "fdatasync", Some("slow/journal/000000000001.journal")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_over_in_time_whichever_call_hangs() {
    for calls in ["fdatasync,fsync", "statfs,fstatfs", "openat", "unlink,unlinkat", "statx,newfstatat"] {
        stops_in_time(true, calls, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_metrics_do_not_wait_for_a_disk() {
    for calls in ["statfs,fstatfs", "openat,statx,newfstatat,unlink,unlinkat,statfs,fstatfs", "fdatasync,fsync"] {
        let mut spool = started(true).await;
        let (traces, pid) = (support::directory("trace"), spool.process().pid());
        let mut strace = hang(pid, calls, None, &traces.path().join("log")).await;
        let sending = send_in_vain(&spool);
        tokio::time::sleep(Duration::from_secs(1)).await;
        for path in ["readyz", "metrics"] {
            let begun = Instant::now();
            let request = reqwest::Client::new().get(format!("{}/{path}", spool.admin())).timeout(2 * SHUTDOWN);
            let answer = request.send().await.unwrap_or_else(|error| panic!("{path} while {calls} hang: {error}"));
            println!("{path} while {calls} hang: {} after {:?}", answer.status(), begun.elapsed());
            assert!(begun.elapsed() < Duration::from_secs(5), "{path} while {calls} hang: {:?}", begun.elapsed());
        }
        sending.abort();
        // The other way round the process would wait for its tracer.
        strace.kill();
        spool.terminate();
    }
}
