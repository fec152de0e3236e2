//! Starts that cannot work end at once, say which directory it is and what to do about it, and change nothing. What concerns one sink's
//! spool stops that sink.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::{
    records, send,
    support::{
        self,
        process::{Setup, Spool},
    },
};

/// Runs a program so that modes count: root may do anything, unless it has no capabilities.
pub(super) fn unprivileged() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() {
        &["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--"]
    } else {
        &[]
    }
}

/// A spool with records, stopped.
async fn stopped() -> Spool {
    let mut spool = Setup::new().files("files").start().await;
    send(&spool, &records::numbered_events("start").take(20).collect::<Vec<_>>()).await;
    spool.terminate();
    spool
}

/// The start ends with exit code 1 and a message that has all these parts.
fn assert_refused(spool: &mut Spool, parts: &[&str]) {
    assert_ends(spool, 1, parts);
}

fn assert_ends(spool: &mut Spool, code: i32, parts: &[&str]) {
    spool.launch();
    let (status, said) = spool.wait_for_its_end();
    assert_eq!(status.code(), Some(code), "{said}");
    let error = said.lines().find(|line| line.starts_with("livekit-spool: ")).unwrap_or_default();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

/// The process starts, without the sink `files`, whose last error has all these parts; stopped again.
async fn assert_idle(spool: &mut Spool, parts: &[&str]) {
    spool.start().await;
    let backlog = spool.backlog();
    let sink = Spool::sink_of(&backlog, "files");
    assert_eq!(sink["state"], "spool-failed", "{sink:#}");
    let error = sink["last_error"].as_str().unwrap_or_default();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    assert!(!spool.command(&["ready"]).status.success());
    spool.terminate();
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let mut all = vec![directory.to_owned()];
    if directory.is_dir() {
        all.extend(fs::read_dir(directory).unwrap().flat_map(|entry| below(&entry.unwrap().path())));
    }
    all
}

pub(super) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_data_directory_is_refused() {
    let mut spool = stopped().await;
    let data = spool.data();
    let all = below(&data);
    spool.set_wrapper(unprivileged());
    for path in all.iter().rev() {
        chmod(path, if path.is_dir() { 0o500 } else { 0o400 });
    }
    let user = format!("uid {}", rustix::process::geteuid().as_raw());
    assert_refused(&mut spool, &["data directory", data.to_str().unwrap(), "Permission denied", &user, "chown"]);
    for path in &all {
        chmod(path, if path.is_dir() { 0o700 } else { 0o600 });
    }
    // One directory of one sink stops that sink.
    for part in ["files", "files/journal", "files/dead", "files/dead/journal"] {
        let directory = data.join(part);
        chmod(&directory, 0o500);
        assert_idle(&mut spool, &[directory.to_str().unwrap(), "Permission denied", &user, "chown"]).await;
        chmod(&directory, 0o700);
    }
    spool.start().await;
    assert!(spool.command(&["ready"]).status.success());
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_file_system_is_refused() {
    let mut spool = stopped().await;
    let data = spool.data();
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let words = ["unshare", "-rm", "sh", "-c", mount, data.to_str().unwrap()];
    support::require(support::MOUNTS, &[&words[..], &["true"]].concat());
    spool.set_wrapper(&words);
    assert_refused(
        &mut spool,
        &["data directory", data.to_str().unwrap(), "Read-only file system", "mount it writable"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_user_is_refused() {
    const NOBODY: u32 = 65_534;
    if rustix::process::geteuid().is_root() {
        let mut spool = stopped().await;
        let data = spool.data();
        spool.set_wrapper(unprivileged());
        std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        assert_refused(
            &mut spool,
            &["data directory", data.to_str().unwrap(), "Permission denied", "(uid 0)", "chown"],
        );
        std::os::unix::fs::chown(&data, Some(0), Some(0)).unwrap();
        // A spool that was once written by another user.
        for path in below(&data.join("files")) {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        assert_idle(&mut spool, &["data/files", "Permission denied", "(uid 0)", "chown -R"]).await;
    } else {
        let root = Path::new("/livekit-spool-of-a-test");
        assert_eq!(fs::metadata("/").unwrap().uid(), 0);
        let mut spool = Setup::new().files("files").data(root).prepare();
        assert_refused(&mut spool, &["data directory", root.to_str().unwrap(), "Permission denied", "chown"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_spool_is_refused_even_by_another_way() {
    let mut first = Setup::new().files("files").start().await;
    let other = support::directory("other");
    fs::create_dir(other.path().join("data")).unwrap();
    symlink(first.data().join("files"), other.path().join("data/files")).unwrap();
    let mut second = Setup::new().files("files").prepare_in(other);
    assert_ends(&mut second, 3, &["data/files", "in use by another process", "stop that one, or use another data_dir"]);
    send(&first, &records::numbered_events("first").take(10).collect::<Vec<_>>()).await;
    first.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_a_newer_format_is_refused_and_left_as_it_is() {
    for part in ["journal", "dead/journal"] {
        let mut spool = stopped().await;
        let directory = spool.data().join("files").join(part);
        let segment = directory.join("000000000009.journal");
        let journal = spool.data().join("files/journal");
        let oldest = fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
        let mut bytes = fs::read(oldest).unwrap();
        bytes[4] = 3;
        let checksum = crc32fast::hash(&bytes[..40]).to_le_bytes();
        bytes[40..44].copy_from_slice(&checksum);
        fs::write(&segment, bytes).unwrap();
        let files = || -> Vec<_> {
            let files = below(&spool.data().join("files")).into_iter().filter(|path| path.is_file());
            files.map(|path| (fs::read(&path).unwrap(), path)).collect()
        };
        let before = files();
        let told =
            [segment.to_str().unwrap(), "format version 3", "reads only version 2", "the livekit-spool that wrote it"];
        assert_idle(&mut spool, &told).await;
        let files = || -> Vec<_> {
            let files = below(&spool.data().join("files")).into_iter().filter(|path| path.is_file());
            files.map(|path| (fs::read(&path).unwrap(), path)).collect()
        };
        assert!(files() == before, "nothing was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_memory_gets_a_warning() {
    let memory = tempfile::Builder::new().prefix("spool-test-").tempdir_in("/dev/shm").expect("a tmpfs");
    let mut spool = Setup::new().files("files").data(&memory.path().join("data")).start().await;
    let said = spool.said();
    assert!(said.contains("WARN") && said.contains("in memory (tmpfs)") && said.contains("/dev/shm/"), "{said}");
    spool.terminate();
    let mut spool = Setup::new().files("files").start().await;
    let said = spool.said();
    let directory = spool.data();
    assert!(
        said.contains("tmpfs") == (rustix::fs::statfs(&directory).unwrap().f_type == 0x0102_1994),
        "no warning without a cause: {said}"
    );
    spool.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_a_containers_layer_gets_a_warning() {
    let layers = support::directory("layers");
    for directory in ["lower", "upper", "work", "merged"] {
        fs::create_dir(layers.path().join(directory)).unwrap();
    }
    let mount = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && exec \"$@\"";
    let at = format!("cd {} && {mount}", layers.path().display());
    let words = ["unshare", "-rm", "sh", "-c", &at, "sh"];
    support::require(support::MOUNTS, &[&words[..], &["true"]].concat());
    let back = "cd \"$0\" && exec \"$@\"";
    let mut spool = Setup::new().files("files").data(&layers.path().join("merged/data")).prepare();
    let directory = spool.directory().to_str().unwrap().to_owned();
    let mut all = words.to_vec();
    all.extend(["sh", "-c", back, &directory]);
    spool.set_wrapper(&all);
    spool.start().await;
    let said = spool.said();
    assert!(said.contains("WARN") && said.contains("(overlay)") && said.contains("mount a volume"), "{said}");
    spool.terminate();
}
