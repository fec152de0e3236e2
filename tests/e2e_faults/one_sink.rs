//! One sink whose spool does not open does not deliver and says why; the process, its ingest ports and the other sinks continue, and it comes
//! back without a restart once the cause is gone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use livekit_protocol::{AnalyticsEvent, AnalyticsEvents};
use prost::Message;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    failing::Failing,
    records, send,
    start::{chmod, unprivileged},
    support::{
        self,
        child::Process,
        process::{BINARY, QUICK, Setup, Spool},
    },
};

const KEY: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
const OTHER_KEY: &str = "6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b";

/// What is wrong with the spool of the sink `bad`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    Rights,
    FileInItsPlace,
    OtherFormat,
    LostKey,
    DiskError,
}

/// The sinks `good` and `bad`, with a spool that holds 20 events for `bad`; stopped.
struct Case {
    spool: Spool,
    wrong: Wrong,
    before: BTreeSet<String>,
    /// Runs commands as the process runs.
    wrapper: Vec<String>,
    failing: Option<Failing>,
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Case {
    async fn new(wrong: Wrong, required: bool) -> Self {
        let mut spool = Setup::new()
            .files("good")
            .sink(&format!(
                "name: bad, type: file, path: bad-out, required: {required}, flush: {QUICK}, \
                 spool: {{ encryption: {{ key: \"{KEY}\" }} }}"
            ))
            .start()
            .await;
        let paused = spool.command(&["pause", "bad"]);
        assert!(paused.status.success(), "{}", said(&paused));
        let before = send(&spool, &records::numbered_events("before").take(20).collect::<Vec<_>>()).await;
        spool.terminate();
        assert_eq!(spool.records("bad", "events"), 20);
        Self { spool, wrong, before, wrapper: Vec::new(), failing: None }
    }

    fn home(&self) -> PathBuf {
        self.spool.data().join("bad")
    }

    fn aside(&self) -> PathBuf {
        self.spool.directory().join("aside")
    }

    fn foreign_segment(&self) -> PathBuf {
        self.home().join("journal/000000000009.journal")
    }

    fn configure(&self, from: &str, to: &str) {
        let path = self.spool.directory().join("config.yaml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn go_wrong(&mut self) {
        let home = self.home();
        match self.wrong {
            Wrong::Rights => {
                self.wrapper = unprivileged().iter().map(|&word| word.to_owned()).collect();
                chmod(&home.join("journal"), 0o500);
            }
            Wrong::FileInItsPlace => {
                fs::rename(&home, self.aside()).unwrap();
                fs::write(&home, "").unwrap();
            }
            Wrong::OtherFormat => {
                let segments = fs::read_dir(home.join("journal")).unwrap().map(|entry| entry.unwrap().path());
                let mut bytes = fs::read(segments.min().unwrap()).unwrap();
                bytes[4] = 3;
                let checksum = crc32fast::hash(&bytes[..40]).to_le_bytes();
                bytes[40..44].copy_from_slice(&checksum);
                fs::write(self.foreign_segment(), bytes).unwrap();
            }
            Wrong::LostKey => self.configure(KEY, OTHER_KEY),
            Wrong::DiskError => {
                let failing = Failing::new("openat", "EIO", "1+", Some(&home.join("journal")));
                self.wrapper = failing.words().iter().map(|&word| word.to_owned()).collect();
                self.failing = Some(failing);
            }
        }
        let wrapper: Vec<&str> = self.wrapper.iter().map(String::as_str).collect();
        self.spool.set_wrapper(&wrapper);
    }

    /// Whether it can be repaired while the process runs.
    fn repair(&self) -> bool {
        match self.wrong {
            Wrong::Rights => chmod(&self.home().join("journal"), 0o700),
            Wrong::FileInItsPlace => {
                fs::remove_file(self.home()).unwrap();
                fs::rename(self.aside(), self.home()).unwrap();
            }
            Wrong::OtherFormat => fs::remove_file(self.foreign_segment()).unwrap(),
            Wrong::LostKey => {
                let (lost, given) =
                    (format!("key: \"{OTHER_KEY}\""), format!("key: \"{OTHER_KEY}\", old_keys: [\"{KEY}\"]"));
                self.configure(&lost, &given);
            }
            Wrong::DiskError => return false,
        }
        true
    }

    /// The reason and the remedy.
    fn told(&self) -> [&'static str; 2] {
        match self.wrong {
            Wrong::Rights => ["Permission denied", "chown -R"],
            Wrong::FileInItsPlace => ["Not a directory", "move away what is in"],
            Wrong::OtherFormat => ["format version 3", "the livekit-spool that wrote it"],
            Wrong::LostKey => ["is encrypted with key", "add"],
            Wrong::DiskError => ["Input/output error", "disk"],
        }
    }

    #[track_caller]
    fn assert_told(&self, text: &str) {
        for part in ["bad"].into_iter().chain(self.told()) {
            assert!(text.contains(part), "{:?}: {part:?} is not in {text}", self.wrong);
        }
    }

    /// Runs a command as the process runs.
    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new("env");
        command.arg("-C").arg(self.spool.directory()).args(&self.wrapper).arg(BINARY).args(words);
        command.args(["--config", "config.yaml"]).output().expect("the binary starts")
    }

    async fn readyz(&self) -> (u16, String) {
        let answer = reqwest::get(format!("{}/readyz", self.spool.admin())).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    async fn metric(&self, name: &str) -> String {
        let answer = reqwest::get(format!("{}/metrics", self.spool.admin())).await.expect("an answer");
        let text = answer.text().await.expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).trim().to_owned()
    }

    fn written(&self, directory: &str) -> BTreeSet<String> {
        let files = fs::read_dir(self.spool.directory().join(directory)).into_iter().flatten();
        let texts: Vec<String> = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        let id = |line: &str| serde_json::from_str::<Value>(line).ok()?["_id"].as_str().map(str::to_owned);
        texts.iter().flat_map(|text| text.lines()).filter_map(id).collect()
    }

    async fn assert_written(&self, directory: &str, ids: &BTreeSet<String>) {
        support::eventually("all is written", || async { self.written(directory).is_superset(ids) }).await;
    }
}

async fn post(spool: &Spool, events: &[AnalyticsEvent]) -> (u16, String) {
    let body = AnalyticsEvents { events: events.to_vec() }.encode_to_vec();
    let request = reqwest::Client::new().post(format!("{}/v1/events", spool.http()));
    let answer = request.header("content-type", "application/x-protobuf").body(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

async fn only_that_sink_stops(wrong: Wrong, required: bool) {
    let mut case = Case::new(wrong, required).await;
    case.go_wrong();
    let checked = case.command(&["check-config"]);
    assert_eq!(checked.status.code(), Some(4), "{}", said(&checked));
    case.assert_told(&said(&checked));
    case.spool.start().await;

    // It is told everywhere, without a path where anybody may ask.
    let (status, text) = case.readyz().await;
    let ready = case.command(&["ready"]);
    if required {
        assert_eq!((status, ready.status.code()), (503, Some(1)), "{text}");
        case.assert_told(&text);
        case.assert_told(&said(&ready));
        assert!(!text.contains(case.spool.data().to_str().unwrap()), "{text}");
    } else {
        assert_eq!((status, ready.status.code()), (200, Some(0)), "{text}");
        // The others continue, so it is ready; the one that does not is named nevertheless.
        case.assert_told(&said(&ready));
    }
    let backlog = case.spool.backlog();
    let (good, bad) = (Spool::sink_of(&backlog, "good"), Spool::sink_of(&backlog, "bad"));
    assert_eq!((&bad["state"], &good["spool_error"]), (&"spool-failed".into(), &Value::Null), "{bad:#}");
    let told = format!("bad {} {}", bad["spool_error"], bad["advice"]);
    case.assert_told(&told);
    assert!(bad["last_error"].as_str().unwrap().contains(case.home().to_str().unwrap()), "{bad:#}");
    assert_eq!(case.metric("livekit_spool_spool_refusing{sink=\"bad\"}").await, "1");
    assert_eq!(case.metric("livekit_spool_sink_state{sink=\"bad\",state=\"spool-failed\"}").await, "1");
    assert_eq!(case.metric("livekit_spool_spool_refusing{sink=\"good\"}").await, "0");

    // The others accept records and deliver.
    let during: Vec<_> = records::numbered_events("during").take(10).collect();
    let (status, text) = post(&case.spool, &during).await;
    let mut expected = case.before.clone();
    if required {
        assert_eq!(status, 503, "{text}");
        assert!(text.contains("sink bad: its spool does not open"), "{text}");
        let call = AnalyticsEvents { events: during.clone() };
        let refused = case.spool.recorder().ingest_events(tokio_stream::iter([call])).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        assert!(refused.message().contains("sink bad"), "{refused}");
    } else {
        assert_eq!(status, 200, "{text}");
        assert_eq!(case.metric("livekit_spool_lost_records_total{sink=\"bad\"}").await, "10");
    }
    case.assert_written("out", &records::event_ids(&during)).await;
    for words in [&["pause", "bad"][..], &["reload"]] {
        let output = case.command(words);
        assert!(!output.status.success(), "{words:?}: {}", said(&output));
        assert!(said(&output).contains(case.told()[0]), "{words:?}: {}", said(&output));
    }

    // Once the cause is gone it comes back.
    if !case.repair() {
        assert!(case.failing.as_ref().is_some_and(|failing| failing.count() > 0), "calls failed");
        case.spool.terminate();
        case.spool.set_wrapper(&[]);
        case.spool.start().await;
    } else if required {
        let reloaded = case.spool.command(&["reload"]);
        assert!(said(&reloaded).contains("sink bad: its spool is open again"), "{}", said(&reloaded));
        assert!(reloaded.status.success(), "{}", said(&reloaded));
    } else {
        case.spool.process().signal(rustix::process::Signal::HUP);
    }
    support::eventually("it is open", || async {
        Spool::sink_of(&case.spool.backlog(), "bad")["spool_error"] == Value::Null
    })
    .await;
    expected.extend(send(&case.spool, &records::numbered_events("after").take(10).collect::<Vec<_>>()).await);
    case.assert_written("bad-out", &expected).await;
    case.assert_written("out", &expected).await;
    assert_eq!(case.readyz().await.0, 200);
    case.spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_without_rights_stops_its_sink_only() {
    only_that_sink_stops(Wrong::Rights, true).await;
    only_that_sink_stops(Wrong::Rights, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_place_of_a_spool_stops_its_sink_only() {
    only_that_sink_stops(Wrong::FileInItsPlace, true).await;
    only_that_sink_stops(Wrong::FileInItsPlace, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_another_format_stops_its_sink_only() {
    only_that_sink_stops(Wrong::OtherFormat, true).await;
    only_that_sink_stops(Wrong::OtherFormat, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_stops_its_sink_only() {
    only_that_sink_stops(Wrong::LostKey, true).await;
    only_that_sink_stops(Wrong::LostKey, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_read_a_spool_stops_its_sink_only() {
    only_that_sink_stops(Wrong::DiskError, true).await;
    only_that_sink_stops(Wrong::DiskError, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_spools_all_fail_stays_up_and_says_so_and_a_drain_of_all_ends() {
    let mut spool = Setup::new().files("files").prepare();
    fs::create_dir_all(spool.data()).unwrap();
    fs::write(spool.data().join("files"), "").unwrap();
    let drained = spool.command(&["drain"]);
    assert_eq!(drained.status.code(), Some(4), "{}", said(&drained));
    assert!(said(&drained).contains("files is spool-failed"), "{}", said(&drained));
    spool.start().await;
    let ready = spool.command(&["ready"]);
    assert_eq!(ready.status.code(), Some(1));
    assert!(said(&ready).contains("sink files: the spool does not open: Not a directory"), "{}", said(&ready));
    fs::remove_file(spool.data().join("files")).unwrap();
    assert!(spool.command(&["reload"]).status.success());
    assert!(spool.command(&["ready"]).status.success());
    send(&spool, &records::numbered_events("all").take(10).collect::<Vec<_>>()).await;
    spool.wait_until_drained().await;
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_without_being_asked() {
    let mut spool = Setup::new().files("files").prepare();
    fs::create_dir_all(spool.data()).unwrap();
    fs::write(spool.data().join("files"), "").unwrap();
    spool.start().await;
    assert!(!spool.command(&["ready"]).status.success());
    fs::remove_file(spool.data().join("files")).unwrap();
    support::eventually("it is open", || async { spool.command(&["ready"]).status.success() }).await;
    send(&spool, &records::numbered_events("again").take(10).collect::<Vec<_>>()).await;
    spool.wait_until_drained().await;
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_whose_disk_does_not_answer_keeps_no_reload_from_being_stopped() {
    let mut spool = Setup::new().files("files").section("shutdown_timeout: 4s").prepare();
    let directory = spool.data().join("files");
    fs::create_dir_all(spool.data()).unwrap();
    fs::write(&directory, "").unwrap();
    spool.start().await;
    let journal = directory.join("journal");
    fs::remove_file(&directory).unwrap();
    fs::create_dir_all(&journal).unwrap();
    let (traces, pid) = (support::directory("trace"), spool.process().pid());
    let (traced, path) = (pid.to_string(), journal.to_str().unwrap());
    let inject = "inject=fsync,fdatasync:delay_enter=600s";
    let words = ["-f", "-p", &traced, "-P", path, "-e", "trace=fsync,fdatasync", "-e", inject];
    let mut strace = Process::start("strace", Path::new("strace"), &words, &[], &traces.path().join("log"));
    support::eventually("strace is there", || async { strace.output().contains("attached") }).await;
    let mut caller = Command::new(BINARY)
        .current_dir(spool.directory())
        .args(["reload", "--config", "config.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(caller.try_wait().unwrap().is_none(), "the reload waits for the disk");
    spool.process().signal(Signal::HUP);
    tokio::time::sleep(Duration::from_secs(1)).await;
    spool.process().signal(Signal::TERM);
    // Whoever traces it has the rest of it until the call is over.
    let is_over = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let over = status.lines().find(|line| line.starts_with("State:")).is_none_or(|state| state.contains('Z'));
        async move { over }
    };
    support::eventually("it has ended", is_over).await;
    strace.kill();
    spool.wait_for_its_end();
    caller.wait().unwrap();
}
