//! What others put in the place of a spool's files is neither followed, nor written, nor waited for: the answer says what is there.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

const PRECIOUS: &str = "precious";

/// What may be in a file's place, and what is said of it.
const PLANTS: [(&str, &str); 7] = [
    ("link", "symbolic link"),
    ("dangling", "symbolic link"),
    ("pipe", "not a regular file"),
    ("directory", "not a regular file"),
    ("second name", "second name"),
    ("another user", "another user"),
    ("open to all", ""),
];

/// Puts something else in the place of a file; false where that takes rights that nobody but root has.
fn plant(what: &str, file: &Path, outside: &Path) -> bool {
    if what == "another user" {
        return rustix::process::geteuid().is_root() && {
            // Root's files count as ours, and so do those of the directory's own user.
            fs::write(file, PRECIOUS).expect("written");
            std::os::unix::fs::chown(file, Some(12_345), None).expect("given away");
            true
        };
    }
    let there = fs::read(file).unwrap_or_default();
    let _ = fs::remove_file(file);
    match what {
        "link" => symlink(outside, file).expect("linked"),
        "dangling" => symlink(outside.with_extension("nowhere"), file).expect("linked"),
        "pipe" => {
            rustix::fs::mknodat(rustix::fs::CWD, file, rustix::fs::FileType::Fifo, 0o666.into(), 0).expect("made")
        }
        "directory" => fs::create_dir(file).expect("made"),
        // As a backup by hard links has it: the same bytes, which are not to change under the other name.
        "second name" => {
            fs::write(outside, there).expect("written");
            fs::set_permissions(outside, fs::Permissions::from_mode(0o640)).expect("opened to a group");
            fs::hard_link(outside, file).expect("linked");
        }
        _ => {
            fs::write(file, there).expect("written");
            fs::set_permissions(file, fs::Permissions::from_mode(0o666)).expect("opened");
        }
    }
    true
}

/// Bytes, mode, owner and time of the file elsewhere: none of it is ours to change.
fn all_of(outside: &Path) -> (Vec<u8>, u32, [u32; 2], [i64; 2]) {
    let file = fs::metadata(outside).expect("it is there");
    let bytes = fs::read(outside).expect("it is read");
    (bytes, file.mode(), [file.uid(), file.gid()], [file.mtime(), file.mtime_nsec()])
}

/// A closed spool with records, dead letters, damage in quarantine and counted losses.
async fn spool_with_everything(home: &Path) {
    let spool = open(home);
    for numbers in [0..50, 50..100] {
        spool.append(batch(Stream::Events, numbers)).await.expect("accepted");
    }
    let record = lease_all(&spool, Stream::Events).remove(0);
    let rejection = Rejection { record, reason: "no".into(), attempts: 1, first_attempt_at: 0 };
    spool.dead_letter(Stream::Events, vec![rejection]).expect("kept");
    spool.close().await;
}

#[tokio::test]
async fn what_is_in_a_files_place_is_not_followed_written_or_waited_for() {
    // Below the spool; whether the spool opens without it.
    let files = [
        ("lock", false),
        ("losses", true),
        ("journal/000000000001.journal", false),
        ("dead/journal/000000000001.journal", false),
        ("queue/db", true),
        ("queue/conf", true),
        ("dead/queue/db", true),
        ("dead/queue/conf", true),
    ];
    let source = tempfile::tempdir().expect("a directory");
    let source = source.path().join("spool");
    spool_with_everything(&source).await;
    for (name, opens) in files {
        assert!(source.join(name).is_file(), "{name}");
        for (what, said) in PLANTS {
            let parent = tempfile::tempdir().expect("a directory");
            let (home, outside) = (parent.path().join("spool"), parent.path().join(PRECIOUS));
            copy(&source, &home);
            fs::write(&outside, PRECIOUS).expect("written");
            if !plant(what, &home.join(name), &outside) {
                continue;
            }
            let before = all_of(&outside);
            let context = format!("{what} as {name}");
            let opening = home.clone();
            let opened = tokio::task::spawn_blocking(move || Spool::open(&opening, options()));
            let opened = tokio::time::timeout(Duration::from_secs(60), opened).await;
            match opened.unwrap_or_else(|_| panic!("{context}: it waits")).expect("no panic") {
                Ok(spool) => {
                    // A segment that has a second name is read.
                    let is_read = what == "second name" && name.ends_with(".journal");
                    assert!(opens || is_read || what == "open to all", "{context}: it opens");
                    let mode = fs::metadata(home.join(name)).map_or(0, |file| file.permissions().mode() & 0o077);
                    assert!(mode == 0 || what != "open to all", "{context}: it has mode {mode:o}");
                    let told = spool.status().last_error.map(|error| error.message).unwrap_or_default();
                    assert!(name != "losses" || told.contains(said), "{context}: {told}");
                    let records = lease_all(&spool, Stream::Events).len();
                    // Without the queue the dead letter's record comes again.
                    assert!((99..=100).contains(&records), "{context}: {records}");
                    spool.acknowledge(Stream::Events, &[0..100]).expect("noted");
                    spool.purge(&[Stream::Events]).await.expect("a new segment begins, and the old one goes");
                    spool.close().await;
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(!opens && error.contains(name) && error.contains(said), "{context}: {error}");
                }
            }
            assert_eq!(all_of(&outside), before, "{context}");
            assert!(!outside.with_extension("nowhere").exists(), "{context}");
        }
    }
}

#[tokio::test]
async fn a_directory_that_belongs_to_somebody_else_is_refused_and_one_that_is_open_to_all_closed() {
    let parent = tempfile::tempdir().expect("a directory");
    let home = parent.path().join("spool");
    spool_with_everything(&home).await;
    for part in ["", "journal", "dead", "queue"] {
        fs::set_permissions(home.join(part), fs::Permissions::from_mode(0o777)).expect("opened");
    }
    open(&home).close().await;
    for part in ["", "journal", "dead", "queue"] {
        let mode = fs::metadata(home.join(part)).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{part}");
    }
    // Nobody but root can give directories away.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&home, Some(12_345), None).expect("given away");
        let error = Spool::open(&home, options()).expect_err("it is not ours").to_string();
        assert!(error.contains("another user (uid 12345)") && error.contains("chown -R"), "{error}");
    }
}

#[tokio::test]
async fn a_report_of_damage_goes_to_no_other_file() {
    for (what, said) in PLANTS.iter().filter(|(what, _)| !matches!(*what, "open to all" | "another user")) {
        let parent = tempfile::tempdir().expect("a directory");
        let (home, outside) = (parent.path().join("spool"), parent.path().join(PRECIOUS));
        spool_with_everything(&home).await;
        fs::write(&outside, PRECIOUS).expect("written");
        let segment = home.join("journal/000000000001.journal");
        let mut bytes = fs::read(&segment).expect("a segment");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&segment, bytes).expect("written");
        // The queue has to be made again for the segment to be walked.
        fs::remove_dir_all(home.join("queue")).expect("removed");
        fs::create_dir(home.join("quarantine")).expect("made");
        assert!(plant(what, &home.join("quarantine/report.ndjson"), &outside));
        let before = all_of(&outside);
        let spool = open(&home);
        let told = spool.status().last_error.map(|error| error.message).unwrap_or_default();
        assert!(told.contains("quarantine") && told.contains(said), "{what}: {told}");
        spool.close().await;
        assert_eq!(all_of(&outside), before, "{what}");
    }
}
