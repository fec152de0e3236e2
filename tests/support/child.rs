//! Child processes that cannot outlive the test, with their output kept for the moment it fails.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running process. Killed when dropped; its output is shown when the test is failing then.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where this run's output begins in the log: a restarted server continues in the same file.
    log_start: u64,
}

impl Process {
    /// Starts a program, its standard output and error appended to `log`.
    pub fn start(name: &str, program: &Path, args: &[&str], envs: &[(&str, &str)], log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("the log of a child");
        let log_start = output.metadata().expect("the log of a child").len();
        // The kernel kills it when the thread that started it ends: see `spawner`.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args).envs(envs.iter().copied());
        command.stdin(Stdio::null()).stderr(output.try_clone().expect("the log of a child")).stdout(output);
        let child =
            spawn(command).unwrap_or_else(|e| panic!("cannot start {name} (setpriv, {}): {e}", program.display()));
        Self { name: name.to_owned(), child, log: log.to_owned(), log_start }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal; does nothing when it has ended already.
    pub fn signal(&mut self, signal: Signal) {
        if !self.is_running() {
            return;
        }
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id is not 0");
        kill_process(pid, signal).unwrap_or_else(|e| panic!("cannot signal {}: {e}", self.name));
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("waiting for a killed child");
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(timeout)
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting for a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "{} has not ended after {timeout:?}", self.name);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has printed since this start.
    pub fn output(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(self.log_start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    /// Fails the test, with its output, when it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("asking for a child") {
            panic!("{} ended by itself ({}):\n{}", self.name, describe(status), self.output());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read(&self.log).unwrap_or_default();
            let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(16 * 1024)..]).into_owned();
            eprintln!("--- {} said (the end of {} bytes):\n{tail}---", self.name, log.len());
        }
    }
}

/// How a process ended, for people.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns from one thread that lives as long as the test binary does: a child with a parent-death signal dies with the
/// thread that started it, and a test's own thread may end before a server that tests share is done.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in inbox {
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("the thread that starts children");
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::channel();
    spawner.lock().expect("no panic while ordering").send((command, reply)).expect("the spawner lives on");
    answer.recv().expect("the spawner answers")
}
