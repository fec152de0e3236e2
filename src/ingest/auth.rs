//! Who may send records. Comparisons take the same time whatever they find; failures are counted, and logged once in a while.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::{
    AuthOptions, IngestStatus, Listener, LivekitKeys, Protocol, Refusal, Refused, Secret, listener::Peer,
    server::ServeError, throttle::Throttle, tls::Tls,
};

/// The audience that a sender's token must name: a participant's join token, signed with the same secret, names none.
pub const AUDIENCE: &str = "livekit-spool";
/// A sender's token is valid this long at most, so that one that leaks is soon worth nothing.
const MAX_VALIDITY_SECONDS: u64 = 10 * 60;
/// A static token is at least this long.
pub const MIN_TOKEN_LENGTH: usize = 16;
/// Clocks may differ by this much.
const LEEWAY_SECONDS: u64 = 30;

/// Decides who may send, and with which certificates this side presents itself.
#[derive(Debug)]
pub struct Gate {
    rules: ArcSwap<Rules>,
    /// The first listener that others can reach, once there is one.
    exposed: OnceLock<String>,
    tls: Option<Arc<Tls>>,
    failures: Throttle,
}

/// What a reload may change.
#[derive(Debug, PartialEq, Eq)]
struct Rules {
    auth: AuthOptions,
    keys: LivekitKeys,
}

/// The claims looked at; time is checked by the JWT library, too.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    exp: u64,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    iat: Option<u64>,
    /// Base64 of the body's SHA-256, in webhooks.
    #[serde(default)]
    pub sha256: Option<String>,
}

impl Gate {
    /// A gate. What it lets through is decided per listener, see [`Gate::check_listener`].
    #[must_use]
    pub fn new(auth: AuthOptions, keys: LivekitKeys, tls: Option<Arc<Tls>>) -> Self {
        let rules = ArcSwap::from_pointee(Rules { auth, keys });
        Self { rules, exposed: OnceLock::new(), tls, failures: Throttle::default() }
    }

    /// Takes over other rules, for requests from now on; true where they differ.
    ///
    /// # Errors
    /// When they would let anyone in by mistake: then the old ones stay.
    pub fn replace(&self, auth: AuthOptions, keys: LivekitKeys) -> Result<bool, ServeError> {
        let rules = Rules { auth, keys };
        if rules == **self.rules.load() {
            return Ok(false);
        }
        self.check(&rules)?;
        self.rules.store(Arc::new(rules));
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
        self.check(&self.rules.load())
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
    ) -> Result<(), Refusal> {
        let verdict = match &self.rules.load().auth {
            AuthOptions::None => Ok(()),
            AuthOptions::MutualTls if peer.certified => Ok(()),
            AuthOptions::MutualTls => Err("no verified client certificate".to_owned()),
            AuthOptions::Tokens(tokens) => bearer(headers)
                .and_then(|token| if is_one_of(tokens, token) { Ok(()) } else { Err("unknown token".to_owned()) }),
            AuthOptions::Livekit => bearer(headers).and_then(|token| self.sender(token)),
        };
        verdict.map_err(|why| self.refuse(protocol, &why, peer, status))
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

    /// A token by which a sender names itself.
    fn sender(&self, token: &str) -> Result<(), String> {
        let mut validation = validation();
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = self.verify(token, &validation)?;
        let from = claims.nbf.max(claims.iat).ok_or("the token does not say since when it is valid (nbf or iat)")?;
        if claims.exp.saturating_sub(from) > MAX_VALIDITY_SECONDS {
            return Err(format!("the token is valid for longer than {MAX_VALIDITY_SECONDS} s"));
        }
        Ok(())
    }

    /// A webhook's token: LiveKit signs the hash of the body, names no audience.
    pub(super) fn webhook(&self, headers: &HeaderMap) -> Result<Claims, String> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let header = header.ok_or("no Authorization header")?;
        let mut validation = validation();
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "iss"]);
        self.verify(header.strip_prefix("Bearer ").unwrap_or(header), &validation)
    }

    /// Checks the signature with the secret of the key that the token names.
    fn verify(&self, token: &str, validation: &Validation) -> Result<Claims, String> {
        let unverified = jsonwebtoken::dangerous::insecure_decode::<Claims>(token);
        let issuer = unverified.map_err(|_| "no readable token")?.claims.iss;
        let rules = self.rules.load();
        let secret = rules.keys.get(&issuer).ok_or("the token names an unknown API key")?;
        let key = DecodingKey::from_secret(secret.expose().as_bytes());
        let verified = jsonwebtoken::decode::<Claims>(token, &key, validation);
        verified.map(|token| token.claims).map_err(|error| format!("the token is refused: {error}"))
    }
}

fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation
}

fn bearer(headers: &HeaderMap) -> Result<&str, String> {
    let header = headers.get(AUTHORIZATION).ok_or("no Authorization header: send `Authorization: Bearer <token>`")?;
    let token = header.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
    token.ok_or_else(|| "the Authorization header is no bearer token".to_owned())
}

/// Compares with each token's hash, so that neither length nor place of a difference shows in the time taken.
fn is_one_of(tokens: &[Secret], presented: &str) -> bool {
    let presented = Sha256::digest(presented);
    let mut found = Choice::from(0);
    for token in tokens {
        found |= Sha256::digest(token.expose()).as_slice().ct_eq(presented.as_slice());
    }
    found.into()
}
