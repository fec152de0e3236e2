//! Reads what `strace -ff -ttt -T -y -xx` writes: the calls that change files, in order.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// How strace is called; the trace goes to `<prefix>.<thread>`, a file per thread, so that no line is torn.
pub fn strace(prefix: &Path) -> Vec<String> {
    let calls = "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,read,lseek,dup,dup2,dup3,fcntl,fsync,fdatasync,\
                 sync_file_range,truncate,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,\
                 unlink,unlinkat,mkdir,mkdirat,rmdir,copy_file_range,sendfile,splice,mmap";
    // -D: strace is the child, so that killing what the test started kills the program.
    let options = ["strace", "-D", "-ff", "-ttt", "-T", "-y", "-xx", "-s", "100000000", "-e"];
    let mut words: Vec<String> = options.iter().map(|&word| word.to_owned()).collect();
    words.push(format!("trace={calls}"));
    words.extend(["-o".to_owned(), prefix.to_str().expect("a UTF-8 path").to_owned(), "--".to_owned()]);
    words
}

/// A call that returned, or was under way when the process ended.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it began, in seconds since the epoch.
    pub at: f64,
    /// When it returned; infinite where it never did.
    pub end: f64,
    /// What it did.
    pub call: Call,
}

/// A call, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A file was opened, and perhaps made or emptied.
    Open { path: PathBuf, create: bool, truncate: bool },
    /// A directory was made.
    MakeDirectory { path: PathBuf },
    /// Bytes were written, at an offset or (`None`) at the file's end.
    Write { path: PathBuf, offset: Option<u64>, bytes: Vec<u8> },
    /// The length was set, or only raised to at least this.
    Length { path: PathBuf, length: u64, only_extend: bool },
    /// fsync or fdatasync.
    Sync { path: PathBuf },
    /// A file or directory was removed.
    Remove { path: PathBuf },
    /// A file or directory was renamed.
    Rename { from: PathBuf, to: PathBuf },
    /// Nothing that changes a file.
    Harmless,
    /// A call that may change files in a way the model does not know.
    Unknown { text: String },
}

/// Reads the traces once strace has written them to the end.
pub async fn read_when_complete(prefix: &Path) -> Vec<Event> {
    super::super::eventually("strace has written the end of every thread", || async {
        traces(prefix).iter().all(|trace| trace.trim_end().ends_with("+++"))
    })
    .await;
    read(prefix)
}

/// Reads all threads' traces, in the order in which the calls began.
pub fn read(prefix: &Path) -> Vec<Event> {
    let mut lines: Vec<(f64, String)> = Vec::new();
    for text in traces(prefix) {
        lines.extend(text.lines().filter_map(|line| {
            let (at, rest) = line.split_once(' ')?;
            Some((at.parse().ok()?, rest.to_owned()))
        }));
    }
    lines.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut positions = Positions::default();
    lines.iter().filter_map(|(at, line)| positions.event(*at, line)).collect()
}

fn traces(prefix: &Path) -> Vec<String> {
    let directory = prefix.parent().expect("the traces are in a directory");
    let name = format!("{}.", prefix.file_name().expect("a name").to_str().expect("a UTF-8 name"));
    let entries = fs::read_dir(directory).expect("the traces' directory").map(|entry| entry.expect("an entry"));
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name));
    ours.map(|entry| fs::read_to_string(entry.path()).expect("a trace is ASCII")).collect()
}

/// Where each open file would be written next, since `write` names no offset: `None` for the end (`O_APPEND`).
#[derive(Default)]
struct Positions {
    offsets: HashMap<i64, Option<u64>>,
}

impl Positions {
    fn event(&mut self, at: f64, line: &str) -> Option<Event> {
        let (name, rest) = line.split_once('(')?;
        // `… ) = result <duration>`, or `= ?` where the process ended in the middle of it.
        let (args, result) = rest.rsplit_once(") = ").or_else(|| Some((rest.rsplit_once(')')?.0, "?")))?;
        let took = result.rsplit_once('<').and_then(|(_, took)| took.trim_end_matches('>').parse::<f64>().ok());
        let returned = result.split([' ', '<']).next().and_then(|value| value.parse::<i64>().ok());
        if returned.is_some_and(|value| value < 0) {
            return None;
        }
        let end = took.filter(|_| returned.is_some()).map_or(f64::INFINITY, |took| at + took);
        let args = split(args);
        let call = self.call(name, &args, returned).unwrap_or_else(|| Call::Unknown { text: readable(line) });
        Some(Event { at, end, call })
    }

    /// `None` for what the model does not know.
    fn call(&mut self, name: &str, args: &[&str], returned: Option<i64>) -> Option<Call> {
        let fd = || fd_number(args.first()?);
        let path = || fd_path(args.first()?);
        Some(match name {
            "open" | "openat" | "creat" => {
                let (directory, path, flags) = match (name, args) {
                    ("openat", [directory, path, flags, ..]) => (Some(*directory), *path, *flags),
                    ("open", [path, flags, ..]) => (None, *path, *flags),
                    _ => return None,
                };
                if let Some(fd) = returned {
                    self.offsets.insert(fd, (!flags.contains("O_APPEND")).then_some(0));
                }
                let path = resolve(directory, path)?;
                Call::Open { path, create: flags.contains("O_CREAT"), truncate: flags.contains("O_TRUNC") }
            }
            "mkdir" => Call::MakeDirectory { path: resolve(None, args.first()?)? },
            "mkdirat" => Call::MakeDirectory { path: resolve(Some(args.first()?), args.get(1)?)? },
            "pwrite64" => {
                let bytes = unquote(args.get(1)?)?;
                Call::Write { path: path()?, offset: Some(args.get(3)?.parse().ok()?), bytes: kept(bytes, returned) }
            }
            "write" => {
                let bytes = kept(unquote(args.get(1)?)?, returned);
                let position = self.offsets.entry(fd()?).or_insert(Some(0));
                let offset = *position;
                *position = offset.map(|offset| offset + bytes.len() as u64);
                match path() {
                    Some(path) => Call::Write { path, offset, bytes },
                    None => Call::Harmless,
                }
            }
            "read" => {
                let read = u64::try_from(returned.unwrap_or(0)).ok()?;
                let position = self.offsets.entry(fd()?).or_insert(Some(0));
                *position = position.map(|offset| offset + read);
                Call::Harmless
            }
            "lseek" => {
                self.offsets.insert(fd()?, Some(u64::try_from(returned?).ok()?));
                Call::Harmless
            }
            // Copies share the position; nobody here writes through both.
            "dup" | "dup2" | "dup3" | "fcntl" => {
                if let (Some(copy), true) = (returned, name != "fcntl" || args.get(1)?.contains("F_DUPFD")) {
                    let position = self.offsets.get(&fd()?).copied().unwrap_or(Some(0));
                    self.offsets.insert(copy, position);
                }
                Call::Harmless
            }
            "fsync" | "fdatasync" => Call::Sync { path: path()? },
            "sync_file_range" => Call::Harmless,
            "ftruncate" => Call::Length { path: path()?, length: args.get(1)?.parse().ok()?, only_extend: false },
            "fallocate" => match *args.get(1)? {
                "0" => {
                    let end = args.get(2)?.parse::<u64>().ok()? + args.get(3)?.parse::<u64>().ok()?;
                    Call::Length { path: path()?, length: end, only_extend: true }
                }
                "FALLOC_FL_KEEP_SIZE" => Call::Harmless,
                _ => return None,
            },
            "unlink" | "rmdir" => Call::Remove { path: resolve(None, args.first()?)? },
            "unlinkat" => Call::Remove { path: resolve(Some(args.first()?), args.get(1)?)? },
            "rename" => Call::Rename { from: resolve(None, args.first()?)?, to: resolve(None, args.get(1)?)? },
            "renameat" | "renameat2" => Call::Rename {
                from: resolve(Some(args.first()?), args.get(1)?)?,
                to: resolve(Some(args.get(2)?), args.get(3)?)?,
            },
            "mmap" => {
                let shared = args.get(3)?.contains("MAP_SHARED") && args.get(2)?.contains("PROT_WRITE");
                if shared { return None } else { Call::Harmless }
            }
            // To sockets and pipes they are harmless; to files they are unknown.
            "writev" | "pwritev" | "pwritev2" => match path() {
                Some(_) => return None,
                None => Call::Harmless,
            },
            _ => return None,
        })
    }
}

/// What was really written: a call may write less than it was given.
fn kept(mut bytes: Vec<u8>, returned: Option<i64>) -> Vec<u8> {
    if let Some(length) = returned {
        bytes.truncate(usize::try_from(length).unwrap_or(0));
    }
    bytes
}

/// Splits arguments at the commas between them; strings are all hexadecimal, so that only brackets matter.
fn split(args: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0_i32, 0, Vec::new());
    for (at, byte) in args.bytes().enumerate() {
        match byte {
            b'[' | b'{' | b'(' => depth += 1,
            b']' | b'}' | b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(args[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(args[from..].trim());
    parts
}

fn fd_number(arg: &str) -> Option<i64> {
    arg.split('<').next()?.parse().ok()
}

/// The path of `3</a/b>`; `None` for sockets, pipes and what is no file.
fn fd_path(arg: &str) -> Option<PathBuf> {
    let text = arg.split_once('<')?.1.split('>').next()?;
    let path = String::from_utf8(unhex(text)?).ok()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// A path argument, seen from the directory it is relative to.
fn resolve(directory: Option<&str>, path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(String::from_utf8(unquote(path)?).ok()?);
    if path.is_absolute() {
        return Some(clean(&path));
    }
    // Without a directory argument it is relative to the working directory, which strace does not tell: have it absolute.
    Some(clean(&fd_path(directory?)?.join(path)))
}

fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

fn unquote(arg: &str) -> Option<Vec<u8>> {
    // A trailing `...` would mean that strace cut it short.
    unhex(arg.strip_prefix('"')?.strip_suffix('"')?)
}

/// `\x2f\x61` → `/a`.
fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.contains('\\') {
        return Some(text.as_bytes().to_vec());
    }
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).ok()).collect()
}

/// A line with its paths in clear, cut short, for a message.
fn readable(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\\x") {
        out.push_str(before);
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => out.push(char::from(byte)),
            None => out.push_str("\\x"),
        }
        rest = after.get(2..).unwrap_or("");
        if out.len() > 500 {
            return out;
        }
    }
    out + rest
}
