//! An HTTP/1.1 server in a few lines: asks a closure what to answer to each request, misbehaviour included. Another one
//! keeps documents by their ids, and can be taken away and brought back.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{self, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

/// A request as it was received.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `POST`
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Empty while only the head was read.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The documents in the body: lines, an array, or one.
    pub fn documents(&self) -> Vec<Value> {
        match serde_json::from_slice(&self.body) {
            Ok(Value::Array(documents)) => documents,
            Ok(document) => vec![document],
            Err(_) => {
                let lines = self.body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
                lines.map(|line| serde_json::from_slice(line).expect("a line of JSON")).collect()
            }
        }
    }

    /// The ids of the documents.
    pub fn ids(&self) -> Vec<String> {
        self.documents().iter().map(|document| document["_id"].as_str().expect("_id").to_owned()).collect()
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A status with a short body, and the connection stays open.
    Status(u16, &'static str),
    /// These bytes, and the connection stays open.
    Bytes(Vec<u8>),
    /// These bytes, and the end of the connection.
    Last(Vec<u8>),
    /// These bytes, one at a time with so long a pause, and the connection stays open.
    Slowly(Vec<u8>, Duration),
    /// These bytes, and then the others for ever.
    Endless(Vec<u8>, Vec<u8>),
    /// Nothing, ever.
    Silence,
    /// The end of the connection.
    HangUp,
}

/// A head with headers and a body that has its length.
pub fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes()
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;
type Early = dyn Fn(&Request) -> Option<Answer> + Send + Sync;

/// A running server; ends with all its connections when dropped.
pub struct Receiver {
    address: SocketAddr,
    script: Arc<Script>,
    early: Arc<Early>,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<Mutex<usize>>,
    end: CancellationToken,
}

impl Receiver {
    /// Starts one on a port of its own.
    pub async fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(|_| None, script).await
    }

    /// The same; `early` may answer before the body is read.
    pub async fn start_with(
        early: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], super::free_port()));
        let mut receiver = Self {
            address,
            script: Arc::new(script),
            early: Arc::new(early),
            requests: Arc::default(),
            connections: Arc::default(),
            end: CancellationToken::new(),
        };
        receiver.listen().await;
        receiver
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic under this lock").clone()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        *self.connections.lock().expect("no panic under this lock")
    }

    /// Cuts all connections and listens no more.
    pub async fn take_away(&mut self) {
        self.end.cancel();
        super::eventually("nobody listens", || async { TcpStream::connect(self.address).await.is_err() }).await;
    }

    /// Listens at the same address again.
    pub async fn bring_back(&mut self) {
        self.end = CancellationToken::new();
        self.listen().await;
    }

    async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the receiver's port");
        let (script, early) = (Arc::clone(&self.script), Arc::clone(&self.early));
        let (requests, connections) = (Arc::clone(&self.requests), Arc::clone(&self.connections));
        let end = self.end.clone();
        tokio::spawn(self.end.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock().expect("no panic under this lock") += 1;
                let (script, early, requests) = (Arc::clone(&script), Arc::clone(&early), Arc::clone(&requests));
                tokio::spawn(end.clone().run_until_cancelled_owned(async move {
                    // A client that hangs up ends its connection; nothing else does.
                    let _ = serve(stream, &*script, &*early, &requests).await;
                }));
            }
        }));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn serve(stream: TcpStream, script: &Script, early: &Early, requests: &Mutex<Vec<Request>>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    loop {
        let Some(mut request) = head(&mut from).await? else { return Ok(()) };
        if let Some(answer) = early(&request)
            && !write(&mut to, answer).await?
        {
            return Ok(());
        }
        let length = request.header("content-length").parse().expect("the length of the body");
        request.body = vec![0; length];
        from.read_exact(&mut request.body).await?;
        let answer = script(&request);
        requests.lock().expect("no panic under this lock").push(request);
        if !write(&mut to, answer).await? {
            return Ok(());
        }
    }
}

async fn head(from: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Request>> {
    let mut request = Request::default();
    let mut line = String::new();
    if from.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    request.method = words.next().expect("a method").to_owned();
    request.target = words.next().expect("a target").to_owned();
    loop {
        line.clear();
        from.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some(request)) };
        let before = request.headers.insert(name.to_lowercase(), value.trim().to_owned());
        assert!(before.is_none(), "{name} twice");
    }
}

/// Writes an answer; false if the connection ends with it.
async fn write(to: &mut (impl AsyncWriteExt + Unpin), answer: Answer) -> io::Result<bool> {
    match answer {
        Answer::Status(status, body) => to.write_all(&self::answer(status, "", body)).await?,
        Answer::Bytes(bytes) => to.write_all(&bytes).await?,
        Answer::Last(bytes) => {
            to.write_all(&bytes).await?;
            return Ok(false);
        }
        Answer::Slowly(bytes, pause) => {
            for byte in bytes {
                to.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
        }
        Answer::Endless(bytes, more) => {
            to.write_all(&bytes).await?;
            loop {
                to.write_all(&more).await?;
                tokio::task::yield_now().await;
            }
        }
        Answer::Silence => std::future::pending().await,
        Answer::HangUp => return Ok(false),
    }
    Ok(true)
}

/// Keeps documents by stream and id. It knows one user: `spool` with the password `right`; without any it takes all, too.
pub struct Keeper {
    /// The server.
    pub receiver: Receiver,
    kept: Arc<Mutex<BTreeMap<(String, String), Value>>>,
}

impl Keeper {
    /// Starts one.
    pub async fn start() -> Self {
        let kept: Arc<Mutex<BTreeMap<(String, String), Value>>> = Arc::default();
        let keep = Arc::clone(&kept);
        let receiver = Receiver::start(move |request| {
            if !["", "Basic c3Bvb2w6cmlnaHQ="].contains(&request.header("authorization")) {
                return Answer::Status(401, "who are you?");
            }
            let stream = request.header("livekit-spool-stream");
            let mut kept = keep.lock().expect("no panic under this lock");
            for document in request.documents() {
                let id = document["_id"].as_str().expect("_id").to_owned();
                if let Some(before) = kept.insert((stream.to_owned(), id), document.clone()) {
                    assert_eq!(before, document, "the same id, the same document");
                }
            }
            Answer::Status(200, "{}")
        });
        Self { receiver: receiver.await, kept }
    }

    /// A stream's documents, by id.
    pub fn kept(&self, stream: &str) -> Vec<Value> {
        let kept = self.kept.lock().expect("no panic under this lock");
        kept.iter().filter(|((of, _), _)| of == stream).map(|(_, document)| document.clone()).collect()
    }
}
