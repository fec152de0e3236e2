//! The rules by which a sender is authorized: tokens, LiveKit's API keys, certificates. Pure, except for the time.
//!
//! Comparisons take the same time whatever the result.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::{AuthOptions, LivekitKeys, Secret, listener::Peer};
use crate::{caller, hs256, record::wall_millis};

/// The audience that a sender's token must name: a participant's join token, signed with the same secret, names none.
pub const AUDIENCE: &str = "livekit-spool";
/// The maximum validity of a sender's token, so that a leaked one is soon worth nothing.
const MAX_VALIDITY_SECONDS: f64 = 600.0;
/// The minimum length of a static token.
pub const MIN_TOKEN_LENGTH: usize = 16;
/// The tolerated difference of clocks.
pub(super) const LEEWAY_SECONDS: u64 = 30;

/// What a reload may change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) auth: AuthOptions,
    pub(super) keys: LivekitKeys,
}

/// The claims that are read; the JWT library checks the times too.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    pub(super) exp: NumericDate,
    #[serde(default)]
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Option<NumericDate>,
    /// Base64 of the body's SHA-256, in webhooks.
    #[serde(default)]
    pub(super) sha256: Option<String>,
    /// LiveKit's grants.
    #[serde(default)]
    video: Value,
}

/// Why a reader of sessions is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReaderRefused {
    /// Its token proves nothing.
    Unauthenticated(String),
    /// Its token is valid, but does not allow it.
    Denied(&'static str),
}

/// Seconds since 1970 as a JWT has them (RFC 7519): "non-integer values can be represented".
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
pub(super) struct NumericDate(pub(super) f64);

impl NumericDate {
    /// By this machine's clock.
    pub(super) fn now() -> Self {
        Self(wall_millis() as f64 / 1000.0)
    }
}

/// The credentials of a caller.
#[derive(Debug, Clone)]
pub(super) struct Presented {
    authorization: Option<HeaderValue>,
    certified: bool,
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

    /// Of a port that asks for no certificates.
    pub(super) fn uncertified(headers: &HeaderMap) -> Self {
        Self::of(headers, Peer { address: None, certified: false })
    }

    fn bearer(&self) -> Result<&str, String> {
        let header = self.authorization.as_ref();
        let header = header.ok_or("no Authorization header: send `Authorization: Bearer <token>`")?;
        caller::bearer(header).ok_or_else(|| "the Authorization header is not a bearer token".to_owned())
    }
}

impl Rules {
    /// Checks a sender of records; returns when its credentials expire, if they say so.
    pub(super) fn sender(&self, presented: &Presented) -> Result<Option<NumericDate>, String> {
        match &self.auth {
            AuthOptions::None => Ok(None),
            AuthOptions::MutualTls if presented.certified => Ok(None),
            AuthOptions::MutualTls => Err("no verified client certificate".to_owned()),
            AuthOptions::Tokens(tokens) if is_one_of(tokens, presented.bearer()?) => Ok(None),
            AuthOptions::Tokens(_) => Err("unknown token".to_owned()),
            AuthOptions::Livekit => self.token(presented.bearer()?).map(|claims| Some(claims.exp)),
        }
    }

    /// Checks a webhook's token: LiveKit signs the hash of the body, names no audience, and writes no scheme before it.
    pub(super) fn webhook(&self, presented: &Presented) -> Result<Claims, String> {
        let header = presented.authorization.as_ref().ok_or("no Authorization header")?;
        let token = caller::bearer(header).or_else(|| header.to_str().ok()).ok_or("no readable token")?;
        let mut validation = validation();
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "iss"]);
        self.verify(token, &validation)
    }

    /// Checks a reader of sessions, as LiveKit's own API does: its token is signed by an API key and grants listing rooms.
    pub(super) fn reader(&self, presented: &Presented) -> Result<(), ReaderRefused> {
        let mut validation = validation();
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "iss"]);
        let claims = presented.bearer().and_then(|token| self.verify(token, &validation));
        match claims.map_err(ReaderRefused::Unauthenticated)?.video.get("roomList") {
            Some(Value::Bool(true)) => Ok(()),
            _ => Err(ReaderRefused::Denied("the token does not grant roomList")),
        }
    }

    /// Checks the token of a sender.
    fn token(&self, token: &str) -> Result<Claims, String> {
        let mut validation = validation();
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = self.verify(token, &validation)?;
        let from = [claims.nbf, claims.iat].into_iter().flatten().map(|NumericDate(at)| at).reduce(f64::max);
        let from = from.ok_or("the token does not say when it becomes valid (nbf or iat)")?;
        // Not written as `>`: a value that compares to nothing is refused.
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
        // The library checks `nbf` only.
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

/// Refuses a token whose header requires unsupported features. RFC 7515, 4.1.11: a token is refused if the receiver does
/// not understand what `crit` names, and nothing that it can name is supported. RFC 7797: with `b64` false other bytes are
/// signed.
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

/// Compares with each token's hash, so that the time depends neither on the length nor on the place of a difference.
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

    /// A sender's token with such a header, correctly signed.
    fn token(header: &Value) -> String {
        let now = wall_millis() / 1000;
        let claims = json!({ "iss": KEY, "aud": AUDIENCE, "nbf": now, "exp": now + 60 });
        let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(header), part(&claims));
        let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length").chain_update(&signed);
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn a_reader_needs_a_valid_token_of_a_known_key_that_grants_listing_rooms() {
        let keys = [(KEY.to_owned(), Secret::new(SECRET))].into_iter().collect();
        let rules = Rules { auth: AuthOptions::None, keys };
        let now = wall_millis() / 1000;
        let read = |claims: Value, secret: &str| {
            let token = hs256::sign(&claims, secret.as_bytes()).expect("a token");
            let authorization = HeaderValue::try_from(format!("Bearer {token}")).expect("a header");
            rules.reader(&Presented { authorization: Some(authorization), certified: false })
        };
        let lists = json!({ "roomList": true });
        assert_eq!(read(json!({ "iss": KEY, "exp": now + 60, "video": lists }), SECRET), Ok(()));
        assert_eq!(
            read(json!({ "iss": KEY, "exp": now + 86_400, "nbf": now, "sub": "x", "video": lists }), SECRET),
            Ok(())
        );
        for (claims, secret) in [
            (json!({ "iss": KEY, "exp": now + 60, "video": lists }), "another secret of some characters"),
            (json!({ "iss": "other", "exp": now + 60, "video": lists }), SECRET),
            (json!({ "iss": KEY, "exp": now - 120, "video": lists }), SECRET),
            (json!({ "iss": KEY, "exp": now + 600, "nbf": now + 120, "video": lists }), SECRET),
            (json!({ "iss": KEY, "video": lists }), SECRET),
            (json!({ "exp": now + 60, "video": lists }), SECRET),
        ] {
            assert!(matches!(read(claims.clone(), secret), Err(ReaderRefused::Unauthenticated(_))), "{claims}");
        }
        for video in [
            json!(null),
            json!({}),
            json!({ "roomList": false }),
            json!({ "roomList": "true" }),
            json!({ "roomJoin": true, "room": "r" }),
            json!({ "roomAdmin": true }),
            json!("roomList"),
            json!([]),
        ] {
            let read = read(json!({ "iss": KEY, "exp": now + 60, "video": video }), SECRET);
            assert!(matches!(read, Err(ReaderRefused::Denied(_))), "{video}");
        }
        let nothing = Presented { authorization: None, certified: false };
        assert!(matches!(rules.reader(&nothing), Err(ReaderRefused::Unauthenticated(_))));
    }

    #[test]
    fn a_token_with_a_critical_header_is_refused_whatever_it_is_and_one_that_is_not_critical_is_not_checked() {
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
