//! `livekit-spool` itself: the real binary as a child, with a config of the test's making, on ports of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::{
    TIMEOUT,
    child::{Process, describe},
    disk::SmallDisk,
    free_port,
    recorder_client::analytics_recorder_service_client::AnalyticsRecorderServiceClient,
};

/// The client that LiveKit uses.
pub type Recorder = AnalyticsRecorderServiceClient<Channel>;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_livekit-spool");

/// What to run.
#[derive(Default)]
pub struct Setup {
    sinks: String,
    auth: Option<String>,
    admin_token: Option<String>,
    sections: String,
    envs: Vec<(String, String)>,
    /// A program and its arguments that run `run` (strace).
    wrapper: Vec<String>,
    /// A program and its arguments that run every command (nsenter).
    entry: Vec<String>,
    data: Option<PathBuf>,
}

impl Setup {
    /// Nothing yet; it takes at least one sink to start.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sink by its keys, as YAML in braces: `name: mongo, type: mongodb, …`.
    #[must_use]
    pub fn sink(mut self, keys: &str) -> Self {
        self.sinks.push_str(&format!("  - {{ {keys} }}\n"));
        self
    }

    /// A MongoDB sink that flushes often and comes back soon, so that tests need not wait.
    #[must_use]
    pub fn mongo(self, name: &str, uri: &str, database: &str) -> Self {
        self.sink(&format!("name: {name}, type: mongodb, uri: \"{uri}\", database: {database}, flush: {QUICK}"))
    }

    /// A file sink in the directory `out` next to the data directory.
    #[must_use]
    pub fn files(self, name: &str) -> Self {
        self.sink(&format!("name: {name}, type: file, path: out, flush: {QUICK}"))
    }

    /// Who may send: the keys of `ingest.auth`, as YAML in braces.
    #[must_use]
    pub fn auth(mut self, keys: &str) -> Self {
        self.auth = Some(keys.to_owned());
        self
    }

    /// The token of the admin port.
    #[must_use]
    pub fn admin_token(mut self, token: &str) -> Self {
        self.admin_token = Some(token.to_owned());
        self
    }

    /// More top-level sections of the config, as YAML lines.
    #[must_use]
    pub fn section(mut self, yaml: &str) -> Self {
        self.sections.push_str(yaml);
        self.sections.push('\n');
        self
    }

    /// An environment variable for the binary.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the binary through another program, which gets it and its arguments after its own.
    #[must_use]
    pub fn through(mut self, program: &[&str]) -> Self {
        self.wrapper = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Keeps the data on a small disk.
    #[must_use]
    pub fn on(mut self, disk: &SmallDisk) -> Self {
        self.entry = disk.enter();
        self.data = Some(disk.path().join("data"));
        self
    }

    /// Keeps the data in this directory.
    #[must_use]
    pub fn data(mut self, directory: &Path) -> Self {
        self.data = Some(directory.to_owned());
        self
    }

    /// Writes the config and starts the binary; returns when it accepts records.
    pub async fn start(self) -> Spool {
        let mut spool = self.prepare();
        spool.start().await;
        spool
    }

    /// Writes the config and starts nothing yet.
    pub fn prepare(self) -> Spool {
        self.prepare_in(super::directory("spool"))
    }

    /// The same in a directory that may hold data already.
    pub fn prepare_in(self, directory: TempDir) -> Spool {
        let (grpc, http, admin) = (free_port(), free_port(), free_port());
        let sinks = &self.sinks;
        let auth = self.auth.map(|keys| format!("  auth: {{ {keys} }}\n")).unwrap_or_default();
        let token = self.admin_token.map(|token| format!(", token: {token}")).unwrap_or_default();
        let data = self.data.unwrap_or_else(|| directory.path().join("data"));
        let (data_dir, sections) = (data.display(), &self.sections);
        let config = format!(
            "data_dir: {data_dir}\n\
             ingest:\n  grpc: {{ listen: \"127.0.0.1:{grpc}\" }}\n  http: {{ listen: \"127.0.0.1:{http}\" }}\n{auth}\
             admin: {{ listen: \"127.0.0.1:{admin}\"{token} }}\n\
             sinks:\n{sinks}{sections}"
        );
        fs::write(directory.path().join("config.yaml"), config).expect("a config file");
        Spool {
            directory,
            data,
            grpc,
            http,
            admin,
            envs: self.envs,
            wrapper: self.wrapper,
            entry: self.entry,
            process: None,
        }
    }
}

/// Short intervals and pauses, so that tests need not wait.
pub const QUICK: &str = "{ interval: 50ms, backoff: { initial: 20ms, max: 500ms } }";

/// A livekit-spool, running or stopped; its data stays until this is dropped.
pub struct Spool {
    /// Before the directory: dropped first, it shows the log that is there.
    process: Option<Process>,
    directory: TempDir,
    data: PathBuf,
    grpc: u16,
    http: u16,
    admin: u16,
    envs: Vec<(String, String)>,
    wrapper: Vec<String>,
    entry: Vec<String>,
}

impl Spool {
    /// The directory that holds the config, the data directory and what file sinks write.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Where HTTP requests go: `http://127.0.0.1:port`.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Where the status page and metrics are: `http://127.0.0.1:port`.
    pub fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }

    /// Where gRPC calls go: `http://127.0.0.1:port`.
    pub fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// The process; the test fails when it is stopped.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("livekit-spool runs")
    }

    /// A client that connects when it is used, and again after a restart.
    pub fn recorder(&self) -> Recorder {
        recorder(&self.grpc())
    }

    /// Sets an environment variable for later starts.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.envs.retain(|(set, _)| set != name);
        self.envs.push((name.to_owned(), value.to_owned()));
    }

    /// Removes an environment variable for later starts.
    pub fn unset_env(&mut self, name: &str) {
        self.envs.retain(|(set, _)| set != name);
    }

    /// Starts the binary on the data that are there; returns when it accepts records.
    pub async fn start(&mut self) {
        self.launch();
        self.wait_until_it_accepts_records().await;
    }

    /// Has later starts run through another program, which gets the binary and its arguments after its own.
    pub fn set_wrapper(&mut self, program: &[&str]) {
        self.wrapper = program.iter().map(|&word| word.to_owned()).collect();
    }

    /// What the process that runs has printed so far.
    pub fn said(&mut self) -> String {
        self.process().output()
    }

    /// Starts the binary and returns at once.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "livekit-spool runs already");
        let directory = self.directory.path().to_str().expect("a UTF-8 path");
        let envs: Vec<(&str, &str)> = self.envs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        // In its own directory: the paths in its config are relative, and so is what it prints.
        let mut words: Vec<&str> = self.entry.iter().map(String::as_str).collect();
        words.extend(["env", "-C", directory]);
        words.extend(self.wrapper.iter().map(String::as_str));
        words.extend([BINARY, "run", "--config", "config.yaml"]);
        let log = self.directory.path().join("log");
        self.process = Some(Process::start("livekit-spool", Path::new("env"), &words, &envs, &log));
    }

    /// Returns when the gRPC port takes connections; the test fails when the process ends instead.
    pub async fn wait_until_it_accepts_records(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        let address = format!("127.0.0.1:{}", self.grpc);
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            self.process().assert_running();
            assert!(Instant::now() < deadline, "livekit-spool does not listen on {address}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.take().expect("livekit-spool runs").kill();
    }

    /// SIGTERM; the test fails unless it ends by itself, and well.
    pub fn terminate(&mut self) {
        let mut process = self.process.take().expect("livekit-spool runs");
        let status = process.terminate(TIMEOUT);
        assert!(status.success(), "after SIGTERM it ended with {}:\n{}", describe(status), process.output());
    }

    /// Waits until it has ended without being told to; what it printed comes along.
    pub fn wait_for_its_end(&mut self) -> (ExitStatus, String) {
        let mut process = self.process.take().expect("livekit-spool runs");
        let status = process.wait(TIMEOUT);
        (status, process.output())
    }

    /// Runs a command of the binary (`backlog`, `dead list` …) with this config and returns what it said.
    pub fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new("env");
        command.args(&self.entry).args(["env", "-C"]).arg(self.directory.path());
        command.arg(BINARY).args(words).args(["--config", "config.yaml"]);
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command.output().expect("the binary starts")
    }

    /// `backlog --json`, per sink.
    pub fn backlog(&self) -> Value {
        let output = self.command(&["backlog", "--json"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "backlog failed: {said}");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("backlog --json is no JSON ({e}): {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// A sink's part of what `backlog` returned.
    pub fn sink_of<'a>(backlog: &'a Value, sink: &str) -> &'a Value {
        let mut sinks = backlog["sinks"].as_array().into_iter().flatten();
        sinks.find(|entry| entry["name"] == sink).unwrap_or_else(|| panic!("no sink {sink} in {backlog:#}"))
    }

    /// A stream's part of it.
    pub fn stream_of<'a>(backlog: &'a Value, sink: &str, stream: &str) -> &'a Value {
        let streams = &Self::sink_of(backlog, sink)["streams"];
        streams.get(stream).unwrap_or_else(|| panic!("no stream {stream} of sink {sink} in {backlog:#}"))
    }

    /// How many records of a stream a sink has not acknowledged.
    pub fn records(&self, sink: &str, stream: &str) -> u64 {
        Self::stream_of(&self.backlog(), sink, stream)["records"].as_u64().expect("a number of records")
    }

    /// The ids of a sink's dead letters, each as often as it is there.
    pub fn dead_letters(&self, sink: &str) -> Vec<String> {
        let output = self.command(&["dead", "list", sink, "-n", "1000000", "--json"]);
        assert!(output.status.success(), "dead list failed: {}", String::from_utf8_lossy(&output.stderr));
        let listed: Value = serde_json::from_slice(&output.stdout).expect("dead list --json is JSON");
        let dead_letters = listed.as_array().expect("a list of dead letters");
        dead_letters.iter().map(|dead_letter| dead_letter["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Waits until no sink has anything left to deliver.
    pub async fn wait_until_drained(&self) {
        super::eventually("all sinks have acknowledged all", || async {
            let backlog = self.backlog();
            let sinks = backlog["sinks"].as_array().expect("sinks").clone();
            sinks.iter().all(|sink| {
                let name = sink["name"].as_str().expect("a sink's name");
                let left = |stream| Self::stream_of(&backlog, name, stream)["records"].as_u64();
                ["events", "stats", "node_rooms"].into_iter().all(|stream| left(stream) == Some(0))
            })
        })
        .await;
    }
}

/// A client that connects when it is used.
pub fn recorder(address: &str) -> Recorder {
    let endpoint =
        Endpoint::from_shared(address.to_owned()).expect("an address").connect_timeout(Duration::from_secs(5));
    AnalyticsRecorderServiceClient::new(endpoint.connect_lazy())
}
