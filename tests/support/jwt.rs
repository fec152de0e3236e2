//! Tokens as any JWT library signs them, without the code under test.
#![allow(unreachable_pub, reason = "the ingest tests name it as a module of their own")]

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// HS256 over `claims` with `secret`.
pub fn signed(claims: &Value, secret: &str) -> String {
    let [header, claims] =
        [&json!({ "alg": "HS256", "typ": "JWT" }), claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let message = format!("{header}.{claims}");
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length").chain_update(&message);
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}
