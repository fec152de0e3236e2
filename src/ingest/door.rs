//! What the handlers of HTTP requests share, and how each reads its body: within the limits, and for as long as its sender
//! is let in.

use std::{io, sync::Arc};

use axum::body::Body;
use http::request::Parts;
use http_body_util::BodyExt;

use super::{
    Authenticator, HttpOptions, Intake, Protocol, Refusal, Refused,
    body::{self, BodyBytes, BodyLimits, Converter},
    listener::Peer,
    memory::Share,
    pass::Pass,
    places::Visit,
    repeats::Repeats,
    throttle::Throttle,
};

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Door {
    pub intake: Arc<Intake>,
    pub authenticator: Arc<Authenticator>,
    pub converter: Converter,
    pub limits: BodyLimits,
    pub repeats: Arc<Repeats>,
    /// For requests to where nothing is taken: records, webhooks.
    pub astray: Arc<[Throttle; 2]>,
}

impl Door {
    /// # Errors
    /// When the threads that convert bodies cannot be started.
    pub(super) fn new(
        intake: Arc<Intake>,
        authenticator: Arc<Authenticator>,
        options: &HttpOptions,
    ) -> io::Result<Self> {
        Ok(Self {
            converter: Converter::new(options.max_body_bytes, options.max_request_records)?,
            limits: BodyLimits { max_bytes: options.max_body_bytes, timeout: options.body_timeout },
            intake,
            authenticator,
            repeats: Arc::default(),
            astray: Arc::default(),
        })
    }

    /// Reads a body, for as long as its sender is let in.
    pub(super) async fn read(
        &self,
        protocol: Protocol,
        head: &Parts,
        body: Body,
        limits: &BodyLimits,
        (mut pass, peer): (Pass, Peer),
    ) -> Result<(BodyBytes, Share), Refusal> {
        let visit = head.extensions.get::<Visit>().cloned();
        visit.iter().for_each(Visit::let_in);
        let alive = visit.clone();
        let body = body.map_frame(move |frame| {
            alive.iter().for_each(Visit::is_alive);
            frame
        });
        let turned_away = async {
            match &visit {
                // Whoever only makes room for others may say what they began to say.
                Some(visit) => match visit.closed().await {
                    why if why.reason == Refused::Unauthenticated => why,
                    _ => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = turned_away => Err(why),
            read = body::read(body, &head.headers, limits, self.intake.memory()) => read,
            why = pass.ended() => Err(self.authenticator.refuse(protocol, &why, peer, self.intake.status())),
        }
    }
}
