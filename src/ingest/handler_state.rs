//! What the handlers of HTTP requests share, and how each reads its body: within the limits, and while its sender is
//! authorized.

use std::{io, sync::Arc};

use axum::body::Body;
use http::request::Parts;
use http_body_util::BodyExt;

use super::{
    Authenticator, HttpOptions, Ingester, Protocol, Refusal, Refused,
    body::{self, BodyBytes, BodyLimits, Converter},
    listener::Peer,
    memory::Share,
    pass::Pass,
    repeats::Repeats,
    slots::OpenRequest,
    throttle::Throttle,
};

/// What the handlers share.
#[derive(Clone)]
pub(super) struct HandlerState {
    pub ingester: Arc<Ingester>,
    pub authenticator: Arc<Authenticator>,
    pub converter: Converter,
    pub limits: BodyLimits,
    pub repeats: Arc<Repeats>,
    /// For requests to addresses that accept records or webhooks.
    pub not_found: Arc<[Throttle; 2]>,
}

impl HandlerState {
    /// # Errors
    /// When the threads that convert bodies cannot be started.
    pub(super) fn new(
        ingester: Arc<Ingester>,
        authenticator: Arc<Authenticator>,
        options: &HttpOptions,
    ) -> io::Result<Self> {
        Ok(Self {
            converter: Converter::new(options.max_body_bytes, options.max_request_records)?,
            limits: BodyLimits { max_bytes: options.max_body_bytes, timeout: options.body_timeout },
            ingester,
            authenticator,
            repeats: Arc::default(),
            not_found: Arc::default(),
        })
    }

    /// Reads a body, while its sender is authorized.
    pub(super) async fn read(
        &self,
        protocol: Protocol,
        head: &Parts,
        body: Body,
        limits: &BodyLimits,
        (mut pass, peer): (Pass, Peer),
    ) -> Result<(BodyBytes, Share), Refusal> {
        let open_request = head.extensions.get::<OpenRequest>().cloned();
        open_request.iter().for_each(OpenRequest::mark_authorized);
        let alive = open_request.clone();
        let body = body.map_frame(move |frame| {
            alive.iter().for_each(OpenRequest::mark_active);
            frame
        });
        let evicted = async {
            match &open_request {
                // A connection that is closed to free its slot may finish what it began to send.
                Some(open_request) => match open_request.closed().await {
                    why if why.reason == Refused::Unauthenticated => why,
                    _ => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = evicted => Err(why),
            read = body::read(body, &head.headers, limits, self.ingester.memory()) => read,
            why = pass.ended() => Err(self.authenticator.refuse(protocol, &why, peer, self.ingester.status())),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::ingest::{AuthOptions, MemoryOptions, http};

    #[tokio::test]
    async fn a_body_whose_sender_has_left_keeps_its_memory_until_its_turn() {
        let ingester = Arc::new(Ingester::new(Vec::new(), &MemoryOptions::default()));
        let authenticator = Arc::new(Authenticator::new(AuthOptions::None, Default::default(), None));
        let state = HandlerState::new(Arc::clone(&ingester), authenticator, &HttpOptions::default()).unwrap();
        let router = http::router(state.clone());
        let busy = state.converter.occupy();
        let body = format!("[{}]", vec![r#"{"id": "AE_1"}"#; 1000].join(","));
        let length = body.len();
        let mut request = Request::post("/v1/events").header("content-type", "application/json").body(Body::from(body));
        request.as_mut().unwrap().extensions_mut().insert(Peer { address: None, certified: false });
        let mut answer = Box::pin(router.oneshot(request.unwrap()));
        assert!(futures::poll!(&mut answer).is_pending());
        assert_eq!(ingester.memory().used(), length);
        drop(answer);
        assert_eq!(ingester.memory().used(), length, "the body waits for its turn");
        drop(busy);
        drop(state.converter.occupy());
        assert_eq!(ingester.memory().used(), 0);
    }
}
