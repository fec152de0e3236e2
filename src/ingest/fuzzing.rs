//! For fuzz targets: the HTTP port without its sockets, and decompression alone. See [`crate::fuzzing`].

use std::{io, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode};
use tower::ServiceExt;

use super::{
    Authenticator, HttpOptions, Ingester, Refusal, decompress::Encoding, handler_state::HandlerState, http,
    listener::Peer,
};

/// Answers requests as the HTTP port does, starting at their path.
#[derive(Debug)]
pub struct HttpPort(Router);

impl HttpPort {
    /// # Errors
    /// When the threads that convert bodies cannot be started.
    pub fn new(ingester: Arc<Ingester>, authenticator: Arc<Authenticator>, options: &HttpOptions) -> io::Result<Self> {
        Ok(Self(http::router(HandlerState::new(ingester, authenticator, options)?)))
    }

    /// The answer's status and body.
    pub async fn ask(&self, mut request: Request<Bytes>) -> (StatusCode, Bytes) {
        request.extensions_mut().insert(Peer { address: None, certified: false });
        let Ok(answer) = self.0.clone().oneshot(request.map(Body::from)).await;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        (head.status, body)
    }
}

/// The decompressed content, by the name of the encoding; `None` if there is no such encoding.
///
/// # Errors
/// When it cannot be decompressed, or exceeds its limits.
pub fn decompress(encoding: &str, compressed: &Bytes, max: usize) -> Option<Result<Bytes, Refusal>> {
    Some(Encoding::named(encoding.as_bytes())?.decompress(compressed, max))
}
