//! Decides who can send records, by [`super::rules`]. Refusals are counted, and logged at a limited rate.
//!
//! A sender is checked again, by the same function, for as long as its connection or stream is open: a [`Pass`] ends with
//! its token, and with the rules that accepted it.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use tokio::sync::watch;

use super::{
    AuthOptions, IngestStatus, Listener, LivekitKeys, Protocol, Refusal, Refused,
    listener::Peer,
    pass::Pass,
    rules::{Claims, MIN_TOKEN_LENGTH, Presented, ReaderRefused, Rules},
    server::ServeError,
    throttle::Throttle,
    tls::Tls,
};

/// Decides who can send, and which certificate this side presents.
#[derive(Debug)]
pub struct Authenticator {
    rules: watch::Sender<Arc<Rules>>,
    /// The first listener that other machines can reach, if there is one.
    exposed: OnceLock<String>,
    tls: Option<Arc<Tls>>,
    failures: Throttle,
}

impl Authenticator {
    /// An authenticator. Each listener is checked by itself, see [`Authenticator::check_listener`].
    #[must_use]
    pub fn new(auth: AuthOptions, keys: LivekitKeys, tls: Option<Arc<Tls>>) -> Self {
        let rules = watch::Sender::new(Arc::new(Rules { auth, keys }));
        Self { rules, exposed: OnceLock::new(), tls, failures: Throttle::default() }
    }

    /// Replaces the rules, also for what is already open; true if they differ.
    ///
    /// # Errors
    /// When the new rules would let anyone in by mistake: then the old ones stay.
    pub fn replace(&self, auth: AuthOptions, keys: LivekitKeys) -> Result<bool, ServeError> {
        let rules = Rules { auth, keys };
        if rules == **self.rules.borrow() {
            return Ok(false);
        }
        self.check(&rules)?;
        self.rules.send_replace(Arc::new(rules));
        Ok(true)
    }

    /// Refuses a configuration that would let anyone in by mistake.
    ///
    /// # Errors
    /// When the listener can be reached from outside and senders show no credentials, or when their credentials cannot be
    /// checked.
    pub fn check_listener(&self, listener: &Listener) -> Result<(), ServeError> {
        if !listener.is_private() {
            self.exposed.get_or_init(|| listener.to_string());
        }
        let rules = Arc::clone(&self.rules.borrow());
        self.check(&rules)
    }

    fn check(&self, rules: &Rules) -> Result<(), ServeError> {
        match (&rules.auth, self.exposed.get()) {
            (AuthOptions::None, Some(listener)) => Err(ServeError::Exposed { listener: listener.clone() }),
            (auth, _) => self.check_means(auth, &rules.keys),
        }
    }

    /// Tells whether the credentials of senders can be checked.
    fn check_means(&self, auth: &AuthOptions, keys: &LivekitKeys) -> Result<(), ServeError> {
        match auth {
            AuthOptions::MutualTls if !self.tls.as_ref().is_some_and(|tls| tls.verifies_clients()) => {
                Err(ServeError::NoClientCa)
            }
            AuthOptions::Livekit if keys.is_empty() => Err(ServeError::NoKeys),
            AuthOptions::Tokens(tokens)
                if tokens.is_empty() || tokens.iter().any(|token| token.expose().len() < MIN_TOKEN_LENGTH) =>
            {
                Err(ServeError::NoTokens)
            }
            _ => Ok(()),
        }
    }

    /// True if anyone who reaches the port can send.
    pub(super) fn asks_nothing(&self) -> bool {
        self.rules.borrow().auth == AuthOptions::None
    }

    pub(super) const fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Accepts a request with these headers, or says why not.
    pub(super) fn admit(
        &self,
        protocol: Protocol,
        headers: &HeaderMap,
        peer: Peer,
        status: &IngestStatus,
    ) -> Result<Pass, Refusal> {
        let (rules, presented) = (self.rules.subscribe(), Presented::of(headers, peer));
        let until = rules.borrow().sender(&presented);
        let until = until.map_err(|why| self.refuse(protocol, &why, peer, status))?;
        Ok(Pass::new(rules, presented, until, |rules, presented| rules.sender(presented).map(drop)))
    }

    /// The same for a webhook, which LiveKit signs; returns its claims.
    pub(super) fn webhook(&self, headers: &HeaderMap, peer: Peer) -> Result<(Pass, Claims), String> {
        let (rules, presented) = (self.rules.subscribe(), Presented::of(headers, peer));
        let claims = rules.borrow().webhook(&presented)?;
        let still = |rules: &Rules, presented: &Presented| rules.webhook(presented).map(drop);
        Ok((Pass::new(rules, presented, Some(claims.exp), still), claims))
    }

    /// Accepts a reader of sessions: one whose token is signed by a LiveKit API key and grants `roomList`.
    pub(crate) fn admit_reader(&self, headers: &HeaderMap) -> Result<(), ReaderRefused> {
        self.rules.borrow().reader(&Presented::uncertified(headers))
    }

    /// Counts a refusal, and logs it at a limited rate.
    pub(super) fn refuse(&self, protocol: Protocol, why: &str, peer: Peer, status: &IngestStatus) -> Refusal {
        status.count_refused(protocol, Refused::Unauthenticated);
        if let Some(more) = self.failures.admit() {
            tracing::warn!(%peer, protocol = protocol.as_str(), why, more, "a sender was refused");
        }
        Refusal::new(Refused::Unauthenticated, why)
    }

    /// The same for a request at the admin port.
    pub(crate) fn refuse_admin(&self, why: &str, status: &IngestStatus) {
        status.count_refused(Protocol::Admin, Refused::Unauthenticated);
        if let Some(more) = self.failures.admit() {
            tracing::warn!(protocol = Protocol::Admin.as_str(), why, more, "an admin request was refused");
        }
    }
}
