//! The system calls at which a process is killed: found in a trace of it (strace), and named so that another run meets them.
//!
//! A point is a call, the file or directory it changes, and how often the same thread has made that call on it: strace counts by
//! thread. So a run whose threads share the work in another way may not come to a point, or come to it elsewhere; the first
//! call on a file is always met.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
};

/// What changes a directory or a file.
const CALLS: &str = "openat,mkdir,mkdirat,write,pwrite64,writev,pwritev,pwritev2,fallocate,ftruncate,fsync,fdatasync,sync_file_range,\
                     rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir";

/// A system call of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    pub(super) call: String,
    /// Below the data directory; empty for that one itself.
    pub(super) path: PathBuf,
    /// How often a thread makes this call on it, this time included.
    pub(super) nth: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.call, self.nth, self.path.display())
    }
}

impl Point {
    /// Runs a program so that it is killed when it makes this call: the call itself is not carried out.
    pub(super) fn killing(&self, data: &Path, trace: &Path) -> Vec<String> {
        let path = if self.path.as_os_str().is_empty() { data.to_owned() } else { data.join(&self.path) };
        let Self { call, nth, .. } = self;
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        strace(trace, &["-P", path.to_str().expect("a UTF-8 path"), "-e", &format!("trace={call}"), "-e", &inject])
    }
}

/// Runs a program so that what it changes is noted in a file.
pub(super) fn tracing(trace: &Path) -> Vec<String> {
    strace(trace, &["-e", &format!("trace={CALLS}")])
}

fn strace(trace: &Path, options: &[&str]) -> Vec<String> {
    // -D: strace is the child, so that what the test started is the program itself.
    let always = ["strace", "-D", "-f", "-qq", "-y", "-s", "4", "-e", "signal=none", "-o"];
    let trace = trace.to_str().expect("a UTF-8 path");
    [&always[..], &[trace], options, &["--"]].concat().into_iter().map(str::to_owned).collect()
}

/// The points of a trace that are in a directory, in the order in which a run comes to them.
pub(super) fn read(trace: &str, data: &Path) -> Vec<Point> {
    let mut made: HashMap<(&str, &str, &Path), usize> = HashMap::new();
    let mut seen = BTreeSet::new();
    let mut points = Vec::new();
    for line in trace.lines() {
        let Some((thread, call, path)) = parse(line, data) else { continue };
        let nth = made.entry((thread, call, path)).or_default();
        *nth += 1;
        let changes = call != "openat" || line.contains("O_CREAT") || line.contains("O_TRUNC");
        let point = Point { call: call.to_owned(), path: path.to_owned(), nth: *nth };
        if changes && seen.insert(point.clone()) {
            points.push(point);
        }
    }
    points
}

/// `thread call(3</data/file>, …` or `thread call(AT_FDCWD</…>, "/data/file", …`; not the end of a call that began further up.
fn parse<'a>(line: &'a str, data: &Path) -> Option<(&'a str, &'a str, &'a Path)> {
    let (thread, rest) = line.split_once(' ')?;
    let (call, arguments) = rest.trim_start().split_once('(')?;
    if !call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let mut paths = arguments.split(['<', '>', '"']).map(Path::new);
    Some((thread, call, paths.find_map(|path| path.strip_prefix(data).ok())?))
}

#[test]
fn points_are_named_by_call_file_and_count_of_their_thread() {
    let trace = "\
7 mkdir(\"/tmp/d\", 0700) = 0
7 openat(AT_FDCWD</tmp>, \"/tmp/d/a\", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 4</tmp/d/a>
8 pwrite64(4</tmp/d/a>, \"LKSB\"..., 3970, 0 <unfinished ...>
9 pwrite64(5</tmp/d/b>, \"x\"..., 1, 0) = 1
8 <... pwrite64 resumed>) = 3970
8 pwrite64(4</tmp/d/a>, \"LKSB\"..., 3970, 3970) = 3970
9 pwrite64(4</tmp/d/a>, \"LKSB\"..., 3970, 7940) = 3970
9 openat(AT_FDCWD</tmp>, \"/tmp/d/a\", O_RDONLY|O_CLOEXEC) = 6</tmp/d/a>
9 write(1</tmp/log>, \"/tmp\"..., 9) = 9
9 rename(\"/tmp/d/a\", \"/tmp/d/a.done\") = 0
9 +++ killed by SIGKILL +++
";
    let points: Vec<String> = read(trace, Path::new("/tmp/d")).iter().map(ToString::to_string).collect();
    let expected =
        ["mkdir 1 of ", "openat 1 of a", "pwrite64 1 of a", "pwrite64 1 of b", "pwrite64 2 of a", "rename 1 of a"];
    assert_eq!(points, expected);
}
