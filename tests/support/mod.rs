//! What the integration tests and benches share: servers, a faulty network, the real binary as a child.
//!
//! - [`child`]: processes that die with the test, their output kept and shown when it fails.
//! - [`disk`]: a disk that can be filled.
//! - [`jwt`] makes tokens.
//! - [`livekit`]: a real livekit-server that sends its analytics to livekit-spool.
//! - [`mongo`], [`postgres`], [`redis`]: real servers on free ports: kill -9, restart on the same data.
//! - [`power`]: the directories that a power cut may leave, from a recording of system calls.
//! - [`proxy`]: a TCP proxy that cuts, delays, swallows, refuses and heals.
//! - [`wire`]: a MongoDB server in a few lines: acknowledges as fast as it reads, or answers by script.
//! - [`process`]: `livekit-spool` itself, with a config of the test's making; [`load`]: senders that keep it busy.
//! - [`recorder_client`]: the gRPC client that LiveKit's schema gives.
//! - [`receiver`]: an HTTP server in a few lines: answers by script, or keeps documents by their ids.
//! - [`records`]: LiveKit's real records, and made-up ones with known ids.
//!
//! A test that needs a server fails where the server is missing and says what gets it (`tests/servers`); one that needs something
//! of the machine, such as mounts, fails likewise ([`require`]).
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU16, Ordering},
    },
};

pub use eventually::{TIMEOUT, eventually};
use tempfile::TempDir;

pub mod child;
pub mod disk;
mod eventually;
pub mod jwt;
pub mod livekit;
pub mod load;
pub mod mongo;
pub mod postgres;
pub mod power;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod records;
pub mod redis;
pub mod wire;

/// The client of `livekit.AnalyticsRecorderService`; `tests/schema.rs` makes the file.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod recorder_client {
    include!("recorder_client.rs");
}

/// A port nobody listens on, for a server that has to come back at the same address after a restart.
///
/// Below the ephemeral range, so that no outgoing connection takes it in between.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const PORTS: u16 = 22_000;
    // Test binaries that run at once begin at different places.
    let start = (std::process::id() % 220) as u16 * 100;
    for _ in 0..PORTS {
        let port = FIRST + (start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))) % PORTS;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + PORTS);
}

/// What `tests/servers` puts in place.
///
/// # Panics
/// When it is not there.
pub fn test_server(path: &str) -> PathBuf {
    // The test binary is somewhere under the target directory.
    let exe = env::current_exe().expect("the test's own path");
    exe.ancestors()
        .map(|directory| directory.join("test-servers").join(path))
        .find(|file| file.exists())
        .unwrap_or_else(|| {
            panic!(
                "test-servers/{path} is not in the target directory: run `tests/servers` (or all tests with `tests/run`)"
            )
        })
}

/// Mounts in namespaces of a test's own.
pub const MOUNTS: &str = "mounts in a user namespace (`unshare -rm`): kernel.unprivileged_userns_clone=1, \
                          kernel.apparmor_restrict_unprivileged_userns=0, in a container CAP_SYS_ADMIN";

/// What a test needs of the machine: a command that works where it is there.
///
/// # Panics
/// Where it does not: a test that cannot run fails, and says what it needs. None passes without having run.
pub fn require(need: &str, words: &[&str]) {
    let said = match Command::new(words[0]).args(&words[1..]).output() {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    panic!("this test cannot run here, it needs {need}; `{}` says: {said}", words.join(" "));
}

/// An empty directory for a server or a spool, removed when dropped.
///
/// What tests share is never dropped: what a process that is gone left behind is removed here.
pub fn directory(name: &str) -> TempDir {
    static SWEPT: Once = Once::new();
    let all = env::temp_dir();
    SWEPT.call_once(|| {
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("spool-test-").and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
    let prefix = format!("spool-test-{}-{name}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(all).expect("a temporary directory")
}

/// Saves a directory from being removed with the test, for a view of what went wrong.
pub fn keep(directory: &Path) -> PathBuf {
    let mut to = directory.as_os_str().to_owned();
    to.push("-kept");
    let _ = Command::new("cp").arg("-a").arg(directory).arg(&to).status();
    to.into()
}

/// Randomness for a test, printed so that a failure can be repeated with `SPOOL_TEST_SEED`.
pub fn seed() -> u64 {
    let seed = env::var("SPOOL_TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().expect("SPOOL_TEST_SEED is a number"));
    eprintln!("SPOOL_TEST_SEED={seed}");
    seed
}
