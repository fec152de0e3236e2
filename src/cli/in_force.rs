//! The data directory in force. A running process can use another one than `data_dir` in the same config file now says: the
//! file was changed, or the path is relative and the working directory differs. Then the process's directory is used.
//!
//! A running process is found in `/proc`: the same config file on its command line, in its environment or in its working
//! directory, and the lock of a data directory among its open files.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{app::socket, config};

/// The program's name in `/proc`.
const NAME: &[u8] = b"livekit-spool";

/// The data directory of a process that runs with this config file; `None` if there is no such process, or it is another
/// user's.
pub(super) fn data_dir(file: &Path) -> Option<PathBuf> {
    let file = fs::canonicalize(file).ok()?;
    let processes = fs::read_dir("/proc").ok()?;
    processes
        .flatten()
        .map(|entry| entry.path())
        .find_map(|process| (config_of(&process)? == file).then(|| data_dir_of(&process))?)
}

/// The config file that a process was started with, if it is a `run`.
fn config_of(process: &Path) -> Option<PathBuf> {
    let name = fs::read(process.join("comm")).ok()?;
    if name.trim_ascii() != NAME {
        return None;
    }
    let words = nul_separated(&process.join("cmdline"))?;
    let mut words = words.iter().skip(1);
    let (mut is_run, mut named) = (false, None);
    while let Some(word) = words.next() {
        let text = word.as_bytes();
        if let Some(file) = text.strip_prefix(b"--config=") {
            named = Some(OsStr::from_bytes(file).to_owned());
        } else if matches!(text, b"--config" | b"-c") {
            named = words.next().cloned();
        } else if let Some(file) = text.strip_prefix(b"-c") {
            named = Some(OsStr::from_bytes(file.strip_prefix(b"=").unwrap_or(file)).to_owned());
        }
        is_run |= text == b"run";
    }
    let from_environment = || {
        let variables = nul_separated(&process.join("environ"))?;
        let file = variables.iter().find_map(|line| line.as_bytes().strip_prefix(b"LIVEKIT_SPOOL_CONFIG="))?;
        Some(OsStr::from_bytes(file).to_owned()).filter(|file| !file.is_empty())
    };
    let named = named.or_else(from_environment).unwrap_or_else(|| config::DEFAULT_FILE.into());
    fs::canonicalize(process.join("cwd").join(named)).ok().filter(|_| is_run)
}

fn nul_separated(path: &Path) -> Option<Vec<OsString>> {
    let bytes = fs::read(path).ok()?;
    Some(bytes.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect())
}

/// The directory whose lock a process has open and that contains its socket.
fn data_dir_of(process: &Path) -> Option<PathBuf> {
    let open = fs::read_dir(process.join("fd")).ok()?;
    open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).find_map(|path| {
        let directory = path.parent().filter(|_| path.file_name() == Some(OsStr::new("lock")))?;
        socket(directory).exists().then(|| directory.to_owned())
    })
}
