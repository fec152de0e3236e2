//! The client: TCP, TLS if the URL says so, then HTTP/2 if the server offers it there, else HTTP/1.1.
//!
//! Connections are reused. No proxy is used, whatever the environment says. What a server sends is limited: the size of
//! its headers here, the size of its body where it is read.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection, HttpConnector},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::{
    body::Body,
    tls::{self, Tls},
};

/// The time to connect to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that rests this long is closed: servers close theirs after five seconds or more, and a request that crosses
/// their close would have to be sent again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// An HTTP/2 connection is shared by all requests: a dead one must not outlive them.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Connections that wait for work: as many as batches can be in flight.
const MAX_IDLE: usize = 64;
/// Of an answer's status line and headers.
const MAX_HEADERS_BYTES: usize = 64 * 1024;

/// Sends requests.
pub(super) type Client = legacy::Client<Connector, Body>;

pub(super) fn client(connector: Connector) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
        .http1_max_buf_size(MAX_HEADERS_BYTES)
        .http2_max_header_list_size(MAX_HEADERS_BYTES as u32)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_INTERVAL)
        .build(connector)
}

/// Makes connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    tls: Option<Arc<Tls>>,
}

impl Connector {
    pub(super) fn new(tls: Option<Tls>, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        tcp.set_connect_timeout(Some(timeout.min(CONNECT_TIMEOUT)));
        Self { tcp, tls: tls.map(Arc::new) }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Stream, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (host, tls) = (uri.host().unwrap_or_default().to_owned(), self.tls.as_ref().map(|tls| tls.current()));
        let tcp = self.tcp.call(uri);
        async move {
            let tcp = tcp.await?.into_inner();
            let Some(tls::Client { config, server_name }) = tls else { return Ok(Stream::new(tcp, false)) };
            let name = match server_name {
                Some(name) => name,
                None => ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?,
            };
            let stream = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok(Stream::new(stream, is_http2))
        }
        .boxed()
    }
}

trait Bidirectional: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bidirectional for T {}

/// A connection.
pub(super) struct Stream {
    io: TokioIo<Box<dyn Bidirectional>>,
    is_http2: bool,
}

impl Stream {
    fn new(io: impl Bidirectional + 'static, is_http2: bool) -> Self {
        Self { io: TokioIo::new(Box::new(io)), is_http2 }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        if self.is_http2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// An error with its causes, each said once.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
