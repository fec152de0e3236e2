//! Accepts connections for gRPC and HTTP alike: admits, shakes hands, serves, and lets go.
//!
//! A connection is given up when its TLS handshake or its first request takes too long, when another one needs its
//! place (see [`places`](super::places)), or when the drain after a shutdown takes too long.

use std::{convert::Infallible, future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ConnectionOptions, IngestStatus, Listener, Protocol, Refused,
    listener::{Io, Peer},
    places::{Place, Places, Visit},
    throttle::Throttle,
    tls::{Alpn, Tls},
};

/// Pause after an accept that failed (no file descriptors left, say), so that it is not tried in a tight loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests.
pub(super) trait Handler: Clone + Send + Sync + 'static {
    /// Answers one. It says of its visit that it was let in, and notes its signs of life.
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        visit: Visit,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// What a server is made of, besides its handler.
pub(super) struct Server {
    pub protocol: Protocol,
    pub alpn: Alpn,
    pub tls: Option<Arc<Tls>>,
    pub options: ConnectionOptions,
    pub status: Arc<IngestStatus>,
    pub http: Builder<TokioExecutor>,
}

impl Server {
    /// Serves until `stop`, then lets open requests end for as long as the options say. The socket is closed at once.
    pub(super) async fn serve(self, listener: Listener, handler: impl Handler, stop: CancellationToken) {
        let connections = Places::new(self.options.max_connections);
        let (server, tasks, accept_failures) = (Arc::new(self), TaskTracker::new(), Throttle::default());
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((io, peer)) => {
                    match tokio::select! { place = connections.room(peer.holder()) => place, () = stop.cancelled() => break }
                    {
                        Some(place) => {
                            let connection =
                                Arc::clone(&server).connection(io, peer, place, handler.clone(), stop.clone());
                            tasks.spawn(connection);
                        }
                        None => server.status.count_refused(server.protocol, Refused::Connections),
                    }
                }
                Err(error) => {
                    if let Some(more) = accept_failures.admit() {
                        tracing::warn!(%error, more, "cannot accept connections on {listener}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(server.options.drain_timeout, tasks.wait()).await.is_err() {
            connections.close_all();
            tasks.wait().await;
        }
    }

    async fn connection(
        self: Arc<Self>,
        io: Box<dyn Io>,
        peer: Peer,
        place: Place,
        handler: impl Handler,
        stop: CancellationToken,
    ) {
        self.status.connections().opened();
        let place = Arc::new(place);
        tokio::select! {
            () = self.shake_hands_and_serve(io, peer, Arc::clone(&place), handler, stop) => {}
            () = place.closed() => {}
        }
        self.status.connections().closed();
    }

    async fn shake_hands_and_serve(
        &self,
        io: Box<dyn Io>,
        peer: Peer,
        place: Arc<Place>,
        handler: impl Handler,
        stop: CancellationToken,
    ) {
        match &self.tls {
            None => self.serve_connection(io, peer, place, handler, stop).await,
            Some(tls) => {
                let handshake = tls.acceptor(self.alpn).accept(io);
                match tokio::time::timeout(self.options.handshake_timeout, handshake).await {
                    Ok(Ok(io)) => {
                        let certified = io.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
                        self.serve_connection(Box::new(io), Peer { certified, ..peer }, place, handler, stop).await;
                    }
                    Ok(Err(_)) | Err(_) => self.status.count_refused(self.protocol, Refused::Handshake),
                }
            }
        }
    }

    async fn serve_connection(
        &self,
        io: Box<dyn Io>,
        peer: Peer,
        place: Arc<Place>,
        handler: impl Handler,
        stop: CancellationToken,
    ) {
        let service = service_fn(|request| {
            let (visit, handler) = (place.begin_request(), handler.clone());
            async move { Ok::<_, Infallible>(handler.handle(request, peer, visit).await) }
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(io), service));
        let mut silent = pin!(tokio::time::sleep(self.options.header_timeout));
        let (mut may_be_silent, mut stopping) = (true, false);
        loop {
            tokio::select! {
                // how it ended is the peer's business: a reset, garbage, a timeout
                _ = connection.as_mut() => return,
                () = silent.as_mut(), if may_be_silent => {
                    if !place.spoke() {
                        self.status.count_refused(self.protocol, Refused::Timeout);
                        return;
                    }
                    may_be_silent = false;
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// A server that could not go on.
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
    /// gRPC's own services could not be made.
    #[error("gRPC reflection: {0}")]
    Reflection(String),
    /// The socket is unusable.
    #[error(transparent)]
    Io(#[from] io::Error),
}
