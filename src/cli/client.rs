//! The client of the running process, over the socket in its data directory.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileTypeExt,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::outcome::{Exit, Failure};
use crate::{
    app::{socket, with_short_path},
    files, tasks,
};

/// How long a process can take from locking its directory to answering, or from closing its socket to its end.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A running process.
#[derive(Debug)]
pub(super) struct Client {
    socket: std::path::PathBuf,
}

impl Client {
    /// The process that uses the data directory; `None` if there is none.
    pub(super) async fn find(data_dir: &Path) -> Result<Option<Self>, Failure> {
        let client = Self { socket: socket(data_dir) };
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        loop {
            client.check_socket(data_dir)?;
            if client.connect().await.is_ok() {
                return Ok(Some(client));
            }
            if !is_locked(data_dir) {
                return Ok(None);
            }
            if tokio::time::Instant::now() > deadline {
                let message = format!(
                    "a process has locked {} and does not answer at {}: it may be starting or stopping",
                    data_dir.display(),
                    client.socket.display()
                );
                return Err(Failure::new(Exit::NotRunning, message));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// An error if the socket's path is not a socket: waiting would not help, and a link can lead to another program.
    fn check_socket(&self, data_dir: &Path) -> Result<(), Failure> {
        let what = match fs::symlink_metadata(&self.socket).map(|found| found.file_type()) {
            Ok(found) if found.is_symlink() => "a symbolic link",
            Ok(found) if !found.is_socket() => "not a socket",
            _ => return Ok(()),
        };
        if !is_locked(data_dir) {
            return Ok(());
        }
        let message = format!(
            "a process has locked {}, and {} is {what} instead of its socket: remove it, and restart livekit-spool (it \
             stops on SIGTERM)",
            data_dir.display(),
            self.socket.display()
        );
        Err(Failure::new(Exit::NotRunning, message))
    }

    /// The process that uses the data directory, or an error if there is none.
    pub(super) async fn need(data_dir: &Path) -> Result<Self, Failure> {
        Self::find(data_dir).await?.ok_or_else(|| {
            let message =
                format!("no livekit-spool runs with {}: start it with `livekit-spool run`", data_dir.display());
            Failure::new(Exit::NotRunning, message)
        })
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        with_short_path(&self.socket, |path| std::os::unix::net::UnixStream::connect(path)).and_then(|stream| {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        })
    }

    /// Requests JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(&self.ask(Method::GET, path, Bytes::new()).await?)
    }

    /// Sends a request that changes something; returns the answer.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(&self.ask(Method::POST, path, Bytes::new()).await?)
    }

    /// Sends bytes; returns the answer.
    pub(super) async fn post_bytes<T: DeserializeOwned>(&self, path: &str, bytes: Bytes) -> Result<T, Failure> {
        read(&self.ask(Method::POST, path, bytes).await?)
    }

    /// Reads an answer line by line as it arrives, until `each` returns false.
    pub(super) async fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let (status, mut body) = self.send(Method::GET, path, Bytes::new()).await?;
        if !status.is_success() {
            return Err(refused(status, &body.collect().await?.to_bytes()));
        }
        let mut held = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            held.extend_from_slice(&data);
            let mut done = 0;
            while let Some(length) = held[done..].iter().position(|byte| *byte == b'\n') {
                if !each(&held[done..done + length])? {
                    return Ok(());
                }
                done += length + 1;
            }
            held.drain(..done);
        }
        Ok(())
    }

    async fn ask(&self, method: Method, path: &str, bytes: Bytes) -> Result<Bytes, Failure> {
        let (status, response) = self.send(method, path, bytes).await?;
        let body = response.collect().await?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    }

    async fn send(&self, method: Method, path: &str, bytes: Bytes) -> Result<(StatusCode, Incoming), Failure> {
        let lost = |error: &dyn std::fmt::Display| {
            Failure::new(Exit::NotRunning, format!("the running process does not answer: {error}"))
        };
        let stream = self.connect().await.map_err(|error| lost(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tasks::spawn(connection.map(drop));
        let uri: Uri = format!("/api/v1/{path}").parse()?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::HOST, "localhost")
            .body(Full::new(bytes))?;
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        Ok((response.status(), response.into_body()))
    }
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer)
        .map_err(|error| Failure::from(format!("could not read the running process's answer: {error}")))
}

/// The text of an error answer: `{"error": "…"}`.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let reason = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|value| value["error"].as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    // Not found or a bad request: the same exit code as when no process runs and the command finds out itself.
    let is_usage = matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
    Failure::new(if is_usage { Exit::Usage } else { Exit::Failed }, reason)
}

/// Whether a process uses the data directory.
pub(super) fn is_running(data_dir: &Path) -> bool {
    let connected = with_short_path(&socket(data_dir), |path| std::os::unix::net::UnixStream::connect(path));
    connected.is_ok() || is_locked(data_dir)
}

/// Whether a process holds the data directory's lock; changes nothing.
pub(super) fn is_locked(data_dir: &Path) -> bool {
    match files::open(&data_dir.join("lock"), OpenOptions::new().read(true)) {
        // On a file system without locks no process runs: its start would have been refused.
        Ok(lock) => files::is_locked(&lock).unwrap_or(false),
        Err(_) => false,
    }
}

/// A part of a path, percent-encoded except letters, digits, `-`, `_` and `.`.
pub(super) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
