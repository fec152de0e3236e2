//! A machine that gives no more threads (`ulimit -u`, a container's pids limit).

use std::{
    os::unix::fs::chown,
    process::Command,
    time::{Duration, Instant},
};

use livekit_protocol::AnalyticsEvents;

use super::{
    event,
    support::{
        TIMEOUT, free_port,
        process::{BINARY, Setup, Spool},
    },
};

/// A user that has no other process: what is running is counted a user, and root is not counted at all.
fn somebody() -> u32 {
    60_000 + u32::from(free_port()) % 5_000
}

/// A process of this user's that may have so many threads.
fn limited(user: u32, threads: usize) -> Spool {
    let setpriv = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
    let limited = format!("ulimit -u {threads}; exec \"$0\" \"$@\"");
    let mut words = vec!["setpriv"];
    words.extend(setpriv.iter().map(String::as_str));
    let can_run = Command::new("setpriv").args(&setpriv).args(["test", "-x", BINARY]).status();
    assert!(
        can_run.as_ref().is_ok_and(std::process::ExitStatus::success),
        "this test needs root, setpriv, and a binary that other users may run ({BINARY}): {can_run:?}"
    );
    words.extend(["bash", "-c", &limited]);
    let spool = Setup::new().files("files").through(&words).prepare();
    for path in [spool.directory().to_owned(), spool.directory().join("config.yaml")] {
        chown(path, Some(user), Some(user)).expect("root may give files away");
    }
    spool
}

/// Whether it takes a record over HTTP, and over gRPC.
async fn accepts_records(spool: &Spool) -> bool {
    let request = reqwest::Client::new().post(format!("{}/v1/events", spool.http())).timeout(Duration::from_secs(2));
    let request = request.header("content-type", "application/json").body(r#"{"id": "AE_1"}"#);
    let over_http = request.send().await.is_ok_and(|answer| answer.status().is_success());
    let mut recorder = spool.recorder();
    let call = recorder.ingest_events(futures::stream::iter([AnalyticsEvents { events: vec![event("AE_2", "room")] }]));
    let over_grpc = tokio::time::timeout(Duration::from_secs(2), call).await;
    over_http && matches!(over_grpc, Ok(Ok(_)))
}

async fn is_ready(spool: &Spool) -> bool {
    let answer = reqwest::get(format!("{}/readyz", spool.admin())).await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_threads_cannot_be_started_it_ends_at_once_and_says_which_limit_to_raise_else_it_serves_all() {
    let mut enough = limited(somebody(), 1_000);
    enough.start().await;
    let threads = std::fs::read_dir(format!("/proc/{}/task", enough.process().pid())).expect("it runs").count();
    enough.terminate();

    // With so many it accepts records; with fewer it does not begin.
    let mut serves_with = None;
    for limit in 1..=2 * threads {
        let mut spool = limited(somebody(), limit);
        spool.launch();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut serves = false;
        while spool.process().is_running() && !serves && Instant::now() < deadline {
            serves = accepts_records(&spool).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if spool.process().is_running() {
            assert!(serves && is_ready(&spool).await, "with {limit} threads it hangs: {}", spool.said());
            spool.process().terminate(TIMEOUT);
            assert!(!spool.said().contains("panicked"), "with {limit} threads it said:\n{}", spool.said());
            serves_with.get_or_insert(limit);
            if limit > serves_with.unwrap_or_default() + 2 {
                break;
            }
            continue;
        }
        let (status, output) = spool.wait_for_its_end();
        assert!(!status.success() && serves_with.is_none(), "with {limit} threads: {status}: {output}");
        let of_bash = "fork: retry";
        let lines: Vec<_> = output.lines().filter(|line| !line.contains(of_bash)).collect();
        let [line] = lines[..] else { panic!("with {limit} threads it said:\n{output}") };
        assert!(line.contains("ulimit -u") && line.contains("TasksMax"), "with {limit} threads it said:\n{output}");
    }
    println!("{threads} threads; it begins with {serves_with:?}");
    assert!(serves_with.is_some(), "it never serves");
}
