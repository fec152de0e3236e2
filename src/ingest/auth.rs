//! Who may send records, by [`super::rules`]; who may not is counted, and logged once in a while.
//!
//! Whoever was let in is judged again for as long as what they opened is open, by the same function: a [`Pass`] ends with its
//! token, and with the rules that let it in.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use tokio::sync::watch;

use super::{
    AuthOptions, IngestStatus, Listener, LivekitKeys, Protocol, Refusal, Refused,
    listener::Peer,
    pass::Pass,
    rules::{Claims, MIN_TOKEN_LENGTH, Presented, Rules},
    server::ServeError,
    throttle::Throttle,
    tls::Tls,
};

/// Decides who may send, and with which certificates this side presents itself.
#[derive(Debug)]
pub struct Authenticator {
    rules: watch::Sender<Arc<Rules>>,
    /// The first listener that others can reach, once there is one.
    exposed: OnceLock<String>,
    tls: Option<Arc<Tls>>,
    failures: Throttle,
}

impl Authenticator {
    /// A gate. What it lets through is decided per listener, see [`Authenticator::check_listener`].
    #[must_use]
    pub fn new(auth: AuthOptions, keys: LivekitKeys, tls: Option<Arc<Tls>>) -> Self {
        let rules = watch::Sender::new(Arc::new(Rules { auth, keys }));
        Self { rules, exposed: OnceLock::new(), tls, failures: Throttle::default() }
    }

    /// Takes over other rules, also for what is open already; true where they differ.
    ///
    /// # Errors
    /// When they would let anyone in by mistake: then the old ones stay.
    pub fn replace(&self, auth: AuthOptions, keys: LivekitKeys) -> Result<bool, ServeError> {
        let rules = Rules { auth, keys };
        if rules == **self.rules.borrow() {
            return Ok(false);
        }
        self.check(&rules)?;
        self.rules.send_replace(Arc::new(rules));
        Ok(true)
    }

    /// Refuses what would let anyone in by mistake.
    ///
    /// # Errors
    /// When the listener can be reached from outside and nobody is asked who they are, or what they are asked for cannot
    /// be checked.
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

    /// Whether what senders are asked for can be checked.
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

    /// True where anyone may send who reaches the port.
    pub(super) fn asks_nothing(&self) -> bool {
        self.rules.borrow().auth == AuthOptions::None
    }

    pub(super) const fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Lets a request with these headers pass, or says why not.
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

    /// The same for a webhook, which LiveKit signs; its claims.
    pub(super) fn webhook(&self, headers: &HeaderMap, peer: Peer) -> Result<(Pass, Claims), String> {
        let (rules, presented) = (self.rules.subscribe(), Presented::of(headers, peer));
        let claims = rules.borrow().webhook(&presented)?;
        let still = |rules: &Rules, presented: &Presented| rules.webhook(presented).map(drop);
        Ok((Pass::new(rules, presented, Some(claims.exp), still), claims))
    }

    /// Counts and, once in a while, logs a refusal.
    pub(super) fn refuse(&self, protocol: Protocol, why: &str, peer: Peer, status: &IngestStatus) -> Refusal {
        status.count_refused(protocol, Refused::Unauthenticated);
        if let Some(more) = self.failures.admit() {
            tracing::warn!(%peer, protocol = protocol.as_str(), why, more, "a sender was refused");
        }
        Refusal::new(Refused::Unauthenticated, why)
    }

    /// The same for somebody at the admin port.
    pub(crate) fn refuse_admin(&self, why: &str, status: &IngestStatus) {
        status.count_refused(Protocol::Admin, Refused::Unauthenticated);
        if let Some(more) = self.failures.admit() {
            tracing::warn!(protocol = Protocol::Admin.as_str(), why, more, "somebody was refused");
        }
    }
}
