//! Servers on free ports over spools in memory, and the bundled records.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use livekit_spool::{
    ingest::{
        Append, AuthOptions, Authenticator, CannotAppend, Filter, GrpcOptions, HttpOptions, Ingester, Listener,
        LivekitKeys, MemoryOptions, Refused, Target, grpc, http,
    },
    record::{RecordBatch, SinkName, Stream, wire::delimited},
    spool::{Appended, FullLimit},
};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};
use tonic::transport::Channel;

pub(crate) use crate::eventually::eventually;
use crate::recorder_client::analytics_recorder_service_client::AnalyticsRecorderServiceClient;

/// How a spool behaves from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Accepts,
    Full,
    /// Full, with `when_full: drop_newest`.
    Drops,
    /// Whatever comes is more than it ever has room for.
    NeverFits,
    Hangs,
}

/// A spool in memory.
#[derive(Debug)]
pub(crate) struct MemorySpool {
    batches: Mutex<Vec<RecordBatch>>,
    behaviour: watch::Sender<Behaviour>,
    offered: watch::Sender<usize>,
}

impl MemorySpool {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            batches: Mutex::default(),
            behaviour: watch::Sender::new(Behaviour::Accepts),
            offered: watch::Sender::new(0),
        })
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Records of a stream, in the order they came.
    pub(crate) fn records(&self, stream: Stream) -> Vec<Vec<u8>> {
        let batches = self.batches.lock();
        let of_stream = batches.iter().filter(|batch| batch.stream == stream);
        of_stream.flat_map(|batch| batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
    }

    pub(crate) fn batches(&self) -> usize {
        self.batches.lock().len()
    }

    /// The bytes of the largest batch that has more than one record.
    pub(crate) fn largest_of_several(&self) -> usize {
        let batches = self.batches.lock();
        batches.iter().filter(|batch| batch.count() > 1).map(|batch| batch.bytes().len()).max().unwrap_or_default()
    }

    /// Returns once at least one batch was offered.
    pub(crate) async fn was_offered_some(&self) {
        self.was_offered(1).await;
    }

    /// Returns once batches of so many bytes in all were offered, whether accepted or not.
    pub(crate) async fn was_offered(&self, bytes: usize) {
        within(self.offered.subscribe().wait_for(|offered| *offered >= bytes)).await.expect("the sender lives in self");
    }
}

#[async_trait]
impl Append for MemorySpool {
    async fn append(&self, batch: RecordBatch) -> Result<Appended, CannotAppend> {
        self.offered.send_modify(|bytes| *bytes += batch.bytes().len());
        let mut behaviour = self.behaviour.subscribe();
        match *behaviour.wait_for(|behaviour| *behaviour != Behaviour::Hangs).await.expect("the sender lives in self") {
            Behaviour::Full => Err(CannotAppend { reason: Refused::Full, message: "the spool is full".into() }),
            Behaviour::Drops => Ok(Appended::Dropped { limit: FullLimit::NoSpace }),
            Behaviour::NeverFits => Err(CannotAppend { reason: Refused::TooLarge, message: "it never fits".into() }),
            Behaviour::Accepts | Behaviour::Hangs => {
                self.batches.lock().push(batch);
                Ok(Appended::Kept)
            }
        }
    }
}

/// A running server; it stops when told, or with the test.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) spool: Arc<MemorySpool>,
    pub(crate) ingester: Arc<Ingester>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// Begins the shutdown.
    pub(crate) fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Returns when the server has ended.
    pub(crate) async fn ended(self) {
        within(self.task).await.expect("the server ends without a panic");
    }

    /// How often something was refused for this reason, over all protocols.
    pub(crate) fn refused(&self, reason: Refused) -> u64 {
        let snapshot = self.ingester.snapshot();
        snapshot.refused.iter().filter(|refused| refused.reason == reason).map(|refused| refused.count).sum()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> AnalyticsRecorderServiceClient<Channel> {
        AnalyticsRecorderServiceClient::new(self.channel().await)
    }
}

/// Who may send, as most tests need it: anyone.
pub(crate) fn open_authenticator() -> Authenticator {
    Authenticator::new(AuthOptions::None, LivekitKeys::new(), None)
}

pub(crate) fn ingester(memory: &MemoryOptions) -> (Arc<Ingester>, Arc<MemorySpool>) {
    let spool = MemorySpool::new();
    (Arc::new(Ingester::new(vec![required("memory", &spool)], memory)), spool)
}

/// Which of the two servers.
enum Port {
    Grpc(GrpcOptions),
    Http(HttpOptions),
}

pub(crate) async fn serve_grpc(options: GrpcOptions, authenticator: Authenticator) -> Running {
    serve_grpc_with(options, authenticator, &MemoryOptions::default()).await
}

pub(crate) async fn serve_grpc_with(
    options: GrpcOptions,
    authenticator: Authenticator,
    memory: &MemoryOptions,
) -> Running {
    serve(Port::Grpc(options), Arc::new(authenticator), memory).await
}

/// gRPC and HTTP into spools of the test's own. They run as long as the test.
pub(crate) struct Both {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) ingester: Arc<Ingester>,
}

pub(crate) async fn serve_both_into(options: GrpcOptions, targets: Vec<Target>) -> Both {
    let ingester = Arc::new(Ingester::new(targets, &MemoryOptions::default()));
    let listener = || Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let (for_grpc, for_http) = (listener(), listener());
    let address = |listener: &Listener| listener.tcp_address().unwrap();
    let both = Both { grpc: address(&for_grpc), http: address(&for_http), ingester: Arc::clone(&ingester) };
    let (authenticator, never) = (Arc::new(open_authenticator()), std::future::pending);
    tokio::spawn(grpc::serve(for_grpc, Arc::clone(&ingester), Arc::clone(&authenticator), options, never()));
    tokio::spawn(http::serve(for_http, ingester, authenticator, HttpOptions::default(), never()));
    both
}

/// A required sink over a spool.
pub(crate) fn required(name: &str, spool: &Arc<impl Append>) -> Target {
    Target {
        name: SinkName::new(name).unwrap(),
        required: true,
        filter: Filter::default(),
        spool: Arc::clone(spool) as Arc<dyn Append>,
        missed: 0,
    }
}

pub(crate) async fn serve_http(options: HttpOptions, authenticator: Authenticator) -> Running {
    serve(Port::Http(options), Arc::new(authenticator), &MemoryOptions::default()).await
}

/// With the defaults, through an authenticator that the test still holds.
pub(crate) async fn serve_grpc_through(authenticator: Arc<Authenticator>) -> Running {
    serve(Port::Grpc(GrpcOptions::default()), authenticator, &MemoryOptions::default()).await
}

/// As [`serve_grpc_through`].
pub(crate) async fn serve_http_through(authenticator: Arc<Authenticator>) -> Running {
    serve(Port::Http(HttpOptions::default()), authenticator, &MemoryOptions::default()).await
}

async fn serve(port: Port, authenticator: Arc<Authenticator>, memory: &MemoryOptions) -> Running {
    let (ingester, spool) = ingester(memory);
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.tcp_address().unwrap();
    let (stop, mut stopped) = watch::channel(false);
    let shutdown = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let served = Arc::clone(&ingester);
    let task = tokio::spawn(async move {
        match port {
            Port::Grpc(options) => grpc::serve(listener, served, authenticator, options, shutdown).await,
            Port::Http(options) => http::serve(listener, served, authenticator, options, shutdown).await,
        }
        .expect("the gate allows this listener");
    });
    Running { address, spool, ingester, stop, task }
}

/// Fails the test where something that must end does not.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it ends within a minute")
}

/// The records of a data file: each behind its varint length.
pub(crate) fn bundled(file: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/tests/data/{file}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    delimited(&bytes).map(<[u8]>::to_vec).collect()
}
