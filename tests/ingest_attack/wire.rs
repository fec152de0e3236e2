//! Bare HTTP/2, for what no gRPC client would send.

use std::net::SocketAddr;

use bytes::Bytes;
use futures::StreamExt;
use tokio::net::TcpStream;

/// A method of the recorder.
pub(crate) const RECORDER: &str = "livekit.AnalyticsRecorderService/IngestEvents";

pub(crate) type Body = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

pub(crate) type Http2 = hyper::client::conn::http2::SendRequest<Body>;

/// Of a server's URL.
pub(crate) fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().expect("an address")
}

/// An HTTP/2 connection, and what keeps it going.
pub(crate) async fn http2(address: SocketAddr) -> Option<(Http2, impl Future)> {
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(address).await.ok()?);
    hyper::client::conn::http2::handshake::<_, _, Body>(hyper_util::rt::TokioExecutor::new(), io).await.ok()
}

/// A gRPC call of this method with these bytes as its stream.
pub(crate) fn call(
    method: &str,
    pieces: impl futures::Stream<Item = Bytes> + Send + Sync + 'static,
) -> http::Request<Body> {
    let frames = pieces.map(|piece| Ok(hyper::body::Frame::data(piece)));
    let body = http_body_util::BodyExt::boxed(http_body_util::StreamBody::new(frames));
    http::Request::post(format!("http://x/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a valid request")
}
