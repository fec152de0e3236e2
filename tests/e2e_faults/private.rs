//! Nobody else reads what is on disk: modes of all files and directories, and nothing in clear where a key is given.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use livekit_protocol::{AnalyticsEvent, Room};

use crate::{
    send,
    support::{
        self,
        process::{Setup, Spool},
        wire::{Reply, WireServer, WriteError},
    },
};

/// What would be found if it were somewhere in clear; long, so that compression does not take it apart.
const MARKER: &str = "a-room-that-nobody-else-may-know-of-0123456789";

fn events(from: usize, count: usize) -> Vec<AnalyticsEvent> {
    let room = Some(Room { name: MARKER.to_owned(), ..Default::default() });
    let event = |n| AnalyticsEvent { id: format!("AE_private_{n:04}"), room: room.clone(), ..Default::default() };
    (from..from + count).map(event).collect()
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| if path.is_dir() { [vec![path.clone()], below(&path)].concat() } else { vec![path] })
        .collect()
}

fn assert_private(directory: &Path) {
    for path in below(directory) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{} has mode {mode:o}", path.display());
    }
}

/// Fails where the marker is in a file; answers how many files were inspected.
fn assert_not_in_clear(directory: &Path) -> usize {
    let files: Vec<_> = below(directory).into_iter().filter(|path| path.is_file()).collect();
    for path in &files {
        let bytes = fs::read(path).unwrap();
        let found = bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
        assert!(!found, "{} holds it in clear", path.display());
    }
    files.len()
}

fn ok(spool: &Spool, words: &[&str]) {
    let output = spool.command(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_files_are_for_this_user_only_and_with_a_key_nothing_is_in_clear() {
    // Keeps nothing: takes every second one, rejects the others, and goes away after the first batches.
    let server = WireServer::scripted(|command| match command.name.as_str() {
        "insert" if command.number > 3 => Reply::HangUp,
        "insert" => {
            let odd = (0..command.documents.len()).step_by(2);
            Reply::WriteErrors(odd.map(|index| WriteError::new(index, 121, "no")).collect())
        }
        _ => Reply::Healthy,
    })
    .await;
    let temporary = support::directory("temporary");
    let mut spool = Setup::new()
        .mongo("mongo", &server.uri(), "test")
        .sink("name: files, type: file, path: data/out")
        .section("spool: { segment_bytes: 64KiB, compression: { codec: none }, encryption: { key: \"${SPOOL_KEY}\" } }")
        .env("SPOOL_KEY", &"5a".repeat(32))
        .env("TMPDIR", temporary.path().to_str().unwrap())
        // Everybody may read what this user makes, if it is not said otherwise.
        .through(&["sh", "-c", "umask 000 && exec \"$@\"", "sh"])
        .start()
        .await;
    send(&spool, &events(0, 400)).await;
    support::eventually("there are dead letters", || async { !spool.dead_letters("mongo").is_empty() }).await;
    send(&spool, &events(400, 400)).await;
    support::eventually("the file sink has written all", || async { spool.records("files", "events") == 0 }).await;

    let data = spool.data();
    let exported = spool.directory().join("exported.raw");
    ok(&spool, &["export", "mongo", "--raw", "-o", exported.to_str().unwrap()]);
    assert_eq!(fs::metadata(&exported).unwrap().permissions().mode() & 0o777, 0o600);
    let socket = data.join("livekit-spool.sock");
    assert!(fs::metadata(socket).unwrap().file_type().is_socket());
    assert_private(&data);
    assert!(assert_not_in_clear(&data.join("mongo")) >= 5, "journal, dead letters, queue, lock");

    // A damaged block is copied to the quarantine, and the queue is rebuilt.
    spool.kill();
    assert_private(&data);
    let segment = below(&data.join("mongo/journal")).into_iter().max().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    fs::write(data.join("mongo/queue/db"), [7; 5000]).unwrap();
    spool.start().await;
    support::eventually("the bad bytes are kept", || async { data.join("mongo/quarantine/report.ndjson").exists() })
        .await;
    // Commands read a stopped spool through copies.
    spool.terminate();
    let verified = spool.command(&["verify"]);
    assert!(verified.status.code().is_some());
    assert_private(&data);
    assert_private(temporary.path());
    assert!(assert_not_in_clear(&data.join("mongo")) >= 7, "quarantine and report besides");
    assert_not_in_clear(temporary.path());
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
}
