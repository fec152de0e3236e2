//! gRPC's own services next to the recorder: health, which needs no credentials, and reflection.
//!
//! Their requests are tiny and arrive at once: each message, and each body as a whole, has a limit far below that of
//! records. A request may stay open (watching the health). The number of slots is limited, and one more request takes the
//! slot of another, so that nobody keeps others out.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use hyper::{
    Request, Response,
    body::{Frame, Incoming, SizeHint},
};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, service::Routes};
use tower::ServiceExt;

use super::{IngestStatus, OpenRequest, Peer, Protocol, Refused, ServeError, Slots, slots::Slot};
use crate::{
    record::schema::{DESCRIPTORS, SERVICE_NAME},
    tasks,
};

/// A message: the name of a service, or of something to describe.
const MESSAGE_BYTES: usize = 4 * 1024;
/// A request's body as a whole.
const BODY_BYTES: usize = 1024 * 1024;
/// Requests at once, with their answers.
const AT_ONCE: usize = 256;
/// An answer whose slot was given to another one ends within this time, or its connection is closed.
const END_TIMEOUT: Duration = Duration::from_millis(250);

/// The services, and their limits.
#[derive(Clone)]
pub(super) struct SideServices {
    routes: Routes,
    slots: Arc<Slots>,
    timeout: Duration,
    stop: CancellationToken,
    status: Arc<IngestStatus>,
}

impl SideServices {
    /// The services, and the reporter of the health.
    pub(super) fn new(
        timeout: Duration,
        stop: CancellationToken,
        status: Arc<IngestStatus>,
    ) -> Result<(Self, tonic_health::server::HealthReporter), ServeError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let health = health.max_decoding_message_size(MESSAGE_BYTES);
        let routes = reflection(Routes::new(health))?.prepare();
        Ok((Self { routes, slots: Slots::new(AT_ONCE, Refused::Streams), timeout, stop, status }, reporter))
    }

    /// Tells whether a service of this name is one of them.
    pub(super) fn has(service: &str) -> bool {
        matches!(service, "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection")
    }

    /// The answer; it ends with `ended` and its status at the latest.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        (peer, connection): (Peer, OpenRequest),
        ended: BoxFuture<'static, Option<Status>>,
    ) -> Response<Body> {
        let busy = || {
            self.status.count_refused(Protocol::Grpc, Refused::Streams);
            Status::unavailable("too many requests: try again")
        };
        // None of them stays active for longer than another one waits for a slot.
        let Some(slot) = self.slots.acquire(peer.holder()).await else { return busy().into_http() };
        let slot = Arc::new(slot);
        let request = request.map(|body| {
            tonic::body::Body::new(Bounded {
                body,
                left: BODY_BYTES,
                deadline: Box::pin(tokio::time::sleep(self.timeout)),
                status: Arc::clone(&self.status),
            })
        });
        let response = tokio::select! {
            Ok(response) = self.routes.clone().oneshot(request) => response,
            _ = slot.closed() => return busy().into_http(),
        };
        let gone = CancellationToken::new();
        tasks::spawn(close_where_it_does_not_end(Arc::clone(&slot), gone.clone(), connection));
        let stopped = self.stop.clone().cancelled_owned();
        let end = async move {
            let stopped = pin!(stopped);
            tokio::select! {
                () = stopped => None,
                status = ended => status,
                _ = slot.closed() => Some(Status::unavailable("too many requests: try again")),
            }
        };
        response.map(|body| Body::new(Until { body, end: end.boxed(), ended: false, _gone: gone.drop_guard() }))
    }
}

/// Closes the connection of an answer that does not end after its slot was given to another one. Where a peer gives it no
/// window, hyper does not even ask for its next frame.
async fn close_where_it_does_not_end(slot: Arc<Slot>, gone: CancellationToken, connection: OpenRequest) {
    let why = tokio::select! {
        why = slot.closed() => why,
        () = gone.cancelled() => return,
    };
    if tokio::time::timeout(END_TIMEOUT, gone.cancelled()).await.is_err() {
        connection.close_connection(why);
    }
}

fn reflection(routes: Routes) -> Result<Routes, ServeError> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE_NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let failed = |error: tonic_reflection::server::Error| ServeError::Reflection(error.to_string());
    let (v1, v1alpha) = (builder().build_v1().map_err(failed)?, builder().build_v1alpha().map_err(failed)?);
    Ok(routes
        .add_service(v1.max_decoding_message_size(MESSAGE_BYTES))
        .add_service(v1alpha.max_decoding_message_size(MESSAGE_BYTES)))
}

/// A request's body that has to end in time.
struct Bounded {
    body: Incoming,
    left: usize,
    deadline: Pin<Box<Sleep>>,
    status: Arc<IngestStatus>,
}

impl hyper::body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Status::cancelled(error.to_string())))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending if self.deadline.poll_unpin(cx).is_pending() => return Poll::Pending,
            Poll::Pending => {
                self.status.count_refused(Protocol::Grpc, Refused::Timeout);
                return Poll::Ready(Some(Err(Status::deadline_exceeded("the request took too long to arrive"))));
            }
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => {
                self.status.count_refused(Protocol::Grpc, Refused::TooLarge);
                return Poll::Ready(Some(Err(Status::out_of_range("too many requests on one stream: open another"))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// An answer that may never end (watching the health), and must neither delay a shutdown nor outlive its credentials.
struct Until {
    body: tonic::body::Body,
    /// When it has to end, and with which status.
    end: BoxFuture<'static, Option<Status>>,
    ended: bool,
    _gone: DropGuard,
}

impl hyper::body::Body for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(status) = self.end.poll_unpin(cx) else { return Pin::new(&mut self.body).poll_frame(cx) };
        self.ended = true;
        let trailers = status.map(|status| {
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
        });
        Poll::Ready(trailers)
    }

    /// True for an answer that consists of headers only: they end the stream then, as gRPC's clients expect of an error.
    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
