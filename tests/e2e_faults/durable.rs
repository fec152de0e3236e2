//! A directory is lost in a power cut with its entry in the directory above it: each that is made is synced there before anything
//! that is in it is acknowledged. Shown by the system calls of the real process.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    records, send,
    support::{
        self,
        power::trace::{self, Call, Event},
        process::{QUICK, Setup},
    },
};

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Fails unless this was made, and synced in its parent between then and `until`.
fn assert_lasts(events: &[Event], path: &Path, is_made: impl Fn(&Call) -> bool, until: f64) {
    let made =
        events.iter().find(|event| is_made(&event.call)).unwrap_or_else(|| panic!("{} was not made", path.display()));
    let parent = path.parent().expect("a parent").to_owned();
    let synced = Call::Sync { path: parent };
    assert!(
        events.iter().any(|event| event.call == synced && event.at >= made.end && event.end <= until),
        "{} was not synced in the directory above it in time",
        path.display()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_directory_that_is_made_lasts_before_an_answer_depends_on_it() {
    let (root, traces) = (support::directory("deep"), support::directory("trace"));
    let below = |path: &str| root.path().join(path);
    let prefix = traces.path().join("strace");
    let words = trace::strace(&prefix);
    let sink = format!("name: files, type: file, path: {}, flush: {QUICK}", below("x/y/out").display());
    let setup = Setup::new().sink(&sink).data(&below("a/b/c/data"));
    let mut spool = setup.through(&words.iter().map(String::as_str).collect::<Vec<_>>()).start().await;
    send(&spool, &records::numbered_events("durable").take(10).collect::<Vec<_>>()).await;
    let answered = now();
    spool.wait_until_drained().await;
    let delivered = now();
    spool.terminate();

    let events = trace::read_when_complete(&prefix).await;
    let data = ["a", "a/b", "a/b/c", "a/b/c/data", "a/b/c/data/files", "a/b/c/data/files/journal"];
    let out = ["x", "x/y", "x/y/out"];
    for (directories, until) in [(&data[..], answered), (&out, delivered)] {
        for path in directories.iter().map(|directory| below(directory)) {
            let made = Call::MakeDirectory { path: path.clone() };
            assert_lasts(&events, &path, |call| *call == made, until);
        }
    }
    let lines: Vec<PathBuf> = std::fs::read_dir(below("x/y/out")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let lines = lines.iter().filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
    for file in lines {
        let is_made = |call: &Call| matches!(call, Call::Open { path, create: true, .. } if path == file);
        assert_lasts(&events, file, is_made, delivered);
    }
}
