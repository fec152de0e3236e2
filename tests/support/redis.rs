//! A Redis server for a test, with RedisJSON, and RediSearch unless the test wants it without.

use std::{
    fs,
    time::{Duration, Instant},
};

use redis::AsyncConnectionConfig;
use tempfile::TempDir;

use super::{TIMEOUT, child::Process, free_port, test_server};

/// A server, running or stopped; its data stays until this is dropped.
pub struct Redis {
    /// Before the directory: dropped first, it shows the log that is there.
    process: Option<Process>,
    directory: TempDir,
    port: u16,
    options: Vec<String>,
}

impl Redis {
    /// A Redis Stack: RedisJSON, RediSearch, WAITAOF, every write in the append-only file.
    pub async fn start() -> Self {
        Self::start_with(true, &[]).await
    }

    /// A server with RedisJSON, with or without RediSearch, and options of the command line
    /// (`--requirepass`, `--maxmemory`, `--rename-command` …).
    pub async fn start_with(search: bool, options: &[&str]) -> Self {
        let directory = super::directory("redis");
        let mut modules = vec!["rejson.so"];
        if search {
            modules.push("redisearch.so");
        }
        let mut all: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        for module in modules {
            let file = test_server("redis/lib").join(module);
            all.extend(["--loadmodule".to_owned(), file.to_str().expect("a UTF-8 path").to_owned()]);
        }
        let mut redis = Self { directory, port: free_port(), options: all, process: None };
        redis.restart().await;
        redis
    }

    /// Where it listens; the same after a restart.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// `host:port`, for a proxy.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection of the test's own, without a password.
    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        self.try_connect().await.unwrap_or_else(|e| panic!("cannot connect to Redis at {}: {e}", self.address()))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }

    /// SIGTERM, and waits until it has ended.
    pub fn stop(&mut self) {
        self.process.take().expect("the server runs").terminate(TIMEOUT);
    }

    /// Starts it on the same data at the same address, and waits until it has loaded them.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let libraries = test_server("redis/lib");
        let libraries = libraries.to_str().expect("a UTF-8 path");
        let data = self.directory.path().join("data");
        fs::create_dir_all(&data).expect("a directory for the server's data");
        let port = self.port.to_string();
        let mut args = vec!["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "yes"];
        args.extend(["--appendfsync", "always", "--dir", data.to_str().expect("a UTF-8 path")]);
        args.extend(self.options.iter().map(String::as_str));
        let log = self.directory.path().join("log");
        let program = test_server("redis/bin/redis-server");
        let mut process = Process::start("redis-server", &program, &args, &[("LD_LIBRARY_PATH", libraries)], &log);
        let deadline = Instant::now() + TIMEOUT;
        while !self.answers().await {
            process.assert_running();
            assert!(Instant::now() < deadline, "Redis at {} does not answer", self.address());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.process = Some(process);
    }

    async fn try_connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        // The client's own limits are for machines with nothing else to do.
        let patient =
            AsyncConnectionConfig::new().set_connection_timeout(Some(TIMEOUT)).set_response_timeout(Some(TIMEOUT));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&patient).await
    }

    /// Answers PING, or refuses for want of a password; both mean that it is up and its data loaded.
    async fn answers(&self) -> bool {
        let Ok(mut connection) = self.try_connect().await else { return false };
        match redis::cmd("PING").query_async::<String>(&mut connection).await {
            Ok(_) => true,
            Err(e) => e.code() == Some("NOAUTH"),
        }
    }
}
