//! Accepts connections on the admin port and on the socket in the data folder, a bounded number of each.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_util::either::Either;
use tower::ServiceExt;

use super::guard::{self, Access};
use crate::{
    app::{self, App, RunError},
    config::Config,
    ingest::{Holder, Place, Places},
};

/// Connections at once, on the port and on the socket each; one more closes one that waits for nothing.
const CONNECTIONS: usize = 64;
/// Until a request's headers are complete, and between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bound and not yet served.
#[derive(Debug)]
pub struct Bound {
    tcp: Option<TcpListener>,
    unix: UnixListener,
    /// The socket's file, with which the CLI finds the process.
    socket: std::path::PathBuf,
}

/// Binds the admin port, and the socket in the (locked) data folder.
///
/// # Errors
/// When either cannot be bound, or the port would show personal data to anyone.
pub async fn bind(config: &Config) -> Result<Bound, RunError> {
    let tcp = match config.admin.listen {
        None => None,
        Some(address) if !address.ip().to_canonical().is_loopback() && config.admin.token.is_none() => {
            return Err(RunError::AdminExposed { address: address.to_string() });
        }
        Some(address) => Some(app::bind_tcp(address).await.map_err(|source| RunError::Bind {
            key: "admin.listen",
            address: address.to_string(),
            source,
        })?),
    };
    let socket = app::socket(&config.data_dir);
    let unix = bind_socket(&socket).map_err(|source| RunError::Bind {
        key: "data_dir",
        address: socket.display().to_string(),
        source,
    })?;
    Ok(Bound { tcp, unix, socket })
}

fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    // The folder is locked: whoever bound it is gone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = app::with_short_path(path, |path| UnixListener::bind(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Bound {
    /// The TCP address, if there is one.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, app: Arc<App>) {
        let Self { tcp, unix, socket } = self;
        let remove = RemoveOnDrop(socket);
        let routes = super::router(Arc::clone(&app));
        let over_tcp = async {
            let Some(listener) = tcp else { return std::future::pending().await };
            let is_private = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
            let access = Access::Tcp { is_private };
            accept_all(Door::Tcp(listener), guard::guarded(routes.clone(), Arc::clone(&app), access)).await
        };
        let guarded = guard::guarded(routes.clone(), Arc::clone(&app), Access::Socket);
        let over_unix = accept_all(Door::Unix(unix), guarded);
        tokio::join!(over_tcp, over_unix);
        drop(remove);
    }
}

/// A stopped process leaves no socket behind that looks like a running one.
struct RemoveOnDrop(std::path::PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // A file left behind is replaced at the next start, and connecting to it fails.
        let _ = fs::remove_file(&self.0);
    }
}

enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    async fn accept(&self) -> io::Result<(Either<TcpStream, UnixStream>, Holder)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Either::Left(stream), Holder::new(Some(address.ip()))))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::Right(stream), Holder::new(None)))
            }
        }
    }
}

async fn accept_all(door: Door, router: Router) {
    let connections = Places::new(CONNECTIONS);
    let open = GracefulShutdown::new();
    loop {
        match door.accept().await {
            Ok((stream, holder)) => {
                if let Some(place) = connections.room(holder).await {
                    serve_connection(stream, router.clone(), place, &open);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the admin server cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn serve_connection<S>(stream: S, router: Router, place: Place, open: &GracefulShutdown)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let place = Arc::new(place);
    let asked = Arc::clone(&place);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        let visit = asked.begin_request();
        request.extensions_mut().insert(visit.clone());
        let answer = router.clone().oneshot(request);
        async move {
            let response = answer.await;
            drop(visit);
            response
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let connection = open.watch(connection);
    tokio::spawn(async move {
        // How it ended is the peer's business: a reset, garbage, a timeout.
        tokio::select! {
            _ = connection => {}
            () = place.closed() => {}
        }
    });
}
