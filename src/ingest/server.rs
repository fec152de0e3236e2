//! The accept loop of gRPC, HTTP and the admin port: admits a connection, does the TLS handshake, serves, and closes.
//!
//! A connection is closed when its TLS handshake or its first request takes too long, when another one needs its slot (see
//! [`slots`](super::slots)), when its client certificate is no longer accepted, or when the drain after a shutdown takes
//! too long. The close is graceful: HTTP/2 sends GOAWAY, HTTP/1 `Connection: close`, and open requests get a moment to
//! finish. A limited number of connections gets that moment at once; further ones are cut.

use std::{convert::Infallible, future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::body::Body;
use futures::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ConnectionOptions, IngestStatus, Listener, Protocol, Refusal, Refused,
    listener::{Io, Peer},
    requests::{Begun, Requests},
    slots::{OpenRequest, Slot, Slots},
    throttle::Throttle,
    tls::{Alpn, Tls},
};

/// Pause after an accept that failed (for example without file descriptors), to avoid a tight loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests may continue on a connection that is being closed; on one that showed no credentials …
const BRIEFLY: Duration = Duration::from_millis(250);
/// … and on an authorized one.
const WITH_CARE: Duration = Duration::from_secs(5);
/// The part of the slots that exists in addition for connections being closed, for each of the two kinds.
const CLOSING_PART: usize = 4;
/// How often a client certificate is checked again.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(5);
/// Read buffer of an HTTP/1 connection, and so the limit on the size of headers.
const HTTP1_BUFFER: usize = 64 * 1024;

/// Answers requests.
#[async_trait]
pub(crate) trait Handler: Send + Sync {
    /// Removes the headers that it does not need, as soon as a request is read: many requests can wait for their turn, and
    /// a header that HTTP/2 compressed to one byte takes a hundred.
    fn trim(&self, _headers: &mut HeaderMap) {}

    /// Answers one. It marks the request as authorized, and records its signs of life.
    async fn handle(&self, request: Request<Incoming>, peer: Peer, open_request: OpenRequest) -> Response<Body>;
}

/// What a server is made of, besides its handler.
pub(crate) struct Server {
    protocol: Protocol,
    alpn: Alpn,
    tls: Option<Arc<Tls>>,
    options: ConnectionOptions,
    status: Arc<IngestStatus>,
    http: Http,
    slots: Arc<Slots>,
    /// Slots for connections that are being closed: without credentials, and with.
    closing: [Semaphore; 2],
    /// The drain is over.
    cut: CancellationToken,
    turned_away: Throttle,
}

/// The HTTP of a connection, whose requests are begun by this executor.
pub(crate) type Http = Box<dyn Fn(Begun) -> Builder<Begun> + Send + Sync>;

/// The options of HTTP/1; a connection that is silent between two requests for `idle` is closed.
pub(crate) fn http1(idle: Duration) -> Http {
    Box::new(move |begun| {
        let mut builder = Builder::new(begun).http1_only();
        // The server has its own timeout for the first request.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(HTTP1_BUFFER);
        builder
    })
}

impl Server {
    /// Over plain text, with HTTP/1 or the protocol of the builder.
    pub(crate) fn new(protocol: Protocol, options: ConnectionOptions, status: Arc<IngestStatus>, http: Http) -> Self {
        let slots = Slots::new(options.max_connections, Refused::Connections);
        let closing = [(); 2].map(|()| Semaphore::new((options.max_connections / CLOSING_PART).max(1)));
        let cut = CancellationToken::new();
        let (alpn, turned_away) = (Alpn::Http1, Throttle::default());
        Self { protocol, alpn, tls: None, options, status, http, slots, closing, cut, turned_away }
    }

    /// The same over TLS, if there are certificates.
    pub(super) fn over(self, tls: Option<Arc<Tls>>, alpn: Alpn) -> Self {
        Self { tls, alpn, ..self }
    }

    /// Serves until `stop`, then waits for open requests as long as the options say. The socket is closed at once.
    pub(crate) async fn serve(self, listener: Listener, handler: Arc<dyn Handler>, stop: CancellationToken) {
        let (server, tasks, accept_failures) = (Arc::new(self), TaskTracker::new(), Throttle::default());
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((io, peer)) => {
                    let slot = tokio::select! {
                        slot = server.slots.acquire(peer.holder()) => slot,
                        () = stop.cancelled() => break,
                    };
                    match slot {
                        Some(slot) => {
                            let connection =
                                Arc::clone(&server).connection(io, peer, slot, Arc::clone(&handler), stop.clone());
                            tasks.spawn(connection);
                        }
                        None => server.status.count_refused(server.protocol, Refused::Connections),
                    }
                }
                Err(error) => {
                    if let Some(more) = accept_failures.admit() {
                        tracing::warn!(%error, more, "could not accept a connection on {listener}");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(server.options.drain_timeout, tasks.wait()).await.is_err() {
            server.cut.cancel();
            tasks.wait().await;
        }
    }

    async fn connection(
        self: Arc<Self>,
        io: Box<dyn Io>,
        peer: Peer,
        slot: Slot,
        handler: Arc<dyn Handler>,
        stop: CancellationToken,
    ) {
        let gauge = self.status.connections(self.protocol);
        gauge.inspect(|gauge| gauge.opened());
        tokio::select! {
            () = self.shake_hands_and_serve(io, peer, Arc::new(slot), handler, stop) => {}
            () = self.cut.cancelled() => {}
        }
        gauge.inspect(|gauge| gauge.closed());
    }

    async fn shake_hands_and_serve(
        &self,
        io: Box<dyn Io>,
        peer: Peer,
        slot: Arc<Slot>,
        handler: Arc<dyn Handler>,
        stop: CancellationToken,
    ) {
        let Some(tls) = &self.tls else {
            return self.serve_connection(io, peer, slot, handler, stop, std::future::pending().boxed()).await;
        };
        let handshake = tokio::time::timeout(self.options.handshake_timeout, tls.acceptor(self.alpn).accept(io));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            _ = slot.closed() => return,
        };
        match shaken {
            Ok(Ok(io)) => {
                let chain = io.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                let peer = Peer { certified: !chain.is_empty(), ..peer };
                let turned_away = turned_away(tls, chain).boxed();
                self.serve_connection(Box::new(io), peer, slot, handler, stop, turned_away).await;
            }
            Ok(Err(_)) | Err(_) => self.status.count_refused(self.protocol, Refused::Handshake),
        }
    }

    async fn serve_connection(
        &self,
        io: Box<dyn Io>,
        peer: Peer,
        slot: Arc<Slot>,
        handler: Arc<dyn Handler>,
        stop: CancellationToken,
        mut turned_away: BoxFuture<'_, Refusal>,
    ) {
        let service = service_fn(|mut request: Request<Incoming>| {
            handler.trim(request.headers_mut());
            let (open_request, handler) = (slot.begin_request(), Arc::clone(&handler));
            async move { Ok::<_, Infallible>(handler.handle(request, peer, open_request).await) }
        });
        let begun = Begun::default();
        let (http, mut requests) = ((self.http)(begun.clone()), Requests::new(begun));
        let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
        let mut silent = pin!(sleep(self.options.header_timeout));
        let mut is_certified = true;
        let (mut may_be_silent, mut stopping) = (true, false);
        let why = loop {
            tokio::select! {
                // What a peer has sent is read before it has to leave, however late this task gets its turn.
                biased;
                _ = poll_fn(|cx| requests.poll(connection.as_mut(), cx)) => {
                    // If it had to leave, its last answer may have ended it. Otherwise how it ended is the peer's
                    // business: a reset, garbage, a timeout.
                    slot.closed().now_or_never().inspect(|why| self.count(why, peer));
                    return;
                }
                () = silent.as_mut(), if may_be_silent => {
                    may_be_silent = false;
                    if !slot.spoke() {
                        break Refusal::new(Refused::Timeout, "it sent no request");
                    }
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                why = &mut turned_away, if is_certified => {
                    is_certified = false;
                    slot.close(why);
                }
                why = slot.closed() => break why,
            }
        };
        self.count(&why, peer);
        if !slot.spoke() && matches!(self.alpn, Alpn::Http1) {
            // There is nothing to report.
            return;
        }
        let Some((_space, moment)) = self.may_close_with_care(&slot) else { return };
        let deadline = Instant::now() + moment;
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = poll_fn(|cx| requests.poll(connection.as_mut(), cx)) => {}
            () = sleep_until(deadline) => {}
        }
    }

    /// Counts that a connection is closed, unless it is to free its slot.
    fn count(&self, why: &Refusal, peer: Peer) {
        if why.reason == Refused::Connections {
            return;
        }
        self.status.count_refused(self.protocol, why.reason);
        if why.reason == Refused::Unauthenticated
            && let Some(more) = self.turned_away.admit()
        {
            tracing::warn!(%peer, protocol = self.protocol.as_str(), %why, more, "a connection was closed");
        }
    }

    /// A slot for one more that is being closed, and how long that may take. `None`: it is cut.
    fn may_close_with_care(&self, slot: &Slot) -> Option<(SemaphorePermit<'_>, Duration)> {
        let is_authorized = slot.is_authorized();
        let space = self.closing[usize::from(is_authorized)].try_acquire().ok()?;
        Some((space, if is_authorized { WITH_CARE } else { BRIEFLY }))
    }
}

/// Returns once a client's certificate is no longer accepted: it has expired, or its CA was removed.
async fn turned_away(tls: &Tls, chain: Vec<CertificateDer<'static>>) -> Refusal {
    if chain.is_empty() {
        return std::future::pending().await;
    }
    let mut inspections = interval(CERTIFICATE_CHECK);
    inspections.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Checked at once too: a resumed TLS session presents a certificate that nobody checked again.
        inspections.tick().await;
        if let Err(why) = tls.accepts(&chain) {
            let why = format!("the client certificate is no longer accepted: {why}");
            return Refusal::new(Refused::Unauthenticated, why);
        }
    }
}

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Anyone could send: refused on purpose.
    #[error(
        "{listener} can be reached from other machines and `ingest.auth` is none: listen on 127.0.0.1 or a Unix socket, \
         or set `ingest.auth` to livekit, tokens or mtls"
    )]
    Exposed {
        /// The address.
        listener: String,
    },
    /// mTLS without a CA to verify clients with.
    #[error("`ingest.auth` is mtls, but `ingest.tls` names no client_ca")]
    NoClientCa,
    /// `auth: livekit` without keys.
    #[error("`ingest.auth` is livekit, but there are no keys: give API keys and secrets, or LiveKit's own `keys`")]
    NoKeys,
    /// `auth: tokens` without tokens.
    #[error("`ingest.auth` is tokens, but there are none: give at least one of 16 characters or more")]
    NoTokens,
    /// gRPC's own services could not be created.
    #[error("gRPC reflection: {0}")]
    Reflection(String),
    /// The socket cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
}
