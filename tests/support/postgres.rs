//! A PostgreSQL server for a test, durable as a real one: `fsync` is on.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{TIMEOUT, child::Process, free_port, test_server};

/// PostgreSQL refuses to run as root: then it runs as nobody.
const NOBODY: &str = "65534";

/// A server, running or stopped; its data stays until this is dropped.
///
/// It has the database `livekit`, which the role `livekit` (with this password) owns, and the superuser `postgres`.
pub struct Postgres {
    /// Before the directory: dropped first, it shows the log that is there.
    process: Option<Process>,
    directory: TempDir,
    port: u16,
    options: Vec<String>,
}

impl Postgres {
    /// A server as Debian sets one up.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with these settings (`fsync=off`).
    pub async fn start_with(settings: &[&str]) -> Self {
        let directory = super::directory("postgres");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("the directory is ours");
        let options = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut postgres = Self { process: None, directory, port: free_port(), options };
        run(Command::new("cp").arg("-a").arg(test_server("postgres/template")).arg(postgres.data()));
        if is_root() {
            run(Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(postgres.data()));
        }
        postgres.restart().await;
        postgres
    }

    /// Its data; where it is stopped, they may be changed.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where it listens; the same after a restart.
    pub fn url(&self) -> String {
        format!("postgresql://livekit:livekit@{}/livekit", self.address())
    }

    /// `host:port`, for a proxy.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection of the test's own, as the superuser.
    pub async fn connect(&self) -> Client {
        self.connect_to("livekit").await
    }

    async fn connect_to(&self, database: &str) -> Client {
        let url = format!("postgresql://postgres:postgres@{}/{database}", self.address());
        let (client, connection) = tokio_postgres::connect(&url, NoTls)
            .await
            .unwrap_or_else(|e| panic!("cannot connect to PostgreSQL at {}: {e:?}", self.address()));
        tokio::spawn(connection);
        client
    }

    /// Runs statements as the superuser; the rows of all of them, in text, NULL as `-`.
    pub async fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.run_in("livekit", sql).await
    }

    /// The same, in another database.
    pub async fn run_in(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        let answer = self.connect_to(database).await.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let rows = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or("-").to_owned()).collect())
            }
            _ => None,
        });
        rows.collect()
    }

    /// The first column of the first row.
    pub async fn value(&self, sql: &str) -> String {
        self.run(sql).await.into_iter().next().and_then(|row| row.into_iter().next()).unwrap_or_default()
    }

    /// kill -9: of the server, whose other processes end when they notice.
    pub fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }

    /// A fast shutdown: it ends its connections and what they were doing.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.signal(Signal::INT);
        process.wait(TIMEOUT);
    }

    /// Starts it on the same data at the same address, and waits until it accepts connections.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let deadline = Instant::now() + TIMEOUT;
        let log = self.directory.path().join("log");
        loop {
            let mut process = self.spawn(&log);
            while process.is_running() {
                if self.answers().await {
                    self.process = Some(process);
                    return;
                }
                assert!(Instant::now() < deadline, "PostgreSQL at {} does not answer", self.address());
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            // After a kill -9 its other processes may still use the shared memory.
            assert!(Instant::now() < deadline, "PostgreSQL does not start:\n{}", process.output());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn spawn(&self, log: &Path) -> Process {
        let program = test_server("postgres/bin/postgres");
        let (program, data) = (program.to_str().expect("UTF-8").to_owned(), self.data());
        let mut args: Vec<String> = Vec::new();
        if is_root() {
            // The signal that ends it with the test is lost with the change of the user: it is set again.
            let words = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--pdeathsig", "KILL", "--"];
            args.extend(words.map(str::to_owned));
            args.push(program.clone());
        }
        args.extend(["-D".to_owned(), data.to_str().expect("UTF-8").to_owned()]);
        let port = format!("port={}", self.port);
        let settings = [
            port.as_str(),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=32MB",
            "max_connections=40",
            "autovacuum=off",
            "timezone=America/New_York",
        ];
        for setting in settings.into_iter().chain(self.options.iter().map(String::as_str)) {
            args.extend(["-c".to_owned(), setting.to_owned()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let program = if is_root() { PathBuf::from("setpriv") } else { PathBuf::from(program) };
        Process::start("postgres", &program, &args, &[("LC_ALL", "C")], log)
    }

    async fn answers(&self) -> bool {
        let url = format!("postgresql://postgres:postgres@{}/postgres", self.address());
        match tokio_postgres::connect(&url, NoTls).await {
            Ok((client, connection)) => {
                let connection = tokio::spawn(connection);
                let answer = client.simple_query("SELECT 1").await;
                drop(client);
                let _ = connection.await;
                answer.is_ok()
            }
            // A wrong password, say: it is up.
            Err(error) => error.code().is_some_and(|code| code.code() != "57P03"),
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
}
