//! Stopped spools in odd circumstances: they are inspected nevertheless, or refused with a clear word; nothing of them changes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use super::{event, nowhere, send, support};
use support::{
    disk::SmallDisk,
    process::{Setup, Spool},
};

/// All files and directories below one; a directory has no bytes. Sockets are left out.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    for path in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            all.extend(contents(&path));
            all.insert(path, None);
        } else if path.is_file() {
            let bytes = fs::read(&path).expect("a file");
            all.insert(path, Some(bytes));
        }
    }
    all
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What `backlog`, `peek` and `export --raw` show of a stopped spool with 50 events.
#[track_caller]
fn assert_shown(spool: &Spool, output: &Path) {
    assert_eq!(spool.records("mongo", "events"), 50);
    let peeked = spool.command(&["peek", "mongo", "-n", "100"]);
    assert_eq!(String::from_utf8_lossy(&peeked.stdout).matches("\"_id\"").count(), 50, "{}", said(&peeked));
    let _ = fs::remove_file(output);
    let exported = spool.command(&["export", "mongo", "--raw", "-o", output.to_str().expect("UTF-8")]);
    assert!(exported.status.success() && said(&exported).contains("50 records"), "{}", said(&exported));
    let verified = spool.command(&["verify"]);
    assert!(verified.status.success(), "{}", said(&verified));
}

async fn fill(spool: &mut Spool) {
    spool.start().await;
    send(spool, (0..50).map(|i| event(&format!("AE_{i:04}"), "room")).collect()).await;
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_directory_that_cannot_be_written_hides_no_record() {
    let mut spool = nowhere("mongo").prepare();
    fill(&mut spool).await;
    let before = contents(&spool.data());
    spool.set_env("TMPDIR", "/proc");
    assert_shown(&spool, &spool.directory().join("exported"));
    assert_eq!(contents(&spool.data()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_hides_no_record() {
    let place = support::directory("small-disk");
    let disk = SmallDisk::mount(&place.path().join("disk"), 16).await;
    let section = "spool: { max_bytes: 8MiB, min_free_bytes: 1MiB }\n";
    let mut spool = nowhere("mongo").section(section).on(&disk).prepare();
    fill(&mut spool).await;
    disk.fill();
    // Temporary files are on the full disk too.
    spool.set_env("TMPDIR", disk.path().to_str().expect("UTF-8"));
    assert_shown(&spool, &spool.directory().join("exported"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_format_version_1_is_refused_by_every_command_that_reads_it() {
    let mut spool = Setup::new().files("archive").prepare();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format-1");
    let home = spool.data().join("archive");
    for (path, bytes) in contents(&fixture) {
        let place = home.join(path.strip_prefix(&fixture).expect("below it"));
        match bytes {
            None => fs::create_dir_all(place).expect("made"),
            Some(bytes) => {
                fs::create_dir_all(place.parent().expect("a parent")).expect("made");
                fs::write(place, bytes).expect("written");
            }
        }
    }
    let before = contents(&home);
    let word = "has format version 1, this build reads only version 2";
    let exported = spool.directory().join("exported");
    let commands: [(&[&str], i32); 5] = [
        (&["backlog"], 0),
        (&["check-config"], 4),
        (&["verify"], 1),
        (&["drain"], 4),
        (&["export", "archive", "--raw", "-o", exported.to_str().expect("UTF-8")], 1),
    ];
    for (words, code) in commands {
        let output = spool.command(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", said(&output));
        assert!(said(&output).contains(word), "{words:?}: {}", said(&output));
    }
    spool.launch();
    support::eventually("it says why", || {
        let told = spool.said().contains(word);
        async move { told }
    })
    .await;
    assert_eq!(contents(&home), before, "nothing is made or changed");
}
