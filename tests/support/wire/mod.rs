//! A MongoDB server in a few lines, for what a real one does not do on demand.
//!
//! - [`WireServer::acknowledging`] answers every insert with success as fast as it can read it, and only counts: what a
//!   client's own speed is measured against.
//! - [`WireServer::scripted`] keeps the documents it is given (an `_id` once, a second one is a duplicate key error) and
//!   asks a closure about every command: [`Reply`] says what becomes of it.
//!
//! It calls itself the primary of a replica set, as the servers do that users run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc, raw::RawDocument};
use tokio::{
    io::{self, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

mod message;

use message::Message;

/// A command, as the script sees it.
pub struct Command {
    /// `insert`, `find`, `createIndexes`, `hello` …
    pub name: String,
    /// `database.collection`, or the database alone where the command names no collection.
    pub namespace: String,
    /// How many commands of this name came before it.
    pub number: u64,
    /// Which connection it came on.
    pub connection: u64,
    /// The command's document.
    pub body: Document,
    /// The documents of an insert.
    pub documents: Vec<RawDocumentBuf>,
}

/// What becomes of a command.
pub enum Reply {
    /// What a healthy server does.
    Healthy,
    /// This answer, and nothing is done.
    Answer(Document),
    /// An insert whose documents at these places fail; the others are kept.
    WriteErrors(Vec<WriteError>),
    /// Done, with this `writeConcernError` in the answer.
    WriteConcernError(Document),
    /// Nothing is done, and the connection is closed.
    HangUp,
    /// Done, and the connection is closed without an answer.
    DoAndHangUp,
    /// Done, and the connection is closed after this many bytes of the answer.
    CutShort(usize),
    /// Nothing is done, and no answer ever comes; the connection stays open.
    Silence,
}

/// One document's failure in an insert.
pub struct WriteError {
    /// Its place in the insert.
    pub index: usize,
    /// MongoDB's error code.
    pub code: i32,
    /// The text.
    pub message: String,
    /// More fields of the error (`keyPattern` …).
    pub more: Document,
}

impl WriteError {
    /// An error with a code and a text.
    pub fn new(index: usize, code: i32, message: &str) -> Self {
        Self { index, code, message: message.to_owned(), more: Document::new() }
    }

    fn into_document(self) -> Document {
        let mut error =
            doc! { "index": i32::try_from(self.index).expect("a place"), "code": self.code, "errmsg": self.message };
        error.extend(self.more);
        error
    }
}

/// An error answer to a whole command.
pub fn error(code: i32, name: &str, message: &str) -> Document {
    doc! { "ok": 0.0, "code": code, "codeName": name, "errmsg": message }
}

type Script = Box<dyn Fn(&Command) -> Reply + Send + Sync>;

/// A running server; ends with all its connections when dropped.
pub struct WireServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    end: CancellationToken,
}

struct Shared {
    /// `None`: acknowledge and count only.
    script: Option<Script>,
    /// What `hello` says besides the usual: limits, say, or who is primary.
    hello: Mutex<Document>,
    inserted: AtomicU64,
    connections: AtomicU64,
    commands: Mutex<HashMap<String, u64>>,
    kept: Mutex<BTreeMap<String, BTreeMap<String, RawDocumentBuf>>>,
}

impl WireServer {
    /// Acknowledges all and keeps nothing but the count.
    pub async fn acknowledging() -> Self {
        Self::start(None, Document::new()).await
    }

    /// Keeps documents, and asks `script` about every command but the handshakes and the session's end.
    pub async fn scripted(script: impl Fn(&Command) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Some(Box::new(script)), Document::new()).await
    }

    /// The same with more in the answer to `hello`, its limits among it (`maxWriteBatchSize` …).
    pub async fn scripted_with(hello: Document, script: impl Fn(&Command) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Some(Box::new(script)), hello).await
    }

    async fn start(script: Option<Script>, hello: Document) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the server");
        let address = listener.local_addr().expect("the server's address");
        let shared = Arc::new(Shared {
            script,
            hello: Mutex::new(hello),
            inserted: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            commands: Mutex::default(),
            kept: Mutex::default(),
        });
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(accept(listener, shared.clone(), end.clone())));
        Self { address, shared, end }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The URI for a client.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// Changes what `hello` says besides the usual from now on.
    pub fn set_hello(&self, hello: Document) {
        *self.shared.hello.lock().expect("no panic under this lock") = hello;
    }

    /// How many documents inserts brought that were answered as inserted.
    pub fn inserted(&self) -> u64 {
        self.shared.inserted.load(Ordering::SeqCst)
    }

    /// How many commands of this name came.
    pub fn commands(&self, name: &str) -> u64 {
        self.shared.commands.lock().expect("no panic under this lock").get(name).copied().unwrap_or(0)
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The documents kept in `database.collection`, by `_id`.
    pub fn kept(&self, namespace: &str) -> BTreeMap<String, RawDocumentBuf> {
        self.shared.kept.lock().expect("no panic under this lock").get(namespace).cloned().unwrap_or_default()
    }
}

impl Drop for WireServer {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, end: CancellationToken) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = shared.clone();
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            // A client that goes away in the middle of a message is part of the tests.
            let _ = serve(stream, connection, &shared).await;
        }));
    }
}

async fn serve(stream: TcpStream, connection: u64, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::with_capacity(256 * 1024, from);
    while let Some(message) = Message::read(&mut from).await? {
        let name = command_name(message.body())?;
        let answer = match &shared.script {
            None if name == "insert" => {
                let count = message.count() as u64;
                shared.inserted.fetch_add(count, Ordering::SeqCst);
                doc! { "ok": 1.0, "n": i64::try_from(count).expect("a batch") }
            }
            Some(_) if has_duplicate_field(message.body())? => {
                error(40413, "Location40413", "BSON field is a duplicate field")
            }
            Some(script) if !is_housekeeping(&name) => {
                let command = shared.command(name, connection, &message)?;
                let mut closing = None;
                let answer = match script(&command) {
                    Reply::Healthy => shared.obey(&command, Vec::new()),
                    Reply::Answer(answer) => answer,
                    Reply::WriteErrors(errors) => shared.obey(&command, errors),
                    Reply::WriteConcernError(error) => {
                        let mut answer = shared.obey(&command, Vec::new());
                        answer.insert("writeConcernError", error);
                        answer
                    }
                    Reply::HangUp => return Ok(()),
                    Reply::DoAndHangUp => {
                        shared.obey(&command, Vec::new());
                        return Ok(());
                    }
                    Reply::CutShort(bytes) => {
                        closing = Some(bytes);
                        shared.obey(&command, Vec::new())
                    }
                    Reply::Silence => std::future::pending().await,
                };
                if let Some(bytes) = closing {
                    let reply = message.reply(&answer);
                    to.write_all(&reply[..bytes.min(reply.len() - 1)]).await?;
                    return to.shutdown().await;
                }
                answer
            }
            _ => shared.housekeeping(&name, message.body())?,
        };
        if !message.unanswered {
            to.write_all(&message.reply(&answer)).await?;
        }
    }
    Ok(())
}

fn is_housekeeping(name: &str) -> bool {
    matches!(name, "hello" | "ismaster" | "isMaster" | "ping" | "endSessions" | "buildInfo")
}

/// Whether a command has a field twice: MongoDB refuses it.
fn has_duplicate_field(body: &RawDocument) -> io::Result<bool> {
    let names = body.iter().map(|field| field.map(|(name, _)| name.to_string()));
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(io::Error::other)?;
    Ok(names.iter().collect::<BTreeSet<_>>().len() < names.len())
}

fn command_name(body: &RawDocument) -> io::Result<String> {
    let (name, _) = body.iter().next().and_then(Result::ok).ok_or(io::ErrorKind::InvalidData)?;
    Ok(name.to_string())
}

impl Shared {
    fn command(&self, name: String, connection: u64, message: &Message) -> io::Result<Command> {
        let mut body = Document::try_from(message.body()).map_err(io::Error::other)?;
        let documents = match body.remove("documents") {
            Some(Bson::Array(inline)) => inline.iter().filter_map(Bson::as_document).map(raw).collect(),
            _ => message
                .documents()
                .map(|bytes| RawDocumentBuf::from_bytes(bytes.to_vec()))
                .collect::<Result<_, _>>()
                .map_err(io::Error::other)?,
        };
        let database = body.get_str("$db").unwrap_or("admin");
        let namespace =
            body.get_str(&name).map_or_else(|_| database.to_owned(), |collection| format!("{database}.{collection}"));
        let number = {
            let mut commands = self.commands.lock().expect("no panic under this lock");
            let count = commands.entry(name.clone()).or_default();
            *count += 1;
            *count - 1
        };
        Ok(Command { name, namespace, number, connection, body, documents })
    }

    /// Does what a healthy server does, but for the documents that the script fails.
    fn obey(&self, command: &Command, errors: Vec<WriteError>) -> Document {
        match command.name.as_str() {
            "insert" => self.insert(command, errors),
            "find" => self.find(command),
            "createIndexes" => doc! { "ok": 1.0, "numIndexesBefore": 1, "numIndexesAfter": 2 },
            "listCollections" | "listIndexes" | "getMore" | "aggregate" => cursor(&command.namespace, Vec::new()),
            _ => doc! { "ok": 1.0 },
        }
    }

    fn insert(&self, command: &Command, mut errors: Vec<WriteError>) -> Document {
        let mut kept = self.kept.lock().expect("no panic under this lock");
        let collection = kept.entry(command.namespace.clone()).or_default();
        let ordered = command.body.get_bool("ordered").unwrap_or(true);
        let mut inserted = 0;
        for (index, document) in command.documents.iter().enumerate() {
            if errors.iter().any(|error| error.index == index) {
                if ordered {
                    break;
                }
                continue;
            }
            let id = id_of(document);
            if collection.contains_key(&id) {
                let text = format!(
                    "E11000 duplicate key error collection: {} index: _id_ dup key: {{ _id: \"{id}\" }}",
                    command.namespace
                );
                let more = doc! { "keyPattern": { "_id": 1 }, "keyValue": { "_id": id } };
                errors.push(WriteError { index, code: 11000, message: text, more });
                if ordered {
                    break;
                }
                continue;
            }
            collection.insert(id, document.clone());
            inserted += 1;
        }
        self.inserted.fetch_add(inserted, Ordering::SeqCst);
        let mut answer = doc! { "ok": 1.0, "n": i64::try_from(inserted).expect("a batch") };
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.index);
            let errors: Vec<Bson> = errors.into_iter().map(|error| error.into_document().into()).collect();
            answer.insert("writeErrors", errors);
        }
        answer
    }

    /// Finds by `_id`, one or `$in` several; any other filter finds all.
    fn find(&self, command: &Command) -> Document {
        let kept = self.kept.lock().expect("no panic under this lock");
        let wanted: Option<Vec<String>> =
            match command.body.get_document("filter").ok().and_then(|filter| filter.get("_id")) {
                Some(Bson::String(id)) => Some(vec![id.clone()]),
                Some(Bson::Document(several)) => several
                    .get_array("$in")
                    .ok()
                    .map(|ids| ids.iter().filter_map(Bson::as_str).map(str::to_owned).collect()),
                _ => None,
            };
        let collection = kept.get(&command.namespace);
        let found = collection
            .into_iter()
            .flatten()
            .filter(|(id, _)| wanted.as_ref().is_none_or(|wanted| wanted.contains(id)))
            .filter_map(|(_, document)| Document::try_from(document).ok())
            .collect();
        cursor(&command.namespace, found)
    }

    fn housekeeping(&self, name: &str, body: &RawDocument) -> io::Result<Document> {
        if !matches!(name, "hello" | "ismaster" | "isMaster") {
            let database = body.get_str("$db").unwrap_or("admin").to_owned();
            return Ok(match name {
                "find" | "aggregate" | "listIndexes" | "listCollections" => cursor(&database, Vec::new()),
                "buildInfo" => doc! { "ok": 1.0, "version": "8.0.0" },
                _ => doc! { "ok": 1.0 },
            });
        }
        let mut hello = doc! {
            "ok": 1.0, "isWritablePrimary": true, "ismaster": true, "helloOk": true, "secondary": false,
            "setName": "wire", "setVersion": 1, "hosts": ["127.0.0.1:1"], "me": "127.0.0.1:1",
            "maxBsonObjectSize": 16 * 1024 * 1024, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30, "localTime": DateTime::now(), "readOnly": false,
            "minWireVersion": 0, "maxWireVersion": 25, "connectionId": 1,
        };
        hello.extend(self.hello.lock().expect("no panic under this lock").clone());
        Ok(hello)
    }
}

fn cursor(namespace: &str, documents: Vec<Document>) -> Document {
    doc! { "ok": 1.0, "cursor": { "id": 0_i64, "ns": namespace, "firstBatch": documents } }
}

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("a document that BSON can hold")
}

/// A document's `_id` as text.
pub fn id_of(document: &RawDocument) -> String {
    match document.get("_id") {
        Ok(Some(bson::raw::RawBsonRef::String(id))) => id.to_owned(),
        other => format!("{other:?}"),
    }
}
