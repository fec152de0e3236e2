//! `POST /v1/events`, `/v1/stats`, `/v1/node_rooms`: records as protobuf, JSON or NDJSON. `POST /webhook`: LiveKit's
//! webhooks.
//!
//! A spool accepts all records of a request or none. The answer is JSON: `{"records": 3}` once they are durable, with
//! `"dropped"` if some were not kept (see [`Dropped`](super::Dropped)), else `{"error": "…", "reason": "…"}` with
//!
//! | status | because |
//! |---|---|
//! | 400 | the body is not what its type says |
//! | 401 | no or bad credentials |
//! | 404, 405 | nothing is accepted at this address, or with this method |
//! | 403, 421 | a web page made a browser send it, see `caller` |
//! | 408 | the body took too long |
//! | 413 | the body or the number of its records is over a limit, or never fits in a required sink's spool |
//! | 415 | the content type or encoding is unknown |
//! | 503, `Retry-After` | spool full or failing, no memory, stopping: send the same again |

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::{Extension, State},
    response::IntoResponse,
    routing::post,
};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode, body::Incoming};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    Accepted, Authenticator, HttpOptions, Ingester, Listener, Protocol, Refusal, Refused, ServeError,
    body::Format,
    handler_state::HandlerState,
    json::Json,
    listener::Peer,
    server::{Handler, Server, http1},
    slots::OpenRequest,
    tls::Alpn,
    webhook,
};
use crate::{
    caller::{self, Host},
    record::Stream,
};

const RETRY_AFTER_SECONDS: &str = "1";
const ADDRESSES: &str = "POST /v1/events, /v1/stats, /v1/node_rooms and /webhook";
/// The type of LiveKit's webhooks.
const WEBHOOK_MEDIA: &[u8] = b"application/webhook";

/// Serves HTTP until `shutdown`; then open requests are answered.
///
/// # Errors
/// When the authenticator does not allow this listener.
pub async fn serve(
    listener: Listener,
    ingester: Arc<Ingester>,
    authenticator: Arc<Authenticator>,
    options: HttpOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    authenticator.check_listener(&listener)?;
    let stop = CancellationToken::new();
    let (connections, status) = (options.connections(), Arc::clone(ingester.status()));
    let spoken = http1(options.idle_timeout.max(options.header_timeout));
    let server =
        Server::new(Protocol::Http, connections, status, spoken).over(authenticator.tls().cloned(), Alpn::Http1);
    let hosts = options.hosts.clone().into();
    let (to_ask, to_count) = (Arc::clone(&authenticator), Arc::clone(&ingester));
    let state = HandlerState::new(ingester, authenticator, &options)?;
    let routes = Routes { router: router(state), authenticator: to_ask, ingester: to_count, hosts };
    let stopping = async {
        shutdown.await;
        stop.cancel();
    };
    tokio::join!(server.serve(listener, Arc::new(routes), stop.clone()), stopping);
    Ok(())
}

pub(super) fn router(state: HandlerState) -> Router {
    let records = |stream: Stream| {
        post(
            move |State(state): State<Arc<HandlerState>>, Extension(peer): Extension<Peer>, request: Request<Body>| async move {
                answer(Protocol::Http, &state, ingest(&state, stream, peer, request).await)
            },
        )
    };
    let webhook = |State(state): State<Arc<HandlerState>>, Extension(peer): Extension<Peer>, request: Request<Body>| async move {
        answer(Protocol::Webhook, &state, webhook::ingest(&state, peer, request).await)
    };
    let mut router = Router::new();
    for (path, taker) in [
        ("/v1/events", records(Stream::Events)),
        ("/v1/stats", records(Stream::Stats)),
        ("/v1/node_rooms", records(Stream::NodeRooms)),
        ("/webhook", post(webhook)),
    ] {
        // LiveKit treats a 404 as sent: an extra slash must not lose webhooks.
        router = router.route(path, taker.clone()).route(&format!("{path}/"), taker);
    }
    router
        .method_not_allowed_fallback(|state, peer, request| not_found(state, peer, request, Refused::Method))
        .fallback(|state, peer, request| not_found(state, peer, request, Refused::Path))
        .with_state(Arc::new(state))
}

/// Counts, and logs at a limited rate, a request to an unknown address: the sender may not notice.
async fn not_found(
    State(state): State<Arc<HandlerState>>,
    Extension(peer): Extension<Peer>,
    request: Request<Body>,
    reason: Refused,
) -> Response<Body> {
    let (method, path) = (request.method(), request.uri().path());
    let is_webhook = path.contains("webhook")
        || request.headers().get(CONTENT_TYPE).is_some_and(|media| media.as_bytes().starts_with(WEBHOOK_MEDIA));
    let protocol = if is_webhook { Protocol::Webhook } else { Protocol::Http };
    state.ingester.status().count_refused(protocol, reason);
    if let Some(more) = state.not_found[usize::from(is_webhook)].admit() {
        let protocol = protocol.as_str();
        tracing::warn!(%peer, protocol, %method, path, more, "nothing is accepted here: use {ADDRESSES}");
    }
    match reason {
        Refused::Method => problem(StatusCode::METHOD_NOT_ALLOWED, reason.as_str(), "use POST"),
        _ => problem(StatusCode::NOT_FOUND, reason.as_str(), &format!("nothing is accepted here: use {ADDRESSES}")),
    }
}

struct Routes {
    router: Router,
    authenticator: Arc<Authenticator>,
    ingester: Arc<Ingester>,
    hosts: Arc<[String]>,
}

#[async_trait]
impl Handler for Routes {
    async fn handle(&self, mut request: Request<Incoming>, peer: Peer, open_request: OpenRequest) -> Response<Body> {
        if let Err((status, why)) = self.check_caller(&request, peer) {
            return problem(
                status,
                self.authenticator.refuse(Protocol::Http, &why, peer, self.ingester.status()).reason.as_str(),
                &why,
            );
        }
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(open_request.clone());
        let Ok(response) = self.router.clone().oneshot(request).await;
        response
    }
}

impl Routes {
    /// Refuses what a web page makes a browser of this machine send. The host name is not checked if senders show
    /// credentials, and no browser opens a Unix socket.
    fn check_caller(&self, request: &Request<Incoming>, peer: Peer) -> Result<(), (StatusCode, String)> {
        if peer.address.is_none() {
            return Ok(());
        }
        if caller::is_cross_site(request.headers(), &self.hosts) {
            let why = "a web page of another site sent this request: it is refused";
            return Err((StatusCode::FORBIDDEN, why.to_owned()));
        }
        if self.authenticator.asks_nothing() {
            Host::of(request.headers(), request.uri(), &self.hosts).map_err(|name| {
                let why =
                    format!("the name {name:?} is not known here: add it to ingest.http.hosts, or use the IP address");
                (StatusCode::MISDIRECTED_REQUEST, why)
            })?;
        }
        Ok(())
    }
}

/// Accepts the records of a request.
async fn ingest(state: &HandlerState, stream: Stream, peer: Peer, request: Request<Body>) -> Result<Accepted, Refusal> {
    let (head, body) = request.into_parts();
    let pass = state.authenticator.admit(Protocol::Http, &head.headers, peer, state.ingester.status())?;
    let format = Format::of(&head.headers)?;
    let (bytes, share) = state.read(Protocol::Http, &head, body, &state.limits, (pass, peer)).await?;
    let most = format.encoding.most(share.bytes(), state.limits.max_bytes);
    let space = state.ingester.memory().for_decompressed(most).await?;
    let (batch, _share) = state.converter.records(stream, format, bytes, (share, space)).await?;
    let records = u64::from(batch.count());
    Ok(Accepted { records, dropped: state.ingester.append_alone(Protocol::Http, batch).await? })
}

fn answer(protocol: Protocol, state: &HandlerState, result: Result<Accepted, Refusal>) -> Response<Body> {
    let refusal = match result {
        Ok(accepted) => return Json(accepted).into_response(),
        Err(refusal) => refusal,
    };
    // The authenticator counts what it refuses.
    if refusal.reason != Refused::Unauthenticated {
        state.ingester.status().count_refused(protocol, refusal.reason);
    }
    let status = match refusal.reason {
        Refused::Invalid | Refused::Aborted => StatusCode::BAD_REQUEST,
        Refused::Unauthenticated => StatusCode::UNAUTHORIZED,
        Refused::Timeout => StatusCode::REQUEST_TIMEOUT,
        Refused::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refused::Path => StatusCode::NOT_FOUND,
        Refused::Method => StatusCode::METHOD_NOT_ALLOWED,
        Refused::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Refused::Full
        | Refused::Unavailable
        | Refused::Memory
        | Refused::Streams
        | Refused::Connections
        | Refused::Handshake
        | Refused::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = problem(status, refusal.reason.as_str(), &refusal.message);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
    }
    response
}

fn problem(status: StatusCode, reason: &str, message: &str) -> Response<Body> {
    (status, Json(json!({ "error": message, "reason": reason }))).into_response()
}
