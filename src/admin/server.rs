//! Serves the admin port and the socket in the data directory, a bounded number of connections each.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use hyper::{
    Request, Response,
    body::{Frame, Incoming, SizeHint},
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    guard::{self, Access},
    routes::router,
};
use crate::{
    app::{self, App, RunError},
    config::Config,
    ingest::{ConnectionOptions, Handler, HttpOptions, Listener, OpenRequest, Peer, Protocol, Server, http1},
};

/// Maximum number of connections, on the port and on the socket each; a further one closes an idle one.
const CONNECTIONS: usize = 64;

/// The bound listeners, not served yet.
#[derive(Debug)]
pub struct Bound {
    tcp: Option<Listener>,
    /// The socket over which the CLI talks to the process.
    socket: Listener,
}

/// Binds the admin port, and the socket in the (locked) data directory.
///
/// # Errors
/// When either cannot be bound, or the port would show personal data to other machines without a token.
pub async fn bind(config: &Config) -> Result<Bound, RunError> {
    let tcp = match config.admin.listen {
        None => None,
        Some(address) if !address.ip().to_canonical().is_loopback() && config.admin.token.is_none() => {
            return Err(RunError::AdminExposed { address: address.to_string() });
        }
        Some(address) => Some(app::bind_tcp(address).await.map(Listener::Tcp).map_err(|source| RunError::Bind {
            key: "admin.listen",
            address: address.to_string(),
            source,
        })?),
    };
    let path = app::socket(&config.data_dir);
    let socket = bind_socket(&path).map_err(|source| RunError::Bind {
        key: "data_dir",
        address: path.display().to_string(),
        source,
    })?;
    Ok(Bound { tcp, socket })
}

fn bind_socket(path: &Path) -> io::Result<Listener> {
    // The directory is locked, so the process that bound the old socket is gone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = app::with_short_path(path, |path| UnixListener::bind(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(Listener::of_socket(listener, path.to_owned()))
}

impl Bound {
    /// The TCP address, if there is one.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.tcp.as_ref().and_then(Listener::tcp_address)
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, app: Arc<App>) {
        let Self { tcp, socket } = self;
        let routes = router(Arc::clone(&app));
        let over_tcp = async {
            let Some(listener) = tcp else { return std::future::pending().await };
            let access = Access::Tcp { is_private: listener.is_private() };
            serve(listener, guard::guarded(routes.clone(), Arc::clone(&app), access), &app).await;
        };
        let over_socket = serve(socket, guard::guarded(routes.clone(), Arc::clone(&app), Access::Socket), &app);
        tokio::join!(over_tcp, over_socket);
    }
}

async fn serve(listener: Listener, routes: Router, app: &App) {
    let connections = ConnectionOptions { max_connections: CONNECTIONS, ..ConnectionOptions::default() };
    let idle = HttpOptions::default().idle_timeout;
    let server = Server::new(Protocol::Admin, connections, Arc::clone(app.ingest_status()), http1(idle));
    // It answers until the process ends.
    server.serve(listener, Arc::new(Routes(routes)), CancellationToken::new()).await;
}

struct Routes(Router);

#[async_trait]
impl Handler for Routes {
    async fn handle(&self, request: Request<Incoming>, _peer: Peer, open_request: OpenRequest) -> Response<Body> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(open_request.clone());
        let Ok(response) = self.0.clone().oneshot(request).await;
        match response.headers().get(CONTENT_TYPE) {
            // A stream of events counts as idle: it can be closed for a new request.
            Some(media) if media.as_bytes().starts_with(b"text/event-stream") => response,
            _ => response.map(|body| Body::new(InProgress { body, _open_request: open_request })),
        }
    }
}

/// An answer whose request counts as in progress until it is sent.
struct InProgress {
    body: Body,
    _open_request: OpenRequest,
}

impl hyper::body::Body for InProgress {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
