//! A MongoDB-compatible server for a test.
//!
//! [`Mongo::start`] gives a test one of its own, to stop, kill and restart: `mongod` on PATH, else the `secantusd-py`
//! that `tests/servers` installs, else `secantusd-rs` on PATH. [`Mongo::shared`] is one for all tests of a binary, or
//! what `MONGODB_URI` names; each test takes a database of its own there ([`Mongo::database`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::{Client, Collection, Database, options::ClientOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{TIMEOUT, child::Process, free_port, test_server};

/// A server, running or stopped; its data stays until this is dropped.
pub struct Mongo {
    uri: String,
    own: Option<Own>,
}

/// A server that the test started itself.
struct Own {
    /// Before the directory: dropped first, it shows the log that is there.
    process: Option<Process>,
    program: Program,
    port: u16,
    directory: TempDir,
    is_durable: bool,
}

enum Program {
    Mongod(PathBuf),
    Secantus(PathBuf),
}

impl Mongo {
    /// Starts a server of the test's own, with an empty data directory.
    pub async fn start() -> Self {
        Self::start_with(true).await
    }

    /// The same; `is_durable`: it syncs its disk before it answers, as a kill needs it, and a million documents do not.
    pub async fn start_with(is_durable: bool) -> Self {
        let directory = super::directory("mongo");
        let port = free_port();
        // directConnection: the server names its own address in `hello`, and a test may go through a proxy.
        let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
        let own = Own { program: find_program(), port, directory, is_durable, process: None };
        let mut mongo = Self { uri, own: Some(own) };
        mongo.restart().await;
        if matches!(mongo.own().program, Program::Secantus(_)) {
            mongo.make_tables().await;
        }
        mongo
    }

    /// secantusd makes each of its 16 tables when the first collection comes that belongs there; killed in the middle of
    /// that, it never starts again. So have them all made, and on disk, before a test kills it.
    async fn make_tables(&self) {
        const TABLES: u64 = 16;
        const DATABASE: &str = "warm_up";
        let client = self.client().await;
        let database = client.database(DATABASE);
        let mut missing: BTreeSet<u64> = (0..TABLES).collect();
        for n in 0.. {
            if missing.is_empty() {
                break;
            }
            let collection = format!("c{n}");
            // FNV-1a of both names says where a collection belongs.
            let name = [DATABASE, "\0", &collection].concat();
            let hash = name
                .bytes()
                .fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
            if missing.remove(&(hash % TABLES)) {
                database.create_collection(&collection).await.expect("a collection");
            }
        }
        client.database("admin").run_command(doc! { "fsync": 1 }).await.expect("fsync");
    }

    /// The server that the tests of this binary share: `MONGODB_URI`, or one started by the first who asks.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Mongo> = OnceCell::const_new();
        let start = || async {
            match env::var("MONGODB_URI") {
                Ok(uri) => Self { uri, own: None },
                Err(_) => Self::start().await,
            }
        };
        SHARED.get_or_init(start).await
    }

    /// Where it listens; the same after a restart.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// `host:port`, for a proxy.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.own().port)
    }

    /// A database name that no other test uses.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("spool_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// A client of the test's own. Made again each time: a client belongs to the runtime it was made in.
    pub async fn client(&self) -> Client {
        connect(&self.uri).await
    }

    /// A handle to a database.
    pub async fn open(&self, database: &str) -> Database {
        self.client().await.database(database)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.own_mut().process.take().expect("the server runs").kill();
    }

    /// SIGTERM, and waits until it has ended.
    pub fn stop(&mut self) {
        self.own_mut().process.take().expect("the server runs").terminate(TIMEOUT);
    }

    /// Starts it on the same data at the same address, and waits until it answers.
    pub async fn restart(&mut self) {
        let own = self.own_mut();
        assert!(own.process.is_none(), "the server runs already");
        own.process = Some(own.launch());
        let deadline = Instant::now() + TIMEOUT;
        let uri = self.uri.clone();
        let client = connect(&uri).await;
        while let Err(e) = client.database("admin").run_command(doc! { "ping": 1 }).await {
            self.own_mut().process.as_mut().expect("just started").assert_running();
            assert!(Instant::now() < deadline, "the MongoDB server at {uri} does not answer: {e}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn own(&self) -> &Own {
        self.own.as_ref().expect("MONGODB_URI names a server that is not the test's to start and stop")
    }

    fn own_mut(&mut self) -> &mut Own {
        self.own.as_mut().expect("MONGODB_URI names a server that is not the test's to start and stop")
    }
}

impl Own {
    fn launch(&self) -> Process {
        let data = self.directory.path().join("data");
        fs::create_dir_all(&data).expect("a directory for the server's data");
        let (port, data) = (self.port.to_string(), data.to_str().expect("a temporary path is UTF-8"));
        let log = self.directory.path().join("log");
        let (program, args) = match &self.program {
            Program::Mongod(path) => (
                path,
                vec!["--bind_ip", "127.0.0.1", "--port", &port, "--dbpath", data, "--wiredTigerCacheSizeGB", "0.25"],
            ),
            Program::Secantus(path) => {
                let mut args = vec!["--host", "127.0.0.1", "--port", &port, "--storage-path", data];
                if self.is_durable {
                    // Without it, it would acknowledge what a kill -9 takes away.
                    args.push("--sync-on-commit");
                }
                (path, args)
            }
        };
        Process::start("the MongoDB server", program, &args, &[], &log)
    }
}

fn find_program() -> Program {
    let on_path = |name: &str| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
    };
    if let Some(mongod) = on_path("mongod") {
        return Program::Mongod(mongod);
    }
    if let Some(secantus) = on_path("secantusd-py") {
        return Program::Secantus(secantus);
    }
    let installed = Path::new("venv/bin/secantusd-py");
    match on_path("secantusd-rs") {
        Some(secantus) => Program::Secantus(secantus),
        None => Program::Secantus(test_server(installed.to_str().expect("UTF-8"))),
    }
}

async fn connect(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).await.expect("a URI that the driver takes");
    options.server_selection_timeout = Some(Duration::from_secs(5));
    Client::with_options(options).expect("options that the driver takes")
}

/// The `_id`s of a collection, in order, each as often as it is there.
pub async fn ids(collection: &Collection<Document>) -> Vec<String> {
    let cursor = collection.find(doc! {}).projection(doc! { "_id": 1 }).batch_size(10_000).await.expect("find");
    let mut ids: Vec<String> = cursor
        .map_ok(|document| document.get_str("_id").expect("our ids are strings").to_owned())
        .try_collect()
        .await
        .expect("find");
    ids.sort_unstable();
    ids
}

/// Fails unless a collection holds exactly these `_id`s, each once, and as many documents as it says it has.
pub async fn assert_exactly_once(collection: &Collection<Document>, wanted: &BTreeSet<String>) {
    assert_each_once(collection, wanted, wanted).await;
}

/// Fails unless a collection holds each of the `acknowledged` once, and besides them only some of those `sent`, once.
pub async fn assert_each_once(
    collection: &Collection<Document>,
    acknowledged: &BTreeSet<String>,
    sent: &BTreeSet<String>,
) {
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for id in ids(collection).await {
        *found.entry(id).or_default() += 1;
    }
    let name = collection.name();
    let missing: Vec<_> = acknowledged.iter().filter(|id| !found.contains_key(*id)).collect();
    assert!(
        missing.is_empty(),
        "{name}: {} of {} acknowledged are missing: {}",
        missing.len(),
        acknowledged.len(),
        some(&missing)
    );
    let twice: Vec<_> = found.iter().filter(|(_, times)| **times > 1).map(|(id, _)| id).collect();
    assert!(twice.is_empty(), "{name}: {} are there more than once: {}", twice.len(), some(&twice));
    let unknown: Vec<_> = found.keys().filter(|id| !sent.contains(*id)).collect();
    assert!(unknown.is_empty(), "{name}: {} were never sent: {}", unknown.len(), some(&unknown));
    let count = collection.count_documents(doc! {}).await.expect("count");
    assert_eq!(count, found.len() as u64, "{name}: the count and the documents differ");
}

/// Waits until a collection holds at least `count` documents.
pub async fn wait_for_count(collection: &Collection<Document>, count: u64) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        // Errors are waited out too: the server may be on its way up.
        let there = collection.count_documents(doc! {}).await;
        match there {
            Ok(there) if there >= count => return,
            _ => assert!(Instant::now() < deadline, "{}: {there:?} of {count} documents", collection.name()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn some(ids: &[&String]) -> String {
    let first: Vec<&str> = ids.iter().take(5).map(|id| id.as_str()).collect();
    format!("{}{}", first.join(", "), if ids.len() > 5 { ", …" } else { "" })
}
