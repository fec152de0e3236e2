//! Starts, stops and reloads under what goes wrong around them: files that are gone, disks that do not answer, machines that
//! lack something, terminals that close.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::{
    cli::{fails, ok, said},
    event, hanging, nowhere,
    resp::{Answer, RespServer},
    send, support,
};
use support::{
    child::Process,
    postgres::Postgres,
    process::{BINARY, Setup, Spool},
    proxy::{Mode, Proxy},
    receiver::{self, Receiver},
    wire::WireServer,
};

/// What systemd's unit allows at most.
const SOON: Duration = Duration::from_secs(15);
/// Less than any part of a stop may take that waits for a server's answer.
const AT_ONCE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_whose_file_is_gone_is_refused_and_the_sinks_stay() {
    let mut spool = nowhere("mongo").prepare();
    let config = spool.directory().join("config.yaml");
    // Without --config, next to ./config.yaml.
    spool.set_wrapper(&["sh", "-c", "exec \"$0\" run"]);
    spool.start().await;
    fs::rename(&config, spool.directory().join("away")).unwrap();
    spool.process().signal(Signal::HUP);
    support::eventually("it says so", || {
        let log = spool.said();
        async move { log.contains("config.yaml") && log.contains("the old one stays in force") }
    })
    .await;
    fs::rename(spool.directory().join("away"), &config).unwrap();
    assert_eq!(spool.backlog()["sinks"].as_array().unwrap().len(), 1);
    send(&spool, vec![event("AE_1", "room")]).await;
    assert_eq!(spool.records("mongo", "events"), 1);
    assert!(!spool.data().join("out").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_heard_while_the_start_waits() {
    let mut spool = Setup::new().files("files").prepare();
    let pipe = spool.directory().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let config = spool.directory().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    // Certificates are read when it starts; nobody ever writes into the pipe.
    let waits = text.replacen("  http:", "  tls: { certificate: pipe, key: pipe }\n  http:", 1);
    assert_ne!(text, waits);
    fs::write(&config, waits).unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        spool.launch();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let begun = Instant::now();
        spool.process().signal(signal);
        let (status, log) = spool.wait_for_its_end();
        assert!(status.success() && begun.elapsed() < SOON, "{signal:?}: {status} after {:?}: {log}", begun.elapsed());
        assert!(log.contains("before it accepted records"), "{log}");
    }
}

#[test]
fn a_stop_at_any_moment_of_the_start_is_no_error() {
    let mut setup = Setup::new();
    for number in 0..12 {
        setup = setup.files(&format!("files-{number}"));
    }
    let mut spool = setup.prepare();
    for after in (8..104).step_by(4) {
        spool.launch();
        std::thread::sleep(Duration::from_millis(after));
        spool.process().signal(Signal::TERM);
        let (_, log) = spool.wait_for_its_end();
        let is_good = |line: &str| !["ERROR", "WARN", "cancelled"].iter().any(|word| line.contains(word));
        assert!(log.lines().all(is_good), "SIGTERM after {after} ms: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_a_reload_with_hanging_sinks_is_over_in_time() {
    // Accepted, and never answered.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = hole.local_addr().unwrap().port();
    std::thread::spawn(move || hole.incoming().collect::<Vec<_>>());
    let mut setup = Setup::new();
    for name in ["a", "b", "c", "d"] {
        setup = setup
            .sink(&format!("name: {name}, type: mongodb, uri: \"mongodb://127.0.0.1:{port}/?directConnection=true\""));
    }
    let mut spool = setup.start().await;
    send(&spool, vec![event("AE_1", "room")]).await;
    let config = spool.directory().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("type: mongodb", "type: mongodb, labels: { x: y }")).unwrap();
    spool.process().signal(Signal::HUP);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    spool.terminate();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// The four types of sinks that speak to a server there, over TLS too.
fn sinks_at(port: u16) -> [(&'static str, String); 8] {
    [
        ("mongodb", format!("uri: \"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=60000\"")),
        ("mongodb-tls", format!("uri: \"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=60000&tls=true\"")),
        ("redis", format!("url: \"redis://127.0.0.1:{port}\"")),
        ("redis-tls", format!("url: \"rediss://127.0.0.1:{port}\"")),
        ("postgresql", format!("url: \"postgresql://x@127.0.0.1:{port}/x?sslmode=disable\"")),
        ("postgresql-tls", format!("url: \"postgresql://x@127.0.0.1:{port}/x?sslmode=require\"")),
        ("http", format!("url: \"http://127.0.0.1:{port}/in\"")),
        ("http-tls", format!("url: \"https://127.0.0.1:{port}/in\"")),
    ]
}

/// A server that accepts connections, and sends these bytes on each, one a second, and the last one for ever.
async fn whispering(bytes: &'static [u8]) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let last = bytes.last().into_iter().cycle();
                for byte in bytes.iter().chain(last) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

/// Stops a process whose sinks deliver nothing; the records are kept for each of them.
async fn stops_at_once(mut spool: Spool, sinks: &[String], records: u64) {
    let begun = Instant::now();
    spool.process().signal(Signal::TERM);
    let (status, log) = spool.wait_for_its_end();
    assert!(status.success() && begun.elapsed() < AT_ONCE, "{status} after {:?}: {log}", begun.elapsed());
    assert!(log.contains("stopped; the backlog is on disk"), "{log}");
    spool.start().await;
    for name in sinks {
        assert_eq!(spool.records(name, "events"), records, "{name}");
    }
    spool.kill();
}

/// Each of these attempts at a sink continues for a minute, and the last flush may take half of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_a_backlog_does_not_wait_for_sinks_that_are_away() {
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent, refused) = (hole.local_addr().unwrap().port(), support::free_port());
    std::thread::spawn(move || hole.incoming().collect::<Vec<_>>());
    let mut servers = vec![("silent", silent, ""), ("refused", refused, "")];
    // What each protocol has to wait for the rest of; a line of HTTP is none of TLS, and so is refused by it.
    for (kind, bytes) in [
        ("mongodb", &b"\x00\x01\x00\x00\x00"[..]),
        ("redis", b"+OK"),
        ("postgresql", b"R\x00\x00\x01\x00"),
        ("http", b"HTTP/1.1 200 OK\r\nx: y"),
        ("http-tls", b"\x16\x03\x03\x10\x00\x00"),
    ] {
        servers.push(("whispering", whispering(bytes).await, kind));
    }
    let mut setup = Setup::new().section("shutdown_timeout: 60s\nflush: { timeout: 60s }");
    let mut names = Vec::new();
    for (server, port, only) in servers {
        for (sink, url) in sinks_at(port).into_iter().filter(|(sink, _)| only.is_empty() || *sink == only) {
            let name = format!("{sink}-{server}");
            let kind = sink.trim_end_matches("-tls");
            setup = setup.sink(&format!("name: {name}, type: {kind}, {url}"));
            names.push(name);
        }
    }
    let spool = setup.start().await;
    send(&spool, (0..500).map(|n| event(&format!("AE_{n}"), "room")).collect()).await;
    // A sink that did not answer yet is waited for only just after the start.
    tokio::time::sleep(Duration::from_secs(4)).await;
    stops_at_once(spool, &names, 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_a_backlog_does_not_wait_for_sinks_that_answered_and_hang_now() {
    let (mongodb, postgresql) = (WireServer::acknowledging().await, Postgres::start_with(&["fsync=off"]).await);
    let redis = RespServer::start(|_| Answer::Healthy).await;
    let http = Receiver::start(|_| receiver::Answer::Status(200, "")).await;
    let mut setup = Setup::new().section("shutdown_timeout: 60s\nflush: { timeout: 60s }");
    let (mut proxies, mut names) = (Vec::new(), Vec::new());
    for (kind, server, url) in [
        ("mongodb", mongodb.address(), "uri: \"mongodb://PROXY/?directConnection=true\""),
        ("redis", redis.address(), "url: \"redis://PROXY\""),
        ("postgresql", postgresql.address(), "url: \"postgresql://livekit:livekit@PROXY/livekit?sslmode=disable\""),
        ("http", http.address(), "url: \"http://PROXY/in\""),
    ] {
        let proxy = Proxy::start(&server).await;
        setup = setup.sink(&format!("name: {kind}, type: {kind}, {}", url.replace("PROXY", &proxy.address())));
        proxies.push(proxy);
        names.push(kind.to_owned());
    }
    let spool = setup.start().await;
    send(&spool, vec![event("AE_1", "room")]).await;
    spool.wait_until_drained().await;
    for proxy in &proxies {
        proxy.set(Mode::Blackhole).await;
    }
    send(&spool, (2..502).map(|n| event(&format!("AE_{n}"), "room")).collect()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    stops_at_once(spool, &names, 500).await;
}

/// Several attempts: the queue's files may be written just before the kill.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_a_kill_says_how_many_records_it_entered_from_the_journal() {
    let mut spool = nowhere("mongo").start().await;
    for attempt in 1..=20 {
        send(&spool, vec![event(&format!("AE_{attempt}"), "room")]).await;
        spool.kill();
        spool.start().await;
        assert_eq!(spool.records("mongo", "events"), attempt);
        if spool.said().contains("as after a kill, are entered: 1, of segments") {
            return spool.terminate();
        }
    }
    panic!("never: {}", spool.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_is_requested_before_the_configuration_is_read_does_not_end_the_process() {
    let mut spool = Setup::new().files("files").prepare();
    let (config, whole) = (spool.directory().join("config.yaml"), spool.directory().join("whole.yaml"));
    fs::rename(&config, &whole).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &config, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    spool.launch();
    // The pipe opens when the process opens it, and it waits for what is written there.
    let mut pipe = fs::OpenOptions::new().write(true).open(&config).unwrap();
    spool.process().signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let text = fs::read_to_string(&whole).unwrap();
    fs::rename(&whole, &config).unwrap();
    std::io::Write::write_all(&mut pipe, text.as_bytes()).unwrap();
    drop(pipe);
    spool.wait_until_it_accepts_records().await;
    support::eventually("it has reloaded", || {
        let log = spool.said();
        async move { log.contains("configuration reloaded") }
    })
    .await;
    spool.terminate();
}

/// Makes a process's writes and syncs of a file hang.
async fn hang(pid: u32, file: &Path, log: &Path) -> Process {
    hanging::hang(pid, "ftruncate,fdatasync,fsync,pwrite64", Some(file), log).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_and_a_stop_wait_for_no_disk_and_the_sink_goes_on_when_it_answers() {
    for answers in [true, false] {
        let mut spool = Setup::new()
            .files("slow")
            .sink("name: other, type: file, path: other")
            .section("shutdown_timeout: 4s")
            .start()
            .await;
        send(&spool, vec![event("AE_1", "room")]).await;
        let journal = spool.data().join("slow/journal/000000000001.journal");
        let traces = support::directory("trace");
        let pid = spool.process().pid();
        let mut strace = hang(pid, &journal, &traces.path().join("log")).await;
        let config = spool.directory().join("config.yaml");
        let text = fs::read_to_string(&config).unwrap();
        let changed = text.replace("type: file", "spool: { max_bytes: 77MiB }, type: file");
        assert_ne!(text, changed);
        fs::write(&config, changed).unwrap();
        let max_bytes = |spool: &support::process::Spool, sink: &str| {
            support::process::Spool::sink_of(&spool.backlog(), sink)["max_bytes"].clone()
        };
        // Twice: the second one finds the sink as the first one left it.
        for _ in 0..2 {
            let begun = Instant::now();
            let output = spool.command(&["reload"]);
            assert!(begun.elapsed() < SOON, "{:?}: {}", begun.elapsed(), said(&output));
            assert!(!output.status.success() && said(&output).contains("sink slow: "), "{}", said(&output));
        }
        assert_eq!(max_bytes(&spool, "other"), 77 << 20, "the others do not wait for it");
        if answers {
            strace.kill();
            support::eventually("the sink continues", || {
                let log = spool.said();
                async move { log.contains("its disk answers again") }
            })
            .await;
            assert_eq!(max_bytes(&spool, "slow"), 77 << 20);
            send(&spool, vec![event("AE_2", "room")]).await;
            assert!(spool.command(&["reload"]).status.success(), "nothing is left to be taken over");
            spool.terminate();
        } else {
            let begun = Instant::now();
            spool.process().signal(Signal::TERM);
            support::eventually("it has ended", || async { hanging::is_over(pid) }).await;
            assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
            strace.kill();
            spool.wait_for_its_end();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_whose_disk_answers_again_applies_the_last_reload() {
    let mut spool = Setup::new().files("slow").section("shutdown_timeout: 2s").start().await;
    send(&spool, vec![event("AE_1", "room")]).await;
    let journal = spool.data().join("slow/journal/000000000001.journal");
    let traces = support::directory("trace");
    let mut strace = hang(spool.process().pid(), &journal, &traces.path().join("log")).await;
    let config = spool.directory().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    for size in ["77MiB", "78MiB"] {
        fs::write(&config, text.replace("type: file", &format!("spool: {{ max_bytes: {size} }}, type: file"))).unwrap();
        assert!(!spool.command(&["reload"]).status.success(), "{size}");
    }
    strace.kill();
    support::eventually("the last one is in force", || {
        let max_bytes = support::process::Spool::sink_of(&spool.backlog(), "slow")["max_bytes"].clone();
        async move { max_bytes == 78 << 20 }
    })
    .await;
    send(&spool, vec![event("AE_2", "room")]).await;
    let output = spool.command(&["reload"]);
    assert!(output.status.success() && said(&output).contains("nothing has changed"), "{}", said(&output));
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_does_not_open_opens_no_more_files_with_each_attempt() {
    let mut spool = Setup::new().files("files").start().await;
    send(&spool, vec![event("AE_1", "room")]).await;
    spool.terminate();
    let inject = "inject=fsync,fdatasync:error=EIO";
    spool.set_wrapper(&["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", inject]);
    spool.start().await;
    let pid = spool.process().pid();
    let files = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(!spool.command(&["reload"]).status.success());
    let before = files();
    for _ in 0..20 {
        let output = spool.command(&["reload"]);
        assert!(said(&output).contains("Input/output error"), "{}", said(&output));
    }
    assert!(files() <= before + 3, "{before} files were open, and {} after 20 attempts", files());
    spool.kill();
}

#[test]
fn from_another_directory_nothing_is_made_and_its_absence_is_an_error() {
    let spool = nowhere("mongo").prepare();
    let config = spool.directory().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen(&spool.data().display().to_string(), "./data", 1)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for words in [
        &["backlog"][..],
        &["peek", "mongo"],
        &["export", "mongo", "-o", "file"],
        &["import", "/dev/null"],
        &["verify"],
        &["dead", "list", "mongo"],
        &["drain"],
        &["drain", "mongo"],
        &["purge", "mongo", "--yes"],
        &["dead", "retry", "mongo", "--all"],
        &["dead", "drop", "mongo", "--all"],
    ] {
        let output = Command::new(BINARY)
            .args(words)
            .arg("--config")
            .arg(&config)
            .current_dir(elsewhere.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{words:?}: {}", said(&output));
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "{words:?} made something");
        assert!(said(&output).contains("there is no data directory ./data (from "), "{words:?}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_process_is_found_also_where_data_dir_is_another_one_by_now() {
    let mut spool = nowhere("mongo").start().await;
    send(&spool, vec![event("AE_1", "room")]).await;
    let config = spool.directory().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen(&spool.data().display().to_string(), "elsewhere", 1)).unwrap();
    for words in [
        &["ready"][..],
        &["backlog"],
        &["reload"],
        &["pause", "mongo"],
        &["peek", "mongo"],
        &["purge", "mongo", "--yes"],
    ] {
        ok(&spool, words);
    }
    assert_eq!(spool.records("mongo", "events"), 0);
    assert!(!spool.directory().join("elsewhere").exists());
    spool.terminate();
    fails(&spool, &["ready"], 3, "no livekit-spool runs");
    fails(&spool, &["drain"], 2, "there is no data directory elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_never_mistaken_for_a_second_one_because_a_command_reads() {
    let mut spool = Setup::new().files("files").start().await;
    spool.terminate();
    let lock = spool.data().join("lock");
    let done = std::sync::atomic::AtomicBool::new(false);
    let inspecting = std::sync::Arc::new(done);
    let (stop, at) = (std::sync::Arc::clone(&inspecting), lock.clone());
    let inspections = std::thread::spawn(move || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let file = fs::File::open(&at).unwrap();
            let _ = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
        }
    });
    for _ in 0..5 {
        spool.start().await;
        spool.terminate();
    }
    inspecting.store(true, std::sync::atomic::Ordering::Relaxed);
    inspections.join().unwrap();
}

/// Runs `run` through strace, which has a system call fail; what it says comes along, and whether it accepts records.
async fn with_failing(call: &str, errno: &str) -> (bool, String) {
    let inject = format!("inject={call}:error={errno}");
    let mut spool = Setup::new().files("files").prepare();
    spool.set_wrapper(&["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
    spool.launch();
    let deadline = Instant::now() + SOON;
    loop {
        let is_running = spool.process().is_running();
        let takes = std::net::TcpStream::connect(spool.grpc().trim_start_matches("http://")).is_ok();
        if takes || !is_running || Instant::now() > deadline {
            return (takes, spool.said());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_container_runtime_that_refuses_faccessat2_does_no_harm() {
    let (takes, log) = with_failing("faccessat2", "EPERM").await;
    assert!(takes, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_without_locks_is_named_and_no_second_process_blamed() {
    let (takes, log) = with_failing("flock", "ENOLCK").await;
    assert!(!takes && log.contains("does not lock files") && !log.contains("another livekit-spool"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_at_the_start_is_reported_in_a_sentence() {
    for first in [1, 3, 5, 8] {
        let mut spool = Setup::new().files("files").start().await;
        send(&spool, vec![event("AE_1", "room")]).await;
        spool.terminate();
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={first}+");
        spool.set_wrapper(&[
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fsync,fdatasync",
            "-e",
            &inject,
        ]);
        spool.launch();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let log = spool.said();
        assert!(!log.contains("panicked"), "from sync {first} on: {log}");
        assert!(log.contains("Input/output error"), "from sync {first} on: {log}");
        assert!(spool.process().is_running(), "from sync {first} on: the others would continue: {log}");
        spool.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_file_sizes_ends_no_process() {
    let mut spool = Setup::new().files("files").prepare();
    // In blocks of 512 bytes: the start fits, the records do not.
    spool.set_wrapper(&["sh", "-c", "ulimit -f 256; exec \"$@\"", "sh"]);
    spool.start().await;
    let noise = |n: u64| {
        (0..20_000)
            .map(|i| format!("{:016x}", (n * 20_000 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
            .collect::<String>()
    };
    let events = (0..2).map(|n| event(&format!("AE_{n}"), &noise(n))).collect();
    let body = livekit_protocol::AnalyticsEvents { events };
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/events", spool.http()))
        .header("content-type", "application/x-protobuf")
        .body(prost::Message::encode_to_vec(&body))
        .send()
        .await
        .expect("an answer");
    let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
    assert!(!status.is_success(), "{text}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(spool.process().is_running(), "{status} {text}: {}", spool.said());
    spool.terminate();
}

/// Runs `run` as a terminal's foreground process: the terminal, which `script` holds, and the process's pid.
async fn in_terminal(directory: &Path, before: &str) -> (std::process::Child, u32) {
    let run = format!(
        "cd {}; echo $$ > pid; exec {before} {BINARY} run --config config.yaml > log 2>&1",
        directory.display()
    );
    let mut command = Command::new("script");
    command.args(["-qfc", &run, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::null());
    let terminal = command.spawn().expect("script (util-linux)");
    support::eventually("it accepts records", || async {
        fs::read_to_string(directory.join("log")).is_ok_and(|log| log.contains("accepts records"))
    })
    .await;
    (terminal, fs::read_to_string(directory.join("pid")).unwrap().trim().parse().unwrap())
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_the_foreground_ends_with_its_terminal_and_nohup_lets_it_run_on() {
    for (before, lives_on) in [("", false), ("nohup", true)] {
        let spool = Setup::new().files("files").prepare();
        let (mut terminal, pid) = in_terminal(spool.directory(), before).await;
        let raw = Pid::from_raw(pid.cast_signed()).unwrap();
        // A reload that is asked for is one.
        kill_process(raw, Signal::HUP).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(is_alive(pid), "{before}");
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        if !lives_on {
            support::eventually("it ends", || async { !is_alive(pid) }).await;
            let log = fs::read_to_string(spool.directory().join("log")).unwrap();
            assert!(log.contains("the terminal was closed") && log.contains("stopped; the backlog"), "{log}");
            continue;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let alive = is_alive(pid);
        kill_process(raw, Signal::TERM).ok();
        support::eventually("it ends", || async { !is_alive(pid) }).await;
        assert!(alive, "nohup");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_follows_no_link_and_leaves_nothing_open_to_all() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let spool = nowhere("mongo").start().await;
    send(&spool, vec![event("AE_1", "room")]).await;
    let at = |name: &str| spool.directory().join(name);
    fs::write(at("precious"), "precious").unwrap();
    symlink(at("precious"), at("out.progress-new")).unwrap();
    ok(&spool, &["export", "mongo", "-o", "out"]);
    for planted in ["link", "link.progress"] {
        symlink(at("precious"), at(planted)).unwrap();
        fails(&spool, &["export", "mongo", "-o", "link"], if planted == "link" { 2 } else { 1 }, "");
    }
    assert_eq!(fs::read(at("precious")).unwrap(), b"precious");
    // An interrupted export whose file was left open to all.
    let progress = serde_json::json!({ "sink": "mongo", "raw": false, "bytes": 0, "records": 0, "next": {} });
    for name in ["left", "left.progress"] {
        fs::write(at(name), if name == "left" { String::new() } else { progress.to_string() }).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
    ok(&spool, &["export", "mongo", "-o", "left"]);
    assert_eq!(fs::metadata(at("left")).unwrap().permissions().mode() & 0o777, 0o600);
    let document: Value = serde_json::from_slice(&fs::read(at("left")).unwrap()).unwrap();
    assert_eq!(document["_id"], "AE_1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_place_of_the_socket_is_reported_at_once() {
    let spool = Setup::new().files("files").start().await;
    let (socket, elsewhere) = (spool.data().join("livekit-spool.sock"), spool.directory().join("elsewhere"));
    let _somebody = std::os::unix::net::UnixListener::bind(&elsewhere).unwrap();
    for (what, said_of_it) in [("link", "a symbolic link"), ("dangling", "a symbolic link"), ("file", "not a socket")] {
        fs::remove_file(&socket).unwrap();
        match what {
            "link" => std::os::unix::fs::symlink(&elsewhere, &socket).unwrap(),
            "dangling" => std::os::unix::fs::symlink("nowhere", &socket).unwrap(),
            _ => fs::write(&socket, "").unwrap(),
        }
        for words in [&["backlog"][..], &["ready"], &["reload"], &["pause", "files"]] {
            let begun = Instant::now();
            let output = spool.command(words);
            assert_eq!(output.status.code(), Some(3), "{words:?}, {what}: {}", said(&output));
            assert!(begun.elapsed() < Duration::from_secs(5), "{words:?}, {what}: {:?}", begun.elapsed());
            assert!(said(&output).contains(said_of_it), "{words:?}, {what}: {}", said(&output));
        }
    }
}
