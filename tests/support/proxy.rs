//! A TCP proxy between a client and a server, to break their conversation at a chosen point.
//!
//! Two kinds of failure: a [`Mode`] holds for all connections until it is changed, a [`Cut`] is armed for the next
//! request that matches and cuts that one connection. A request is what a client sends after the server's last word.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// What happens to every connection, those already open included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All goes through.
    Pass,
    /// Each piece waits this long before it continues, in both directions.
    Delay(Duration),
    /// Connections are accepted and stay open, and nothing goes through.
    Blackhole,
    /// Open connections are cut, and nobody listens.
    Refuse,
}

/// Where one connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server sees nothing of the request.
    BeforeRequest,
    /// The server got the whole request and answered; the client sees nothing of the answer.
    AfterRequest,
    /// The client sees this many bytes of the answer.
    InReply(usize),
}

/// A running proxy; ends with all its connections when dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    end: CancellationToken,
}

struct Shared {
    upstream: String,
    mode: watch::Sender<Mode>,
    /// Armed cuts, and the bytes the first piece of the request has to hold.
    cuts: Mutex<Vec<(Vec<u8>, Cut)>>,
    cuts_made: AtomicUsize,
    connections: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy in front of `upstream` (`host:port`), on a port of its own.
    pub async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the proxy");
        let address = listener.local_addr().expect("the proxy's address");
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            mode: watch::Sender::new(Mode::Pass),
            cuts: Mutex::default(),
            cuts_made: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(accept(listener, address, shared.clone())));
        Self { address, shared, end }
    }

    /// Where clients connect, `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes what happens to all connections; returns when the proxy has taken it up.
    pub async fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        if mode == Mode::Refuse {
            super::eventually("the proxy refuses connections", || async {
                TcpStream::connect(self.address).await.is_err()
            })
            .await;
        } else {
            super::eventually("the proxy takes connections", || async {
                TcpStream::connect(self.address).await.is_ok()
            })
            .await;
        }
    }

    /// Cuts the connection of the next request that holds `needle` (in its first piece; empty: any).
    pub fn cut_next(&self, needle: &[u8], cut: Cut) {
        self.shared.cuts.lock().expect("no panic under this lock").push((needle.to_vec(), cut));
    }

    /// How many armed cuts were made.
    pub fn cuts_made(&self) -> usize {
        self.shared.cuts_made.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.cancel();
        self.shared.mode.send_replace(Mode::Refuse);
    }
}

/// Takes connections, except while the mode is [`Mode::Refuse`]: then the port is closed.
async fn accept(mut listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut mode = shared.mode.subscribe();
    loop {
        tokio::select! {
            biased;
            () = becomes(&mut mode, |mode| mode == Mode::Refuse) => {
                drop(listener);
                becomes(&mut mode, |mode| mode != Mode::Refuse).await;
                listener = TcpListener::bind(address).await.expect("the proxy's port again");
            }
            Ok((client, _)) = listener.accept() => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    let _ = serve(client, &shared).await;
                    shared.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        }
    }
}

/// One connection: what the two directions have to know of each other.
struct Conversation {
    /// The server spoke last: the next bytes of the client begin a request.
    server_spoke: AtomicBool,
    cut: Mutex<Option<Cut>>,
}

async fn serve(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut mode = shared.mode.subscribe();
    let server = TcpStream::connect(&shared.upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let conversation = Conversation { server_spoke: AtomicBool::new(true), cut: Mutex::default() };
    // Whatever ends first drops all four halves: the connection is gone for both.
    tokio::select! {
        done = requests(from_client, to_server, shared, &conversation) => done,
        done = replies(from_server, to_client, shared, &conversation) => done,
        () = becomes(&mut mode, |mode| mode == Mode::Refuse) => Ok(()),
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    conversation: &Conversation,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let mut held = buffer[..read].to_vec();
        // A client that gives up is noticed while nothing goes through, too.
        tokio::select! {
            () = pass(shared) => {}
            closed = hold(&mut from, &mut held) => return closed,
        }
        if conversation.server_spoke.swap(false, Ordering::SeqCst) {
            let cut = shared.take_cut(&held);
            if cut == Some(Cut::BeforeRequest) {
                return Ok(());
            }
            *conversation.cut.lock().expect("no panic under this lock") = cut;
        }
        to.write_all(&held).await?;
    }
}

/// Reads on until the client closes.
async fn hold(from: &mut OwnedReadHalf, held: &mut Vec<u8>) -> io::Result<()> {
    while from.read_buf(held).await? > 0 {}
    Ok(())
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    conversation: &Conversation,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        pass(shared).await;
        let mut bytes = &buffer[..read];
        let mut last = false;
        match conversation.cut.lock().expect("no panic under this lock").as_mut() {
            Some(Cut::BeforeRequest | Cut::AfterRequest) => return Ok(()),
            Some(Cut::InReply(left)) => {
                last = *left <= bytes.len();
                bytes = &bytes[..bytes.len().min(*left)];
                *left -= bytes.len();
            }
            None => {}
        }
        to.write_all(bytes).await?;
        if last {
            return to.shutdown().await;
        }
        conversation.server_spoke.store(true, Ordering::SeqCst);
    }
}

/// Returns when the mode lets a piece through.
async fn pass(shared: &Shared) {
    let mut mode = shared.mode.subscribe();
    let now = *mode.borrow_and_update();
    match now {
        Mode::Pass => {}
        Mode::Delay(time) => tokio::time::sleep(time).await,
        Mode::Blackhole | Mode::Refuse => {
            becomes(&mut mode, |mode| !matches!(mode, Mode::Blackhole | Mode::Refuse)).await;
        }
    }
}

async fn becomes(mode: &mut watch::Receiver<Mode>, wanted: impl Fn(Mode) -> bool) {
    if mode.wait_for(|mode| wanted(*mode)).await.is_err() {
        std::future::pending::<()>().await; // the proxy is gone, and its end cancels this task
    }
}

impl Shared {
    fn take_cut(&self, request: &[u8]) -> Option<Cut> {
        let mut cuts = self.cuts.lock().expect("no panic under this lock");
        let found = cuts.iter().position(|(needle, _)| {
            needle.is_empty() || request.windows(needle.len()).any(|window| window == needle)
        })?;
        self.cuts_made.fetch_add(1, Ordering::SeqCst);
        Some(cuts.remove(found).1)
    }
}
