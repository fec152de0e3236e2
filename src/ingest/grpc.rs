//! `livekit.AnalyticsRecorderService`, served on the bytes of its messages, with gRPC's health and reflection services.
//!
//! | refused because | status | resend? |
//! |---|---|---|
//! | not such a message | `INVALID_ARGUMENT` | no |
//! | over a size limit | `OUT_OF_RANGE` | no, in smaller messages |
//! | unknown compression | `UNIMPLEMENTED` | no, use another one |
//! | a required sink's spool is full | `RESOURCE_EXHAUSTED` | yes, later |
//! | message or stream too slow | `DEADLINE_EXCEEDED` | yes, on a new stream |
//! | no or bad credentials | `UNAUTHENTICATED` | with better ones |
//!
//! An OK with the trailer `livekit-spool-dropped` says what was not kept, see [`Dropped`].

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, task::Poll};

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, poll};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::{rt::TokioTimer, server::conn::auto::Builder};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{
    Authenticator, Dropped, GrpcOptions, Ingester, Listener, Protocol, Refusal, Refused, ServeError,
    conversions::Conversions,
    decompress::Encoding,
    frames::{FrameLimits, Frames},
    listener::Peer,
    pass::Pass,
    server::{Handler, Http, Server},
    side::SideServices,
    slots::{OpenRequest, Slots},
    stream::{self, StreamOptions},
    throttle::Throttle,
    tls::Alpn,
};
use crate::{
    catch_panic,
    record::{Stream, schema::SERVICE_NAME},
    tasks,
};

const ACCEPTED_ENCODINGS: &str = "gzip,zstd,identity";
/// What a peer may send before it is read, per stream and per connection: it bounds the memory of peers that only send.
const HTTP2_STREAM_WINDOW: u32 = 128 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 256 * 1024;
const HTTP2_HEADER_BYTES: u32 = 16 * 1024;
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// The headers that are read.
const NEEDED: [HeaderName; 3] = [AUTHORIZATION, CONTENT_TYPE, ENCODING];

/// Serves gRPC until `shutdown`. Then the records received on open streams are made durable, and senders are asked to
/// connect again.
///
/// # Errors
/// When the authenticator does not allow this listener.
pub async fn serve(
    listener: Listener,
    ingester: Arc<Ingester>,
    authenticator: Arc<Authenticator>,
    options: GrpcOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    authenticator.check_listener(&listener)?;
    let stop = CancellationToken::new();
    let (side_services, health) =
        SideServices::new(options.message_timeout, stop.clone(), Arc::clone(ingester.status()))?;
    health.set_service_status(SERVICE_NAME, tonic_health::ServingStatus::Serving).await;
    let (connections, status) = (options.connections(), Arc::clone(ingester.status()));
    let server =
        Server::new(Protocol::Grpc, connections, status, http2(&options)).over(authenticator.tls().cloned(), Alpn::H2);
    let recorder = Recorder {
        conversions: Conversions::new("grpc")?,
        streams: Slots::new(options.max_streams, Refused::Streams),
        options: Arc::new(options),
        side_services,
        ingester,
        authenticator,
        not_found: Arc::default(),
        stop: stop.clone(),
    };
    let stopping = async {
        shutdown.await;
        health.set_service_status(SERVICE_NAME, tonic_health::ServingStatus::NotServing).await;
        stop.cancel();
    };
    tokio::join!(server.serve(listener, Arc::new(recorder), stop.clone()), stopping);
    Ok(())
}

fn http2(options: &GrpcOptions) -> Http {
    let (streams, interval, timeout) =
        (options.max_streams_per_connection, options.keepalive_interval, options.keepalive_timeout);
    Box::new(move |begun| {
        let mut builder = Builder::new(begun).http2_only();
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_header_list_size(HTTP2_HEADER_BYTES)
            .max_concurrent_streams(streams)
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout);
        builder
    })
}

struct Recorder {
    ingester: Arc<Ingester>,
    authenticator: Arc<Authenticator>,
    options: Arc<GrpcOptions>,
    streams: Arc<Slots>,
    conversions: Conversions,
    side_services: SideServices,
    not_found: Arc<Throttle>,
    stop: CancellationToken,
}

#[async_trait]
impl Handler for Recorder {
    fn trim(&self, headers: &mut HeaderMap) {
        let all = std::mem::take(headers);
        headers.extend(NEEDED.into_iter().filter_map(|name| all.get(&name).cloned().map(|value| (name, value))));
    }

    async fn handle(&self, request: Request<Incoming>, peer: Peer, open_request: OpenRequest) -> Response<Body> {
        if !is_grpc(request.headers()) {
            // As the protocol requires: a client that speaks plain HTTP could not read any other answer.
            self.count_astray(&request, peer, Refused::Unsupported);
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let called = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        match called {
            Some((SERVICE_NAME, method)) => match self.recorded(method, &request) {
                Some(stream) => match self.record(stream, request, peer, &open_request).await {
                    Ok(dropped) => empty(&dropped),
                    Err(refusal) => refused(&refusal),
                },
                None => {
                    self.count_astray(&request, peer, Refused::Path);
                    Status::unimplemented("AnalyticsRecorderService has no such method").into_http()
                }
            },
            Some(("grpc.health.v1.Health", _)) => {
                let connection = open_request.clone();
                let closed = async move { Some(status(&open_request.closed().await)) };
                self.side_services.answer(request, (peer, connection), closed.boxed()).await
            }
            _ => match self.authenticator.admit(Protocol::Grpc, request.headers(), peer, self.ingester.status()) {
                Ok(pass) => {
                    open_request.mark_authorized();
                    if !called.is_some_and(|(service, _)| SideServices::has(service)) {
                        self.count_astray(&request, peer, Refused::Path);
                    }
                    let ended = self.ended(pass, peer, open_request.clone()).map(|refusal| Some(status(&refusal)));
                    self.side_services.answer(request, (peer, open_request), ended.boxed()).await
                }
                Err(refusal) => refused(&refusal),
            },
        }
    }
}

impl Recorder {
    /// Counts, and logs at a limited rate, a request for an unknown method: the sender may not notice.
    fn count_astray(&self, request: &Request<Incoming>, peer: Peer, reason: Refused) {
        self.ingester.status().count_refused(Protocol::Grpc, reason);
        if let Some(more) = self.not_found.admit() {
            let (method, path) = (request.method(), request.uri().path());
            let content_type = request.headers().get(CONTENT_TYPE);
            tracing::warn!(
                %peer, protocol = Protocol::Grpc.as_str(), %method, path, ?content_type, more,
                "nothing is accepted here: send records by gRPC calls of {SERVICE_NAME}"
            );
        }
    }

    /// The record stream of a method of the service.
    fn recorded(&self, method: &str, request: &Request<Incoming>) -> Option<Stream> {
        if request.method() != Method::POST {
            return None;
        }
        Stream::ALL.into_iter().find(|stream| stream.method_name() == method)
    }

    async fn record(
        &self,
        stream: Stream,
        request: Request<Incoming>,
        peer: Peer,
        open_request: &OpenRequest,
    ) -> Result<Dropped, Refusal> {
        let status = self.ingester.status();
        let pass = self.authenticator.admit(Protocol::Grpc, request.headers(), peer, status)?;
        open_request.mark_authorized();
        let ended = self.ended(pass, peer, open_request.clone());
        let result = self.ingest(stream, request, (peer, open_request.clone()), ended).await;
        // The authenticator counts what it refuses.
        let counts = |refusal: &&Refusal| refusal.reason != Refused::Unauthenticated;
        if let Some(refusal) = result.as_ref().err().filter(counts) {
            status.count_refused(Protocol::Grpc, refusal.reason);
        }
        result
    }

    /// Returns when an authorized sender has to leave, alone or with the connection.
    fn ended(
        &self,
        mut pass: Pass,
        peer: Peer,
        open_request: OpenRequest,
    ) -> impl Future<Output = Refusal> + Send + use<> {
        let (authenticator, ingester) = (Arc::clone(&self.authenticator), Arc::clone(&self.ingester));
        async move {
            tokio::select! {
                why = pass.ended() => authenticator.refuse(Protocol::Grpc, &why, peer, ingester.status()),
                why = open_request.closed() => why,
            }
        }
    }

    async fn ingest(
        &self,
        stream: Stream,
        request: Request<Incoming>,
        (peer, on_connection): (Peer, OpenRequest),
        ended: impl Future<Output = Refusal> + Send + 'static,
    ) -> Result<Dropped, Refusal> {
        let encoding = encoding(request.headers())?;
        let max = self.options.max_streams;
        let slot = self.streams.acquire(peer.holder()).await.map(Arc::new).ok_or_else(|| {
            Refusal::new(Refused::Streams, format!("{max} streams are already open, and none is silent"))
        })?;
        let open_request = slot.begin_request();
        open_request.mark_authorized();
        let is_alone = on_connection.is_alone();
        let limits = FrameLimits {
            max_message_bytes: self.options.max_message_bytes,
            message_timeout: self.options.message_timeout,
            idle_timeout: self.options.idle_stream_timeout,
        };
        let on_stream = open_request.clone();
        let body = request.into_body().map_frame(move |frame| {
            // An empty frame is no sign of life.
            if frame.data_ref().is_some_and(|data| !data.is_empty()) {
                on_stream.mark_active();
                on_connection.mark_active();
            }
            frame
        });
        let ended = async move {
            tokio::select! {
                why = ended => why,
                why = open_request.closed() => why,
            }
        };
        let (memory, conversions) = (Arc::clone(self.ingester.memory()), self.conversions.clone());
        let frames = Frames::new(body, encoding, limits, memory, conversions);
        let options = StreamOptions {
            stream,
            window: self.options.stream_window,
            max_records: self.options.max_message_records,
            alone: is_alone,
        };
        let (ingester, stop) = (Arc::clone(&self.ingester), self.stop.clone());
        let accepting = async move {
            let _open = OpenStream::new(Arc::clone(&ingester));
            let result = stream::ingest(frames, ingester, options, stop, ended).await;
            drop(slot);
            result
        };
        let mut accepting = AssertUnwindSafe(accepting).catch_unwind().boxed();
        let accepted = match poll!(&mut accepting) {
            Poll::Ready(accepted) => accepted,
            // A task of its own: records read from a stream are kept even if the peer disconnects before the answer.
            Poll::Pending => tasks::spawn(accepting).await.unwrap_or_else(|error| Err(Box::new(error.to_string()))),
        };
        accepted.unwrap_or_else(|panic| {
            let why = format!("internal error: {}", catch_panic::message(&*panic));
            Err(Refusal::new(Refused::Unavailable, why))
        })
    }
}

/// Counts a stream while it is open.
struct OpenStream(Arc<Ingester>);

impl OpenStream {
    fn new(ingester: Arc<Ingester>) -> Self {
        ingester.status().streams().opened();
        Self(ingester)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.status().streams().closed();
    }
}

/// `application/grpc`, `application/grpc+proto`; no web page can have a browser send it without a preflight request.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"))
}

fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Refusal> {
    let Some(name) = headers.get(ENCODING) else { return Ok(None) };
    match Encoding::named(name.as_bytes()) {
        Some(Encoding::Identity) => Ok(None),
        Some(encoding) => Ok(Some(encoding)),
        None => Err(Refusal::new(Refused::Unsupported, format!("grpc-encoding must be one of {ACCEPTED_ENCODINGS}"))),
    }
}

/// `google.protobuf.Empty` and status OK, with what was dropped.
fn empty(dropped: &Dropped) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    dropped.add_trailers(&mut trailers);
    let message = Full::new(Bytes::from_static(&[0; 5]));
    let body = message.with_trailers(async { Some(Ok(trailers)) }.boxed());
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED_ENCODINGS));
    response
}

fn status(refusal: &Refusal) -> Status {
    let code = match refusal.reason {
        Refused::Invalid => Code::InvalidArgument,
        // Not RESOURCE_EXHAUSTED: a sender must be able to distinguish what it can resend from what never fits.
        Refused::TooLarge => Code::OutOfRange,
        Refused::Full => Code::ResourceExhausted,
        Refused::Unsupported | Refused::Path | Refused::Method => Code::Unimplemented,
        Refused::Timeout => Code::DeadlineExceeded,
        Refused::Aborted => Code::Cancelled,
        Refused::Unauthenticated => Code::Unauthenticated,
        Refused::Unavailable
        | Refused::Memory
        | Refused::Streams
        | Refused::Connections
        | Refused::Handshake
        | Refused::Stopping => Code::Unavailable,
    };
    Status::new(code, &refusal.message)
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response: Response<Body> = status(refusal).into_http();
    response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED_ENCODINGS));
    *response.status_mut() = StatusCode::OK;
    response
}
