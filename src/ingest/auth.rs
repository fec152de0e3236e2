//! Who may send records. Comparisons take the same time whatever they find; failures are counted, and logged once in a while.
//!
//! Whoever was let in is judged again for as long as what they opened is open, by the same function: a [`Pass`] ends with its
//! token, and with the rules that let it in.

use std::sync::{Arc, OnceLock};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::watch;

use super::{
    AuthOptions, IngestStatus, Listener, LivekitKeys, Protocol, Refusal, Refused, Secret, hs256, listener::Peer,
    pass::Pass, server::ServeError, throttle::Throttle, tls::Tls,
};
use crate::{caller, record::wall_millis};

/// The audience that a sender's token must name: a participant's join token, signed with the same secret, names none.
pub const AUDIENCE: &str = "livekit-spool";
/// A sender's token is valid this long at most, so that one that leaks is soon worth nothing.
const MAX_VALIDITY_SECONDS: f64 = 600.0;
/// A static token is at least this long.
pub const MIN_TOKEN_LENGTH: usize = 16;
/// Clocks may differ by this much.
pub(super) const LEEWAY_SECONDS: u64 = 30;

/// Decides who may send, and with which certificates this side presents itself.
#[derive(Debug)]
pub struct Gate {
    rules: watch::Sender<Arc<Rules>>,
    /// The first listener that others can reach, once there is one.
    exposed: OnceLock<String>,
    tls: Option<Arc<Tls>>,
    failures: Throttle,
}

/// What a reload may change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules {
    auth: AuthOptions,
    keys: LivekitKeys,
}

/// The claims looked at; time is checked by the JWT library, too.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    exp: NumericDate,
    #[serde(default)]
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Option<NumericDate>,
    /// Base64 of the body's SHA-256, in webhooks.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// Seconds since 1970 as a JWT has them (RFC 7519): "non-integer values can be represented".
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
pub(super) struct NumericDate(pub f64);

impl NumericDate {
    /// By this machine's clock.
    pub(super) fn now() -> Self {
        Self(wall_millis() as f64 / 1000.0)
    }
}

/// What a caller shows.
#[derive(Debug, Clone)]
pub(super) struct Presented {
    pub authorization: Option<HeaderValue>,
    pub certified: bool,
}

impl Presented {
    pub(super) fn of(headers: &HeaderMap, peer: Peer) -> Self {
        let mut authorization = headers.get(AUTHORIZATION).cloned();
        if let Some(authorization) = &mut authorization {
            // `Debug` shows nothing of it
            authorization.set_sensitive(true);
        }
        Self { authorization, certified: peer.certified }
    }

    fn bearer(&self) -> Result<&str, String> {
        let header = self.authorization.as_ref();
        let header = header.ok_or("no Authorization header: send `Authorization: Bearer <token>`")?;
        caller::bearer(header).ok_or_else(|| "the Authorization header is no bearer token".to_owned())
    }
}

impl Gate {
    /// A gate. What it lets through is decided per listener, see [`Gate::check_listener`].
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

impl Rules {
    /// Who sends records; until when, where what they show says so.
    fn sender(&self, presented: &Presented) -> Result<Option<NumericDate>, String> {
        match &self.auth {
            AuthOptions::None => Ok(None),
            AuthOptions::MutualTls if presented.certified => Ok(None),
            AuthOptions::MutualTls => Err("no verified client certificate".to_owned()),
            AuthOptions::Tokens(tokens) if is_one_of(tokens, presented.bearer()?) => Ok(None),
            AuthOptions::Tokens(_) => Err("unknown token".to_owned()),
            AuthOptions::Livekit => self.token(presented.bearer()?).map(|claims| Some(claims.exp)),
        }
    }

    /// A webhook's token: LiveKit signs the hash of the body, names no audience, and writes no scheme before it.
    fn webhook(&self, presented: &Presented) -> Result<Claims, String> {
        let header = presented.authorization.as_ref().ok_or("no Authorization header")?;
        let token = caller::bearer(header).or_else(|| header.to_str().ok()).ok_or("no readable token")?;
        let mut validation = validation();
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "iss"]);
        self.verify(token, &validation)
    }

    /// A token by which a sender names itself.
    fn token(&self, token: &str) -> Result<Claims, String> {
        let mut validation = validation();
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = self.verify(token, &validation)?;
        let from = [claims.nbf, claims.iat].into_iter().flatten().map(|NumericDate(at)| at).reduce(f64::max);
        let from = from.ok_or("the token does not say since when it is valid (nbf or iat)")?;
        // the other way round than `>`: what compares to nothing is not let in
        if claims.exp.0 - from <= MAX_VALIDITY_SECONDS {
            Ok(claims)
        } else {
            Err(format!("the token is valid for longer than {MAX_VALIDITY_SECONDS} s"))
        }
    }

    /// Checks the signature with the secret of the key that the token names, and the times.
    fn verify(&self, token: &str, validation: &Validation) -> Result<Claims, String> {
        check_header(token)?;
        let unverified = jsonwebtoken::dangerous::insecure_decode::<Claims>(token);
        let issuer = unverified.map_err(|_| "no readable token")?.claims.iss;
        let secret = self.keys.get(&issuer).ok_or("the token names an unknown API key")?;
        let verified = hs256::verify::<Claims>(token, secret.expose().as_bytes(), validation);
        let claims = verified.map_err(|error| format!("the token is refused: {error}"))?.claims;
        // the library looks at `nbf` only
        if claims.iat.is_some_and(|issued| issued.0 > NumericDate::now().0 + LEEWAY_SECONDS as f64) {
            return Err("the token was issued in the future (iat): check the clocks".to_owned());
        }
        Ok(claims)
    }
}

fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation
}

/// Refuses a token whose header asks for what is not done here. RFC 7515, 4.1.11: whoever does not understand what `crit` names
/// refuses the token, and nothing that it may name is understood here. RFC 7797: with `b64` false other bytes are signed.
fn check_header(token: &str) -> Result<(), &'static str> {
    let header = token.split('.').next().unwrap_or_default();
    let header = BASE64_URL_SAFE_NO_PAD.decode(header).map_err(|_| "no readable token")?;
    let header: Map<String, Value> = serde_json::from_slice(&header).map_err(|_| "no readable token")?;
    if header.contains_key("crit") {
        return Err("the token has a critical header (crit), and none is supported");
    }
    if header.get("b64").is_some_and(|b64| *b64 != Value::Bool(true)) {
        return Err("the token has an unencoded payload (b64), which is not supported");
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use serde_json::json;

    use super::*;

    const KEY: &str = "APIkey";
    const SECRET: &str = "a secret of thirty-two characters";

    /// A sender's token with such a header, rightly signed.
    fn token(header: &Value) -> String {
        let now = wall_millis() / 1000;
        let claims = json!({ "iss": KEY, "aud": AUDIENCE, "nbf": now, "exp": now + 60 });
        let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(header), part(&claims));
        let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length").chain_update(&signed);
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn a_token_with_a_critical_header_is_refused_whatever_it_is_and_one_that_is_not_critical_is_not_looked_at() {
        let keys = [(KEY.to_owned(), Secret::new(SECRET))].into_iter().collect();
        let rules = Rules { auth: AuthOptions::Livekit, keys };
        for header in [
            json!({ "alg": "HS256" }),
            json!({ "alg": "HS256", "typ": "JWT", "kid": "1", "x-own": true }),
            json!({ "alg": "HS256", "b64": true }),
        ] {
            rules.token(&token(&header)).expect("it passes");
        }
        for header in [
            json!({ "alg": "HS256", "crit": ["exp"] }),
            json!({ "alg": "HS256", "crit": ["x-own"], "x-own": 1 }),
            json!({ "alg": "HS256", "crit": ["b64"], "b64": false }),
            json!({ "alg": "HS256", "crit": [] }),
            json!({ "alg": "HS256", "crit": null }),
            json!({ "alg": "HS256", "crit": "exp" }),
            json!({ "alg": "HS256", "b64": false }),
            json!({ "alg": "HS256", "b64": null }),
            json!({ "alg": "HS256", "b64": "false" }),
        ] {
            assert!(rules.token(&token(&header)).is_err(), "{header}");
        }
    }
}
